"""Every example runs, with at most three lines more than the plain version, which runs too."""

import csv
import os
import runpy
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

FOLDER = Path(__file__).parent.parent.parent / "examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.stem != "digits")
MARK = "  # etfhead\n"


def plain(script):
    """The example without its marked lines."""
    return "".join(line for line in script.read_text().splitlines(True) if not line.endswith(MARK))


@contextmanager
def as_before():
    """Accelerate keeps its settings in class attributes; etf_ names stay in timm's registry."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    saved = [dict(state) for state in shared]
    rng = torch.get_rng_state()
    for state in shared:
        state.clear()
    try:
        yield
    finally:
        for state, before in zip(shared, saved, strict=True):
            state.clear()
            state.update(before)
        torch.set_rng_state(rng)


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a script as ``python script`` would, on the first 128 digits, once over."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("EXAMPLE_IMAGES", "128")
    monkeypatch.setenv("EXAMPLE_EPOCHS", "1")
    monkeypatch.delitem(sys.modules, "digits", raising=False)
    # Seeding functions of trainers leave these behind.
    for variable in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(variable, "0")

    def run(script, *arguments):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with as_before():
            runpy.run_path(str(script), run_name="__main__")

    return run


def loads_into_stock(state):
    stock = timm.create_model("test_resnet", num_classes=10)
    stock.load_state_dict(state, strict=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_at_most_three_lines_change(script):
    text = script.read_text()
    assert 1 <= text.count(MARK) <= 3
    assert "etfhead" not in plain(script).partition('"""\n')[2].partition('"""\n')[2]
    compile(plain(script), str(script), "exec")


@pytest.fixture(params=["with etfhead", "plain"])
def version(request, tmp_path):
    """An example by name, as it stands or without its marked lines."""

    def of(name):
        script = FOLDER / f"{name}.py"
        if request.param == "plain":
            (tmp_path / "plain.py").write_text(plain(script))
            script = tmp_path / "plain.py"
        return script

    return of


def test_accelerate(execute, version, capsys):
    execute(version("accelerate_loop"))
    assert "epoch 0: " in capsys.readouterr().out
    loads_into_stock(load_file("digits.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed")
def test_accelerate_in_two_processes(version, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    variables = {"EXAMPLE_IMAGES": "128", "EXAMPLE_EPOCHS": "1", "PYTHONPATH": str(FOLDER)}
    done = subprocess.run(
        [*command, str(version("accelerate_loop"))],
        cwd=tmp_path, env={**os.environ, **variables}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 0: ") == 1, "one of the two speaks"
    loads_into_stock(load_file(tmp_path / "digits.safetensors"))


def test_hf_trainer(execute, version, capsys):
    transformers = pytest.importorskip("transformers")
    execute(version("hf_trainer"))
    assert "accuracy: " in capsys.readouterr().out
    again = transformers.TimmWrapperForImageClassification.from_pretrained("digits")
    assert type(again.timm_model.get_classifier()) is torch.nn.Linear
    loads_into_stock(again.timm_model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning_trainer", "fabric_loop"])
def test_lightning(execute, version, name):
    pytest.importorskip("lightning", reason="pip install lightning")
    execute(version(name))
    loads_into_stock(torch.load("digits.pt", weights_only=True))


@pytest.mark.slow
def test_timm_train_py(execute, version):
    script = os.environ.get("TIMM_TRAIN_PY")
    if not script:
        pytest.skip("timm installs no train.py: set TIMM_TRAIN_PY to that of a clone")
    execute(version("timm_train"), script)
    loads_into_stock(torch.load("digits.pt", weights_only=True))
    rows = list(csv.DictReader(Path("output/digits/summary.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["0"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_starts_no_training(execute, capsys, tmp_path, script):
    for package, name in (("lightning", "lightning"), ("lightning", "fabric"), ("transformers", "hf")):
        if script.stem.startswith(name):
            pytest.importorskip(package)
    with pytest.raises(SystemExit) as stop:
        execute(script, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "are all that a fixed head adds" in out
    assert ("--out" in out) == (script.stem != "timm_train")
    assert list(tmp_path.iterdir()) == []


def test_the_model_goes_where_out_says(execute, tmp_path):
    execute(FOLDER / "accelerate_loop.py", "--out", "other.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]


@pytest.mark.parametrize(
    ("name", "module", "words"),
    [
        ("lightning_trainer", "lightning", "Lightning: pip install lightning"),
        ("fabric_loop", "lightning.fabric", "Lightning: pip install lightning"),
        ("hf_trainer", "transformers", "transformers: pip install transformers"),
    ],
)
def test_a_missing_trainer_is_one_line(execute, monkeypatch, name, module, words):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stop:
        execute(FOLDER / f"{name}.py")
    assert stop.value.code == f"this example needs {words}"


def test_timms_script_must_be_there(execute, capsys, tmp_path):
    with pytest.raises(SystemExit):
        execute(FOLDER / "timm_train.py", "no/train.py")
    assert "there is no file" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
