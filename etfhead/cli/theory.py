"""``etfhead theory``: predicted figures beside the minimiser's, as text or JSON."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etfhead.theory import CaseResult, Finding, TheoryResult

__all__ = ["add_arguments", "run_theory"]

_ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command, and the list of theorems below its help."""
    from etfhead.theory import THEOREMS

    parser.add_argument("theorem", metavar="NAME", help=f"a theorem listed below, or {_ALL}")
    parser.add_argument(
        "--tolerance", metavar="T", type=float, default=1e-5, help="largest relative error (default: 1e-5)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the minimiser's random starts (default: 0)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every figure to this file too")
    width = max(map(len, THEOREMS))
    lines = [f"  {name.ljust(width)}  {entry.summary}" for name, entry in THEOREMS.items()]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "\n".join(
        ["theorems:", *lines, "", "exit code: 0 when every figure agrees, 1 when one does not"]
    )


def run_theory(args: argparse.Namespace) -> int:
    """Minimise, compare and print; 0 only when every figure is within tolerance."""
    from etfhead.experiment.files import write_json
    from etfhead.experiment.suggest import did_you_mean
    from etfhead.theory import THEOREMS, run_theorem

    if args.theorem != _ALL and args.theorem not in THEOREMS:
        hint = did_you_mean(args.theorem, [*THEOREMS, _ALL])
        names = ", ".join(THEOREMS)
        raise ValueError(f"there is no theorem {args.theorem!r}{hint}; choose from {names}, or {_ALL}")
    if args.json and args.json.is_dir():
        raise ValueError(f"--json {str(args.json)!r} is a folder; name a file in it")
    results = []
    for name in THEOREMS if args.theorem == _ALL else [args.theorem]:
        result = run_theorem(name, tolerance=args.tolerance, seed=args.seed, progress=True)
        print("\n".join(_lines(result)), flush=True)
        results.append(result)
    if args.json:
        write_json(args.json, {"theorems": [result.as_dict() for result in results]})
        print(f"wrote {args.json}")
    return 0 if all(result.ok for result in results) else 1


def _lines(result: TheoryResult) -> list[str]:
    theorem = result.theorem
    return [
        theorem.title,
        theorem.source,
        f"loss: {theorem.loss}",
        "",
        *_check_lines(result),
        *_finding_lines(result),
        *(f"- {note}" for note in theorem.notes),
        "",
        _summary(result),
    ]


def _check_lines(result: TheoryResult) -> list[str]:
    from etfhead.experiment.report.document import Table
    from etfhead.experiment.report.markdown import text_table

    rows = [
        (check.what, _figure(check.predicted), _figure(check.found), _error(check.error), _verdict(check.ok))
        for check in result.checks
    ]
    header, rule, *body = text_table(
        Table(("FIGURE", "PREDICTED", "FOUND", "ERROR", ""), rows, frozenset({0, 4}))
    )
    lines, rest = [header, rule], iter(body)
    for name, case in result.named_cases:
        if case.checks:
            lines += [f"{name}  ({_minimum(case)})", *(f"  {next(rest)}" for _ in case.checks), ""]
    # The rows are indented under their case.
    return [f"  {header}", f"  {rule}", *lines[2:]]


def _finding_lines(result: TheoryResult) -> list[str]:
    """One table for each group of cases that report the same figures."""
    from etfhead.experiment.report.document import Table
    from etfhead.experiment.report.markdown import text_table

    groups: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for name, case in result.named_cases:
        if case.findings:
            header = ("FOR INFORMATION", *(finding.what for finding in case.findings))
            groups.setdefault(header, []).append((name, *(_value(finding) for finding in case.findings)))
    return [line for header, rows in groups.items() for line in [*text_table(Table(header, rows)), ""]]


def _summary(result: TheoryResult) -> str:
    checks, minima = result.checks, [case.minimum for case in result.cases]
    agreeing = sum(check.ok for check in checks)
    # NaN must count as the largest.
    largest = max(
        (check.error for check in checks), key=lambda error: (math.isnan(error), error), default=0.0
    )
    gradient = max(minimum.gradient for minimum in minima)
    return (
        f"{result.name}: {agreeing} of {len(checks)} figures within {result.tolerance:g} of the prediction; "
        f"largest error {_error(largest)}; {len(minima)} models minimised, largest gradient {gradient:.1e}; "
        f"{result.seconds:.1f} s"
    )


def _minimum(case: CaseResult) -> str:
    found = case.minimum
    return f"{found.agreeing} of {found.starts} starts, gradient {found.gradient:.0e}"


def _verdict(ok: bool) -> str:
    return "ok" if ok else "FAILED"


def _figure(value: float) -> str:
    return f"{value:.8g}" if value == 0 or abs(value) > 1e-4 else f"{value:.1e}"


def _error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _value(finding: Finding) -> str:
    if isinstance(finding.value, bool):
        return "yes" if finding.value else "no"
    text = f"{0.0 if abs(finding.value) < 1e-9 else finding.value:.3f}"
    return f"{text} {finding.unit}".rstrip()
