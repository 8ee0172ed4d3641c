"""Start an arm's class vectors from class means of the training images, on the arm's clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from etfhead.experiment.recipe import Arm
from etfhead.surgery import align_head

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["orient"]

# What a frame that was chosen by name is turned into; an open choice is left to align_head.
_TARGETS = {"class_means": "class_means", "orthoplex": "assigned", "union": "assigned", "code": "assigned"}


def orient(
    model: nn.Module,
    arm: Arm,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    accelerator: Accelerator,
    blank: Tensor,
    title: str = "",
    tick: Callable[[], None] = lambda: None,
) -> float:
    """Start the class vectors of a model's head from class means, in place.

    One pass without augmentation in evaluation mode, so that the result depends on data and weights alone.
    Several processes bring their shares and end with the same class vectors.

    Args:
        model: On its device, not yet wrapped or copied.
        arm: Says what the class means are taken of (``orient``), and the ``exponent`` of their spectrum.
        batches: Training images (B, C, H, W) and classes (B,) of this process, in a fixed order.
        accelerator: Gives device and precision.
        blank: A batch of images, to start kernels and threads with before the clock.
        title: Stands before the progress bar.
        tick: Called after each batch; may raise to stop.

    Returns:
        float: Seconds it took.

    Raises:
        ValueError: If a class has no image or the features are not finite.
    """
    options: dict[str, Any] = {"source": arm.orient, "frame": _TARGETS.get(str(arm.frame), "auto")}
    if arm.exponent is not None:
        options["exponent"] = arm.exponent
    hidden = True if not accelerator.is_main_process else None
    with accelerator.autocast():
        if arm.orient == "features":
            with torch.no_grad():
                model.eval()(blank.to(accelerator.device))
            model.train()
        began = _now(accelerator.device)
        shown = tqdm(batches, desc=f"{title} orient", unit="batch", leave=False, disable=hidden)
        align_head(
            model, shown, device=accelerator.device, progress=lambda batches, samples: tick(), **options
        )
        # A checkpoint holds what came from data rounded to float32: a resumed run must not differ by that.
        model.load_state_dict(model.state_dict())
    return _now(accelerator.device) - began


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
