"""The fields of a recipe that make its training labels wrong, or say where wrong and right ones are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from etfhead.experiment.knob import knob

__all__ = ["NoiseKnobs"]


@dataclass(frozen=True, kw_only=True)
class NoiseKnobs:
    """Label noise of a comparison; see :class:`~etfhead.experiment.recipe.Recipe`.

    Training and validation labels are the observed ones, as they would be for a user; test labels are right.
    """

    noise_kind: Literal["symmetric", "asymmetric", "pairflip", "instance"] | None = field(
        default=None,
        metadata=knob(
            "symmetric, asymmetric, pairflip or instance; null = labels as they are",
            group="Label noise (of training and validation labels; one class an image)",
        ),
    )
    noise_rate: float = field(default=0.0, metadata=knob("share of labels chosen to be wrong", ge=0, lt=1))
    noise_include_true: bool = field(
        default=False, metadata=knob("symmetric: a chosen label may come out right; papers do either")
    )
    noise_exact: bool = field(
        default=False, metadata=knob("wrong labels to the nearest image of each class, not by chance")
    )
    noise_flips: dict[str, Any] = field(
        default_factory=dict,
        metadata=knob("asymmetric: class to class, e.g. {0: 6, 6: 0}; empty = the data set's own"),
    )
    labels_file: str | None = field(
        default=None,
        metadata=knob("or observed labels of the training part: .npy, .csv, .pt or FILE:KEY"),
    )
    clean_labels_file: str | None = field(
        default=None, metadata=knob("and the true ones; null = the data set's own")
    )
