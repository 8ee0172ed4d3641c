"""The labels that training sees: drawn wrong, or read from a file; beside them the true ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from etfhead.errors import DataError
from etfhead.experiment.data.images import ArrayImages, Images, Source
from etfhead.experiment.data.label_files import read_label_file
from etfhead.experiment.data.label_noise import CLASS_FLIPS, add_label_noise, flip_matrix
from etfhead.experiment.data.rng import hash_keys
from etfhead.experiment.data.splits import Indices
from etfhead.experiment.recipe import Recipe

__all__ = ["ObservedLabels", "class_flips", "has_noise", "observe", "with_label_files"]

_SALT = 51  # a hash stream of its own
_TRAIN, _VAL, _BOTH = range(3)
_CHANCE = 0.95  # of the rate of labels that have nothing to do with the images


@dataclass(frozen=True, eq=False)
class ObservedLabels:
    """What the labels of the training and validation split look like to a user.

    Args:
        train: (n,).
        val: (m,).
        transition: P(observed j | true i), (K, K): what labels were drawn from, or the shares in a file.
        info: JSON-able facts for the run folder.
    """

    train: Indices
    val: Indices
    transition: torch.Tensor
    info: dict[str, Any]

    @property
    def note(self) -> str:
        """One sentence for the report."""
        whose = f", drawn anew for each seed; seed {self.info['seed']}" if self.info.get("redrawn") else ""
        rates = [f"{100 * self.info[f'{split}_rate']:.1f} % of the {split}" for split in ("train", "val")]
        return (
            f"label noise ({self.info['kind']}{whose}): {rates[0]}ing and {rates[1]}idation labels "
            "are wrong; training and the choice of the best epoch go by them, the test labels are right"
        )


def has_noise(recipe: Recipe) -> bool:
    """Whether observed labels stand beside true ones, if only at a rate of zero."""
    return (
        recipe.noise_kind is not None
        or recipe.labels_file is not None
        or recipe.clean_labels_file is not None
    )


def with_label_files(recipe: Recipe, source: Source) -> Source:
    """The data set with true labels in place of its own, and observed ones beside them, from files.

    A file left out stands for the data set's own labels.

    Args:
        recipe: Its ``labels_file`` and ``clean_labels_file``; without either the data set stays as it is.
        source: The data set, all its classes.

    Raises:
        DataError: If a file does not fit the data set, or the two do not fit each other.
    """
    if recipe.labels_file is None and recipe.clean_labels_file is None:
        return source
    own, K = source.train.labels, len(source.class_names)
    found = []
    for key in ("labels_file", "clean_labels_file"):
        place = getattr(recipe, key)
        try:
            found.append(own if place is None else read_label_file(place, images=len(own), num_classes=K))
        except DataError as error:
            raise DataError(f"{key}: {error}") from error
    observed, true = found
    if (wrong := float((observed != true).mean())) > _CHANCE * (K - 1) / K:
        raise DataError(
            f"labels_file: {100 * wrong:.1f} % of the labels are not the true ones, no better than chance: "
            "they belong to the images in another order, or number the classes otherwise"
        )
    return replace(source, train=replace(source.train, labels=true), observed=observed)


def observe(recipe: Recipe, source: Source, train: Indices, val: Indices, seed: int) -> ObservedLabels:
    """Observed labels of the training and validation images at these positions.

    Noise is drawn separately for each split, so that each has its rate; with instance noise together, so
    that similar images go wrong alike in both.

    Args:
        recipe: Its label-noise fields; :func:`has_noise` of it is true.
        source: From :func:`with_label_files`.
        train: Positions of the training split in the training part.
        val: Of the validation split.
        seed: Chooses the noise.

    Raises:
        DataError: If the noise cannot be drawn on these data.
    """
    true, K = source.train.labels, len(source.class_names)
    known = (true[train], true[val])
    if source.observed is not None:
        seen = (source.observed[train], source.observed[val])
        transition = _shares(np.concatenate(known), np.concatenate(seen), K)
        facts: dict[str, Any] = {key: getattr(recipe, key) for key in ("labels_file", "clean_labels_file")}
        facts = {"kind": "from a file", **{key: name for key, name in facts.items() if name is not None}}
    else:
        seen, transition = _draw(recipe, source, train, val, seed)
        facts = {"kind": recipe.noise_kind, "rate": recipe.noise_rate, "seed": seed}
        facts |= {"redrawn": True} if recipe.redraw else {}
        facts |= {key: True for key in ("include_true", "exact") if getattr(recipe, f"noise_{key}")}
    for split, y, t in zip(("train", "val"), seen, known, strict=True):
        facts[f"{split}_rate"] = float((y != t).mean())
        facts[f"{split}_wrong_by_true_class"] = np.bincount(t[y != t], minlength=K).tolist()
    return ObservedLabels(seen[0], seen[1], transition, facts)


def class_flips(recipe: Recipe, num_classes: int) -> dict[int, int]:
    """Which class is taken for which: of the recipe, else the data set's own between the classes kept.

    Raises:
        DataError: If there are none, or a number is no class.
    """
    flips: Mapping[Any, Any] = recipe.noise_flips
    if not flips:
        flips = CLASS_FLIPS.get(recipe.dataset, {})
        if recipe.classes is not None:
            new = {old: at for at, old in enumerate(recipe.classes)}
            flips = {new[a]: new[b] for a, b in flips.items() if a in new and b in new}
    if not flips:
        raise DataError(
            f"noise_flips: dataset={recipe.dataset} has no flips of its own"
            + (f" between the classes {list(recipe.classes)}" if recipe.classes is not None else "")
            + "; write which class is taken for which, as in {0: 6, 6: 0}"
        )
    try:
        chosen = {int(a): _class(b) for a, b in flips.items()}
        flip_matrix(chosen, num_classes)
        if same := [a for a, b in chosen.items() if a == b]:
            raise ValueError(f"{same[0]} stays itself; leave it out")
    except (TypeError, ValueError) as error:
        raise DataError(
            f"noise_flips: expected classes from 0 to {num_classes - 1}, as in {{0: 6, 6: 0}}, got "
            f"{dict(flips)} ({error})"
        ) from None
    return chosen


def _class(value: Any) -> int:
    if isinstance(value, bool | float):
        raise TypeError(f"{value!r} is no class")
    return int(value)


def _draw(
    recipe: Recipe, source: Source, train: Indices, val: Indices, seed: int
) -> tuple[tuple[Indices, Indices], torch.Tensor]:
    labels, K = source.train.labels, len(source.class_names)
    options: dict[str, Any] = {"kind": recipe.noise_kind, "num_classes": K}
    if recipe.noise_kind == "asymmetric":
        options["transition"] = flip_matrix(class_flips(recipe, K), K)
    if recipe.noise_kind == "symmetric":
        options["include_true"] = recipe.noise_include_true
    if recipe.noise_kind == "instance":
        at = np.concatenate([train, val])
        options |= {"features": _pixels(source.train.subset(at)), "generator": _generator(seed, _BOTH)}
        both = add_label_noise(torch.from_numpy(labels[at]), recipe.noise_rate, **options)
        numbers = both.labels.numpy()
        return (numbers[: len(train)], numbers[len(train) :]), both.transition
    options["exact"] = recipe.noise_exact
    seen = [
        add_label_noise(
            torch.from_numpy(labels[at]), recipe.noise_rate, generator=_generator(seed, part), **options
        )
        for part, at in ((_TRAIN, train), (_VAL, val))
    ]
    return (seen[0].labels.numpy(), seen[1].labels.numpy()), seen[0].transition


def _generator(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(hash_keys([part], seed, _SALT)[0]))


def _pixels(images: Images) -> torch.Tensor:
    if not isinstance(images, ArrayImages):
        raise DataError(
            "noise_kind: instance noise looks at all images at once, and those of an image_folder stay on "
            "disk; use another kind, or draw labels outside and name them in labels_file"
        )
    return torch.from_numpy(images.pixels).float() / 255


def _shares(true: Indices, observed: Indices, num_classes: int) -> torch.Tensor:
    """P(observed | true) as counted; a class without an image keeps its label."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (true, observed), 1.0)
    counts[counts.sum(1) == 0] = np.eye(num_classes)[counts.sum(1) == 0]
    return torch.from_numpy(counts / counts.sum(1, keepdims=True))
