"""`etfhead theory`: exit codes, what is printed, the JSON file, and what it refuses."""

import importlib
import json
from dataclasses import replace

import pytest

from etfhead.cli import main
from etfhead.theory import THEOREMS


@pytest.fixture
def short(monkeypatch):
    """The multi-label theorem with its two smallest balanced cases and one unbalanced; one of every other."""
    for name, entry in THEOREMS.items():
        if name != "multilabel":
            other = importlib.import_module(entry.module)
            monkeypatch.setattr(other, "THEOREM", replace(other.THEOREM, cases=other.THEOREM.cases[:1]))
    module = importlib.import_module("etfhead.theory.multilabel")
    cases = [case for case in module.THEOREM.cases if "K=3" in case.name or "across halves" in case.name]
    theorem = replace(module.THEOREM, cases=tuple(cases))
    monkeypatch.setattr(module, "THEOREM", theorem)
    return theorem


@pytest.mark.parametrize("argv", [["theory", "--help"], ["ls"]])
def test_help_loads_nothing_heavy(process, argv):
    script = (
        "import sys\nfrom etfhead.cli import main\n"
        f"try:\n    code = main({argv!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'scipy', 'tqdm'} & set(sys.modules)), code)"
    )
    done = process("-c", script)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr


def test_help_lists_every_theorem(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["theory", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for name, entry in THEOREMS.items():
        assert f"  {name}  " in out
        assert entry.summary in out


def test_all_figures_within_tolerance_exits_0(call, short):
    code, out, err = call("theory", "multilabel")
    lines = out.splitlines()
    assert code == 0
    assert err == ""
    assert lines[0] == short.title
    assert short.loss in lines[2]
    assert any(line.startswith(short.cases[0].name) and "3 of 3 starts" in line for line in lines)
    (row,) = [line.split() for line in lines if line.startswith("  delta_1")]
    assert row[1] == row[2] == "4.4918569"
    assert row[-1] == "ok"
    (row,) = [line for line in lines if line.startswith("9 of 15 pairs")]
    assert row.split()[-6:] == ["0.213", "0.000", "deg", "0.848", "0.848", "yes"]
    assert lines[-1].startswith("multilabel: 7 of 7 figures within 1e-05 of the prediction; largest error ")
    assert "2 models minimised" in lines[-1]


def test_an_impossible_tolerance_exits_1_and_says_which(call, short):
    code, out, _ = call("theory", "multilabel", "--tolerance", "1e-300")
    assert code == 1
    failed = [line for line in out.splitlines() if line.endswith("FAILED")]
    assert any("WW^T from the ETF" in line for line in failed)
    assert f"multilabel: {7 - len(failed)} of 7 figures within 1e-300" in out


def test_json_has_what_is_printed_also_when_a_figure_fails(call, short, tmp_path):
    path = tmp_path / "new" / "theory.json"
    code, out, _ = call("theory", "all", "--json", str(path), "--tolerance", "1e-300", "--seed", "4")
    assert code == 1
    assert out.splitlines()[-1] == f"wrote {path}"
    content = json.loads(path.read_text())
    assert [theorem["name"] for theorem in content["theorems"]] == list(THEOREMS)
    (theorem,) = [theorem for theorem in content["theorems"] if theorem["name"] == "multilabel"]
    assert (theorem["ok"], theorem["tolerance"], theorem["seed"]) == (False, 1e-300, 4)
    assert [case["name"] for case in theorem["cases"]] == [case.name for case in short.cases]
    (gap,) = [check for check in theorem["cases"][0]["checks"] if check["what"] == "delta_1"]
    assert gap["found"] == pytest.approx(4.4918569, rel=1e-7)
    assert theorem["cases"][1]["checks"] == []
    assert {finding["what"]: finding["value"] for finding in theorem["cases"][1]["findings"]}[
        "decoded by logits > 0"
    ] is True


def test_an_unknown_theorem_lists_what_exists(error_line):
    line = error_line("theory", "multilable")
    assert "'multilable' (did you mean 'multilabel'?)" in line
    assert line.rstrip().endswith(f"choose from {', '.join(THEOREMS)}, or all")


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan", "inf"])
def test_a_tolerance_out_of_range_is_refused(error_line, tolerance):
    assert "tolerance=" in error_line("theory", "multilabel", f"--tolerance={tolerance}")


def test_json_into_a_folder_is_refused_before_anything_runs(error_line, tmp_path):
    assert "is a folder" in error_line("theory", "multilabel", "--json", str(tmp_path))


@pytest.mark.parametrize(
    "argv",
    [[], ["multilabel", "--tolerance", "small"], ["multilabel", "--seed", "x"], ["multilabel", "extra"]],
)
def test_usage_errors_are_one_line_and_exit_2(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(["theory", *argv])
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
