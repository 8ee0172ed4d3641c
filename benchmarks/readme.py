"""Write the tables of the README and the cards from the files under results/, between their markers.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS
from benchmarks.head_sides import Size
from benchmarks.loss_table import with_columns
from etfhead.experiment.report import study_tables
from etfhead.experiment.report.by_epoch import shown_epochs
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.formatting import significant
from etfhead.experiment.report.score import DECODINGS, score_of_summary
from etfhead.experiment.report.stats import paired_difference
from etfhead.experiment.report.study_verdict import equal_loss_sentence

_ROOT = Path(__file__).parent.parent
PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- results: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def _load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def comparison(name: str) -> str:
    """Accuracy of every arm, and its paired difference from the baseline with the interval."""
    summary = _load(name)["results"]
    rows = []
    for arm, result in summary["arms"].items():
        figures = result["figures"]
        accuracies = [figures[figure] for figure in ("test_top1_best", "test_top1_last")]
        cells = [_spread(accuracy, 2) for accuracy in accuracies]
        difference = result.get("differences", {}).get(summary["primary"])
        text = "" if difference is None else f"{difference['mean']:+.2f}{_interval(difference, 2)}"
        head = f"{figures['params_head']['mean']:,.0f}"
        state = f"{figures['optimizer_state_bytes_head']['mean']:,.0f}"
        ece = f"{figures['test_ece_best']['mean']:.2f}"
        rows.append([f"`{arm}`", *cells, text, ece, head, state])
    header = ["arm", "test accuracy, best epoch (%)", "last epoch (%)", "difference [95 %]"]
    header += ["ECE (%)", "head parameters", "head optimizer state (bytes)"]
    return _table(header, rows) + f"\n\n{summary['verdict']}"


def label_comparison(name: str) -> str:
    """A multi-label comparison: its primary metric with paired differences, then the others."""
    summary = _load(name)["results"]
    primary = summary["primary"].removeprefix("test_").removesuffix("_best")
    arms = [result["figures"] for result in summary["arms"].values()]
    others = {
        key: title
        for key, title in _LABEL_FIGURES.items()
        if key != primary and any(figures.get(f"test_{key}_best") for figures in arms)
    }
    rows = []
    for arm, result in summary["arms"].items():
        figures = result["figures"]
        difference = result.get("differences", {}).get(summary["primary"])
        text = "" if difference is None else f"{difference['mean']:+.2f}{_interval(difference, 2)}"
        cells = [_spread(figures[f"test_{primary}_{when}"], 2) for when in ("best", "last")]
        cells += [text, *(_spread_or_nothing(figures.get(f"test_{key}_best")) for key in others)]
        rows.append([f"`{arm}`", *cells])
    title = _LABEL_FIGURES[primary]
    header = ["arm", f"{title}, best epoch (%)", "last epoch (%)", "difference [95 %]", *others.values()]
    return _table(header, rows) + f"\n\n{summary['verdict']}"


def label_decodings(name: str) -> str:
    """Exact match of the same logits under every decoding; thresholds and gaps from the validation split."""
    arms = _load(name)["results"]["arms"]
    rows = [
        [
            f"`{arm}`",
            *(
                _spread_or_nothing(result["figures"].get(f"test_exact_match_by_{how}_best"))
                for how in DECODINGS
            ),
        ]
        for arm, result in arms.items()
    ]
    return _table(["arm", *DECODINGS.values()], rows)


def _spread_or_nothing(figure: dict[str, Any] | None) -> str:
    return "" if figure is None else _spread(figure, 2)


def _spread(figure: dict[str, Any], digits: int) -> str:
    """Mean and standard deviation over seeds; one seed has no deviation."""
    deviation = "" if figure["std"] is None else f" ± {figure['std']:.{digits}f}"
    return f"{figure['mean']:.{digits}f}{deviation}"


def _interval(difference: dict[str, Any] | None, digits: int) -> str:
    """The interval of a paired difference, with a space before it; nothing where there is none."""
    if difference is None or difference["low"] is None:
        return ""
    return f" [{difference['low']:+.{digits}f}, {difference['high']:+.{digits}f}]"


def train_step(name: str) -> str:
    """Whole training step of each fixed head over the learnable one."""
    rows = []
    for row in _load(name)["results"]:
        if row["head"] == "learnable":
            continue
        quarter = row["ratio_to_learnable"]
        model = f"`{row['model']}`, d={row['in_features']}, K={row['num_classes']}"
        spread = f"{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
        rows.append([model, f"`{row['head']}`", spread])
    return _table(["model", "basis", "step time over learnable, median [quartiles]"], rows)


def frame_logits(name: str) -> str:
    """The head alone: time over nn.Linear, and bytes."""
    cells: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for row in _load(name)["results"]:
        cells.setdefault((row["in_features"], row["num_classes"]), {})[row["head"]] = row
    rows = []
    for (width, classes), by_head in cells.items():
        line = [f"d={width}, K={classes}"]
        line += [f"{by_head[b]['ratio_to_linear']['median']:.2f}" for b in ("identity", "hadamard", "haar")]
        line += [f"{by_head[b]['stored_bytes'] / 1024:,.1f}" for b in ("linear", "hadamard", "haar")]
        rows.append(line)
    header = ["size", "identity", "hadamard", "haar", "linear KiB", "hadamard KiB", "haar KiB"]
    return _table(header, rows)


def by_epoch(name: str) -> str:
    """Validation accuracy of every arm before training and after its first, middle and last epochs."""
    arms = _load(name)["results"]["arms"]
    tables = {
        arm: {entry["epoch"]: entry for entry in result.get("val_top1_by_epoch", ())}
        for arm, result in arms.items()
    }
    known = sorted({epoch for table in tables.values() for epoch in table})
    epochs = [epoch for epoch in shown_epochs(known[-1]) if epoch in known]
    rows = [
        [f"`{arm}`", *(_accuracy(table[epoch]) if epoch in table else "" for epoch in epochs)]
        for arm, table in tables.items()
    ]
    header = ["untrained" if epoch == 0 else f"epoch {epoch}" for epoch in epochs]
    note = "Validation accuracy (%), mean ± standard deviation over seeds; [95 %] of the paired difference."
    return _table(["arm", *header], rows) + f"\n\n{note}"


def _accuracy(entry: dict[str, Any]) -> str:
    return _spread(entry, 1) + _interval(entry.get("difference"), 1)


_SHOWN = (  # of the sides of benchmarks.head_step; the result file has them all
    "linear_adamw",
    "linear_ce",
    "frozen_dense",
    "class_mean",
    "class_mean_uncentred",
    "delta_rule",
    "simplex_hadamard",
    "simplex_hadamard_fused",
    "simplex_identity",
    "simplex_identity_fused",
    "simplex_identity_fused_fixed_scale",
    "union_fused",
    "union_antipodal_fused",
    "floor",
    "traffic_floor",
)


def head_step(name: str) -> str:
    """Whole head step at every size: time, how many times faster than the learnable head, memory."""
    rows, last = [], ""
    for row in _load(name)["results"]:
        if row["group"] != "sizes" or row["side"] not in _SHOWN:
            continue
        size = str(Size(row["batch_size"], row["in_features"], row["num_classes"]))
        if row["dtype"] != "float32":
            size += f", {row['dtype']}"
        cells = [size if size != last else "", f"`{row['side']}`"]
        last = size
        if "not_run" in row:
            rows.append([*cells, "not run", "", f"more than {row['held_bytes'] / 1e6:,.0f}"])
            continue
        cells.append(_digits(1e3 * row["seconds"]["median"]))
        cells.append(f"{_digits(row['speedup']['median'])}x" if "speedup" in row else "")
        cells.append(_digits(row["peak_bytes"] / 1e6) if "peak_bytes" in row else "")
        rows.append(cells)
    header = ["size", "head", "ms", "times as fast as `linear_adamw`", "peak MB"]
    return _table(header, rows)


def _digits(value: float) -> str:
    """Three digits, as many as a busy machine allows."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def collapse_cost(name: str) -> str:
    """An update of the metric over the forward pass that makes its features; memory and time when large."""
    rows = []
    for row in _load(name)["results"]:
        if row["measured"] == "update" and row["side"] != "resnet18_forward":
            size = f"B={row['batch_size']}, d={row['in_features']}, K={row['num_classes']}"
            quarter = row["ratio_to_forward"]
            share = f"{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
            rows.append([f"`{row['side']}`, {size}", f"{1e3 * row['seconds']['median']:.1f} ms", share, ""])
        elif row["measured"] == "large":
            size = f"d={row['in_features']:,}, K={row['num_classes']:,}"
            states = f"{row['state_bytes'] / 1e6:.0f} MB"
            rows.append([f"update, {size}", f"{1e3 * row['update_seconds']['median']:.0f} ms", "", states])
            rows.append([f"result, {size}", f"{row['compute_seconds']:.0f} s", "", ""])
    return _table(["", "time", "over a ResNet-18 forward pass (32 x 32)", "states"], rows)


def collapse_digits(name: str) -> str:
    """Relative error of NC1, etfhead's and the usual one-pass sums'."""
    ways = ("etfhead", "one_pass_float64_sums", "one_pass_float32")
    rows = [
        [f"{row['nc1']:.0e}", *(f"{row['relative_error'][way]:+.0e}" for way in ways)]
        for row in _load(name)["results"]
        if row["measured"] == "digits"
    ]
    return _table(["NC1", "etfhead", "one pass, float64 sums of float32 products", "one pass, float32"], rows)


def label_losses(name: str) -> str:
    """What losses cost beside cross-entropy, the cheapest first."""
    rows = []
    for row in sorted(_load(name)["results"], key=lambda row: row["ratio_to_cross_entropy"]["median"]):
        quarter = row["ratio_to_cross_entropy"]
        memory = "a row for each sample too" if row["group"] == "stateful" else ""
        spread = f"{quarter['median']:.2f} [{quarter['q1']:.2f}, {quarter['q3']:.2f}]"
        rows.append([f"`{row['loss']}`", spread, f"{row['ratio_of_fastest']:.2f}", memory])
    return _table(["loss", "time over cross-entropy, median [quartiles]", "fastest over fastest", ""], rows)


def loss_columns(name: str, table: str) -> str:
    """A card's table of losses with its last columns: cost, and the last epoch at 40 % symmetric noise."""
    measured = (RESULTS / f"{name}.json").is_file()
    setting = _load(name)["results"]["settings"]["sym40"]["summary"] if measured else None
    return with_columns(table, _load("noise_losses_cpu")["results"], setting)


def study(name: str) -> str:
    """A study: the primary figure of every arm in every setting, at the last and at the best epoch."""
    summary = _load(name)["results"]
    title = "primary metric" if summary["primary"] is None else score_of_summary(summary).name
    parts = [
        f"Test {title} (%) at the {words}, mean ± standard deviation over seeds:\n\n"
        + _markdown(study_tables.score_table(summary, when))
        for when, words in _WHEN.items()
    ]
    return "\n\n".join([*parts, summary["verdict"]])


def study_differences(name: str) -> str:
    """The same minus the baseline of each setting, paired by seed, with the verdicts counted."""
    summary = _load(name)["results"]
    parts = []
    for when, words in _WHEN.items():
        table = study_tables.difference_table(summary, when)
        contenders = [arm for arm in summary["arms"] if arm != summary["baseline"]]
        counts = [study_tables.counted(summary["arms"][arm]["counts"][when])[:3] for arm in contenders]
        rows = [[*row, " / ".join(count)] for row, count in zip(table.rows, counts, strict=True)]
        header = [*table.header, " / ".join(study_tables.SHORT.values())]
        text = f"Minus `{summary['baseline']}` at the {words}, in points, with the paired 95 % interval:"
        parts.append(f"{text}\n\n{_markdown(Table(header, rows))}")
    return "\n\n".join(parts)


def study_equal_loss(name: str) -> str:
    """Every gradient-free head of a study minus the learnable head that has the same loss."""
    summary = _load(name)["results"]
    parts = []
    for when, words in _WHEN.items():
        table = study_tables.equal_loss_table(summary, when)
        if table is not None:
            text = (
                f"Head minus the learnable head of the same loss at the {words}, in points, paired by seed:"
            )
            parts.append(f"{text}\n\n{_markdown(table, names=2)}")
    return "\n\n".join([*parts, equal_loss_sentence(summary) or ""]).rstrip()


def regression_study(name: str) -> str:
    """Regression collapse of a study: R2 at the best epoch, and how far NRC1 and NRC2 fell over training."""
    study = _load(name)["results"]
    rows = []
    for one in study["settings"].values():
        summary = one["summary"]
        change = ", ".join(f"{value:g}" for value in one["changes"].values())
        for arm, entry in summary["arms"].items():
            pair = entry.get("differences", {}).get(summary["primary"])
            start = next(row for row in entry["collapse_by_epoch"] if row["epoch"] == 0)
            falls = []
            for key in ("nrc1", "nrc2"):
                before, after = start[key], entry["figures"][key]
                least = min(before["values"][seed] / after["values"][seed] for seed in after["values"])
                falls.append(f"{significant(after['mean'], 2)} (×{significant(least, 2)})")
            r2 = _spread(entry["figures"][summary["primary"]], 2)
            minus = "" if pair is None else f"{pair['mean']:+.2f}{_interval(pair, 2)}"
            rows.append([change, f"`{arm}`", r2, minus, *falls])
    axis = next(iter(study["settings"].values()))["changes"]
    header = [", ".join(f"`{key}`" for key in axis), "arm", "test R² (%)", f"minus `{study['baseline']}`"]
    return _table([*header, "NRC1 (fell by)", "NRC2 (fell by)"], rows)


def by_frequency(name: str) -> str:
    """A long tail: accuracy of all, many-, medium- and few-shot classes, with the difference of few-shot."""
    summary = _load(name)["results"]
    rows = []
    for arm, result in summary["arms"].items():
        figures, pairs = result["figures"], result.get("differences", {})
        names = ("test_top1_best", *(f"test_top1_{part}_best" for part in ("many", "medium", "few")))
        minus = [
            f"{pairs[key]['mean']:+.2f}{_interval(pairs[key], 2)}" if pairs.get(key) else ""
            for key in ("test_top1_best", "test_top1_few_best")
        ]
        rows.append([f"`{arm}`", *(_spread(figures[key], 2) for key in names), *minus])
    header = ["arm", "test accuracy (%)", "many-shot", "medium", "few-shot", "difference [95 %]"]
    return _table([*header, "few-shot difference"], rows) + f"\n\n{summary['verdict']}"


def memorization_study(name: str) -> str:
    """Dilation and memorization of each loss and head, and dilation minus that of the head's first arm."""
    rows = []
    for setting, one in _load(name)["results"]["settings"].items():
        first: dict[str, Any] = {}  # the arms of a head begin with plain cross-entropy
        for arm, entry in one["summary"]["arms"].items():
            figures = entry["figures"]
            dilation = figures["md_dilation"]["values"]
            plain = first.setdefault(entry["settings"]["head"], dilation)
            pair = None if plain is dilation else paired_difference(dilation, plain)
            minus = "" if pair is None else f"{pair.mean:+.3f}{_interval(asdict(pair), 3)}"
            cells = [
                _spread(figures[key], 3) if figures.get(key) else ""
                for key in ("md_dilation", "md_memorization_relative", "md_memorized_fraction")
            ]
            rows.append([f"`{setting}`", f"`{arm}`", cells[0], minus, *cells[1:]])
    header = ["setting", "arm", "dilation", "minus cross-entropy [95 %]"]
    return _table([*header, "relative memorization", "memorized share"], rows)


def tail_study(name: str) -> str:
    """How far the linear layers of a study ended from the closed form of their class counts."""
    study = _load(name)["results"]
    keys = ("tail_weights", "tail_means", "tail_product", "tail_balanced")
    rows = []
    for setting, one in study["settings"].items():
        for arm in one["summary"]["arms"].values():
            found = [arm["figures"][key] for key in keys]
            cells = [f"{significant(f['mean'], 2)} ± {significant(f['std'], 1)}" for f in found]
            rows.append([f"`{setting}`", *cells])
    return _table(["setting", "W Wᵀ", "Hᵀ H", "W H", "W Wᵀ from the frame of equal counts"], rows)


_WHEN = {"last": "last epoch", "best": "best validation epoch"}


def _markdown(table: Table, names: int = 1) -> str:
    """A report's table, the names of arms in its first columns as code."""
    rows = [[*(re.sub(r"^(\S+)", r"`\1`", cell) for cell in row[:names]), *row[names:]] for row in table.rows]
    return _table(list(table.header), rows)


_COMPARISONS = (
    "quickstart",
    "fashion_mnist",
    "head_options",
    "fine_tune",
    "many_classes",
    "many_classes_photos",
    "few_classes_photos",
    "orientation",
    "long_tail_fashion",
    "long_tail_real",
)
_LABEL_FIGURES = {  # of a multi-label comparison; its reports have more
    "exact_match": "exact match",
    "map": "mAP",
    "map_head": "mAP, head",
    "map_tail": "mAP, tail",
    "of1": "OF1",
    "cf1": "CF1",
}
_LABEL_COMPARISONS = ("multilabel_digits", "multilabel_fashion", "multilabel_real")
WRITERS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(_COMPARISONS, comparison),
    **dict.fromkeys(_LABEL_COMPARISONS, label_comparison),
    "train_step_cpu": train_step,
    "frame_logits_cpu": frame_logits,
    "head_step_cpu": head_step,
    "head_step_cuda": head_step,
    "noise_losses_cpu": label_losses,
}
VIEWS: dict[str, Callable[[str], str]] = {  # several tables of one file: NAME@VIEW
    "epochs": by_epoch,
    "cost": collapse_cost,
    "digits": collapse_digits,
    "decodings": label_decodings,
    "study": study,
    "differences": study_differences,
    "equal_loss": study_equal_loss,
    "regression": regression_study,
    "tail": tail_study,
    "memorization": memorization_study,
    "frequency": by_frequency,
}


COLUMNS: dict[str, Callable[[str, str], str]] = {  # of a table that is written by hand
    "loss_columns": loss_columns,
}


def written(marker: str, present: str = "") -> str:
    """The table of a marker: a result's name, or NAME@VIEW; ``present`` is what stands there now."""
    name, _, view = marker.partition("@")
    if view in COLUMNS:
        return COLUMNS[view](name, present)
    return VIEWS[view](name) if view else WRITERS[name](name)


def filled(text: str) -> str:
    """A page with every block written anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}{written(m[2], m[3])}\n{m[4]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a page is out of date")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = filled(text)
        if args.check and new != text:
            raise SystemExit(f"{page.name} differs from benchmarks/results: run python -m benchmarks.readme")
        if new != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
