"""Where a training stands: plain numbers that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

__all__ = ["Position"]


@dataclass
class Position:
    """How far a run has come, and its running sums: plain numbers, for a checkpoint.

    Args:
        epoch: 0-based epoch in work.
        step: Steps done in it; all of them while it is being validated.
        updates: Steps done since the start.
        loss_sum: Training loss times images, over this epoch.
        correct: Images of this epoch that were classified correctly; multi-label: whose first label is one.
        seen: Images of this epoch.
        images: Images since the start.
        epoch_time: Training seconds of this epoch.
        train_time: Training seconds since the start, without validation and writing; with those of
            ``align_time``.
        align_time: Seconds in which the class vectors were started from the training images.
        lr: Learning rate of the last update.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    loss_sum: float = 0.0
    correct: float = 0.0
    seen: int = 0
    images: int = 0
    epoch_time: float = 0.0
    train_time: float = 0.0
    align_time: float = 0.0
    lr: float = 0.0

    def record(
        self, val: Mapping[str, float], *, scale: float | None, hits: str = "train_top1"
    ) -> dict[str, Any]:
        """One line of ``metrics.jsonl``, for an epoch that has been validated; ``hits`` names ``correct``."""
        return {
            "epoch": self.epoch,
            "step": self.updates,
            "lr": self.lr,
            "train_loss": self.loss_sum / self.seen,
            hits: 100.0 * self.correct / self.seen,
            **{f"val_{name}": value for name, value in val.items()},
            "train_time": self.train_time,
            "images_per_s": self.seen / self.epoch_time,
            "scale": scale,
        }

    def next_epoch(self) -> Position:
        """The beginning of the following epoch."""
        return replace(self, epoch=self.epoch + 1, step=0, loss_sum=0.0, correct=0.0, seen=0, epoch_time=0.0)

    def describe(self, step: int | None, epochs: int, steps_per_epoch: int) -> str:
        """Say where a step of this epoch is, counting from 1.

        Args:
            step: 0-based step in the epoch; None for the last one done.
            epochs: Epochs of the training.
            steps_per_epoch: Steps of an epoch.

        >>> Position(epoch=2, step=5, updates=25).describe(None, 4, 10)
        'epoch 3 of 4, step 5 of 10 (update 25)'
        """
        if self.epoch == epochs:
            return f"the end of epoch {epochs}"
        count = self.step if step is None else step + 1
        update = self.updates - self.step + count
        return f"epoch {self.epoch + 1} of {epochs}, step {count} of {steps_per_epoch} (update {update})"
