"""A short version of ``make faults``, and proof that its judges can see a fault."""

import contextlib
import json
import os
import pickle
import shutil
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="faults are planted in forked processes")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A recipe and the folder of its uninterrupted run, and how long it took once everything was loaded."""
    import time

    from tests.faults.runs import call, in_process, write_recipe

    place = tmp_path_factory.mktemp("faults")
    recipe, whole = write_recipe(place / "recipe.yaml", quick=True), place / "run" / "whole"
    whole.parent.mkdir()
    with contextlib.redirect_stdout(sys.stderr), pytest.MonkeyPatch.context() as patch:
        _bring_report_back(patch)
        assert call(["run", recipe, "--out", place / "warm"], report=False)() == 0
    began = time.perf_counter()
    ended = in_process(call(["run", recipe, "--out", whole], report=False), place / "log")
    assert ended.code == 0, ended.told
    return recipe, whole, time.perf_counter() - began


def _bring_report_back(patch):
    """A run in this process leaves the report out; other tests want it."""
    import etfhead.experiment.report as package
    from etfhead.cli import commands
    from etfhead.experiment.report import study

    patch.setattr(package, "write_report", package.write_report)
    patch.setattr(study, "write_study_report", study.write_study_report)
    patch.setattr(commands, "_print_table", commands._print_table)


@pytest.fixture(autouse=True)
def _report_comes_back(monkeypatch):
    _bring_report_back(monkeypatch)


def test_killed_at_three_moments(runs):
    from tests.faults.kills import kill_at_random_times

    recipe, whole, seconds = runs
    outcomes = list(kill_at_random_times(recipe, whole, seconds, kills=3, seed=1, report=False))
    assert [wrong for _, wrong in outcomes] == [""] * 3


def test_killed_before_the_first_file_and_between_two_of_a_checkpoint(runs):
    from tests.faults.kills import kill_at_steps

    recipe, whole, _ = runs
    assert [wrong for _, wrong in kill_at_steps(recipe, whole, [3, 60], report=False)] == ["", ""]


@pytest.fixture(scope="module")
def study(runs, tmp_path_factory):
    """The same for a study of two settings; its report is complete."""
    import time

    from tests.faults.runs import call, in_process, write_recipe
    from tests.faults.table import _SETTINGS

    place = tmp_path_factory.mktemp("study")
    recipe, whole = write_recipe(place / "study.yaml", quick=True, more=_SETTINGS), place / "whole"
    began = time.perf_counter()
    ended = in_process(call(["run", recipe, "--out", whole], report=False), place / "log")
    assert ended.code == 0, ended.told
    return recipe, whole, time.perf_counter() - began


def test_a_study_killed_in_each_of_its_settings(study):
    from tests.faults.kills import kill_at_random_times

    recipe, whole, seconds = study
    outcomes = list(kill_at_random_times(recipe, whole, seconds, kills=2, seed=2, report=False))
    assert [wrong for _, wrong in outcomes] == [""] * 2


def test_a_study_killed_before_its_first_setting(study):
    from tests.faults.kills import kill_at_steps

    assert [wrong for _, wrong in kill_at_steps(*study[:2], [9], report=False)] == [""]


def test_nan_in_the_middle_and_infinity_at_the_start(runs):
    from tests.faults.not_finite import not_finite

    places = ("NaN loss in the middle", "infinite loss in the first step", "NaN in the moving average alone")
    assert [wrong for _, wrong in not_finite(*runs[:2], places, report=False)] == [""] * 3


@pytest.mark.parametrize("number", range(3))
def test_signals(runs, number):
    import signal

    from tests.faults.kills import signal_at_steps

    signum, step = [(signal.SIGINT, 4), (signal.SIGTERM, 90), (signal.SIGHUP, 60)][number]
    assert [wrong for _, wrong in signal_at_steps(*runs[:2], [step], (signum,), report=False)] == [""]


@pytest.mark.parametrize("number", range(3))
def test_signals_to_the_whole_group_with_workers(runs, number):
    import signal

    from tests.faults.workers import signal_the_group

    moment, signum = [
        ("workers start", signal.SIGTERM), ("validation", signal.SIGTERM), ("step 13", signal.SIGINT)
    ][number]  # fmt: skip
    found = list(signal_the_group(*runs[:2], [moment], (signum,), report=False))
    assert [wrong for _, wrong in found] == [""]


def test_a_loading_process_that_is_killed(runs):
    from tests.faults.workers import kill_one_worker

    found = list(kill_one_worker(*runs[:2], ["step 13", "the test images"], report=False))
    assert [wrong for _, wrong in found] == ["", ""]


def test_a_folder_that_is_removed_or_replaced_in_mid_run(runs):
    from tests.faults.folders import changed_folders

    assert [wrong for _, wrong in changed_folders(*runs[:2], report=False)] == [""] * 4


def test_two_that_resume_at_one_instant(runs, tmp_path):
    from tests.faults.corruptions import interrupted_run
    from tests.faults.folders import started_together

    recipe, whole, _ = runs
    own = shutil.copytree(whole, tmp_path / "whole")
    interrupted = interrupted_run(recipe, own)
    found = [wrong for _, wrong in started_together(recipe, own, interrupted, 1, report=False)]
    assert found == [""]


def test_a_full_disk_exactly_while_the_report_is_written(runs, tmp_path):
    """The run is complete, its earlier report whole, and the next one is written as usual."""
    from tests.faults.kills import at_step, count_steps
    from tests.faults.others import _no_space
    from tests.faults.runs import call, in_process

    out, log = shutil.copytree(runs[1], tmp_path / "run"), tmp_path / "log"
    assert in_process(call(["report", out]), log).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    steps = count_steps(lambda prepare: call(["report", out], before=prepare), log)
    for step in (1, steps // 2, steps - 3):
        ended = in_process(
            call(["report", out], before=lambda at=step: at_step(at, _no_space, onwards=True)), log
        )
        assert ended.refused, ended.told
        assert "No space left" in ended.told
        after = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
        assert {name: data for name, data in after.items() if not name.endswith(".tmp")} == before
    assert in_process(call(["report", out]), log).code == 0
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_an_export_killed_while_it_replaces_another(runs, tmp_path):
    from tests.faults.writers import exportable_run, kill_export

    run = exportable_run(runs[0], tmp_path / "stock")
    found = list(kill_export(run, at=lambda steps: [1, steps // 2]))
    assert [wrong for _, wrong in found] == ["", ""]


def test_two_runs_in_one_folder(runs):
    from tests.faults.folders import two_runs

    assert [wrong for _, wrong in two_runs(*runs[:2], report=False)] == [""] * 4


def test_damage_is_mended_or_refused(runs):
    from tests.faults.corruptions import corrupt_resume, interrupted_run

    recipe, whole, _ = runs
    interrupted = interrupted_run(recipe, whole)
    found = list(corrupt_resume(recipe, whole, interrupted, flips=1, seed=3, every=23))
    assert len(found) >= 4
    assert [verdict for verdict in found if verdict.outcome == "MISSED"] == []
    assert any(verdict.outcome == "mended" for verdict in found)


def test_export_refuses_damage(runs):
    from tests.faults.corruptions import corrupt_export

    found = list(corrupt_export(runs[1], flips=6, seed=0))
    assert [verdict for verdict in found if verdict.outcome == "MISSED"] == []
    assert sum(verdict.outcome == "refused" for verdict in found) > len(found) / 2


def test_the_comparison_sees_every_kind_of_difference(runs, tmp_path):
    from tests.faults.runs import compare

    whole = runs[1]
    assert compare(whole, whole) == []
    seed = "arms/etf/seed0"

    def differs(change):
        out = tmp_path / "copy"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        change(out)
        return compare(whole, out)

    def another_digit(out):
        path = out / seed / "result.json"
        result = json.loads(path.read_text())
        result["last"]["test_top1"] += 1e-12
        path.write_text(json.dumps(result))

    def another_bit(out):
        path = out / seed / "best.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    def another_row(out):
        with (out / seed / "metrics.jsonl").open("a") as file:
            file.write("{}\n")

    assert differs(another_digit) == [f"{seed}/result.json"]
    assert differs(another_bit) == [f"{seed}/best.safetensors"]
    assert differs(another_row) == [f"{seed}/metrics.jsonl"]
    assert differs(lambda out: shutil.rmtree(out / seed)) == ["trained 2 of 3"]
    assert "only one has" in differs(lambda out: (out / seed / "state.pt").unlink())[0]


def test_the_comparison_of_studies_and_reports_sees_differences(study, tmp_path):
    from tests.faults.runs import compare, report_is_complete

    whole = study[1]
    assert compare(whole, whole) == []
    out = shutil.copytree(whole, tmp_path / "copy")
    path = out / "settings/fast/arms/etf/seed0/best.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert compare(whole, out) == ["settings/fast/arms/etf/seed0/best.safetensors"]
    for folder in (whole, *whole.glob("settings/*")):
        (folder / "summary.json").write_text('{"finished": 3, "expected": 3}')
    whole, out = (shutil.copytree(whole, tmp_path / name) for name in "ab")
    assert report_is_complete(whole, out) == ""
    (out / "settings/slow/summary.json").write_text('{"finished": 2, "expected": 3}')
    assert "knows 2 of 3" in report_is_complete(whole, out)
    (out / "settings/slow/summary.json").unlink()
    assert "only one has ['summary.json']" in report_is_complete(whole, out)


def test_what_cannot_start_is_told_in_a_line(tmp_path, capsys, monkeypatch):
    from tests.faults import __main__ as command
    from tests.faults.runs import CannotStart, Ended, must

    with pytest.raises(CannotStart, match="the run ended with exit code 1, expected 0: the last line"):
        must(Ended(1, "first\nthe last line\n"), "the run")
    must(Ended(143, ""), "the run", code=143)
    monkeypatch.setattr(command, "etfhead", lambda words: print("etfhead: error: no disk") or 2)
    monkeypatch.setattr("sys.argv", ["faults", "--keep", str(tmp_path / "new")])
    assert command.main() == 2
    told = capsys.readouterr()
    assert told.err == "faults: cannot start: the first run ended with exit code 2: etfhead: error: no disk\n"
    assert told.out == ""


def test_a_row_that_breaks_off_is_a_fault(tmp_path, monkeypatch):
    from tests.faults import table

    def breaks(runs, place):
        raise ZeroDivisionError("half way")

    def cannot(runs, place):
        raise table.CannotStart("no such run")

    good = lambda runs, place: ([("a", ""), ("b", "x y")], lambda: "words")  # noqa: E731
    monkeypatch.setattr(table, "ROWS", {"one": breaks, "two": cannot, "three": good})
    told = []
    found = table.try_rows(None, tmp_path, table.ROWS, jobs=2, tell=told.append)
    assert found == told
    assert [(row["fault"], row["tried"], row["survived"]) for row in found] == [
        ("one", 0, 0), ("two", 1, 0), ("three", 2, 1)
    ]  # fmt: skip
    assert found[0]["failed"] == {"the row itself": "ZeroDivisionError: half way"}
    assert found[1]["failed"] == {"start": "no such run"}
    assert found[2]["failed"] == {"b": "x y"}


def test_the_payload_runs_where_it_is_unpickled(tmp_path):
    from tests.faults.payloads import Harm

    pickle.loads(pickle.dumps(Harm(tmp_path / "mark")))
    assert (tmp_path / "mark").is_dir()


def test_the_page_reader_sees_active_content(tmp_path):
    from tests.faults.payloads import active_content

    good = "<meta content=\"default-src 'none'\"><a href='a/b.html'>x</a><img src='data:image/png;base64,AA'>"
    (tmp_path / "report.md").write_text("&lt;script&gt;\n\n```\n<script>\n```\n")
    for bad in (
        "",
        "<script>1</script>",
        "<p onclick=x>",
        "<a href='javascript:x'>",
        "<img src=//x>",
        "<svg>",
    ):
        (tmp_path / "report.html").write_text(good + bad)
        assert bool(active_content(tmp_path)) == bool(bad)
    (tmp_path / "report.html").write_text(good)
    (tmp_path / "report.md").write_text("<script>")
    assert "Markdown" in active_content(tmp_path)


@pytest.mark.faults
def test_the_whole_table(tmp_path):
    from tests.faults.__main__ import run_all

    rows = run_all(tmp_path, kills=20, flips=2)
    assert {row["fault"]: row["failed"] for row in rows if row["failed"]} == {}


def test_a_process_killed_while_it_writes_its_progress_stops_no_other(tmp_path):
    import signal
    import time

    from tqdm import tqdm

    from tests.faults.runs import start, wait

    held = tmp_path / "held"

    def hold():
        with tqdm.get_lock():
            held.touch()
            time.sleep(60)
        return 0

    def write():
        tqdm(total=1).close()
        return 0

    tqdm(total=1, disable=True).close()  # what it shares is there before the fork
    writer = start(hold, tmp_path / "log")
    while not held.exists():
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    wait(writer)
    assert wait(start(write, tmp_path / "log"), timeout=120.0).code == 0
