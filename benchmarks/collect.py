"""Keep the evidence of a finished comparison: its summary and the machine, as one file under results/.

python -m benchmarks.collect runs/fashion_mnist [NAME]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import yaml

from benchmarks.common import RESULTS
from etfhead.experiment.report import summarize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("name", nargs="?", help="name of the result; default: the recipe's")
    args = parser.parse_args()
    summary = summarize(args.run)
    if summary["unfinished"]:
        raise SystemExit(f"{args.run}: {len(summary['unfinished'])} runs are unfinished; finish them first")
    content = {
        "metadata": json.loads((args.run / "env.json").read_text()),
        "recipe": yaml.safe_load((args.run / "recipe.yaml").read_text()),
        "results": summary,
    }
    # Where files lie on the measuring machine is no part of the evidence.
    content["recipe"]["data_root"] = content["recipe"]["initial_checkpoint"] = None
    for private in ("command", "earlier"):
        content["metadata"].pop(private, None)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{args.name or summary['name']}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
