"""Tables of time and memory: steps, heads, losses, metrics."""

from __future__ import annotations

from typing import Any

from benchmarks import common
from benchmarks.head_sides import Size
from benchmarks.loss_table import with_columns
from benchmarks.views.cells import load, middle, rounded, table


def train_step(name: str) -> str:
    """Whole training step of each fixed head over the learnable one; its memory where that was measured."""
    rows, last = [], ""
    for row in load(name):
        model = f"`{row['model']}`, d={row['in_features']:,}, K={row['num_classes']:,}"
        over = middle(row["ratio_to_learnable"], 3)
        if "peak_bytes" in row:
            ratio = "" if row["head"] == "learnable" else over
            took, peak = f"{1e3 * row['seconds']['median']:.1f}", f"{row['peak_bytes'] / 1e6:,.0f}"
            rows.append([model if model != last else "", f"`{row['head']}`", ratio, took, peak])
        elif row["head"] != "learnable":
            rows.append([model if model != last else "", f"`{row['head']}`", over])
        else:
            continue
        last = model
    header = ["model", "head", "step time over learnable, median [quartiles]", "ms", "peak MB"]
    return table(header[: len(rows[0])], rows, names=2)


def frame_logits(name: str) -> str:
    """The head alone: time over nn.Linear, and bytes; where batches differ, nn.Linear's own time too."""
    found = load(name)
    several = len({row["batch_size"] for row in found}) > 1
    cells: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found:
        size = f"d={row['in_features']}, K={row['num_classes']}"
        size = f"B={row['batch_size']:,}, {size}" if several else size
        cells.setdefault(size, {})[row["head"]] = row
    rows = []
    for size, by_head in cells.items():
        line = [size]
        line += [f"{1e3 * by_head['linear']['seconds']['median']:.2f}"] if several else []
        line += [f"{by_head[b]['ratio_to_linear']['median']:.2f}" for b in ("identity", "hadamard", "haar")]
        line += [f"{by_head[b]['stored_bytes'] / 1024:,.1f}" for b in ("linear", "hadamard", "haar")]
        rows.append(line)
    header = ["size", *(["linear ms"] if several else []), "identity", "hadamard", "haar"]
    return table([*header, "linear KiB", "hadamard KiB", "haar KiB"], rows)


_MODELS = {"resnet18": "ResNet-18", "resnet50": "ResNet-50"}

_SHOWN = (  # of the sides of benchmarks.head_step; the result file has them all
    "linear_adamw",
    "linear_compiled",
    "linear_autocast",
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
    "union",
    "union_antipodal",
    "union_fused",
    "union_antipodal_fused",
    "union_fused_compiled",
    "floor",
    "traffic_floor",
)


def head_step(name: str) -> str:
    """Whole head step at every size: time, how many times faster than the learnable head, memory."""
    rows, last = [], ""
    for row in load(name):
        if row["group"] != "sizes" or row["side"] not in _SHOWN:
            continue
        size = str(Size(row["batch_size"], row["in_features"], row["num_classes"]))
        if row["dtype"] != "float32":
            size += f", {row['dtype']}"
        cells = [size if size != last else "", f"`{row['side']}`"]
        last = size
        if "not_run" in row:
            held = f"more than {row['held_bytes'] / 1e6:,.0f}" if "held_bytes" in row else ""
            rows.append([*cells, "not run", "", held])
            continue
        cells.append(rounded(1e3 * row["seconds"]["median"]))
        cells.append(f"{rounded(row['speedup']['median'])}x" if "speedup" in row else "")
        cells.append(rounded(row["peak_bytes"] / 1e6) if "peak_bytes" in row else "")
        rows.append(cells)
    return table(["size", "head", "ms", "times as fast as `linear_adamw`", "peak MB"], rows, names=2)


def frame_loss_blocks(name: str) -> str:
    """A fused step's time and memory with blocks of every size."""
    found = load(name)
    blocks = list(dict.fromkeys(row["block"] for row in found))
    cells: dict[str, dict[int, str]] = {}
    for row in found:
        size = f"B={row['batch_size']:,}, d={row['in_features']:,}, K={row['num_classes']:,}, {row['dtype']}"
        took = f"{1e3 * row['seconds']['median']:.1f} ms"
        if "peak_bytes" in row:
            took += f", {row['peak_bytes'] / 1e6:,.0f} MB"
        cells.setdefault(size, {})[row["block"]] = took
    rows = [[size, *(of.get(block, "") for block in blocks)] for size, of in cells.items()]
    return table(["classes at once:", *(f"{block:,}" for block in blocks)], rows)


def collapse_cost(name: str) -> str:
    """An update of the metric over the forward pass that makes its features; memory and time when large."""
    rows, passes, forward = [], [], ""
    for row in load(name):
        if row["measured"] == "update" and row["side"].endswith("_forward"):
            size = row.get("img_size", 32)
            model = _MODELS[row["side"].removesuffix("_forward")]
            passes.append(f"{model} forward pass ({size} x {size})")
            forward = f"{model}, {size} x {size}, {1e3 * row['seconds']['median']:.1f} ms"
        elif row["measured"] == "update":
            size = f"B={row['batch_size']}, d={row['in_features']}, K={row['num_classes']}"
            share = middle(row["ratio_to_forward"], 3)
            took = f"{1e3 * row['seconds']['median']:.1f} ms"
            rows.append([f"`{row['side']}`, {size}", forward, took, share, ""])
        elif row["measured"] == "large":
            size = f"d={row['in_features']:,}, K={row['num_classes']:,}"
            states, result = f"{row['state_bytes'] / 1e6:.0f} MB", row["compute_seconds"]
            took = row["update_seconds"]["median"]
            shown = f"{1e3 * took:.{0 if took >= 0.01 else 1}f} ms"
            rows.append([f"update, {size}", "", shown, "", states])
            rows.append([f"result, {size}", "", f"{result:.{0 if result >= 10 else 1}f} s", "", ""])
    if len(passes) == 1:
        return table(["", "time", f"over a {passes[0]}", "states"], [[row[0], *row[2:]] for row in rows])
    return table(["", "beside the forward pass of", "time", "over it", "states"], rows, names=2)


def collapse_digits(name: str) -> str:
    """Relative error of NC1, etfhead's and the usual one-pass sums'."""
    ways = ("etfhead", "one_pass_float64_sums", "one_pass_float32")
    rows = [
        [f"{row['nc1']:.0e}", *(f"{row['relative_error'][way]:+.0e}" for way in ways)]
        for row in load(name)
        if row["measured"] == "digits"
    ]
    return table(["NC1", "etfhead", "one pass, float64 sums of float32 products", "one pass, float32"], rows)


def label_losses(name: str) -> str:
    """What losses cost beside cross-entropy, the cheapest first."""
    found = load(name)
    sizes = list(
        dict.fromkeys((row["batch_size"], row["num_classes"]) for row in found if "batch_size" in row)
    )
    if len(sizes) > 1:
        return _losses_by_size(found, sizes)
    rows = []
    for row in sorted(found, key=lambda row: row["ratio_to_cross_entropy"]["median"]):
        ratio = middle(row["ratio_to_cross_entropy"], 2)
        memory = "a row for each sample too" if row["group"] == "stateful" else ""
        rows.append([f"`{row['loss']}`", ratio, f"{row['ratio_of_fastest']:.2f}", memory])
    return table(["loss", "time over cross-entropy, median [quartiles]", "fastest over fastest", ""], rows)


def _losses_by_size(found: list[dict[str, Any]], sizes: list[tuple[int, int]]) -> str:
    """Time, and time over cross-entropy, at every size, the cheapest at the largest first."""
    by_loss: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for row in found:
        by_loss.setdefault(row["loss"], {})[row["batch_size"], row["num_classes"]] = row

    def largest(of: dict[tuple[int, int], dict[str, Any]]) -> float:
        return of[max(of)]["ratio_to_cross_entropy"]["median"]

    rows = []
    for loss, of in sorted(by_loss.items(), key=lambda item: largest(item[1])):
        cells = []
        for size in sizes:
            ratio = of[size]["ratio_to_cross_entropy"] if size in of else None
            took = rounded(1e3 * of[size]["seconds"]["median"]) if size in of else ""
            cells += [took, "" if ratio is None else middle(ratio, 2)]
        stateful = next(iter(of.values()))["group"] == "stateful"
        rows.append([f"`{loss}`", *cells, "a row for each sample too" if stateful else ""])
    header = [title for B, K in sizes for title in (f"B={B:,}, K={K:,}: ms", "over cross-entropy")]
    return table(["loss", *header, ""], rows)


def multilabel_step(name: str) -> str:
    """Whole multi-label training step of each side over binary cross-entropy on a learnable layer."""
    rows, last = [], ""
    for row in load(name):
        model = f"`{row['model']}`, K={row['num_labels']:,}"
        took = f"{1e3 * row['seconds']['median']:.1f}"
        first = row["side"] == "learnable_bce"
        ratio = "" if first else middle(row["ratio_to_bce"], 3)
        rows.append([model if model != last else "", f"`{row['side']}`", took, ratio])
        last = model
    header = ["model", "side", "ms", "step time over `learnable_bce`, median [quartiles]"]
    return table(header, rows, names=2)


def loss_columns(name: str, present: str) -> str:
    """A card's table of losses with its last columns: cost, and the last epoch at 40 % symmetric noise."""
    measured = (common.RESULTS / f"{name}.json").is_file()
    setting = load(name)["settings"]["sym40"]["summary"] if measured else None
    return with_columns(present, load("noise_losses_cpu"), setting)


WRITERS = {
    f"{name}_{device}": view
    for name, view in {
        "train_step": train_step,
        "frame_logits": frame_logits,
        "frame_loss_blocks": frame_loss_blocks,
        "head_step": head_step,
        "noise_losses": label_losses,
        "multilabel_step": multilabel_step,
    }.items()
    for device in ("cpu", "cuda")
}
VIEWS = {"cost": collapse_cost, "digits": collapse_digits}
COLUMNS = {"loss_columns": loss_columns}
