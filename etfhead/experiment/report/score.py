"""What a report is about: accuracy of one class an image, exact match or mAP of label sets, R2 of targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from etfhead.experiment.task import METRIC_NAMES, primary_metric

__all__ = [
    "DECODINGS",
    "GROUPS",
    "MULTILABEL",
    "SETS_OF",
    "TOP1",
    "Score",
    "score_of_recipe",
    "score_of_summary",
]

# Figures of label sets by key, in the order of their columns.
MULTILABEL = {
    "exact_match": "exact match",
    "map": "mAP",
    "map_marginal": "mAP, marginals",
    "cf1": "CF1",
    "cf1_mean": "CF1, mean of F1",
    "of1": "OF1",
    "cp": "CP",
    "cr": "CR",
    "op": "OP",
    "or": "OR",
    "jaccard": "Jaccard",
    "hamming": "Hamming",
}
GROUPS = ("head", "medium", "tail")
DECODINGS = {
    "threshold": "one threshold",
    "class_thresholds": "one a label",
    "nearest": "nearest",
    "nearest_cosine": "nearest by angle",
    "posterior": "posterior",
}
SETS_OF = tuple(range(7))

_MULTILABEL_KEYS = (
    *MULTILABEL,
    *(f"{key}_{group}" for key in ("map", "f1") for group in GROUPS),
    *(f"exact_match_by_{how}" for how in DECODINGS),
    *(f"exact_match_m{size}" for size in SETS_OF),
)


@dataclass(frozen=True)
class Score:
    """The primary metric, and the figures of the test split that stand beside it.

    Args:
        key: As in ``val_<key>`` and ``test_<key>``.
        test: Keys of the test split, ``test_`` included, the primary one first.
        second: Which of them the shortest tables show beside it, and its name there.
    """

    key: str
    test: tuple[str, ...]
    second: tuple[str, str]

    @property
    def name(self) -> str:
        """In a sentence."""
        return METRIC_NAMES[self.key]

    @property
    def title(self) -> str:
        """At its beginning."""
        return self.name[:1].upper() + self.name[1:] if self.key != "map" else self.name

    @property
    def second_in_words(self) -> str:
        """The second figure where there is room."""
        return "exact match" if self.second[1] == "exact" else self.second[1]

    @property
    def units(self) -> str:
        """A sentence on the first table."""
        if self.regression:
            return (
                "R² (mean over targets; 100 = exact, 0 = the mean of the test targets) and NMSE (squared "
                "error over the variance of the training targets, mean over targets) in percent; the loss "
                "is half the squared error of standardised targets, summed over them."
            )
        if self.multilabel:
            return "Exact match and mAP in percent; the loss is the binary cross-entropy, in nats a label."
        return "Accuracy and calibration error (ECE) in percent."

    @property
    def multilabel(self) -> bool:
        """Whether label sets are scored."""
        return self.key in ("exact_match", "map")

    @property
    def regression(self) -> bool:
        """Whether targets are real numbers."""
        return self.key == "r2"

    @property
    def primary(self) -> str:
        """The figure that is judged."""
        return f"test_{self.key}_best"

    @property
    def last(self) -> str:
        """The same of the last epoch."""
        return f"test_{self.key}_last"

    @property
    def val(self) -> str:
        """Its key in the rows of an epoch."""
        return f"val_{self.key}"

    @property
    def figures(self) -> tuple[str, ...]:
        """Everything that is summarised over seeds and compared."""
        tested = (f"{key}_{when}" for key in self.test for when in ("best", "last"))
        return (*tested, f"{self.val}_best", f"{self.val}_last")


TOP1 = Score("top1", ("test_top1", "test_loss", "test_ece"), ("test_ece", "ECE"))


R2 = Score("r2", ("test_r2", "test_nmse", "test_mse", "test_loss"), ("test_nmse", "NMSE"))


def _of(metric: str) -> Score:
    if metric == "r2":
        return R2
    if metric not in METRIC_NAMES or metric == "top1":
        return TOP1
    others = tuple(f"test_{key}" for key in _MULTILABEL_KEYS if key != metric)
    second = ("test_exact_match", "exact") if metric == "map" else ("test_map", "mAP")
    return Score(metric, (f"test_{metric}", *others, "test_loss"), second)


def score_of_recipe(recipe: Mapping[str, Any]) -> Score:
    """The score of a run by the recipe in its folder.

    >>> score_of_recipe({"dataset": "digits"}).primary, score_of_recipe({"dataset": "multilabel_npz"}).primary
    ('test_top1_best', 'test_map_best')
    """
    return _of(primary_metric(recipe))


def score_of_summary(summary: Mapping[str, Any]) -> Score:
    """The score that a summary's ``primary`` names."""
    return _of(str(summary["primary"]).removeprefix("test_").removesuffix("_best"))
