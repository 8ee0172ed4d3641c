"""Some classes of a data set alone, numbered anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.images import Images, Source

__all__ = ["check_chosen", "keep_classes"]


def check_chosen(classes: Sequence[int], num_classes: int) -> None:
    """Raise a DataError that names the first of these numbers that is no class of the data set."""
    for number in classes:
        if not 0 <= number < num_classes:
            raise DataError(
                f"classes: {number} is not one of the data set's, which go from 0 to {num_classes - 1}"
            )


def keep_classes(source: Source, classes: Sequence[int]) -> Source:
    """The images of these classes, in all parts; the first one named becomes class 0, and so on.

    Args:
        source: A data set with one class an image.
        classes: Which, by their numbers in the data set.

    Raises:
        DataError: If the data set has no such class.

    >>> from etfhead.experiment.data.synthetic import read_synthetic
    >>> small = keep_classes(read_synthetic(8, 1), [7, 2])
    >>> small.class_names, len(small.train), sorted(set(small.train.labels.tolist()))
    (('pattern 7', 'pattern 2'), 64, [0, 1])
    """
    K = len(source.class_names)
    check_chosen(classes, K)
    numbers = np.full(K, -1, dtype=np.int64)
    numbers[list(classes)] = np.arange(len(classes))

    stay = numbers[source.train.labels] >= 0
    held_out = None if source.held_out is None else source.held_out[stay]

    def kept(part: Images) -> Images:
        chosen = part.subset(np.flatnonzero(numbers[part.labels] >= 0))
        return replace(chosen, labels=numbers[chosen.labels])

    names = tuple(source.class_names[number] for number in classes)
    train, test = kept(source.train), kept(source.test)
    return replace(source, train=train, test=test, class_names=names, held_out=held_out)
