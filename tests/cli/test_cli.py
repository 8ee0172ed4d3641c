"""The light commands and `validate`: what they print, what they refuse, and how they exit."""

import os
from dataclasses import replace

import numpy as np
import pytest

from etfhead.cli import main
from etfhead.cli.commands import explain
from etfhead.experiment.schema import list_recipes, load_recipe


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["run", "--help"], ["--version"], ["ls"], ["show", "quickstart"], ["cp", "quickstart", "x"]],
)
def test_light_commands_load_nothing_heavy(process, argv, tmp_path):
    script = (
        "import sys\nfrom etfhead.cli import main\n"
        f"try:\n    code = main({argv!r})\nexcept SystemExit as stop:\n    code = stop.code\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'timm', 'matplotlib', 'sklearn'} & set(sys.modules)), code)"
    )
    done = process("-c", script, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "HEAVY [] 0", done.stderr


def test_ls_has_one_line_a_recipe(call):
    code, out, _ = call("ls")
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["NAME", "WHAT", "MODEL", "DATA", "TAKES"]
    assert [line.split()[0] for line in lines[1:]] == [info.name for info in list_recipes()]
    for line, info in zip(lines[1:], list_recipes(), strict=True):
        for cell in (info.description, info.model, info.dataset, info.takes):
            assert cell in line


def test_show_prints_the_resolved_recipe(call, tmp_path):
    code, out, _ = call("show", "quickstart", "epochs=3", "arms.etf.basis=haar", "~arms.cosine")
    assert code == 0
    path = tmp_path / "shown.yaml"
    path.write_text(out)
    recipe = load_recipe(str(path))
    assert recipe == load_recipe("quickstart", ["epochs=3", "arms.etf.basis=haar", "~arms.cosine"])
    assert (recipe.epochs, list(recipe.arms)) == (3, ["learnable", "etf"])


@pytest.mark.parametrize("dest", ["copy.yaml", "new/folder/copy.yaml", "new/", "."])
def test_cp_copies_to_a_file_or_folder_with_comments(call, tmp_path, monkeypatch, dest):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("cp", "quickstart", dest)
    (copy,) = tmp_path.rglob("*.yaml")
    assert code == 0
    assert copy.name == ("copy.yaml" if "copy" in dest else "quickstart.yaml")
    name = copy.stem
    assert load_recipe(str(copy)) == replace(
        load_recipe("quickstart"), name=name, description="copied from quickstart"
    )
    (shipped,) = (info.path for info in list_recipes() if info.name == "quickstart")
    kept = [line for line in shipped.read_text().splitlines() if line in set(copy.read_text().splitlines())]
    assert [line for line in copy.read_text().splitlines() if line not in kept] == [
        "# Copied from quickstart; the comments below were written for it.",
        *([f"name: {name}"] if name == "copy" else []),
        "description: copied from quickstart",
    ]
    assert f"etfhead run {copy.relative_to(tmp_path)} --out runs/{copy.stem}" in out


def test_a_copy_keeps_the_name_where_its_file_has_none_that_a_run_may_have(call, tmp_path):
    assert call("cp", "quickstart", str(tmp_path / "my copy.yaml"))[0] == 0
    assert load_recipe(str(tmp_path / "my copy.yaml")).name == "quickstart"


def test_a_copy_runs_into_a_folder_of_its_own(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("etfhead.experiment.runner.run", lambda recipe, out, **_: out.mkdir(parents=True))
    monkeypatch.setattr("etfhead.cli.commands._print_table", lambda out: None)
    call("cp", "quickstart", "mine.yaml")
    assert call("run", "mine.yaml")[0] == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_validate_says_what_a_validation_folder_is_used_for(call, tmp_path):
    for part in ("train", "test", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
    argv = ("validate", "quickstart", "dataset=image_folder", f"data_root={tmp_path}", "in_chans=3")
    code, out, _ = call(*argv, "settings={a: {lr: 0.1}, b: {lr: 0.2}}")
    assert code == 0
    assert out.splitlines()[1:] == [
        "image_folder: val/ is the validation part: nothing is carved from train/, "
        "val_fraction does not apply"
    ]
    (tmp_path / "val").rename(tmp_path / "other")
    assert len(call(*argv)[1].splitlines()) == 1


def test_cp_never_overwrites(error_line, tmp_path):
    dest = tmp_path / "mine.yaml"
    dest.write_text("precious")
    assert "never overwritten" in error_line("cp", "quickstart", str(dest))
    assert dest.read_text() == "precious"


def test_cp_into_a_missing_place_is_one_line(error_line, tmp_path):
    (tmp_path / "file").write_text("")
    line = error_line("cp", "quickstart", str(tmp_path / "file" / "x.yaml"))
    assert str(tmp_path / "file") in line


def test_validate_says_what_would_run(call):
    code, out, _ = call("validate", "quickstart", "seeds=0,1")
    assert code == 0
    assert out.startswith("ok: quickstart: 3 arms x 2 seeds = 6 runs of 8 epochs, test_resnet (")
    assert "on digits" in out


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model=resnet18dd", ["model", "'resnet18dd'", "did you mean 'resnet18d'?"]),
        ("model_kwargs.depth=3", ["model", "test_resnet", "depth"]),
        ("opt=adamx", ["opt", "'adamx'", "did you mean 'adamax'?"]),
        ("sched=cosin", ["sched", "'cosin'", "did you mean 'cosine'?"]),
        ("initial_checkpoint=missing.pt", ["initial_checkpoint", "'missing.pt' does not exist"]),
        ("arms.etf.frame=simplx", ["arm 'etf'", "frame='simplx'", "did you mean 'simplex'?"]),
        ("sched=plateau", ["sched", "plateau"]),
        ("aa=rnd-m9", ["override 'aa=rnd-m9'", "no_aug: false"]),
        ("epoch=3", ["override 'epoch=3'", "did you mean 'epochs'?"]),
    ],
)
@pytest.mark.parametrize("command", [["validate"], ["run", "--out", "never"]])
def test_what_cannot_run_is_refused_first(error_line, tmp_path, monkeypatch, command, override, words):
    monkeypatch.chdir(tmp_path)
    line = error_line(*command, "quickstart", override)
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_augmentation_policy_is_refused(error_line):
    assert "aa='rnd-m9'" in error_line("validate", "quickstart", "no_aug=false", "aa=rnd-m9")


def test_validate_looks_for_the_data_folder(call, error_line):
    line = error_line("validate", "fashion_mnist", "data_root=missing")
    assert "data_root: 'missing' does not exist" in line
    assert call("validate", "fashion_mnist", "data_root=missing", "download=true")[0] == 0


def test_validate_notes_what_is_probably_not_meant(call, tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((6, 8, 8, 3), np.uint8), y_train=np.arange(6) % 2)
    own = ("validate", "fine_tune", f"data_root={tmp_path / 'a.npz'}")
    code, out, _ = call(*own, "model=resnet18", "trainable=[layer4]")
    assert code == 0
    ok, note = out.splitlines()
    assert ok.startswith("ok: fine_tune: ")
    assert note.startswith("note: mean [0.5, 0.5, 0.5] is the recipe's; resnet18's weights")
    assert call(*own)[1].count("\n") == 1


def test_validate_looks_for_the_classes(call, error_line):
    digits = ("validate", "quickstart", "dataset=digits", "in_chans=1")
    assert "classes: 11 is not one of the data set's, which go from 0 to 9" in error_line(
        *digits, "classes=[0,1,11]"
    )
    asymmetric = (*digits, "classes=[0,1,9]", "noise_kind=asymmetric", "noise_rate=0.2")
    assert "noise_flips: expected classes from 0 to 2" in error_line(*asymmetric, "noise_flips={0: 9}")
    assert call(*asymmetric, "noise_flips={0: 2}")[0] == 0


def test_a_frame_that_does_not_exist_for_the_classes_is_refused(error_line):
    # 100 classes need at least 99 features, test_resnet has 96.
    simplex = "arms.etf.frame=simplex"
    line = error_line("validate", "quickstart", "dataset=cifar100", "in_chans=3", simplex)
    assert "arm 'etf'" in line


@pytest.mark.parametrize(
    "argv",
    [[], ["runn"], ["run"], ["cp", "quickstart"], ["report"], ["ls", "x"], ["show", "quickstart", "--smok"]],
)
def test_usage_errors_are_one_line_and_exit_2(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert captured.out == ""
    assert captured.err.startswith("etfhead: error: ")
    assert captured.err.count("\n") == 1
    assert "--help" in captured.err


def test_resume_and_overwrite_exclude_each_other(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["run", "quickstart", "--resume", "--overwrite"])
    assert stop.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_an_unknown_recipe_gets_a_suggestion(error_line):
    line = error_line("show", "quickstrat")
    assert "did you mean 'quickstart'?" in line
    assert "etfhead ls" in line


def test_a_closed_pipe_is_quiet(process):
    read, write = os.pipe()
    os.close(read)
    done = process("-m", "etfhead.cli", "ls", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_is_one_line(process):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = process("-m", "etfhead.cli", "ls", stdout=full)
    assert done.returncode == 2
    assert done.stderr == "etfhead: error: No space left on device\n"


def test_a_missing_package_is_named_as_pip_knows_it():
    said = explain(ModuleNotFoundError("No module named 'sklearn'", name="sklearn.datasets"))
    assert said.endswith("pip install scikit-learn")
    assert explain(ModuleNotFoundError("No module named 'x'", name="x")).endswith("pip install x")


def test_a_dead_loading_process_is_one_line():
    said = explain(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert "a loading process (pid 7) was killed by signal 9 (Killed; often: out of memory)" in said
    assert "lower" in said
    assert explain(RuntimeError("CUDA error")) is None
