"""Scores of a multi-label model on a data split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from etfhead.errors import TrainingError
from etfhead.experiment.training.label_figures import Readout, fit_readout, label_figures
from etfhead.heads.label_calibration import ThresholdObjective
from etfhead.heads.label_readout import LabelReadout
from etfhead.surgery import find_heads

if TYPE_CHECKING:
    from accelerate import Accelerator

    from etfhead.experiment.recipe import Arm

__all__ = ["evaluate_labels", "threshold_objective"]


def threshold_objective(metric: str) -> ThresholdObjective:
    """What every arm's threshold is tuned for: the primary metric, or F1 where that needs none."""
    return "exact_match" if metric == "exact_match" else "micro_f1"


def evaluate_labels(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    accelerator: Accelerator,
    arm: Arm,
    metric: str,
    class_counts: Sequence[int],
    readout: Readout | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    tick: Callable[[int], None] = lambda images: None,
) -> tuple[dict[str, float], Readout]:
    """Figures of a split; each process brings its share, and all get those of the whole.

    Args:
        model: Called in evaluation mode; its mode is put back.
        batches: Images (B, C, H, W) and multi-hot rows (B, K) of this process.
        accelerator: Gives device, precision and the other processes' logits.
        arm: Its loss and decoding.
        metric: The primary one, which thresholds are tuned for.
        class_counts: Training images with each label.
        readout: What decisions rest on, as fitted to the validation split with these weights; None for the
            validation split itself, to which it is then fitted. The model's heads that can decode by
            themselves are calibrated with it, so that saved weights can.
        memory_format: Layout of the images.
        tick: Called with the number of images after each batch; may raise to stop.

    Returns:
        The figures of :func:`~etfhead.experiment.training.label_figures.label_figures`, and the readout.

    Raises:
        TrainingError: If a logit is not finite.
    """
    logits, hot = _gathered(model, batches, accelerator, memory_format, tick)
    if not bool(logits.isfinite().all()):
        raise TrainingError("the logits are not finite")
    if readout is None:
        objective = threshold_objective(metric)
        readout = fit_readout(arm, logits, hot, objective)
        if arm.loss == "pick_all_label":
            _calibrate(model, logits, hot, objective)
    return label_figures(arm, logits, hot, readout, class_counts), readout


def _calibrate(model: nn.Module, logits: Tensor, hot: Tensor, objective: ThresholdObjective) -> None:
    for head in find_heads(model).values():
        if isinstance(head, LabelReadout):
            try:
                head.calibrate(logits, hot, objective=objective)
            except ValueError:  # an untrained network
                head.reset_calibration()


@torch.no_grad()
def _gathered(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
    memory_format: torch.memory_format,
    tick: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Logits in float32 and label sets in bool of the whole split, on the CPU and in its order."""
    own: list[tuple[Tensor, Tensor]] = []
    was_training = model.training
    model.eval()
    try:
        for images, target in batches:
            images = images.to(accelerator.device, non_blocking=True, memory_format=memory_format)
            with accelerator.autocast():
                logits = model(images)
            own.append((logits.float().cpu(), target.bool()))
            tick(len(target))
    finally:
        model.train(was_training)
    world = accelerator.num_processes
    parts = [tuple(map(torch.cat, zip(*own, strict=True)))] if own else [()]
    if world > 1:
        from accelerate.utils import gather_object

        parts = gather_object(parts)
    # Process r holds items r, r + world, ... (eval_share); one without an item has nothing to add.
    filled = [part for part in parts if part]
    if world == 1:
        return filled[0][0], filled[0][1]
    count = sum(len(part[0]) for part in filled)
    wholes = tuple(part.new_empty(count, part.shape[1]) for part in filled[0])
    for rank, part in enumerate(parts):
        for whole, values in zip(wholes, part, strict=False):
            whole[rank::world] = values
    return wholes[0], wholes[1]
