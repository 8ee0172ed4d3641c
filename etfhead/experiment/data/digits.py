"""scikit-learn's digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from etfhead.experiment.data.images import ArrayImages, Source
from etfhead.experiment.data.splits import TEST_FRACTION, TEST_SEED, stratified_holdout

__all__ = ["read_digits"]


def read_digits() -> Source:
    """The 1,797 handwritten digits of 8x8 pixels, with a fixed stratified fifth of them as test part.

    Levels 0..16 are mapped to 0..255. The copy in scikit-learn is the test set of the UCI
    "Optical Recognition of Handwritten Digits" set, which has no test part of its own.

    Example:
        >>> source = read_digits()
        >>> len(source.train), len(source.test), source.train.pixels.shape[1:]
        (1438, 359, (8, 8))
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    everything = ArrayImages(pixels, bunch.target.astype(np.int64))
    names = tuple(str(digit) for digit in range(10))
    train, test = stratified_holdout(everything.labels, TEST_FRACTION, TEST_SEED, names)
    return Source(
        everything.subset(train), everything.subset(test), names, root="sklearn.datasets.load_digits"
    )
