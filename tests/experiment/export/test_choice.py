"""The model that is exported without a word: best on validation, never on test."""

from pathlib import Path

import pytest

from etfhead.experiment.export.choice import rank_models
from etfhead.experiment.report.records import RunRecords, SeedRecord


def seed_record(arm, seed, validation, *, best=0, test=0.0, finished=True):
    history = tuple({"epoch": epoch, "val_top1": value} for epoch, value in enumerate(validation))
    result = {
        "best": {"epoch": best, "test_top1": test},
        "last": {"epoch": len(validation) - 1, "test_top1": test},
    }
    state = "finished" if finished else "stopped after epoch 1 of 2"
    return SeedRecord(arm=arm, seed=seed, history=history, result=result if finished else None, state=state)


def make(runs, **recipe):
    seeds = sorted({seed for arm in runs.values() for seed in arm})
    settings = {"dataset": "digits", "arms": dict.fromkeys(runs), "seeds": seeds, **recipe}
    return RunRecords(folder=Path("runs/x"), recipe=settings, environment={}, data={}, runs=runs, notes=())


@pytest.fixture
def run():
    return make(
        {
            "a": {
                0: seed_record("a", 0, [90.0, 80.0], test=99.0),
                1: seed_record("a", 1, [92.0, 99.0], test=99.0),
            },
            "b": {0: seed_record("b", 0, [96.0, 70.0]), 1: seed_record("b", 1, [94.0, 71.0])},
        }
    )


def names(choices):
    return [(choice.arm, choice.seed, choice.weights, choice.epoch, choice.validation) for choice in choices]


def test_arms_by_their_mean_and_seeds_by_their_own_validation(run):
    found = rank_models(run)
    assert names(found) == [("b", 0, "best", 1, 96.0), ("a", 1, "best", 1, 92.0)]
    assert found[0].reason == "highest mean validation accuracy of 2 arms, the highest of its 2 seeds"
    assert str(found[0]) == "b, seed 0, best epoch (1), validation accuracy 96.00 %"
    assert found[1].reason.startswith("number 2 by mean")


def test_last_weights_are_ranked_by_the_last_epoch(run):
    assert names(rank_models(run, weights="last")) == [
        ("a", 1, "last", 2, 99.0),
        ("b", 1, "last", 2, 71.0),
    ]


def test_what_is_named_needs_no_reason(run):
    (choice,) = rank_models(run, arm="a", seed=0)
    assert names([choice]) == [("a", 0, "best", 1, 90.0)]
    assert choice.reason == ""
    assert names(rank_models(run, seed=1)) == [("b", 1, "best", 1, 94.0), ("a", 1, "best", 1, 92.0)]


def test_unfinished_seeds_do_not_count():
    run = make({"a": {0: seed_record("a", 0, [90.0]), 1: seed_record("a", 1, [99.0], finished=False)}})
    assert names(rank_models(run)) == [("a", 0, "best", 1, 90.0)]
    with pytest.raises(ValueError, match=r"a seed 1: stopped after epoch 1 of 2.*--resume"):
        rank_models(run, seed=1)


def test_a_missing_validation_metric_ranks_last():
    run = make({"a": {0: seed_record("a", 0, [float("nan")])}, "b": {0: seed_record("b", 0, [10.0])}})
    assert [choice.arm for choice in rank_models(run)] == ["b", "a"]
    assert rank_models(run)[1].validation is None


def test_ties_go_to_the_recipes_order():
    run = make({name: {0: seed_record(name, 0, [50.0]), 1: seed_record(name, 1, [50.0])} for name in "ba"})
    assert [(choice.arm, choice.seed) for choice in rank_models(run)] == [("b", 0), ("a", 0)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arm": "A"}, r"arm 'A': the run has a, b \(did you mean 'a'\?\)"),
        ({"seed": 7}, "seed 7: the run has seeds 0, 1"),
        ({"weights": "final"}, "expected 'best' or 'last'"),
    ],
)
def test_what_does_not_exist_is_refused(run, options, words):
    with pytest.raises(ValueError, match=words):
        rank_models(run, **options)


def test_a_study_names_its_runs(run):
    study = make(run.runs, settings={"short": {}, "long": {}})
    with pytest.raises(ValueError, match=r"settings.short, .*settings.long"):
        rank_models(study)


def test_a_result_without_an_epoch_is_damaged():
    record = seed_record("a", 0, [90.0])
    record.result["best"] = {}
    with pytest.raises(ValueError, match=r"result\.json of arm 'a', seed 0"):
        rank_models(make({"a": {0: record}}))
