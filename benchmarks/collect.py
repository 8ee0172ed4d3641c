"""Keep the evidence of a finished comparison: its summary and the machine, as one file under results/.

A study becomes one file as well, with the summary of every setting in it. What these hold epoch by epoch is
kept for the epochs that tables show, and each figure once: by seed, not in a row a training as well.

python -m benchmarks.collect runs/fashion_mnist [NAME]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import RESULTS
from etfhead.experiment.report import summarize, summarize_study
from etfhead.experiment.report.by_epoch import shown_epochs
from etfhead.experiment.report.study_summary import is_study

_PLACES = ("data_root", "initial_checkpoint", "labels_file", "clean_labels_file")


def collected(run: Path) -> dict[str, Any]:
    """The content of a result file.

    Args:
        run: A finished run folder, or that of a study.

    Raises:
        SystemExit: A training is unfinished.
    """
    summary = _study(run) if is_study(run) else summarize(run)
    if summary["unfinished"]:
        raise SystemExit(f"{run}: {len(summary['unfinished'])} runs are unfinished; finish them first")
    content = {
        "metadata": json.loads((run / "env.json").read_text()),
        "recipe": yaml.safe_load((run / "recipe.yaml").read_text()),
        "results": summary,
    }
    # Where files lie on the measuring machine is no part of the evidence.
    changes = [*(content["recipe"].get("settings") or {}).values()]
    changes += [one["changes"] for one in summary.get("settings", {}).values()]
    for fields in (content["recipe"], *changes):
        fields.update({key: None for key in _PLACES if key in fields})
    for private in ("command", "earlier"):
        content["metadata"].pop(private, None)
    return content


def _study(run: Path) -> dict[str, Any]:
    summary = {key: value for key, value in summarize_study(run, epochs=True).items() if key != "runs"}
    for one in summary["settings"].values():
        for entry in (one["summary"] or {"arms": {}})["arms"].values():
            for key in ("memorization_by_epoch", "ratios"):
                entry.pop(key, None)
            for key in [key for key in entry if key.endswith("_by_epoch")]:
                rows = entry[key]
                shown = shown_epochs(max((row["epoch"] for row in rows), default=0))
                entry[key] = [row for row in rows if row["epoch"] in shown]
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?", help="name of the result; default: the recipe's")
    args = parser.parse_args()
    content = collected(args.run)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{args.name or content['results']['name']}.json"
    # A study of dozens of arms would be megabytes of indentation.
    indent = None if "settings" in content["results"] else 1
    path.write_text(json.dumps(content, indent=indent) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
