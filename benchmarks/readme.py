"""Write the README's tables from the files under results/, between their markers.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

README = Path(__file__).parent.parent / "README.md"
_BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
        cells = [f"{accuracy['mean']:.2f} ± {accuracy['std']:.2f}" for accuracy in accuracies]
        difference = result.get("differences", {}).get(summary["primary"])
        text = "" if difference is None else f"{difference['mean']:+.2f}"
        if difference is not None and difference["low"] is not None:
            text += f" [{difference['low']:+.2f}, {difference['high']:+.2f}]"
        head = f"{figures['params_head']['mean']:,.0f}"
        state = f"{figures['optimizer_state_bytes_head']['mean']:,.0f}"
        ece = f"{figures['test_ece_best']['mean']:.2f}"
        rows.append([f"`{arm}`", *cells, text, ece, head, state])
    header = ["arm", "test accuracy, best epoch (%)", "last epoch (%)", "difference [95 %]"]
    header += ["ECE (%)", "head parameters", "head optimizer state (bytes)"]
    return _table(header, rows) + f"\n\n{summary['verdict']}"


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


WRITERS: dict[str, Callable[[str], str]] = {
    "quickstart": comparison,
    "fashion_mnist": comparison,
    "head_options": comparison,
    "train_step_cpu": train_step,
    "frame_logits_cpu": frame_logits,
}


def filled(text: str) -> str:
    """The README with every block written anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}{WRITERS[m[2]](m[2])}\n{m[3]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if the README is out of date")
    args = parser.parse_args()
    text = README.read_text()
    new = filled(text)
    if args.check and new != text:
        raise SystemExit("README.md differs from benchmarks/results: run python -m benchmarks.readme")
    README.write_text(new)


if __name__ == "__main__":
    main()
