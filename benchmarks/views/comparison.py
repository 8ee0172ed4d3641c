"""Tables of a comparison of arms: accuracy with paired differences, by epoch, by class frequency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.views.cells import interval, load, paired, spread, table, verdict
from etfhead.experiment.report.by_epoch import shown_epochs
from etfhead.experiment.report.score import DECODINGS


def comparison(name: str) -> str:
    """Accuracy of every arm, and its paired difference from the baseline with the interval."""
    summary = load(name)
    rows = []
    for arm, result in summary["arms"].items():
        figures = result["figures"]
        rows.append(
            [
                f"`{arm}`",
                *(spread(figures[f"test_top1_{when}"], 2) for when in ("best", "last")),
                _difference(result, summary["primary"]),
                f"{figures['test_ece_best']['mean']:.2f}",
                *(f"{figures[key]['mean']:,.0f}" for key in ("params_head", "optimizer_state_bytes_head")),
            ]
        )
    header = ["arm", "test accuracy, best epoch (%)", "last epoch (%)", "difference [95 %]"]
    header += ["ECE (%)", "head parameters", "head optimizer state (bytes)"]
    return f"{table(header, rows)}\n\n{verdict(summary)}"


_LABEL_FIGURES = {  # of a multi-label comparison; its reports have more
    "exact_match": "exact match",
    "map": "mAP",
    "map_head": "mAP, head",
    "map_tail": "mAP, tail",
    "of1": "OF1",
    "cf1": "CF1",
}


def label_comparison(name: str) -> str:
    """A multi-label comparison: its primary metric with paired differences, then the others."""
    summary = load(name)
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
        cells = [spread(figures[f"test_{primary}_{when}"], 2) for when in ("best", "last")]
        cells += [_difference(result, summary["primary"])]
        rows.append([f"`{arm}`", *cells, *(spread(figures.get(f"test_{key}_best"), 2) for key in others)])
    title = _LABEL_FIGURES[primary]
    header = ["arm", f"{title}, best epoch (%)", "last epoch (%)", "difference [95 %]", *others.values()]
    return f"{table(header, rows)}\n\n{verdict(summary)}"


def label_decodings(name: str) -> str:
    """Exact match of the same logits under every decoding; thresholds and gaps from the validation split."""
    rows = []
    for arm, result in load(name)["arms"].items():
        found = [result["figures"].get(f"test_exact_match_by_{how}_best") for how in DECODINGS]
        rows.append([f"`{arm}`", *(spread(figure, 2) for figure in found)])
    return table(["arm", *DECODINGS.values()], rows)


def by_epoch(name: str) -> str:
    """Validation accuracy of every arm before training and after its first, middle and last epochs."""
    tables = {
        arm: {entry["epoch"]: entry for entry in result.get("val_top1_by_epoch", ())}
        for arm, result in load(name)["arms"].items()
    }
    known = sorted({epoch for entries in tables.values() for epoch in entries})
    epochs = [epoch for epoch in shown_epochs(known[-1]) if epoch in known]
    rows = [
        [f"`{arm}`", *(_accuracy(entries[epoch]) if epoch in entries else "" for epoch in epochs)]
        for arm, entries in tables.items()
    ]
    header = ["untrained" if epoch == 0 else f"epoch {epoch}" for epoch in epochs]
    note = "Validation accuracy (%), mean ± standard deviation over seeds; [95 %] of the paired difference."
    return f"{table(['arm', *header], rows)}\n\n{note}"


def by_frequency(name: str) -> str:
    """A long tail: accuracy of all, many-, medium- and few-shot classes, with the difference of few-shot."""
    summary = load(name)
    names = ("test_top1_best", *(f"test_top1_{part}_best" for part in ("many", "medium", "few")))
    rows = [
        [
            f"`{arm}`",
            *(spread(result["figures"][key], 2) for key in names),
            *(_difference(result, key) for key in ("test_top1_best", "test_top1_few_best")),
        ]
        for arm, result in summary["arms"].items()
    ]
    header = ["arm", "test accuracy (%)", "many-shot", "medium", "few-shot", "difference [95 %]"]
    return f"{table([*header, 'few-shot difference'], rows)}\n\n{verdict(summary)}"


def _difference(result: Mapping[str, Any], figure: str) -> str:
    """An arm's paired difference from the baseline, which has none."""
    return paired(result.get("differences", {}).get(figure), 2)


def _accuracy(entry: Mapping[str, Any]) -> str:
    return spread(entry, 1) + interval(entry.get("difference"), 1)


WRITERS = {
    **dict.fromkeys(
        (
            "quickstart",
            "cifar10_gpu",
            "fashion_mnist",
            "head_options",
            "fine_tune",
            "many_classes",
            "many_classes_photos",
            "few_classes_photos",
            "orientation",
            "long_tail_fashion",
            "long_tail_real",
        ),
        comparison,
    ),
    **dict.fromkeys(("multilabel_digits", "multilabel_fashion", "multilabel_real"), label_comparison),
}
VIEWS = {"epochs": by_epoch, "decodings": label_decodings, "frequency": by_frequency}
