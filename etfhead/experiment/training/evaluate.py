"""Accuracy, cross-entropy and calibration of a model on a data split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from etfhead.errors import TrainingError
from etfhead.experiment.class_frequency import ClassFrequency, is_long_tailed
from etfhead.experiment.training.reliability import ReliabilityBins
from etfhead.losses import log_prior

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["evaluate", "sum_dtype"]


def sum_dtype(device: torch.device) -> torch.dtype:
    """Float64, or a sum over many images loses digits; float32 on Apple's GPUs, which have no other."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    accelerator: Accelerator,
    num_classes: int,
    memory_format: torch.memory_format = torch.contiguous_format,
    true: Tensor | None = None,
    class_counts: Sequence[int] | None = None,
    posthoc: float | None = None,
    detailed: bool = False,
    tick: Callable[[int], None] = lambda images: None,
) -> dict[str, Any]:
    r"""Plain cross-entropy, top-1 accuracy and expected calibration error, whatever the training loss was.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\,\lvert \mathrm{acc}_b - \mathrm{conf}_b \rvert

    over 15 equal bins of the top confidence (Guo et al. 2017, arXiv 1706.04599). Each process brings its
    share of the split; the figures are those of the whole.

    Args:
        model: Called in evaluation mode; its mode is put back.
        batches: Images (B, C, H, W) and classes (B,) of this process.
        accelerator: Gives device, precision and the other processes' sums.
        num_classes: K.
        memory_format: Layout of the images.
        true: True classes (n,) of this process's images in their order, where targets are observed ones.
        class_counts: Training images of each class, (K,).
        posthoc: Tau of the logit adjustment that comes before all (:func:`etfhead.losses.adjust_logits`).
        detailed: Also give the reliability diagram, and the accuracy of each class, most frequent first, if
            the counts are a long tail.
        tick: Called with the number of images after each batch; may raise to stop.

    Returns:
        dict: ``loss`` (nats), ``top1`` and ``ece`` (percent); with ``true`` also ``true_top1``; where the
        counts are a long tail also ``top1_many``, ``top1_medium`` and ``top1_few``, means over classes. With
        ``detailed`` also ``reliability`` (:class:`.ReliabilityBins`) and, of a long tail, ``top1_by_rank``, a
        list.

    Raises:
        TrainingError: If a logit is not finite.
    """
    from torchmetrics.classification import MulticlassCalibrationError

    device = accelerator.device
    calibration = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", validate_args=False)
    calibration = calibration.to(device)
    sums = torch.zeros(4, dtype=sum_dtype(device), device=device)  # loss, correct, seen, truly correct
    seen = 0
    finite = torch.ones((), dtype=torch.bool, device=device)
    bins = ReliabilityBins(device, sums.dtype) if detailed else None
    frequency = None
    if class_counts is not None and is_long_tailed(class_counts):
        frequency = ClassFrequency(class_counts, device, sums.dtype)
    shift = None
    if posthoc:
        assert class_counts is not None  # noqa: S101 - the caller knows them wherever it knows tau
        shift = log_prior(class_counts, tau=posthoc).float().to(device)
    was_training = model.training
    model.eval()
    try:
        for images, target in batches:
            images = images.to(device, non_blocking=True, memory_format=memory_format)
            target = target.to(device, non_blocking=True)
            with accelerator.autocast():
                logits = model(images)
            logits = logits.float()
            finite &= logits.isfinite().all()
            if shift is not None:
                logits = logits - shift
            if frequency is not None:
                frequency.update(logits.argmax(1), target)
            sums[0] += nn.functional.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
            sums[2] += len(target)
            if true is not None:
                sums[3] += (logits.argmax(1) == true[seen : seen + len(target)].to(device)).sum()
            seen += len(target)
            probabilities = logits.softmax(1).nan_to_num(0.0)
            calibration.update(probabilities, target)
            if bins is not None:
                bins.update(probabilities, target)
            tick(len(target))
    finally:
        model.train(was_training)
    if not bool(finite):
        raise TrainingError("the logits are not finite")
    loss, correct, images, truly = accelerator.reduce(sums, reduction="sum").tolist()
    figures: dict[str, Any] = {
        "loss": loss / images,
        "top1": 100.0 * correct / images,
        "ece": 100.0 * float(calibration.compute()),
    }
    if true is not None:
        figures["true_top1"] = 100.0 * truly / images
    if bins is not None:
        figures["reliability"] = bins.diagram(accelerator.reduce(bins.sums, reduction="sum"))
    if frequency is not None:
        whole = accelerator.reduce(frequency.sums, reduction="sum")
        figures |= frequency.figures(whole)
        if detailed:
            figures["top1_by_rank"] = frequency.by_rank(whole)
    return figures
