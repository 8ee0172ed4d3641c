"""From a recipe to training, validation and test splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.carve import Carved, carve
from etfhead.experiment.data.choose_classes import keep_classes
from etfhead.experiment.data.choose_fetch import eval_fetch, plain_fetch, train_fetch
from etfhead.experiment.data.corrupt import with_label_files
from etfhead.experiment.data.datasets import EvalDataset, TrainDataset
from etfhead.experiment.data.draw import Draw, draw_training
from etfhead.experiment.data.facts import data_facts
from etfhead.experiment.data.images import ArrayImages, Source
from etfhead.experiment.data.multilabel_datasets import MultiLabelEvalDataset, MultiLabelTrainDataset
from etfhead.experiment.data.multilabel_parts import MultiLabelParts
from etfhead.experiment.data.regression_parts import RegressionParts
from etfhead.experiment.data.regression_splits import regression_splits
from etfhead.experiment.data.sets import Splits
from etfhead.experiment.data.sources import read_multilabel, read_ood, read_regression, read_source
from etfhead.experiment.data.statistics import choose_normalization
from etfhead.experiment.recipe import Recipe
from etfhead.experiment.task import is_multilabel, is_regression

__all__ = ["LoadedData", "load_data", "read_data"]


def _in_channels(source: Source, in_chans: int) -> Source:
    if in_chans == 1 and isinstance(source.train, ArrayImages) and isinstance(source.test, ArrayImages):
        return replace(source, train=source.train.gray(), test=source.test.gray())
    return source


def load_data(recipe: Recipe, seed: int | None = None) -> Splits:
    """Read a data set, carve the validation split from its training part, and build the transforms.

    A validation part that the data bring is taken as it is. The splits depend on the data, ``val_fraction``,
    ``split_seed`` and ``train_limit`` alone, and with ``redraw`` on the seed: every arm of a comparison sees
    the same ones.

    Args:
        recipe: The data and augmentation fields are used, and the model's only for its normalisation.
        seed: Of the run, for ``redraw``.

    Raises:
        DataError: If the data are missing, damaged, inconsistent or too few.
        ValueError: If timm does not understand ``aa``.
    """
    return read_data(recipe).splits(seed)


def read_data(recipe: Recipe) -> LoadedData:
    """Read a data set once, for the splits of all seeds; raises what :func:`load_data` does."""
    try:
        if is_multilabel(recipe.dataset):
            return LoadedData(recipe, read_multilabel(recipe))
        if is_regression(recipe.dataset):
            return LoadedData(recipe, read_regression(recipe))
        source = read_source(recipe)
        if recipe.classes is not None:
            source = keep_classes(source, recipe.classes)
        source = with_label_files(recipe, source)
    except OSError as error:
        raise DataError(f"cannot read {recipe.dataset} (data_root={recipe.data_root!r}): {error}") from error
    ood = _read_ood(recipe)
    limit = recipe.train_limit
    carved = carve(source, val_fraction=recipe.val_fraction, seed=recipe.split_seed, train_limit=limit)
    return LoadedData(recipe, _in_channels(source, recipe.in_chans), carved, ood)


def _read_ood(recipe: Recipe) -> Source | None:
    try:
        source = read_ood(recipe)
    except (OSError, DataError) as error:
        where = f"ood_dataset: {recipe.ood_dataset} (ood_root={recipe.ood_root!r})"
        raise DataError(f"{where}: {error}") from error
    return None if source is None else _in_channels(source, recipe.in_chans)


@dataclass(eq=False)
class LoadedData:
    """A data set in memory or on disk, and the splits that each seed makes of it.

    Args:
        recipe: The comparison.
        found: What was read.
        carved: Its training and validation images; None where the data bring their splits.
        ood: Another data set that its test images are told from; None without one.
    """

    recipe: Recipe
    found: Source | MultiLabelParts | RegressionParts
    carved: Carved | None = None
    ood: Source | None = None

    def __post_init__(self) -> None:
        self._last: tuple[int, Splits] | None = None

    @property
    def how_split(self) -> str:
        """What a run says of the parts when it starts; empty where there is nothing to say."""
        return self.found.how_split if isinstance(self.found, Source) else ""

    def splits(self, seed: int | None = None) -> Splits:
        """The splits of a seed, kept until another one's are asked for."""
        drawn = self.recipe.split_seed if seed is None or not self.recipe.redraw else seed
        if self._last is None or self._last[0] != drawn:
            self._last = None  # two sets in memory could be one too many
            self._last = (drawn, self._make(drawn))
        return self._last[1]

    def info(self) -> dict[str, Any]:
        """JSON-able facts for the run folder; with ``redraw`` under ``draws`` those of every seed."""
        seeds = self.recipe.seeds
        first = self.splits(seeds[0])
        names = {"class_names": list(first.class_names), "class_counts": list(first.class_counts)}
        facts = {**first.info, **names}
        if not self.recipe.redraw or self.carved is None:
            return facts
        facts["draws"] = {str(seed): self._drawn(seed, first.num_classes) for seed in seeds}
        return {**facts, "digest": self.carved.digest}

    def _make(self, seed: int) -> Splits:
        if isinstance(self.found, MultiLabelParts):
            return _multilabel_splits(self.recipe, self.found)
        if isinstance(self.found, RegressionParts):
            return regression_splits(self.recipe, self.found)
        return _splits(self.recipe, self.found, self._carved(), self._draw(seed), self.ood)

    def _drawn(self, seed: int, num_classes: int) -> dict[str, Any]:
        draw = self._draw(seed)
        return {**draw.info, "class_counts": _class_counts(draw, num_classes)}

    def _draw(self, seed: int) -> Draw:
        assert isinstance(self.found, Source)  # noqa: S101 - for the type checker
        return draw_training(self.recipe, self.found, self._carved(), seed)

    def _carved(self) -> Carved:
        assert self.carved is not None  # noqa: S101 - for the type checker
        return self.carved


def _class_counts(draw: Draw, num_classes: int) -> list[int]:
    """Training images of each class, by the labels they carry."""
    counts: list[int] = np.bincount(draw.train_labels, minlength=num_classes).tolist()
    return counts


def _splits(recipe: Recipe, source: Source, carved: Carved, draw: Draw, ood: Source | None) -> Splits:
    norm = choose_normalization(recipe, source.without_held_out())
    mode = "L" if recipe.in_chans == 1 else "RGB"
    train, val = source.train.subset(draw.train), source.train.subset(draw.val)
    counts = _class_counts(draw, len(source.class_names))
    info = data_facts(
        recipe,
        root=source.root,
        sizes=(len(train), len(val), len(source.test)),
        duplicates=carved.duplicates,
        digest=draw.digest(carved.digest),
        notes=source.notes,
        more=norm.facts(),
    )
    if source.held_out is not None:
        info["val_fraction"] = None
    info |= draw.info
    if ood is not None:
        facts = {"dataset": recipe.ood_dataset, "root": ood.root, "images": len(ood.test)}
        info["ood"] = {**facts, "notes": list(ood.notes)}
    fetch = train_fetch(recipe, train, norm, mode)
    return Splits(
        train=TrainDataset(fetch, draw.train_labels),
        plain=EvalDataset(plain_fetch(recipe, train, norm, mode, fetch), draw.train_labels),
        val=EvalDataset(eval_fetch(recipe, val, norm, mode), draw.val_labels),
        test=EvalDataset(eval_fetch(recipe, source.test, norm, mode), source.test.labels),
        num_classes=len(source.class_names),
        class_names=source.class_names,
        class_counts=tuple(counts),
        info=info,
        true_train=train.labels if draw.noisy else None,
        true_val=val.labels if draw.noisy else None,
        transition=draw.transition,
        ood=None if ood is None else EvalDataset(eval_fetch(recipe, ood.test, norm, mode), ood.test.labels),
    )


def _multilabel_splits(recipe: Recipe, parts: MultiLabelParts) -> Splits:
    parts = parts.gray() if recipe.in_chans == 1 else parts
    norm = choose_normalization(recipe, parts.train)
    parts = parts.limited(recipe.train_limit, recipe.split_seed)
    mode = "L" if recipe.in_chans == 1 else "RGB"
    train, val, test = parts.train, parts.val, parts.test
    info = data_facts(
        recipe,
        root=parts.root,
        sizes=(len(train), len(val), len(test)),
        duplicates=parts.duplicates,
        digest=parts.digest(),
        notes=parts.notes,
        more={"train_images_with_0_1_2_labels": list(parts.set_sizes), **norm.facts()},
    )
    fetch = train_fetch(recipe, train, norm, mode)
    return Splits(
        train=MultiLabelTrainDataset(fetch, train.labels),
        plain=MultiLabelEvalDataset(plain_fetch(recipe, train, norm, mode, fetch), train.labels),
        val=MultiLabelEvalDataset(eval_fetch(recipe, val, norm, mode), val.labels),
        test=MultiLabelEvalDataset(eval_fetch(recipe, test, norm, mode), test.labels),
        num_classes=len(parts.class_names),
        class_names=parts.class_names,
        class_counts=parts.label_counts,
        info=info,
    )
