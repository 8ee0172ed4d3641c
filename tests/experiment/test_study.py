import json
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file

from etfhead.errors import CheckpointError
from etfhead.experiment.folder_lock import FolderLock
from etfhead.experiment.recipe import Arm
from etfhead.experiment.runner import run
from etfhead.experiment.schema import dump_recipe, expand_settings, load_recipe, recipe_from_dict, smoke

VALUES = {
    "name": "study",
    "model": "etfhead_mlp",
    "model_kwargs": {"widths": [8]},
    "img_size": 8,
    "in_chans": 1,
    "dataset": "digits",
    "train_limit": 100,
    "batch_size": 50,
    "epochs": 1,
    "collapse_every": 0,
    "cpu": True,
    "seeds": [0],
    "baseline": "plain",
    "settings": {"slow": {"lr": 0.001}, "fast": {"lr": 0.01, "epochs": 2}},
    "arms": {"plain": {}, "remembers": {"head": "etf", "loss": "early_learning"}},
}


def study(**changes):
    return recipe_from_dict({**VALUES, **changes})


@pytest.fixture
def silent(monkeypatch):
    monkeypatch.setattr("etfhead.experiment.report.write_report", lambda out: out)
    monkeypatch.setattr("etfhead.experiment.report.study.write_study_report", lambda out: out)


def test_settings_change_what_they_name_and_nothing_else():
    found = expand_settings(study())
    assert list(found) == ["slow", "fast"]
    assert [(r.name, r.lr, r.epochs) for r in found.values()] == [
        ("study.slow", 0.001, 1),
        ("study.fast", 0.01, 2),
    ]
    plain = study(settings={})
    assert replace(found["slow"], name="study") == plain
    assert load_recipe("quickstart").settings == {}
    assert expand_settings(plain) == {}


def test_a_study_survives_its_own_file(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(dump_recipe(study()))
    assert load_recipe(str(path)) == study()
    changed = load_recipe(str(path), ["settings.fast.epochs=3", "~settings.slow"])
    assert expand_settings(changed)["fast"].epochs == 3
    assert list(changed.settings) == ["fast"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"a/b": {}}, "a setting's name is letters"),
        ({"a": {"arms": {}}}, "'arms' is the study's own"),
        ({"a": {"lrr": 1}}, "'lrr' is no key"),
        ({"a": {"lr": -1}}, r"settings\.a\.lr: expected a number > 0"),
        ({"a": {"lr": "fast"}}, r"settings\.a\.lr: expected a number"),
        ({"a": {"dataset": "multilabel_digits"}}, r"settings\.a: .*with this setting"),
        ({"a": 3}, "settings"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        study(settings=settings)


def test_each_setting_is_a_run_and_the_study_resumes(tmp_path, silent, capsys):
    out = run(study(), tmp_path / "out")
    results = sorted(out.glob("settings/*/arms/*/seed0/result.json"))
    assert len(results) == 4
    assert (out / "env.json").exists()
    epochs = {path.parts[-5]: json.loads(path.read_text())["epochs"] for path in results}
    assert epochs == {"slow": 1, "fast": 2}
    assert load_recipe(str(out)).settings == study().settings
    before = {path: path.stat().st_mtime_ns for path in results}
    with pytest.raises(ValueError, match="holds a run"):
        run(study(), out)
    more = study(settings={**VALUES["settings"], "third": {"lr": 0.1}})
    run(more, out, resume=True)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(list(out.glob("settings/third/arms/*/seed0/result.json"))) == 2
    with pytest.raises(CheckpointError, match="other settings"):
        run(study(settings={"slow": {"lr": 0.002}}), out, resume=True)


def test_overwrite_deletes_the_settings_of_before_and_no_other_file(tmp_path, silent):
    out = run(study(arms={"plain": {}}), tmp_path / "out")
    (out / "settings" / "mine.txt").write_text("mine")
    run(study(arms={"plain": {}}, settings={"new": {}}), out, overwrite=True)
    assert {path.name for path in (out / "settings").iterdir()} == {"new", "mine.txt"}


def test_everything_is_checked_before_the_first_step(tmp_path, silent):
    bad = study(settings={"good": {}, "bad": {"train_limit": 5}})
    with pytest.raises(ValueError, match=r"setting 'bad'.*5"):
        run(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_smoke_keeps_the_settings_small():
    tiny = smoke(study(settings={"a": {"model": "test_vit", "lr": 0.5}, "b": {"epochs": 90}, "c": {}}))
    assert tiny.settings == {"a": {"lr": 0.5}, "b": {}}


def test_a_loss_that_remembers_resumes_bit_for_bit(tmp_path, silent, monkeypatch):
    arms = {"plain": {"head": "etf", "loss": "sparse_overparametrization"}}
    recipe = study(settings={}, epochs=2, arms=arms)
    whole = run(recipe, tmp_path / "whole")
    from etfhead.experiment.training.engine import Trainer

    finish = Trainer._finish_epoch

    def stop(self, val):
        finish(self, val)
        if self.position.epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_finish_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "parts")
    monkeypatch.setattr(Trainer, "_finish_epoch", finish)
    parts = run(recipe, tmp_path / "parts", resume=True)
    name = "arms/plain/seed0/last.safetensors"
    expected, found = load_file(whole / name), load_file(parts / name)
    assert expected.keys() == found.keys()
    assert all(found[key].equal(value) for key, value in expected.items())


def test_images_cannot_be_mixed_where_each_is_remembered():
    with pytest.raises(ValueError, match="remembers single images"):
        study(mixup=0.2, arms={"plain": Arm(loss="early_learning").__dict__ | {"loss_options": None}})


@pytest.mark.parametrize("last", [False, True])
def test_a_study_whose_folder_went_away_makes_none_anew(tmp_path, silent, monkeypatch, last):
    """A disk that is gone leaves an empty folder under its mount point, which is no place for the rest."""
    from etfhead.experiment import study as module

    out, done = tmp_path / "out", []

    def run_and_lose(recipe, folder, **options):
        done.append(recipe.name)
        if recipe.name == ("study.fast" if last else "study.slow"):
            shutil.rmtree(out)

    monkeypatch.setattr(module, "run", run_and_lose)
    with pytest.raises(OSError, match=f"{out} was removed or replaced"):
        run(study(), out)
    assert done == (["study.slow", "study.fast"] if last else ["study.slow"])
    assert not out.exists()


def test_a_study_or_setting_in_use_is_refused(tmp_path, silent):
    out = tmp_path / "out"
    run(study(), out)

    def files():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != "run.lock"}

    before = files()
    for busy in (out, out / "settings" / "fast"):
        for options in ({"resume": True}, {"overwrite": True}):
            with FolderLock(busy), pytest.raises(ValueError, match=f"{busy} is in use by process"):
                run(study(), out, **options)
            assert files() == before
    with FolderLock(out), pytest.raises(ValueError, match="in use by process"):
        run(study(), out)
    run(study(), out, resume=True)
    assert not list(out.rglob("run.lock"))
