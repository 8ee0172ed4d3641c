"""One progress bar for an arm and seed, and plain lines beside it."""

from __future__ import annotations

import sys
from types import TracebackType

from tqdm import tqdm

from etfhead.experiment.terminal import printable

__all__ = ["ProgressBar", "say"]


def say(message: str) -> None:
    """Print one line to stderr without tearing a bar apart."""
    tqdm.write(printable(message), file=sys.stderr)


class ProgressBar:
    """Images done of an arm and seed, with images/s, time left, loss and learning rate; a context manager.

    Args:
        title: Says which arm and seed.
        epochs: Number of epochs.
        images: Images of the whole training.
        done: Images that a resumed run did before.
        hidden: True on all processes but the first. Where stderr is no terminal the bar hides itself.
    """

    def __init__(self, title: str, *, epochs: int, images: int, done: int, hidden: bool) -> None:
        self._title, self._epochs = title, epochs
        self._bar = tqdm(
            total=images,
            initial=done,
            desc=title,
            unit="img",
            unit_scale=True,
            leave=False,
            dynamic_ncols=True,
            disable=True if hidden else None,
        )

    def describe(self, epoch: int) -> None:
        """Show the epoch, 0-based here and counted from 1 on the screen."""
        self._bar.set_description(f"{self._title} epoch {epoch + 1}/{self._epochs}", refresh=False)

    def advance(self, images: int) -> None:
        """Count images."""
        self._bar.update(images)

    def show(self, loss: float, lr: float) -> None:
        """Show the latest loss and learning rate."""
        self._bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.1e}", refresh=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
