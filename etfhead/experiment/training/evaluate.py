"""Accuracy, cross-entropy and calibration of a model on a data split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from etfhead.errors import TrainingError

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
    tick: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
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
        tick: Called with the number of images after each batch; may raise to stop.

    Returns:
        dict: ``loss`` (nats), ``top1`` and ``ece`` (percent).

    Raises:
        TrainingError: If a logit is not finite.
    """
    from torchmetrics.classification import MulticlassCalibrationError

    device = accelerator.device
    calibration = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1", validate_args=False)
    calibration = calibration.to(device)
    sums = torch.zeros(3, dtype=sum_dtype(device), device=device)  # loss, correct, seen
    finite = torch.ones((), dtype=torch.bool, device=device)
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
            sums[0] += nn.functional.cross_entropy(logits, target, reduction="sum")
            sums[1] += (logits.argmax(1) == target).sum()
            sums[2] += len(target)
            calibration.update(logits.softmax(1).nan_to_num(0.0), target)
            tick(len(target))
    finally:
        model.train(was_training)
    if not bool(finite):
        raise TrainingError("the logits are not finite")
    loss, correct, seen = accelerator.reduce(sums, reduction="sum").tolist()
    return {
        "loss": loss / seen,
        "top1": 100.0 * correct / seen,
        "ece": 100.0 * float(calibration.compute()),
    }
