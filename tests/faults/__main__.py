"""Every fault that runs must survive, in one table: ``python -m tests.faults`` (``make faults``).

Nothing of it needs the network or a GPU. Exit code 1 if anything was not survived, missed or executed, 2 if
not even a run that nothing disturbs came to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from etfhead.cli import main as etfhead
from etfhead.experiment.environment import describe_environment
from tests.faults.runs import CannotStart, write_recipe
from tests.faults.table import ROWS, prepare, try_rows
from tests.heard_signals import heard_signals

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "faults.json"
_KILLS, _FLIPS = 20, 8


def run_all(
    place: Path, *, kills: int = _KILLS, flips: int = _FLIPS, rows: str = "", jobs: int = 2
) -> list[dict[str, Any]]:
    """Try everything and return one record a row of the table.

    Args:
        place: An empty folder.
        kills: At random moments.
        flips: Bits flipped in each file.
        rows: Only those whose name has this in it.
        jobs: Rows at a time.

    Raises:
        CannotStart: If a run that nothing disturbs fails.
    """
    # Once in this process, so that every process forked from it starts with all libraries loaded.
    warm = ["run", str(write_recipe(place / "warm.yaml", quick=True)), "--out", str(place / "warm")]
    with (place / "warm.log").open("w+") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = etfhead(warm)
        if code:
            log.seek(0)
            last = log.read().strip().splitlines()[-1:] or ["it said nothing"]
            raise CannotStart(f"the first run ended with exit code {code}: {last[0]}")
    runs = prepare(place, kills_at_random=kills, flips=flips)
    names = [name for name in ROWS if rows in name]
    print(f"{'FAULT':<37}{'TRIED':>6}{'SURVIVED':>10}{'SECONDS':>9}  DETAIL", flush=True)
    return try_rows(runs, place, names, jobs=jobs, tell=_tell)


def _tell(row: dict[str, Any]) -> None:
    print(
        f"{row['fault']:<37}{row['tried']:>6}{row['survived']:>10}{row['seconds']:>9.0f}  {row['detail']}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=_KILLS, help="at random moments (default: %(default)s)")
    parser.add_argument("--flips", type=int, default=_FLIPS, help="bits of each file (default: %(default)s)")
    parser.add_argument("--rows", default="", metavar="TEXT", help="only rows with this in their name")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="rows at a time")
    parser.add_argument("--keep", type=Path, help="work in this new folder and leave it")
    args = parser.parse_args()
    place = args.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    try:
        place.mkdir(parents=True, exist_ok=True)
        with heard_signals():
            rows = run_all(place, kills=args.kills, flips=args.flips, rows=args.rows, jobs=args.jobs)
    except (CannotStart, OSError) as error:
        print(f"faults: cannot start: {error}", file=sys.stderr)
        return 2
    finally:
        if args.keep is None:
            shutil.rmtree(place, ignore_errors=True)
    failed = {f"{row['fault']}: {what}": wrong for row in rows for what, wrong in row["failed"].items()}
    for what, wrong in failed.items():
        print(f"FAILED {what}: {wrong}")
    if not args.rows:
        environment = {key: value for key, value in describe_environment().items() if key != "command"}
        RESULTS.write_text(json.dumps({"metadata": environment, "results": rows}, indent=2) + "\n")
        print(f"wrote {RESULTS}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
