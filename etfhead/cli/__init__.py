"""Command line: list, show, copy, check and run recipes, write their reports, and check theorems.

Nothing here loads torch before a command needs it: help, ``ls``, ``show`` and ``cp`` answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from etfhead._version import __version__
from etfhead.cli import commands, export, predict, theory
from etfhead.experiment.terminal import shown

__all__ = ["main"]

_EXIT_UNEXPECTED, _EXIT_USER, _EXIT_PIPE = 1, 2, 141
_RECIPE_HELP = "name from `etfhead ls`, a YAML file, or a run folder"
_OVERRIDE_HELP = (
    "epochs=3, seeds=0,1 (one: 'seeds=[0]'), arms.etf.basis=haar, or ~arms.cosine to leave one out"
)


class _Parser(argparse.ArgumentParser):
    """ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(_EXIT_USER, f"etfhead: error: {shown(message)} (see `{self.prog} --help`)\n")


def _command(
    subparsers: argparse._SubParsersAction[_Parser], run: Callable[[argparse.Namespace], int], text: str
) -> _Parser:
    name = run.__name__.removeprefix("run_")
    description = text[0].upper() + text[1:] + "."
    parser = subparsers.add_parser(name, help=text, description=description, allow_abbrev=False)
    # SUPPRESS: the default must not undo a --debug given before the command.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _recipe_arguments(parser: _Parser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help=_OVERRIDE_HELP)


def _build_parser() -> _Parser:
    parser = _Parser(
        prog="etfhead",
        description="Fixed classifier heads against learnable ones: same model, data and budget.",
        epilog="Start with: etfhead run quickstart",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"etfhead {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    _command(subparsers, commands.run_ls, "list the recipes that come with etfhead")
    show = _command(subparsers, commands.run_show, "print a recipe with every knob and its comment")
    _recipe_arguments(show)
    cp = _command(subparsers, commands.run_cp, "copy a recipe to a file or folder, to edit it")
    cp.add_argument("recipe", metavar="RECIPE", help=_RECIPE_HELP)
    cp.add_argument("dest", metavar="DEST", help="new file, or an existing folder")
    validate = _command(subparsers, commands.run_validate, "check a recipe against the installed timm")
    _recipe_arguments(validate)

    run = _command(subparsers, commands.run_run, "run a comparison and write its report")
    _recipe_arguments(run)
    run.add_argument(
        "--out",
        type=os.path.expanduser,  # shells leave the ~ of --out=~/runs as it is
        metavar="DIR",
        help="run folder (default: runs/<name of the recipe>; with --resume, RECIPE if that is a run folder)",
    )
    run.add_argument("--smoke", action="store_true", help="tiny model, generated images: seconds on the CPU")
    existing = run.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="continue the run in that folder")
    existing.add_argument("--overwrite", action="store_true", help="delete the run in that folder first")

    report = _command(subparsers, commands.run_report, "write the report of finished or stopped runs again")
    report.add_argument("dirs", metavar="DIR", nargs="+", help="run folder")
    report.add_argument(
        "--format",
        choices=("md", "csv", "json", "html"),
        help="print the report in this format, not the table",
    )

    text = "write a trained model of a run as a stock timm model, ONNX or a torch.export program"
    export.add_arguments(_command(subparsers, export.run_export, text))
    text = "name the most probable classes of images, by a run or an export"
    predict.add_arguments(_command(subparsers, predict.run_predict, text))

    text = "minimise unconstrained features and compare with a theorem's closed form"
    theory.add_arguments(_command(subparsers, theory.run_theory, text))
    return parser


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse with overrides allowed before, between and after options."""
    parser = _build_parser()
    args, rest = parser.parse_known_args(argv)
    if "overrides" in args:
        args.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        args.parser.error(f"unknown argument {rest[0]!r}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments without the program's name; default ``sys.argv[1:]``.

    Returns:
        int: 0, 1 for an unexpected error or a theorem that failed, 2 for bad input, 128 + n after signal n.

    >>> main(["show", "no-such-recipe"])
    2
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    try:
        args = _parse(argv)
        code: int = args.run(args)
        if sys.stdout is not None:  # closed by the caller, as in `etfhead ls >&-`
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader left, as in `etfhead ls | head -1`. Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_PIPE
    except KeyboardInterrupt:
        print("etfhead: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        expected = commands.explain(error)
        if expected is not None:
            print(f"etfhead: error: {shown(expected)}", file=sys.stderr)
            return _EXIT_USER
        what = " ".join(f"{type(error).__name__}: {error}".split())
        again = "" if debug else " (re-run with --debug for the traceback)"
        print(f"etfhead: error: unexpected {shown(what)}{again}", file=sys.stderr)
        return _EXIT_UNEXPECTED
