"""``etfhead predict``: the most probable classes of image files, as a table or as JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from etfhead.cli.export import add_choice, told
from etfhead.experiment.terminal import shown

if TYPE_CHECKING:
    from etfhead.experiment.predict import Prediction, Predictor

__all__ = ["add_arguments", "run_predict"]

_EXIT_UNREADABLE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("source", metavar="FOLDER", help="run folder, or an export of `etfhead export`")
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image file, or a folder of them")
    add_choice(parser)
    parser.add_argument("--top-k", type=int, default=5, metavar="K", help="classes an image (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and file")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images a pass (default: 64)")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that decode (default: 0, this one)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="NAME",
        help="auto (default: a GPU if there is one), cpu, cuda, mps",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 2 if any file could not be read")


def run_predict(args: argparse.Namespace) -> int:
    """Predict; files that cannot be read are told and counted."""
    from etfhead.experiment.predict import find_images, load_predictor, predict

    paths = find_images(args.images)
    predictor = load_predictor(
        args.source, arm=args.arm, seed=args.seed, weights=args.weights, device=args.device
    )
    print(f"etfhead: model: {shown(predictor.source)}", file=sys.stderr)
    table = None if args.json else _Table(predictor, paths, args.top_k)
    unreadable = 0
    found = predict(predictor, paths, top_k=args.top_k, batch_size=args.batch_size, workers=args.workers)
    for prediction in found:
        unreadable += prediction.error is not None
        if table is None:
            print(json.dumps(prediction.as_dict(), allow_nan=False))
        elif prediction.error is not None:
            print(f"etfhead: {shown(prediction.error)}", file=sys.stderr)
        else:
            print(table.row(prediction))
    if unreadable:
        print(f"etfhead: {unreadable} of {len(paths)} files could not be read", file=sys.stderr)
    return _EXIT_UNREADABLE if unreadable and (args.strict or unreadable == len(paths)) else 0


class _Table:
    """Rows whose widths are known before the first prediction is; prints its header when made."""

    def __init__(self, predictor: Predictor, paths: list[Path], top_k: int) -> None:
        self.multilabel = predictor.readout is not None
        self.count = min(max(top_k, 1), len(predictor.class_names))
        self.file = max(4, *(len(told(path)) for path in paths))
        self.name = max(len(told(name)) for name in predictor.class_names)
        self.header_due = True

    def row(self, prediction: Prediction) -> str:
        cells = [
            f"{told(name).ljust(self.name)} {probability:.4f}" for name, _, probability in prediction.top
        ]
        if prediction.labels is not None:
            cells.append(", ".join(map(told, prediction.labels)) or "(none)")
        line = "  ".join([told(prediction.file).ljust(self.file), *cells]).rstrip()
        if not self.header_due:
            return line
        self.header_due = False
        places = [f"#{place}".ljust(self.name + 7) for place in range(1, self.count + 1)]
        header = ["FILE".ljust(self.file), *places, *(["LABELS"] if self.multilabel else [])]
        return "  ".join(header).rstrip() + "\n" + line
