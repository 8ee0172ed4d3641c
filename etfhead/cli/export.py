"""``etfhead export``: a trained model of a run as a folder that needs no etfhead."""

from __future__ import annotations

import argparse
import os
import sys

from etfhead.experiment.terminal import shown

__all__ = ["add_arguments", "add_choice", "run_export", "told"]


def told(text: object) -> str:
    """One line for stdout, in characters that its encoding has."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return shown(text).encode(encoding, "backslashreplace").decode(encoding)


def add_choice(parser: argparse.ArgumentParser) -> None:
    """The arguments that name one model of a run."""
    parser.add_argument("--arm", metavar="NAME", help="arm of the run (default: the best on validation)")
    parser.add_argument("--seed", type=int, metavar="N", help="its seed (default: the best on validation)")
    parser.add_argument(
        "--weights",
        choices=("best", "last"),
        help="of the epoch with the best validation metric (default), or of the last",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("dir", metavar="RUN", help="run folder")
    parser.add_argument(
        "--format",
        dest="format_name",
        choices=("timm", "safetensors", "onnx", "torch-export"),
        default="timm",
        help="timm: folder for timm.create_model('local-dir:...') (default); safetensors: its weights, one "
        "file; onnx: model.onnx; torch-export: model.pt2",
    )
    add_choice(parser)
    parser.add_argument(
        "--out",
        type=os.path.expanduser,  # shells leave the ~ of --out=~/model as it is
        metavar="DIR",
        help="folder to write (default: RUN/exports/<arm>-seed<k>-<weights>-<format>)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the export in that folder")


def run_export(args: argparse.Namespace) -> int:
    """Export and say what was exported."""
    from etfhead.experiment.export import export_run

    done = export_run(
        args.dir,
        args.out,
        format_name=args.format_name,
        arm=args.arm,
        seed=args.seed,
        weights=args.weights or "best",
        overwrite=args.overwrite,
    )
    reason = f" ({done.choice.reason})" if done.choice.reason else ""
    print(f"model: {told(done.choice)}{reason}")
    print(f"head: {done.head}")
    for note in done.notes:
        print(f"note: {told(note)}")
    if done.difference is not None:
        print(
            f"checked: read back, its logits on random images differ by at most {done.difference:.1e} from "
            f"the trained model's (largest logit {done.largest_logit:.3g})"
        )
    print(f"wrote {told(done.folder)}")
    return 0
