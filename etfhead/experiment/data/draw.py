"""What chance decides about the training images: which are there, and which labels they carry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from etfhead.experiment.data.carve import Carved
from etfhead.experiment.data.corrupt import has_noise, observe
from etfhead.experiment.data.images import Source
from etfhead.experiment.data.subsample import subsample, tail_note
from etfhead.experiment.recipe import Recipe

__all__ = ["Draw", "draw_training"]

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Draw:
    """Training and validation images with the labels they carry.

    Args:
        train: Positions of the training images in the source's training part.
        val: Of the validation images.
        train_labels: Observed classes of the training images.
        val_labels: Of the validation images.
        noisy: Whether observed classes may differ from true ones.
        transition: P(observed class | true class), (K, K), if that is known.
        info: JSON-able facts for the run folder; empty if nothing was drawn.
    """

    train: Labels
    val: Labels
    train_labels: Labels
    val_labels: Labels
    noisy: bool = False
    transition: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)

    def digest(self, of_the_source: str) -> str:
        """Identity of the images and labels: the source's where nothing was drawn."""
        if not self.info:
            return of_the_source
        digest = hashlib.sha256(of_the_source.encode())
        for part in (self.train, self.val, self.train_labels, self.val_labels):
            digest.update(np.array([len(part), *part], dtype="<i8").tobytes())
        return digest.hexdigest()


def draw_training(recipe: Recipe, source: Source, carved: Carved, seed: int) -> Draw:
    """Draw rare classes, then label noise; the test part is never touched.

    Args:
        recipe: What to draw.
        source: The data set.
        carved: Its training and validation images.
        seed: Of the draw.

    Raises:
        DataError: If the images or their labels do not allow it.
    """
    labels = source.train.labels
    train, val = carved.train, carved.val
    kept, info = subsample(recipe, labels[train], source.class_names, seed)
    train = train[kept]
    if info:
        info["notes"] = [*source.notes, tail_note(info)]
    if not has_noise(recipe):
        return Draw(train, val, labels[train], labels[val], info=info)
    seen = observe(recipe, source, train, val, seed)
    info |= {"label_noise": seen.info, "label_transition": seen.transition.tolist()}
    info["notes"] = [*info.get("notes", source.notes), seen.note]
    return Draw(train, val, seen.train, seen.val, noisy=True, transition=seen.transition, info=info)
