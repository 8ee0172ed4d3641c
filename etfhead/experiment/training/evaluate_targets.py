"""Errors of a regression model on a data split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from etfhead.errors import TrainingError
from etfhead.experiment.data.target_scaling import TargetScaling
from etfhead.experiment.training.evaluate import sum_dtype

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["evaluate_targets"]


@torch.no_grad()
def evaluate_targets(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    accelerator: Accelerator,
    scaling: TargetScaling,
    memory_format: torch.memory_format = torch.contiguous_format,
    tick: Callable[[int], None] = lambda images: None,
) -> dict[str, float]:
    r"""Errors in three units, whatever the training loss was.

    .. math:: R^2 = \frac1n \sum_k 1 - \frac{\sum_i (\hat y_{ik} - y_{ik})^2}{\sum_i (y_{ik} - \bar y_k)^2},
              \qquad \mathrm{NMSE} = \frac1n \sum_k \frac{\mathrm{MSE}_k}{\mathrm{Var}_k}

    The mean :math:`\bar y` of R2 is the split's own, as in scikit-learn; the variances of NMSE are the
    training split's. Each process brings its share of the split; the figures are those of the whole.

    Args:
        model: Called in evaluation mode; its mode is put back.
        batches: Inputs (B, C, H, W) and standardised targets (B, n) of this process.
        accelerator: Gives device, precision and the other processes' sums.
        scaling: From standardised targets to their own units.
        memory_format: Layout of the inputs.
        tick: Called with the number of samples after each batch; may raise to stop.

    Returns:
        dict: ``loss``, half the squared error of standardised targets, summed over targets; ``r2``, percent;
        ``nmse``, percent; ``mse``, the mean over targets of ``mse_0``, ``mse_1``, ..., each in its target's
        unit squared. A target that is the same in all samples of the split has no R2 and is left out of the
        mean; without any other ``r2`` is 0.

    Raises:
        TrainingError: If an output is not finite.
    """
    device = accelerator.device
    kind = sum_dtype(device)
    targets = len(scaling.mean)
    sums = torch.zeros(3, targets, dtype=kind, device=device)  # squared errors, targets, their squares
    seen = torch.zeros((), dtype=kind, device=device)
    finite = torch.ones((), dtype=torch.bool, device=device)
    was_training = model.training
    model.eval()
    try:
        for inputs, target in batches:
            inputs = inputs.to(device, non_blocking=True, memory_format=memory_format)
            wide = target.to(device, non_blocking=True).to(kind)
            with accelerator.autocast():
                outputs = model(inputs)
            finite &= outputs.isfinite().all()
            error = outputs.to(kind) - wide
            sums += torch.stack([error.square().sum(0), wide.sum(0), wide.square().sum(0)])
            seen += len(target)
            tick(len(target))
    finally:
        model.train(was_training)
    if not bool(finite):
        raise TrainingError("the outputs are not finite")
    sums, seen = accelerator.reduce((sums, seen), reduction="sum")
    errors, totals, squares = sums.double().cpu()
    count = float(seen)
    # Standardised targets have small means: the difference of the two loses no digits.
    around_mean = squares - totals.square() / count
    known = around_mean > 1e-12 * squares
    share = 1 - errors[known] / around_mean[known]
    normalised = errors / count
    own = normalised * torch.from_numpy(scaling.std).square()
    return {
        "loss": normalised.sum().item() / 2,
        "r2": 100.0 * share.mean().item() if len(share) else 0.0,
        "nmse": 100.0 * normalised.mean().item(),
        "mse": own.mean().item(),
        **{f"mse_{k}": value for k, value in enumerate(own.tolist())},
    }
