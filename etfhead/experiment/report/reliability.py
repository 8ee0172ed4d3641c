"""Reliability of the predicted probabilities: figures of the summary, the picture, the section of the report.

``result.json`` holds under ``test_reliability`` of the best and of the last weights ``count``, ``confidence``
and ``accuracy`` of 15 equal bins of the top confidence, the latter two in percent and null without an image.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, label, new_figure, tidy
from etfhead.experiment.report.records import RunRecords
from etfhead.experiment.report.stats import spread_by_seed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["RELIABILITY_CAPTION", "add_reliability", "draw_reliability", "pooled_bins", "reliability"]

RELIABILITY_CAPTION = (
    "Accuracy against confidence of the test predictions, one panel for each arm",
    "Best validation epoch, test images of all finished seeds together. Bars above the dotted diagonal are "
    "right more often than they claim, bars below it less often: the gap is pale or orange. Below, "
    "the share of the images in each of the 15 bins: a bin with few images says little.",
)
_BINS = 15
_WHEN = ("best", "last")
_TOO_SURE = COLOURS[1]

Bins = Mapping[str, Sequence[Any]]


def pooled_bins(diagrams: Iterable[Bins]) -> dict[str, list[Any]] | None:
    """The diagram of all images together; None without one.

    >>> one = {"count": [3, 1], "confidence": [40.0, 90.0], "accuracy": [50.0, 100.0]}
    >>> two = {"count": [1, 0], "confidence": [20.0, None], "accuracy": [10.0, None]}
    >>> pooled_bins([one, two])
    {'count': [4, 1], 'confidence': [35.0, 90.0], 'accuracy': [40.0, 100.0]}
    """
    found = list(diagrams)
    if not found:
        return None
    counts = [[each["count"][b] for each in found] for b in range(min(len(each["count"]) for each in found))]
    pooled: dict[str, list[Any]] = {"count": [sum(row) for row in counts]}
    for name in ("confidence", "accuracy"):
        pooled[name] = [
            sum(n * each[name][b] for n, each in zip(row, found, strict=True) if n) / sum(row)
            if any(row)
            else None
            for b, row in enumerate(counts)
        ]
    return pooled


def add_reliability(summary: dict[str, Any], records: RunRecords) -> None:
    """Add the diagrams to a summary, if any training has one; others stay as they are.

    Each arm gets ``reliability`` (``best`` and ``last``: the bins over all finished seeds, or null) and more
    ``figures``: ``test_confidence_best`` and its like (mean top confidence, percent), and
    ``test_overconfidence_best`` (that less the accuracy, points).

    Args:
        summary: With ``arms``.
        records: What it was made from.
    """
    diagrams = {arm: {when: _diagrams(records, arm, when) for when in _WHEN} for arm in summary["arms"]}
    if not any(found for arm in diagrams.values() for found in arm.values()):
        return
    for arm, entry in summary["arms"].items():
        entry["reliability"] = {when: pooled_bins(diagrams[arm][when].values()) for when in _WHEN}
        for when in _WHEN:
            means = {seed: _means(bins) for seed, bins in diagrams[arm][when].items()}
            confidence = {seed: mean for seed, (mean, _) in means.items()}
            gaps = {seed: mean - accuracy for seed, (mean, accuracy) in means.items()}
            entry["figures"][f"test_confidence_{when}"] = spread_by_seed(confidence)
            entry["figures"][f"test_overconfidence_{when}"] = spread_by_seed(gaps)


def reliability(summary: Mapping[str, Any], figures: Sequence[Block]) -> list[Block]:
    """Calibration of every arm; no blocks where it was not recorded.

    Args:
        summary: What :func:`~etfhead.experiment.report.summary.summarize` returned.
        figures: The picture, if there is one.
    """
    arms = summary["arms"]
    if not any((entry.get("reliability") or {}).get("best") for entry in arms.values()):
        return []
    keys = (
        "test_confidence_best",
        "test_top1_best",
        "test_overconfidence_best",
        "test_ece_best",
        "test_ece_last",
    )
    rows = [
        [
            fmt.arm_name(arm, summary["baseline"]),
            *(fmt.mean_std(entry["figures"].get(key)) for key in keys),
        ]
        for arm, entry in arms.items()
    ]
    header = [
        "arm",
        "mean confidence",
        "accuracy",
        "confidence − accuracy",
        "ECE, best epoch",
        "ECE, last epoch",
    ]
    text = (
        "Whether a predicted probability means what it says. Confidence is the largest probability of a test "
        "image; what it exceeds accuracy by is overconfidence. The calibration error (ECE) is the mean gap "
        "between the two over the bins of the picture, weighted by their images. A fixed scale of the logits "
        "decides much of it, and one number fitted to validation logits (a temperature) changes it without "
        "changing a prediction. Percent and points, mean ± sample standard deviation over seeds."
    )
    return [Heading("Calibration"), Paragraph(text), Table(header, rows), *figures]


def draw_reliability(summary: Mapping[str, Any]) -> Figure | None:
    """A panel for each arm, the baseline first; None where no training recorded its bins."""
    baseline = summary["baseline"]
    found = {
        arm: bins
        for arm, entry in summary["arms"].items()
        if (bins := (entry.get("reliability") or {}).get("best")) is not None
    }
    if not found:
        return None
    names = sorted(found, key=lambda arm: arm != baseline)
    columns = min(len(names), 3 if len(names) <= 9 else 4)
    rows = math.ceil(len(names) / columns)
    figure = new_figure(max(2.9 * columns, 3.6), 3.5 * rows + 0.5)
    grid = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, height_ratios=(3, 1) * rows)
    most = max(max(bins["count"]) / sum(bins["count"]) for bins in found.values())
    for at in range(rows * columns):
        row, column = divmod(at, columns)
        upper, lower = grid[2 * row, column], grid[2 * row + 1, column]
        for axis in (upper, lower):
            axis.set_visible(at < len(names))
        if at < len(names):
            colour = BASELINE_COLOUR if names[at] == baseline else COLOURS[0]
            _draw(upper, lower, found[names[at]], colour)
            title = label(names[at], 26) + (" (baseline)" if names[at] == baseline else "")
            upper.set_title(title, loc="left", fontsize=10, color=colour)
            lower.set_ylim(0, 105 * most)
            lower.tick_params(labelbottom=at + columns >= len(names))
    figure.supxlabel("confidence (%)", fontsize=10)
    figure.supylabel("accuracy, and share of images below (%)", fontsize=10)
    return figure


def _draw(upper: Axes, lower: Axes, bins: Bins, colour: str) -> None:
    width = 100 / len(bins["count"])
    whole = sum(bins["count"])
    for at, (count, confidence, accuracy) in enumerate(
        zip(bins["count"], bins["confidence"], bins["accuracy"], strict=True)
    ):
        if not count:
            continue
        options: dict[str, Any] = {"width": 0.92 * width, "align": "edge", "linewidth": 0}
        left = (at + 0.04) * width
        low, high = sorted((accuracy, confidence))
        upper.bar(left, low, color=colour, alpha=0.8, **options)
        gap = _TOO_SURE if confidence > accuracy else colour
        upper.bar(left, high - low, bottom=low, color=gap, alpha=0.35, **options)
        lower.bar(left, 100 * count / whole, color=colour, alpha=0.75, **options)
    upper.plot([0, 100], [0, 100], color="#666666", linewidth=1, linestyle=":")
    for axis in (upper, lower):
        tidy(axis)
        axis.set_xlim(0, 100)
    upper.set_ylim(0, 100)


def _diagrams(records: RunRecords, arm: str, when: str) -> dict[int, Bins]:
    found = {
        seed: (run.result or {}).get(when, {}).get("test_reliability")
        for seed, run in records.finished(arm).items()
    }
    return {seed: bins for seed, bins in found.items() if _is_whole(bins)}


def _is_whole(bins: Any) -> bool:
    """Whether a diagram read from a file is one, with at least one image."""
    if not isinstance(bins, Mapping):
        return False
    columns: list[Any] = [bins.get(name) for name in ("count", "confidence", "accuracy")]
    if not all(isinstance(column, list) and len(column) == _BINS for column in columns):
        return False
    counts, *others = columns
    numbers = all(
        isinstance(n, int)
        and n >= 0
        and all(isinstance(v, int | float) and math.isfinite(v) for v in rest if n)
        for n, *rest in zip(counts, *others, strict=True)
    )
    return numbers and sum(counts) > 0


def _means(bins: Bins) -> tuple[float, float]:
    whole = sum(bins["count"])
    confidence, accuracy = (
        sum(n * value for n, value in zip(bins["count"], bins[name], strict=True) if n) / whole
        for name in ("confidence", "accuracy")
    )
    return confidence, accuracy
