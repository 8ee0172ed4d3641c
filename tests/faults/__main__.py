"""Every fault that runs must survive, in one table: ``python -m tests.faults`` (``make faults``).

Nothing of it needs the network or a GPU. Exit code 1 if anything was not survived, missed or executed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from etfhead.cli import main as etfhead
from etfhead.experiment.environment import describe_environment
from tests.faults import corruptions, kills, others, payloads
from tests.faults.runs import call, in_process, write_recipe

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"
_KILLS, _SEED = 20, 0


def _verdicts(found: Iterable[corruptions.Verdict], counts: Counter[str]) -> Iterable[kills.Outcome]:
    for verdict in found:
        counts[verdict.outcome] += 1
        wrong = f"MISSED: {verdict.why}" if verdict.outcome == "MISSED" else ""
        yield f"{verdict.file}: {verdict.damage}", wrong


def _words(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))


def run_all(place: Path, *, runs: int = _KILLS, flips: int = 8) -> list[dict[str, Any]]:
    """Try everything and return one record a row of the table.

    Args:
        place: An empty folder.
        runs: Kills at random moments.
        flips: Bits flipped in each file.
    """
    recipe, small = write_recipe(place / "recipe.yaml"), write_recipe(place / "small.yaml", quick=True)
    # Once in this process, so that every process forked from it starts with all libraries loaded.
    with contextlib.redirect_stdout(sys.stderr):
        assert etfhead(["run", str(small), "--out", str(place / "warm")]) == 0
    whole, little = _whole(place / "large", recipe), _whole(place / "little", small)
    began = time.perf_counter()
    assert in_process(call(["run", recipe, "--out", place / "timed"]), place / "log").code == 0
    seconds = time.perf_counter() - began
    steps = kills.count_steps(
        lambda before: call(["run", small, "--out", place / "c"], before=before), place / "log"
    )
    interrupted = corruptions.interrupted_run(small, little)
    stages: Counter[str] = Counter()
    resumed: Counter[str] = Counter()
    exported: Counter[str] = Counter()

    def at_random() -> Iterable[kills.Outcome]:
        for what, wrong in kills.kill_at_random_times(recipe, whole, seconds, kills=runs, seed=_SEED):
            stages[what.partition("(")[2].partition(")")[0]] += 1
            yield what, wrong

    def folder(name: str) -> Path:
        (place / name).mkdir()
        return place / name

    over = kills.kill_at_steps(small, little, list(range(2, 60, 6)), words=("--overwrite",), prepare=little)
    damage = corruptions.corrupt_resume(small, little, interrupted, flips=flips, seed=_SEED)
    export = corruptions.corrupt_export(little, flips=25 * flips, seed=_SEED)
    rows: list[tuple[str, Iterable[kills.Outcome], Callable[[], str]]] = [
        ("kill -9 at random moments", at_random(), lambda: _words(stages)),
        ("kill -9 between file operations", kills.kill_at_steps(small, little, list(range(1, steps, 7))),
         lambda: f"every 7th of {steps}"),
        ("kill -9 during --overwrite", over, lambda: "then --resume"),
        ("damaged files, --resume", _verdicts(damage, resumed), lambda: _words(resumed)),
        ("damaged files, export", _verdicts(export, exported), lambda: _words(exported)),
        ("full disk", others.full_disk(small, little, [8, 40, 100, 200, 400, 700]), lambda: ""),
        ("ENOSPC at one file operation", others.full_disk_at_steps(small, little, list(range(1, steps, 23))),
         lambda: f"every 23rd of {steps}"),
        ("NaN in the middle", [others.not_finite(small, little)], lambda: "stops, says where, resumes"),
        ("two runs in one folder", others.two_runs(small, little), lambda: "second refused, first unharmed"),
        ("pickles in files", payloads.code_in_files(small, little, folder("pickles")), lambda: "0 executed"),
        ("Python tags in YAML", payloads.code_in_text(small, little, folder("yaml")), lambda: "0 executed"),
        ("links and climbing names", payloads.links_and_names(small, little, folder("links")),
         lambda: "nothing outside changed"),
        ("markup in reports", payloads.scripts_in_reports(little, folder("markup")),
         lambda: "0 active elements"),
    ]  # fmt: skip
    print(f"{'FAULT':<33}{'TRIED':>7}{'SURVIVED':>10}{'SECONDS':>9}  DETAIL")
    return [_row(name, outcomes, detail) for name, outcomes, detail in rows]


def _whole(place: Path, recipe: Path) -> Path:
    place.mkdir()
    out = place / "whole"
    assert in_process(call(["run", recipe, "--out", out]), place / "log").code == 0, (
        place / "log"
    ).read_text()
    return out


def _row(name: str, outcomes: Iterable[kills.Outcome], detail: Callable[[], str]) -> dict[str, Any]:
    began = time.perf_counter()
    found = list(tqdm(outcomes, desc=name, leave=False, disable=None))
    failed = {what: wrong for what, wrong in found if wrong}
    words = detail() if not failed else next(iter(failed.values()))[:60]
    seconds = time.perf_counter() - began
    print(f"{name:<33}{len(found):>7}{len(found) - len(failed):>10}{seconds:>9.0f}  {words}", flush=True)
    return {
        "fault": name,
        "tried": len(found),
        "survived": len(found) - len(failed),
        "detail": words,
        "failed": failed,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--kills", type=int, default=_KILLS, help="kills at random moments (default: %(default)s)"
    )
    parser.add_argument(
        "--flips", type=int, default=8, help="bits flipped in each file (default: %(default)s)"
    )
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    args = parser.parse_args()
    place = args.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        rows = run_all(place, runs=args.kills, flips=args.flips)
    finally:
        if args.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    failed = {f"{row['fault']}: {what}": wrong for row in rows for what, wrong in row["failed"].items()}
    for what, wrong in failed.items():
        print(f"FAILED {what}: {wrong}")
    environment = {key: value for key, value in describe_environment().items() if key != "command"}
    RESULTS.write_text(json.dumps({"metadata": environment, "results": rows}, indent=2) + "\n")
    print(f"wrote {RESULTS}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
