"""The section on memorization and dilation: what wrong labels did to the features of each arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Bullets, Heading, Paragraph, Table
from etfhead.experiment.report.memorization import COMPARED, MEMORIZATION, MemorizationFigure

__all__ = ["FEATURES_CAPTION", "MEMORIZATION_CAPTION", "memorization"]

MEMORIZATION_CAPTION = (
    "Memorization of wrong labels against epoch, and dilation of clean held-out classes against memorization",
    "Relative memorization is the mean distance of wrongly labelled training images to their true class, "
    "over the distance between classes; dilation is the NC1 of the validation images by true labels, on a "
    "logarithmic axis. Against memorization each arm goes its way through training dot after dot, with the "
    "last epoch as the large one; of more than six arms only these ways are shown. Lines are means over the "
    "finished seeds; bands reach from the smallest to the largest seed.",
)
FEATURES_CAPTION = (
    "Features of training images (above) and test images (below) at the last epoch, one column for each arm",
    "Colours are true classes. Crosses are training images with a wrong label: those that lie in the other "
    "class' cloud are memorized. Of two classes the dashed line is where the head changes its mind. Features "
    "of more than two dimensions are shown along the difference of the two class vectors, all that the head "
    "sees of them, and the direction in which they vary most beside it. First seed of the run.",
)

_Entry = Mapping[str, Any]


def memorization(
    summary: Mapping[str, Any], figures: Sequence[Block], scatter: Sequence[Block] = ()
) -> list[Block]:
    """Picture, last values, differences to the baseline; no blocks where labels were not noisy.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        figures: The picture of memorization, if there is one.
        scatter: That of features, if there is one.
    """
    arms = summary["arms"]
    shown = [f for f in MEMORIZATION if any(arm["figures"].get(f.key) for arm in arms.values())]
    if not shown:
        return []
    last = [
        [fmt.arm_name(arm, summary["baseline"]), *(_value(entry, figure) for figure in shown)]
        for arm, entry in arms.items()
    ]
    blocks: list[Block] = [
        Heading("Memorization and dilation"),
        Paragraph(
            "A network that learns a wrong label by heart moves that image's feature away from its true "
            "class (memorization); the classes of clean images it has not seen then spread (dilation). "
            "Measured on a fixed subset of the training images, not augmented, with their share of wrong "
            "labels kept, and on all validation images by their true labels; the test images were read once, "
            "after the end."
        ),
        *figures,
        Paragraph("At the last measuring, mean ± sample standard deviation over seeds:"),
        Table(["arm", *(_heading(figure) for figure in shown)], last),
    ]
    compared = [figure for figure in shown if figure.key in COMPARED]
    differences = summary.get("memorization_differences") or {}
    rows = [
        [arm, *(_difference((differences[arm] or {}).get(figure.key), figure) for figure in compared)]
        for arm in arms
        if arm in differences
    ]
    if rows and compared:
        blocks += [
            Paragraph(
                f"Minus {summary['baseline']}, paired by seed, with the 95 % interval (not adjusted for the "
                "number of comparisons); less is better in each column:"
            ),
            Table(["arm", *(_heading(figure, "points") for figure in compared)], rows),
        ]
    accuracy = _true_accuracy(summary)
    return [
        *blocks,
        *accuracy,
        *scatter,
        Bullets([f"{figure.name}: {figure.meaning}." for figure in shown]),
        Paragraph("More on these figures is in docs/memorization_dilation.md."),
    ]


def _true_accuracy(summary: Mapping[str, Any]) -> list[Block]:
    """Validation accuracy by observed labels, which choose the epoch, beside that by true ones."""
    columns = [
        ("val_top1_best", "by observed labels, best epoch"),
        ("val_true_top1_best", "by true labels, best epoch"),
        ("val_top1_last", "by observed labels, last epoch"),
        ("val_true_top1_last", "by true labels, last epoch"),
    ]
    arms = summary["arms"]
    if not any(entry["figures"].get("val_true_top1_last") for entry in arms.values()):
        return []
    rows = [
        [
            fmt.arm_name(arm, summary["baseline"]),
            *(fmt.mean_std(entry["figures"].get(key)) for key, _ in columns),
        ]
        for arm, entry in arms.items()
    ]
    return [
        Paragraph(
            "Validation accuracy in percent. The best epoch is chosen by the observed labels, noise and all, "
            "as it would have to be without the true ones, which are shown for comparison:"
        ),
        Table(["arm", *(name for _, name in columns)], rows),
    ]


def _heading(figure: MemorizationFigure, unit: str = "%") -> str:
    return f"{figure.name} ({unit})" if figure.percent else figure.name


def _value(entry: _Entry, figure: MemorizationFigure) -> str:
    found = entry["figures"].get(figure.key)
    if found is None or not figure.percent:
        return fmt.wide_mean_std(found)
    std = found["std"]
    return fmt.mean_std({"mean": 100 * found["mean"], "std": None if std is None else 100 * std})


def _difference(pair: Mapping[str, Any] | None, figure: MemorizationFigure) -> str:
    if pair is None:
        return fmt.MISSING
    factor = 100 if figure.percent else 1
    mean, low, high = (None if pair[k] is None else factor * pair[k] for k in ("mean", "low", "high"))
    digits = 2 if figure.percent else _digits(mean, low, high)
    text = fmt.signed(mean, digits)
    return text if low is None else f"{text} ({fmt.signed(low, digits)} to {fmt.signed(high, digits)})"


def _digits(*values: float | None) -> int:
    """Digits behind the point that show the largest of them to three places."""
    largest = max(abs(value) for value in values if value is not None)
    return next((digits for digits in range(2, 6) if largest * 10**digits >= 100), 6)
