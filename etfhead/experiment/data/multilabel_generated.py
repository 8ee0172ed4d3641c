"""Digits or garments side by side: multi-label images in which every label set is equally frequent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from PIL import Image

from etfhead.errors import DataError
from etfhead.experiment.data.carve import carve
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.fashion_mnist import read_fashion_mnist
from etfhead.experiment.data.images import ArrayImages, Images, Source
from etfhead.experiment.data.multilabel_canvas import balanced_targets, compose
from etfhead.experiment.data.multilabel_parts import MultiLabelParts
from etfhead.experiment.data.splits import TEST_SEED

__all__ = ["read_multilabel_digits", "read_multilabel_fashion"]

_TRAIN, _VAL, _TEST = 1, 2, 3  # separate draws
_DIGIT = 14  # pixels; a cell of 16 leaves it two to move


def _composed(
    source: Source,
    *,
    cell: int,
    train: Sequence[int],
    evaluation: Sequence[int],
    val_fraction: float,
    seed: int,
) -> MultiLabelParts:
    for name, counts in (("train_images_per_set", train), ("eval_images_per_set", evaluation)):
        try:
            balanced_targets(len(source.class_names), counts)
        except ValueError as error:
            raise DataError(str(error).replace("images_per_set", name, 1)) from error
    carved = carve(source, val_fraction=val_fraction, seed=seed)
    of_train, of_test = cast(ArrayImages, source.train), cast(ArrayImages, source.test)
    sources = of_train.subset(carved.train), of_train.subset(carved.val), of_test
    wanted = [balanced_targets(len(source.class_names), counts) for counts in (train, evaluation, evaluation)]
    salts = ((seed << 2) + _TRAIN, (seed << 2) + _VAL, (TEST_SEED << 2) + _TEST)
    drawn = [
        compose(images, targets, cell=cell, seed=salt)
        for images, targets, salt in zip(sources, wanted, salts, strict=True)
    ]
    note = (
        f"composed of {len(sources[0])} training, {len(sources[1])} validation and {len(sources[2])} test "
        f"images of one class; images of each set of 1, 2, ... labels: training {list(train)}, others "
        f"{list(evaluation)}"
    )
    return MultiLabelParts(
        train=drawn[0],
        val=drawn[1],
        test=drawn[2],
        class_names=source.class_names,
        root=source.root,
        duplicates={f"source_{name}": count for name, count in carved.duplicates.items()},
        notes=(*source.notes, note),
    )


def _enlarged(images: Images) -> ArrayImages:
    small, size = cast(ArrayImages, images), (_DIGIT, _DIGIT)
    pixels = [np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in small.pixels]
    return ArrayImages(np.stack(pixels), small.labels)


def read_multilabel_digits(
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    train_images_per_set: Sequence[int] = (100, 30, 10),
    eval_images_per_set: Sequence[int] = (30, 8, 3),
) -> MultiLabelParts:
    """One to three different digits of scikit-learn's set on a canvas of 32x32, gray.

    As in "Neural Collapse in Multi-label Learning with Pick-all-label Loss" (Li et al., arXiv 2310.15903)
    every class, pair and triple is equally frequent. The 1,797 digits are split first, so no digit is seen
    in two splits; each is enlarged to 14x14 and placed in one of four cells of 16x16, up to two pixels off.

    Args:
        val_fraction: Share of the training digits that only validation images are made of.
        split_seed: Draws those digits and composes training and validation images; test images stay.
        train_images_per_set: Training images of each class, pair, triple (and quadruple).
        eval_images_per_set: The same for the validation and for the test split.

    Raises:
        DataError: If counts are not possible or ``val_fraction`` leaves a class without digits.

    Example:
        >>> parts = read_multilabel_digits()
        >>> len(parts.train), len(parts.val), len(parts.test), parts.train.pixels.shape[1:]
        (3550, 1020, 1020, (32, 32))
        >>> parts.set_sizes, set(parts.label_counts)
        ((0, 1000, 1350, 1200), {730})
    """
    source = read_digits()
    return _composed(
        replace(source, train=_enlarged(source.train), test=_enlarged(source.test)),
        cell=16,
        train=train_images_per_set,
        evaluation=eval_images_per_set,
        val_fraction=val_fraction,
        seed=split_seed,
    )


def read_multilabel_fashion(
    data_root: str | None,
    download: bool,
    *,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    train_images_per_set: Sequence[int] = (300, 80, 25),
    eval_images_per_set: Sequence[int] = (100, 25, 8),
) -> MultiLabelParts:
    """One to three different garments of Fashion-MNIST on a canvas of 64x64, gray.

    Every class, pair and triple is equally frequent. Training and validation images are made of disjoint
    shares of the official training part, test images of the test part; each garment of 28x28 lies in one of
    four cells of 32x32, up to four pixels off.

    Args:
        data_root: As :func:`~etfhead.experiment.data.fashion_mnist.read_fashion_mnist`.
        download: Fetch the files with torchvision when none are found.
        val_fraction: Share of the training garments that only validation images are made of.
        split_seed: Draws those garments and composes training and validation images; test images stay.
        train_images_per_set: Training images of each class, pair, triple (and quadruple).
        eval_images_per_set: The same for the validation and for the test split.

    Raises:
        DataError: If the files are missing or damaged, or counts are not possible.
    """
    return _composed(
        read_fashion_mnist(data_root, download),
        cell=32,
        train=train_images_per_set,
        evaluation=eval_images_per_set,
        val_fraction=val_fraction,
        seed=split_seed,
    )
