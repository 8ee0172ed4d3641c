"""The tables of results in a report: accuracy, paired differences, way to a target, cost, seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.by_epoch import shown_epochs
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.verdict import OUTCOMES

__all__ = ["accuracy", "by_epoch", "cost", "differences", "every_seed", "way_to_target"]

_Entry = Mapping[str, Any]
_Column = tuple[str, Callable[[_Entry], str]]


def accuracy(summary: Mapping[str, Any]) -> list[Block]:
    """Mean and spread of every arm, finished seeds counted."""
    score = score_of_summary(summary)
    second, _ = score.second
    name, val = score.name, f"{score.val}_best"
    columns: list[_Column] = [
        (f"test {name}, best epoch", lambda entry: fmt.mean_std(entry["figures"][score.primary])),
        (f"test {name}, last epoch", lambda entry: fmt.mean_std(entry["figures"][score.last])),
        (f"validation {name}, best epoch", lambda entry: fmt.mean_std(entry["figures"][val])),
        (
            f"test {score.second_in_words}, best epoch",
            lambda entry: fmt.mean_std(entry["figures"][f"{second}_best"]),
        ),
        ("test loss, best epoch", lambda entry: fmt.mean_std(entry["figures"]["test_loss_best"], 4)),
        ("seeds", lambda entry: f"{len(entry['seeds_finished'])}/{len(summary['seeds'])}"),
    ]
    text = f"Mean ± sample standard deviation over seeds. {score.units}"
    return [Heading(score.title), Paragraph(text), _table(summary, columns)]


def differences(summary: Mapping[str, Any]) -> list[Block]:
    """Every contender against the baseline; no blocks without a contender."""
    contenders = [arm for arm in summary["arms"] if arm != summary["baseline"]]
    if not contenders:
        return []
    score = score_of_summary(summary)
    second = f"{score.second[0]}_best"
    columns: list[_Column] = [
        ("verdict", lambda entry: OUTCOMES[entry["verdict"]["outcome"]]),
        ("best epoch", lambda entry: _difference(entry, score.primary)),
        ("95 % interval", lambda entry: fmt.interval(entry["differences"][score.primary])),
        ("p, Holm-adjusted" if summary["holm"] else "p", lambda entry: _p_value(entry)),
        ("seeds above / below", lambda entry: _wins(entry["differences"][score.primary])),
        ("last epoch", lambda entry: _difference(entry, score.last)),
        ("95 % interval", lambda entry: fmt.interval(entry["differences"][score.last])),
        (f"{score.second_in_words}, best epoch", lambda entry: _difference(entry, second)),
    ]
    text = f"Contender minus {summary['baseline']}, in percentage points of the test set, paired by seed."
    images = summary["test_images"]
    if images and not score.regression:
        text += f" One of the {images:,} test images is {100 / images:.3g} points."
    table = _table(summary, columns, arms=contenders, left=(0, 1))
    return [Heading("Paired differences"), Paragraph(text), table]


def by_epoch(summary: Mapping[str, Any]) -> list[Block]:
    """Validation accuracy early and late, and against the baseline; no blocks without a finished epoch."""
    score = score_of_summary(summary)
    entries = {
        arm: {row["epoch"]: row for row in entry[f"{score.val}_by_epoch"]}
        for arm, entry in summary["arms"].items()
    }
    last = max((epoch for rows in entries.values() for epoch in rows), default=0)
    if last == 0:
        return []
    shown = [epoch for epoch in shown_epochs(last) if any(epoch in rows for rows in entries.values())]
    header = ["arm", *(f"epoch {epoch}" for epoch in shown)]
    values = [
        [fmt.arm_name(arm, summary["baseline"]), *(fmt.mean_std(rows.get(epoch)) for epoch in shown)]
        for arm, rows in entries.items()
    ]
    pairs = [
        [arm, *(_with_interval((rows.get(epoch) or {}).get("difference")) for epoch in shown)]
        for arm, rows in entries.items()
        if arm != summary["baseline"]
    ]
    text = (
        f"Validation {score.name} in percent, mean ± sample standard deviation over seeds. Epoch 0 is before "
        "the first step"
    )
    text += "." if score.key != "top1" else ": above chance only where class vectors come from data."
    blocks: list[Block] = [Heading(f"{score.title} by epoch"), Paragraph(text), Table(header, values)]
    if pairs:
        text = f"Minus {summary['baseline']} at the same epoch, in points, with the paired 95 % interval:"
        blocks += [Paragraph(text), Table(header, pairs)]
    return blocks


def way_to_target(summary: Mapping[str, Any]) -> list[Block]:
    """Epochs, steps and time until the target; no blocks without a target."""
    target, score = summary["target"], score_of_summary(summary)
    if target[score.val] is None:
        return []
    columns: list[_Column] = [
        ("seeds that reach it", lambda entry: f"{entry['target']['reached']} of {entry['target']['of']}"),
        ("epochs", lambda entry: _reached(entry["target"], "epochs", "{:g}".format)),
        ("optimizer steps", lambda entry: _reached(entry["target"], "steps", fmt.count)),
        ("training time", lambda entry: _reached(entry["target"], "seconds", fmt.duration)),
    ]
    chosen = (
        "set in the recipe"
        if target["source"] == "recipe"
        else f"chosen automatically: the baseline's mean best validation {score.name} minus one point"
    )
    text = (
        f"Target: {target[score.val]:.2f} % validation {score.name} ({chosen}). Medians over seeds; a "
        "seed that never reaches the target counts as later than any other."
    )
    return [Heading(f"Way to a target {score.name}"), Paragraph(text), _table(summary, columns)]


def cost(summary: Mapping[str, Any]) -> list[Block]:
    """Speed, memory and sizes; a column without a single figure is left out."""
    columns: list[_Column] = [
        ("images/s", lambda entry: fmt.count(_mean(entry, "images_per_s"))),
        ("ratio to baseline", lambda entry: fmt.ratio(_ratio(entry, "images_per_s"))),
        ("training time", lambda entry: fmt.duration(_mean(entry, "train_time"))),
        ("of it to orient", lambda entry: fmt.duration(_mean(entry, "align_time"))),
        ("peak GPU memory", lambda entry: fmt.size(_mean(entry, "peak_memory_bytes"))),
        ("parameters", lambda entry: fmt.count(_mean(entry, "params_total"))),
        ("trainable in head", lambda entry: fmt.count(_mean(entry, "params_head"))),
        ("head size", lambda entry: fmt.size(_mean(entry, "head_bytes"))),
        ("optimizer state, head", lambda entry: fmt.size(_mean(entry, "optimizer_state_bytes_head"))),
        ("optimizer state, all", lambda entry: fmt.size(_mean(entry, "optimizer_state_bytes"))),
    ]
    columns = [
        column
        for column in columns
        if any(column[1](entry) != fmt.MISSING for entry in summary["arms"].values())
    ]
    text = (
        "Means over seeds; the ratio is the geometric mean of images/s, paired by seed, with its 95 % "
        "interval. Speed is that of training as it ran: other work on the machine shows in it. Peak memory "
        "is measured on CUDA only."
    )
    if any(_mean(entry, "align_time") is not None for entry in summary["arms"].values()):
        text += (
            " To orient is the pass over the training images that class vectors start from; images/s leaves "
            "it out."
        )
    return [Heading("Cost"), Paragraph(text), _table(summary, columns)]


def every_seed(summary: Mapping[str, Any]) -> list[Block]:
    """The primary figure of each seed, so that nothing hides in a mean."""
    rows = []
    for arm, entry in summary["arms"].items():
        values = (entry["figures"][summary["primary"]] or {"values": {}})["values"]
        cells = [f"{values[seed]:.2f}" if seed in values else fmt.MISSING for seed in summary["seeds"]]
        rows.append([arm, *cells])
    table = Table(["arm", *(f"seed {seed}" for seed in summary["seeds"])], rows)
    name = score_of_summary(summary).name
    text = f"Test {name} at the best validation epoch, in percent. All other figures per seed: summary.csv."
    return [Heading("Every seed"), Paragraph(text), table]


def _table(
    summary: Mapping[str, Any],
    columns: Sequence[_Column],
    *,
    arms: Sequence[str] | None = None,
    left: Sequence[int] = (0,),
) -> Table:
    rows = [
        [fmt.arm_name(arm, summary["baseline"]), *(show(summary["arms"][arm]) for _, show in columns)]
        for arm in arms or summary["arms"]
    ]
    return Table(["arm", *(title for title, _ in columns)], rows, frozenset(left))


def _with_interval(pair: Mapping[str, Any] | None) -> str:
    if pair is None:
        return fmt.MISSING
    bounds = fmt.interval(pair)
    return fmt.signed(pair["mean"]) + ("" if bounds == fmt.MISSING else f" ({bounds})")


def _mean(entry: _Entry, key: str) -> float | None:
    figure = entry["figures"][key]
    return None if figure is None else figure["mean"]


def _ratio(entry: _Entry, key: str) -> Mapping[str, Any] | None:
    return entry.get("ratios", {}).get(key)


def _difference(entry: _Entry, key: str) -> str:
    pair = entry["differences"][key]
    return fmt.signed(None if pair is None else pair["mean"])


def _p_value(entry: _Entry) -> str:
    value = entry["verdict"]["p_value"]
    return fmt.MISSING if value is None else f"{value:.3f}"


def _wins(pair: Mapping[str, Any] | None) -> str:
    return fmt.MISSING if pair is None else f"{pair['above']} / {pair['below']} of {len(pair['values'])}"


def _reached(target: Mapping[str, Any], key: str, show: Callable[[float], str]) -> str:
    if target["of"] == 0:
        return fmt.MISSING
    return "not reached" if target[key] is None else show(target[key])
