"""The device, the precision and the processes of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etfhead.experiment.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["make_accelerator"]


@contextmanager
def make_accelerator(recipe: Recipe) -> Iterator[Accelerator]:
    """An Accelerator with the recipe's device and precision; the process-wide one of before comes back.

    Accelerate keeps its settings in class attributes, so a second run with another precision in the same
    process would be refused or, worse, keep the first one's.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    saved = [dict(state) for state in shared]
    precision = {None: "no", "bfloat16": "bf16", "float16": "fp16"}[recipe.amp_dtype]
    try:
        for state in shared:
            state.clear()
        accelerator = Accelerator(cpu=recipe.cpu, mixed_precision=precision)
        if recipe.amp_dtype == "float16" and accelerator.device.type == "cpu":
            raise ValueError("amp_dtype: float16 needs a GPU; on this machine write bfloat16 or null")
        yield accelerator
    finally:
        for state, before in zip(shared, saved, strict=True):
            state.clear()
            state.update(before)
