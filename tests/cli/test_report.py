"""`etfhead report`, and what else reads a run folder."""

import json
import os

import pytest


@pytest.fixture(scope="module")
def finished(process, tmp_path_factory):
    """A real run through the command line, in its own process."""
    out = tmp_path_factory.mktemp("cli") / "run"
    argv = ["-m", "etfhead.cli", "run", "quickstart", "--smoke", "~arms.cosine", "--out", str(out)]
    return out, process(*argv, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_run_ends_with_its_table_and_report(finished):
    out, done = finished
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert (out / "report.html").is_file()
    for arm in ("learnable", "etf"):
        assert arm in done.stdout


def test_report_is_written_again_from_the_folder(call, finished):
    out, done = finished
    table, report = done.stdout.rsplit("\nreport: ", 1)
    (out / "report.html").unlink()
    code, text, _ = call("report", str(out), str(out))
    assert code == 0
    assert text.count(f"report: {report}") == 2
    assert text.startswith(table[:40])
    assert (out / "report.html").is_file()


@pytest.mark.parametrize(
    ("fmt", "name"), [("md", "report.md"), ("csv", "summary.csv"), ("html", "report.html")]
)
def test_report_prints_the_chosen_format(call, finished, fmt, name):
    code, text, _ = call("report", str(finished[0]), "--format", fmt)
    assert code == 0
    assert text == (finished[0] / name).read_text(encoding="utf-8")


def test_report_as_json_is_json(call, finished):
    assert isinstance(json.loads(call("report", str(finished[0]), "--format", "json")[1]), dict)


def test_report_of_something_else_is_refused(error_line, tmp_path):
    assert "is not a run folder" in error_line("report", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_run_folder_is_a_recipe(call, finished):
    code, out, _ = call("show", str(finished[0]))
    assert code == 0
    assert out == (finished[0] / "recipe.yaml").read_text(encoding="utf-8")


def test_a_folder_with_a_run_is_not_touched_unasked(error_line, finished):
    before = {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")}
    line = error_line("run", "quickstart", "--smoke", "--out", str(finished[0]))
    assert "--resume" in line
    assert "--overwrite" in line
    assert {path: path.stat().st_mtime_ns for path in finished[0].rglob("*")} == before
