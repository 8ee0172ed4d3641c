"""Generated images of one or two stripe patterns, for smoke runs of multi-label recipes."""

from __future__ import annotations

from typing import cast

import numpy as np

from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.multilabel_canvas import balanced_targets, compose
from etfhead.experiment.data.multilabel_parts import MultiLabelParts
from etfhead.experiment.data.synthetic import read_synthetic

__all__ = ["read_multilabel_synthetic"]

_TRAIN, _EVALUATION = (8, 2), (3, 1)  # images of each single label and of each pair
_TO_TRAIN = 24  # of the 32 patterns of a class; validation takes the others


def read_multilabel_synthetic(img_size: int) -> MultiLabelParts:
    """Ten labels, each alone and in every pair: 170 training, 75 validation and 75 test images, grey.

    Args:
        img_size: Height and width of the images in pixels; even, else one less.

    Example:
        >>> parts = read_multilabel_synthetic(16)
        >>> len(parts.train), len(parts.val), len(parts.test), parts.set_sizes
        (170, 75, 75, (0, 80, 90))
    """
    cell = max(img_size // 2, 1)
    source = read_synthetic(cell, 1)
    patterns, test = cast(ArrayImages, source.train), cast(ArrayImages, source.test)
    each = len(patterns) // len(source.class_names)
    to_train = np.arange(len(patterns)) % each < _TO_TRAIN
    of_train, of_val = (patterns.subset(np.flatnonzero(part)) for part in (to_train, ~to_train))
    train, evaluation = (balanced_targets(len(source.class_names), sets) for sets in (_TRAIN, _EVALUATION))
    return MultiLabelParts(
        train=compose(of_train, train, cell=cell, seed=1),
        val=compose(of_val, evaluation, cell=cell, seed=2),
        test=compose(test, evaluation, cell=cell, seed=3),
        class_names=source.class_names,
        root=source.root,
        duplicates={},
    )
