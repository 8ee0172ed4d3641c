"""The fields of a recipe that make some of its classes rare."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from etfhead.experiment.knob import knob

__all__ = ["LongTailKnobs"]


@dataclass(frozen=True, kw_only=True)
class LongTailKnobs:
    """Long tail of a comparison; see :class:`~etfhead.experiment.recipe.Recipe`.

    Images leave the training split after validation has been carved: validation and test stay as they were,
    balanced where the data set is. Such a validation split has more images of rare classes than training.
    """

    imbalance_factor: float | None = field(
        default=None,
        metadata=knob(
            "images of the largest class over those of the smallest, 1 = equal; null = as it is",
            group="Long tail (of training images; one class an image)",
            ge=1,
        ),
    )
    imbalance_kind: Literal["exponential", "step"] = field(
        default="exponential", metadata=knob("exponential, or step: one half frequent, one half rare")
    )
    imbalance_max: int | None = field(
        default=None,
        metadata=knob("images of the largest class; null = as many as every class could give", ge=1),
    )
    imbalance_order: Literal["file", "drawn"] = field(
        default="file",
        metadata=knob("file: class 0 is the most frequent; drawn: chance decides, with redraw every seed's"),
    )
