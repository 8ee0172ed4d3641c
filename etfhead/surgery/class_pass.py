"""One pass over the data: class means of the inputs, or of the features at every head of a model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.frames.class_sums import ClassSums

__all__ = ["FeatureSums", "evaluating", "sum_features", "sum_inputs"]

_THUMBNAIL = 16  # mean images are at most this high and wide
_KEPT_SAMPLES = 512  # features kept to see how large logits are

Progress = Callable[[int, int], None]


class FeatureSums:
    """Class means of one head's features, how much features vary, and a few of them.

    A sample counts with its mean over pixels or tokens. The neck normalises every pixel: ``mean`` and
    ``variance`` are over all of them.

    Args:
        num_classes: K.
        in_features: d.
        channel_dim: Axis of the features, 1 or -1.
        device: Where sums are kept.
    """

    def __init__(self, num_classes: int, in_features: int, channel_dim: int, device: torch.device) -> None:
        self.classes = ClassSums(num_classes, in_features, device=device)
        self.some: Tensor | None = None
        self._pixels = ClassSums(1, in_features, device=device)
        self._channel_dim = channel_dim

    def update(self, features: Tensor, target: Tensor) -> None:
        """Add the features (B, ..., d), or (B, d, H, W), of a batch with targets (B,) or (B, K)."""
        if self._channel_dim == 1:
            features = features.movedim(1, -1)
        if features.ndim > 2:
            pixels = features.reshape(-1, features.shape[-1])
            self._pixels.update(pixels, torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device))
            features = features.flatten(1, -2).float().mean(1)
        self.classes.update(features, target)
        if self.some is None:
            self.some = features[:_KEPT_SAMPLES].to(self.classes.sums)

    def all_reduce(self) -> None:
        """Sum over all processes."""
        self.classes.all_reduce()
        self._pixels.all_reduce()

    @property
    def mean(self) -> Tensor:
        """Mean of the features, (d,)."""
        return self._spread.total_mean

    @property
    def variance(self) -> Tensor:
        """Their unbiased variance, (d,), as BatchNorm keeps it."""
        number = self._spread.counts.sum()
        return self._spread.total_variance * (number / (number - 1).clamp(min=1))

    @property
    def _spread(self) -> ClassSums:
        return self._pixels if self._pixels.batches else self.classes


def sum_features(
    model: nn.Module,
    heads: Mapping[str, nn.Module],
    sums: Mapping[str, FeatureSums],
    loader: Iterable[Any],
    *,
    device: torch.device,
    max_batches: int | None,
    progress: Progress | None,
) -> None:
    """Run the model in evaluation mode and sum the features that reach its heads.

    Args:
        model: On ``device``; modes and weights are left as they were.
        heads: Modules whose first input is summed, by name.
        sums: Where to, by the same names.
        loader: Yields ``(images, target, ...)``.
        device: Of the model.
        max_batches: Stop after so many; None for all.
        progress: Called after each batch with the number of batches and of samples so far.
    """
    current: list[Tensor] = []  # the targets of the batch that runs

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: sums[name].update(inputs[0], current[0])

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluating(model))
        for name, head in heads.items():
            stack.callback(head.register_forward_pre_hook(watch(name)).remove)
        for images, target in _batches(loader, max_batches, progress):
            current[:] = [target]
            model(images.to(device))


@torch.no_grad()
def sum_inputs(
    num_classes: int,
    loader: Iterable[Any],
    *,
    device: torch.device,
    max_batches: int | None,
    progress: Progress | None,
) -> ClassSums:
    """Sum images (B, C, H, W) or (B, H, W): channels averaged, pooled to at most 16 x 16, flattened."""
    sums = None
    for images, target in _batches(loader, max_batches, progress):
        if images.ndim not in (3, 4):
            raise ValueError(
                f"loader: source='inputs' needs images (B, C, H, W), got shape {tuple(images.shape)}; "
                "use source='features'"
            )
        grey = images.to(device).float()
        grey = grey.mean(1) if grey.ndim == 4 else grey
        height, width = (min(side, _THUMBNAIL) for side in grey.shape[-2:])
        small = nn.functional.adaptive_avg_pool2d(grey[:, None], (height, width)).flatten(1)
        sums = sums or ClassSums(num_classes, small.shape[1], device=device)
        sums.update(small, target)
    if sums is None:
        raise ValueError("loader: it gave no batch")
    return sums


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; every module's own mode comes back, frozen parts included."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _batches(
    loader: Iterable[Any], max_batches: int | None, progress: Progress | None
) -> Iterator[tuple[Tensor, Tensor]]:
    samples = 0
    for number, batch in enumerate(itertools.islice(loader, max_batches), 1):
        if not isinstance(batch, Sequence) or len(batch) < 2 or not all(map(torch.is_tensor, batch[:2])):
            raise ValueError(
                f"loader: expected batches (images, target), tensors both, got {type(batch).__name__}"
            )
        yield batch[0], batch[1]
        samples += len(batch[0])
        if progress is not None:
            progress(number, samples)
