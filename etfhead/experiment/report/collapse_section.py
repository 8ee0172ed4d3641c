"""The section on neural collapse: what was measured, on what, and how to read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.collapse import COLLAPSE, CollapseFigure
from etfhead.experiment.report.document import Block, Bullets, Heading, Paragraph, Table

__all__ = ["COLLAPSE_CAPTION", "collapse", "measuring"]

COLLAPSE_CAPTION = (
    "Neural collapse of the features against epoch, one panel for each figure",
    "Every figure is zero at full collapse: a falling line is a collapsing one. NC1 and CDNV: spread of the "
    "images within a class beside the distance between classes (logarithmic axes, an exact zero below the "
    "lowest decade). NC2: class means with unequal norms, or with angles that are not those of a simplex. "
    "NC3: class vectors that do not point to their class means. NC4: images whose nearest class mean is not "
    "the class that the head names. Epoch 0 is the untrained network. Lines are means over the finished "
    "seeds; bands reach from the smallest to the largest seed.",
)

_Entry = Mapping[str, Any]


def collapse(summary: Mapping[str, Any], figures: Sequence[Block]) -> list[Block]:
    """Picture, last values, sample and charge of the measuring; no blocks where nothing was measured.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        figures: The picture, if there is one.
    """
    arms = summary["arms"]
    shown = [figure for figure in COLLAPSE if any(arm["figures"][figure.key] for arm in arms.values())]
    if not shown:
        return []
    last = [
        [fmt.arm_name(arm, summary["baseline"]), *(_value(entry, figure) for figure in shown)]
        for arm, entry in arms.items()
    ]
    header = ["arm", *(f"{figure.name} (%)" if figure.percent else figure.name for figure in shown)]
    return [
        Heading("Collapse"),
        Paragraph(
            "How far the features of a fixed subset of the training images, not augmented, have collapsed to "
            "one point for each class, and these points to a simplex. It describes the features and is no "
            "score: a head whose features collapse further need not classify new images better."
        ),
        *figures,
        Paragraph(
            "At the last measuring, mean ± sample standard deviation over seeds; zero is full collapse. All "
            "epochs are in summary.json."
        ),
        Table(header, last),
        *measuring(summary),
        Paragraph(
            "The formulas, with h the feature that the class vectors W multiply, μ_k its mean over class "
            "k, m_k (rows of M) these means minus their average, S_W and S_B the covariances within and "
            "between classes, v_k the mean squared distance of a class to its mean, and K the number of "
            "classes with an image:"
        ),
        Bullets([f"{figure.name} = {figure.formula}" for figure in shown]),
        Paragraph(
            "With more than d + 1 classes for d features there is no simplex, and NC2 stays above zero. More "
            "on these figures is in docs/collapse.md."
        ),
    ]


def measuring(summary: Mapping[str, Any]) -> list[Block]:
    """Sample and time; columns without a single figure, and missing classes where none is, are left out."""
    arms = summary["arms"]
    missing = any(_most(entry, "collapse_missing") for entry in arms.values())
    columns: list[tuple[str, Callable[[_Entry], str]]] = [
        ("last measured after epoch", lambda entry: _range(entry, "collapse_epoch")),
        ("images", lambda entry: _range(entry, "collapse_images")),
        *([("classes without an image", lambda entry: _range(entry, "collapse_missing"))] if missing else []),
        ("time per training", lambda entry: fmt.duration(_mean(entry, "collapse_time"))),
    ]
    columns = [(name, show) for name, show in columns if any(show(e) != fmt.MISSING for e in arms.values())]
    rows = [
        [fmt.arm_name(arm, summary["baseline"]), *(show(entry) for _, show in columns)]
        for arm, entry in arms.items()
    ]
    times = [
        value
        for entry in arms.values()
        for value in (entry["figures"]["collapse_time"] or {"values": {}})["values"].values()
    ]
    text = "When and on what it was measured."
    if times:
        mean = fmt.duration(sum(times) / len(times))
        text = f"Measuring took {mean} per training on average, not counted in training time."
    if missing:
        text += " Classes without an image in the subset are left out of every figure."
    return [Paragraph(text), Table(["arm", *(name for name, _ in columns)], rows)]


def _value(entry: _Entry, figure: CollapseFigure) -> str:
    found = entry["figures"][figure.key]
    if found is None or not figure.percent:
        return fmt.wide_mean_std(found)
    std = found["std"]
    return fmt.mean_std({"mean": 100 * found["mean"], "std": None if std is None else 100 * std})


def _range(entry: _Entry, key: str) -> str:
    """One number where all seeds agree, as they should, else the smallest and the largest."""
    found = entry["figures"][key]
    if found is None:
        return fmt.MISSING
    low, high = min(found["values"].values()), max(found["values"].values())
    return fmt.count(low) if low == high else f"{fmt.count(low)} to {fmt.count(high)}"


def _most(entry: _Entry, key: str) -> float:
    found = entry["figures"][key]
    return 0 if found is None else max(found["values"].values())


def _mean(entry: _Entry, key: str) -> float | None:
    found = entry["figures"][key]
    return None if found is None else found["mean"]
