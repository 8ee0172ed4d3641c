"""Draw the sweep of benchmarks.head_step: time and peak memory against K, the floors drawn in.

python -m benchmarks.head_plots [--device cuda]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.common import RESULTS
from etfhead.experiment.report.plot_style import BASELINE_COLOUR, COLOURS, new_figure, png, tidy

Row = dict[str, Any]

_LINES = {  # side: name, colour, dash
    "linear_adamw": ("learnable: nn.Linear, AdamW", BASELINE_COLOUR, "-"),
    "linear_autocast": ("the same, weight in float32 under autocast", BASELINE_COLOUR, (0, (5, 2))),
    "linear_ce": ("learnable: F.linear_cross_entropy, AdamW", BASELINE_COLOUR, "--"),
    "frozen_dense": ("frozen dense weight", COLOURS[4], "-"),
    "class_mean": ("class means, fused loss", COLOURS[3], "-"),
    "union": ("union, logits stored", COLOURS[5], "-"),
    "union_fused": ("union, fused loss", COLOURS[0], "-"),
    # Often as fast, and then over the line before.
    "union_antipodal_fused": ("union of ± vectors, fused loss", COLOURS[2], (0, (3, 3))),
    "floor": ("floor: cross-entropy on ready logits", "#666666", ":"),
    "traffic_floor": ("floor: bytes that must be moved (left), held (right)", "#666666", "-."),
}


def figure(rows: Sequence[Row], title: str) -> Figure:
    """Both panels from the rows of the sweep."""
    drawn = new_figure(10.4, 5.2)
    time, memory = drawn.subplots(1, 2)
    _panel(time, rows, lambda row: 1e3 * row["seconds"]["median"] if "seconds" in row else None)
    time.set_ylabel("one head step (ms)")
    _panel(memory, rows, _megabytes)
    memory.set_ylabel("peak memory of the step beyond the features (MB)")
    handles, names = time.get_legend_handles_labels()
    drawn.legend(
        handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9, handlelength=3.4
    )
    drawn.suptitle(title, fontsize=10)
    return drawn


def _megabytes(row: Row) -> float | None:
    count = row.get("peak_bytes", row.get("bytes_to_hold"))
    return None if count is None else count / 1e6


def _panel(axis: Axes, rows: Sequence[Row], value: Callable[[Row], float | None]) -> None:
    for side, (name, colour, dash) in _LINES.items():
        found = [(row["num_classes"], value(row)) for row in rows if row["side"] == side]
        points = [(classes, number) for classes, number in found if number is not None]
        if points:
            marker = "" if side.endswith("floor") else "D" if side == "linear_autocast" else "o"
            axis.plot(
                *zip(*points, strict=True), color=colour, linestyle=dash, marker=marker, ms=4, label=name
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(sorted({row["num_classes"] for row in rows}))
    axis.xaxis.set_major_formatter(lambda classes, _: f"{classes:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axis.minorticks_off()
    axis.set_xlabel("number of classes K")
    tidy(axis)


def draw(device: str) -> Path:
    """Write the picture of a device's result file beside it."""
    content = json.loads((RESULTS / f"head_step_{device}.json").read_text())
    rows = [row for row in content["results"] if row["group"] == "sweep"]
    first, metadata = rows[0], content["metadata"]
    machine = metadata["gpus"][0] if device == "cuda" else f"{metadata['threads']} CPU thread"
    title = f"B={first['batch_size']}, d={first['in_features']}, {first['dtype']}, {machine}"
    path = RESULTS / f"head_step_{device}.png"
    path.write_bytes(png(figure(rows, title)))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    print(f"wrote {draw(parser.parse_args().device).name}")


if __name__ == "__main__":
    main()
