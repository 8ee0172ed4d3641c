"""The three splits that a training sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Dataset

from etfhead.experiment.data.target_scaling import TargetScaling

__all__ = ["Splits"]

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """The three splits of a data set; a label is a class, a row (K,) of 0 and 1, or one (n,) of numbers.

    Args:
        train: ``train[i, key]`` is ``(image, label)``; the key alone decides the item's augmentation.
        plain: ``plain[i]``, the same images without augmentation.
        val: ``val[i]``, carved from the training part.
        test: ``test[i]``.
        num_classes: K.
        class_names: K names.
        class_counts: Training images of each class, or with each label.
        info: JSON-able facts for the run folder: sizes, root, duplicates removed, normalisation, digest.
        true_train: True classes of the training images, (n,), where those they carry are observed ones.
        true_val: Of the validation images.
        transition: P(observed class | true class), (K, K), where the labels are known to be noisy.
        targets: How real-valued targets are standardised; None for classes and label sets.
        ood: ``ood[i]``, images of another data set in the form of the test images; labels mean nothing.
    """

    train: Dataset[Any]
    plain: Dataset[Any]
    val: Dataset[Any]
    test: Dataset[Any]
    num_classes: int
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    info: dict[str, Any]
    true_train: Labels | None = None
    true_val: Labels | None = None
    transition: Tensor | None = None
    targets: TargetScaling | None = None
    ood: Dataset[Any] | None = None
