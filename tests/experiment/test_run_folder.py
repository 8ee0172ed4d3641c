import dataclasses
import json

import pytest

from etfhead.errors import CheckpointError
from etfhead.experiment.checksums import seal
from etfhead.experiment.recipe import Arm
from etfhead.experiment.run_folder import (
    check_folder,
    check_same_data,
    clear_folder,
    damaged_facts,
    is_run_folder,
)
from etfhead.experiment.schema import dump_recipe


@pytest.fixture
def finished(tmp_path, recipe):
    """A folder with every file that a run writes."""
    from etfhead.experiment.report import FILES

    out = tmp_path / "run"
    seed = out / "arms" / "etf" / "seed0"
    seed.mkdir(parents=True)
    for name in ("state.pt", "metrics.jsonl", "last.safetensors", "best.safetensors", "result.json"):
        (seed / name).write_text("x")
    for name in (*FILES, "data.json"):
        (out / name).write_text("x")
    (out / "recipe.yaml").write_text(dump_recipe(recipe))
    (out / "env.json").write_text('{"etfhead": "0.1.0"}')
    return out


def check(out, recipe, *, resume=False, overwrite=False):
    return check_folder(out, recipe, resume=resume, overwrite=overwrite)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_new_and_empty_folders_are_free(tmp_path, recipe, options):
    check(tmp_path / "new", recipe, **options)
    check(tmp_path, recipe, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_run_needs_a_choice(finished, recipe):
    with pytest.raises(ValueError, match=r"holds a run; --resume .*--overwrite"):
        check(finished, recipe)
    check(finished, recipe, resume=True)
    check(finished, recipe, overwrite=True)
    with pytest.raises(ValueError, match="one of them"):
        check(finished, recipe, resume=True, overwrite=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_foreign_folders_are_left_alone(tmp_path, recipe, options):
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))  # somebody's own copy of a recipe
    (tmp_path / "env.json").write_text('{"name": "another program"}')
    with pytest.raises(ValueError, match="not a run of etfhead"):
        check(tmp_path, recipe, **options)
    with pytest.raises(ValueError, match="is a file"):
        check(tmp_path / "recipe.yaml", recipe, **options)


def test_overwrite_deletes_what_runs_write_and_nothing_else(finished):
    kept = [finished / "notes.txt", finished / "arms" / "etf" / "mine.txt", finished / "photo.png"]
    for path in kept:
        path.write_text("mine")
    clear_folder(finished)
    assert sorted(path for path in finished.rglob("*") if path.is_file()) == sorted(kept)
    assert not is_run_folder(finished)


def test_overwrite_empties_a_folder_without_foreign_files(finished):
    clear_folder(finished)
    assert list(finished.iterdir()) == []


def test_resume_with_other_settings_names_them(finished, recipe):
    other = dataclasses.replace(recipe, lr=0.5, opt="sgd")
    with pytest.raises(
        CheckpointError, match=r"lr is 0\.002 there, 0\.5 now; opt is 'adamw' there, 'sgd' now"
    ):
        check(finished, other, resume=True)
    changed = dataclasses.replace(recipe, arms={"etf": Arm(head="etf", basis="hadamard")})
    with pytest.raises(CheckpointError, match=r"arm 'etf'.*basis is 'haar' there, 'hadamard' now"):
        check(finished, changed, resume=True)


def test_a_setting_changed_by_damage_is_traced_to_its_file(finished, recipe):
    path = finished / "recipe.yaml"
    path.write_text(
        path.read_text().replace("sched: cosine", 'sched: cosine "', 1)
    )  # one bit of a comment's #
    with pytest.raises(CheckpointError, match=r"recipe\.yaml \(sched is 'cosine \"' there, 'cosine' now\)"):
        check(finished, recipe, resume=True)
    path.write_text(dump_recipe(recipe).replace("basis: haar", "basis: hadamard", 1))
    with pytest.raises(CheckpointError, match=r"arm 'etf' .*recipe\.yaml \(basis is 'hadamard' there"):
        check(finished, recipe, resume=True)


def test_resume_may_change_words_seeds_arms_and_workers(finished, recipe):
    arms = {**recipe.arms, "stock": Arm()}
    check(
        finished,
        dataclasses.replace(
            recipe, name="x", description="y", seeds=(0, 1), arms=arms, baseline="stock", workers=3
        ),
        resume=True,
    )


def test_resume_of_a_damaged_recipe(finished, recipe):
    (finished / "recipe.yaml").write_text("arms: [")
    with pytest.raises(CheckpointError, match=r"recipe\.yaml is damaged"):
        check(finished, recipe, resume=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_a_run_killed_at_once_leaves_blocks_nothing(tmp_path, recipe, options):
    (tmp_path / "run.lock").write_text("{}")
    (tmp_path / "env.json.tmp").write_text('{"etfhe')
    check(tmp_path, recipe, **options)


@pytest.mark.parametrize("number", range(1, 12))
def test_clearing_can_be_cut_off_anywhere_and_done_again(finished, recipe, monkeypatch, number):
    taken = []
    unlink = type(finished).unlink

    def cut_off(path, *args, **options):
        if path.exists():
            taken.append(path)
        if len(taken) == number:
            raise KeyboardInterrupt
        unlink(path, *args, **options)

    monkeypatch.setattr(type(finished), "unlink", cut_off)
    with pytest.raises(KeyboardInterrupt):
        clear_folder(finished)
    monkeypatch.undo()
    check(finished, recipe, overwrite=True)
    clear_folder(finished)
    assert list(finished.iterdir()) == []


def test_nothing_is_deleted_through_links(finished, recipe, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (finished / "arms").rename(elsewhere)
    (finished / "arms").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(ValueError, match=r"arms is a link, and nothing is deleted through links"):
        check(finished, recipe, overwrite=True)
    check(finished, recipe, resume=True)


@pytest.mark.parametrize("content", ["", '{"etfhead": "0.1', '{"etfhead": "0.1.0", "sha256": "0"}', "[]"])
def test_resume_bears_a_damaged_environment_and_overwrite_does_not(finished, recipe, content):
    (finished / "env.json").write_text(content)
    check(finished, recipe, resume=True)
    assert finished / "env.json" in damaged_facts(finished)
    if "sha256" not in content:
        with pytest.raises(ValueError, match="not a run of etfhead"):
            check(finished, recipe, overwrite=True)


def test_resume_bears_a_damaged_environment_of_a_study(finished, recipe):
    """A study has no data of its own; its settings show that it is one."""
    (finished / "data.json").unlink()
    (finished / "env.json").write_text("{")
    with pytest.raises(ValueError, match="not a run of etfhead"):
        check(finished, recipe, resume=True)
    setting = finished / "settings" / "one"
    setting.mkdir(parents=True)
    (setting / "env.json").write_text('{"etfhead": "0.1.0"}')
    check(finished, recipe, resume=True)
    with pytest.raises(ValueError, match="not a run of etfhead"):
        check(finished, recipe, overwrite=True)


def test_damaged_data_facts_are_left_to_the_checkpoints(finished):
    (finished / "data.json").write_text(json.dumps({**seal({"digest": "a"}), "digest": "b"}))
    check_same_data(finished, "a")
    assert finished / "data.json" in damaged_facts(finished)
    (finished / "data.json").write_text(json.dumps(seal({"digest": "b"})))
    with pytest.raises(CheckpointError, match="other data"):
        check_same_data(finished, "a")
    assert damaged_facts(finished) == []
