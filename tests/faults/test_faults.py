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
    recipe, whole = write_recipe(place / "recipe.yaml", quick=True), place / "whole"
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

    patch.setattr(package, "write_report", package.write_report)
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


def test_nan_in_the_middle(runs):
    from tests.faults.others import not_finite

    assert not_finite(*runs[:2], report=False)[1] == ""


def test_two_runs_in_one_folder(runs):
    from tests.faults.others import two_runs

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

    rows = run_all(tmp_path, runs=20, flips=2)
    assert {row["fault"]: row["failed"] for row in rows if row["failed"]} == {}
