"""Tables of time and memory: steps, heads, losses, metrics."""

from __future__ import annotations

from typing import Any

from benchmarks import common
from benchmarks.head_sides import Size
from benchmarks.loss_table import with_columns
from benchmarks.views.cells import load, middle, rounded, table


def train_step(name: str) -> str:
    """Whole training step of each fixed head over the learnable one."""
    rows = []
    for row in load(name):
        if row["head"] != "learnable":
            model = f"`{row['model']}`, d={row['in_features']}, K={row['num_classes']}"
            rows.append([model, f"`{row['head']}`", middle(row["ratio_to_learnable"], 3)])
    return table(["model", "basis", "step time over learnable, median [quartiles]"], rows)


def frame_logits(name: str) -> str:
    """The head alone: time over nn.Linear, and bytes."""
    cells: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for row in load(name):
        cells.setdefault((row["in_features"], row["num_classes"]), {})[row["head"]] = row
    rows = []
    for (width, classes), by_head in cells.items():
        line = [f"d={width}, K={classes}"]
        line += [f"{by_head[b]['ratio_to_linear']['median']:.2f}" for b in ("identity", "hadamard", "haar")]
        line += [f"{by_head[b]['stored_bytes'] / 1024:,.1f}" for b in ("linear", "hadamard", "haar")]
        rows.append(line)
    header = ["size", "identity", "hadamard", "haar", "linear KiB", "hadamard KiB", "haar KiB"]
    return table(header, rows)


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
    for row in load(name):
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
        cells.append(rounded(1e3 * row["seconds"]["median"]))
        cells.append(f"{rounded(row['speedup']['median'])}x" if "speedup" in row else "")
        cells.append(rounded(row["peak_bytes"] / 1e6) if "peak_bytes" in row else "")
        rows.append(cells)
    return table(["size", "head", "ms", "times as fast as `linear_adamw`", "peak MB"], rows)


def collapse_cost(name: str) -> str:
    """An update of the metric over the forward pass that makes its features; memory and time when large."""
    rows = []
    for row in load(name):
        if row["measured"] == "update" and row["side"] != "resnet18_forward":
            size = f"B={row['batch_size']}, d={row['in_features']}, K={row['num_classes']}"
            share = middle(row["ratio_to_forward"], 3)
            rows.append([f"`{row['side']}`, {size}", f"{1e3 * row['seconds']['median']:.1f} ms", share, ""])
        elif row["measured"] == "large":
            size = f"d={row['in_features']:,}, K={row['num_classes']:,}"
            states = f"{row['state_bytes'] / 1e6:.0f} MB"
            rows.append([f"update, {size}", f"{1e3 * row['update_seconds']['median']:.0f} ms", "", states])
            rows.append([f"result, {size}", f"{row['compute_seconds']:.0f} s", "", ""])
    return table(["", "time", "over a ResNet-18 forward pass (32 x 32)", "states"], rows)


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
    rows = []
    for row in sorted(load(name), key=lambda row: row["ratio_to_cross_entropy"]["median"]):
        ratio = middle(row["ratio_to_cross_entropy"], 2)
        memory = "a row for each sample too" if row["group"] == "stateful" else ""
        rows.append([f"`{row['loss']}`", ratio, f"{row['ratio_of_fastest']:.2f}", memory])
    return table(["loss", "time over cross-entropy, median [quartiles]", "fastest over fastest", ""], rows)


def loss_columns(name: str, present: str) -> str:
    """A card's table of losses with its last columns: cost, and the last epoch at 40 % symmetric noise."""
    measured = (common.RESULTS / f"{name}.json").is_file()
    setting = load(name)["settings"]["sym40"]["summary"] if measured else None
    return with_columns(present, load("noise_losses_cpu"), setting)


WRITERS = {
    "train_step_cpu": train_step,
    "frame_logits_cpu": frame_logits,
    "head_step_cpu": head_step,
    "head_step_cuda": head_step,
    "noise_losses_cpu": label_losses,
}
VIEWS = {"cost": collapse_cost, "digits": collapse_digits}
COLUMNS = {"loss_columns": loss_columns}
