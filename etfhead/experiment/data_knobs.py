"""The fields of a recipe that choose and shape the data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from etfhead.experiment.knob import knob

__all__ = ["DataKnobs"]


@dataclass(frozen=True, kw_only=True)
class DataKnobs:
    """Data of a comparison; see :class:`~etfhead.experiment.recipe.Recipe`."""

    dataset: Literal[
        "digits",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "image_folder",
        "npz",
        "synthetic",
        "multilabel_digits",
        "multilabel_fashion",
        "multilabel_npz",
        "multilabel_synthetic",
        "regression_linnerud",
        "regression_diabetes",
        "regression_npz",
        "regression_synthetic",
    ] = field(
        metadata=knob(
            "digits, fashion_mnist, cifar10, cifar100, image_folder, npz, regression_npz, ...",
            group="Data",
        )
    )
    data_root: str | None = field(
        default=None, metadata=knob("folder (npz: file) of the data; null = the usual places")
    )
    download: bool = field(default=False, metadata=knob("download the data if the folder lacks it"))
    classes: tuple[int, ...] | None = field(
        default=None,
        metadata=knob("keep these classes alone, numbered anew in this order; null = all", ge=0),
    )
    unreadable_images: Literal["leave_out", "stop", "unchecked"] = field(
        default="leave_out",
        metadata=knob("image_folder decodes every file once: leave_out, stop, or unchecked (huge folders)"),
    )
    val_fraction: float = field(
        default=0.1,
        metadata=knob("part of the training images kept for validation, if the data bring none", gt=0, lt=1),
    )
    split_seed: int = field(
        default=0, metadata=knob("draws that part; the same for every arm and seed", ge=0, lt=2**32)
    )
    train_limit: int | None = field(
        default=None,
        metadata=knob("train on this many images only, every class in proportion; null = all", ge=1),
    )
    train_images_per_set: tuple[int, ...] | None = field(
        default=None,
        metadata=knob(
            "composed label sets: images of each single label, pair, triple ...; null = its own",
            ge=0,
        ),
    )
    eval_images_per_set: tuple[int, ...] | None = field(
        default=None, metadata=knob("the same of the validation and of the test part", ge=0)
    )
    batch_size: int = field(default=128, metadata=knob("images a step; batch norm needs two", ge=2))
    workers: int = field(default=0, metadata=knob("loading processes; results do not depend on it", ge=0))
    redraw: bool = field(
        default=False,
        metadata=knob("every seed draws its own label noise and rare classes; false: split_seed draws them"),
    )
    ood_dataset: (
        Literal["digits", "fashion_mnist", "cifar10", "cifar100", "image_folder", "npz", "synthetic"] | None
    ) = field(
        default=None,
        metadata=knob("tell its test images from this data set's at the end: digits, npz, ...; null = none"),
    )
    ood_root: str | None = field(
        default=None, metadata=knob("folder (npz: file) of that data set; null = the usual places")
    )
