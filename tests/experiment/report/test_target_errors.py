import pytest

from etfhead.experiment.report.records import SeedRecord
from etfhead.experiment.report.regression_collapse import regression_collapse
from etfhead.experiment.report.score import R2, score_of_recipe
from etfhead.experiment.report.target_errors import target_errors, target_tables


def record(seed, state="finished", **best):
    result = {"best": best, "last": best} if state == "finished" else None
    return SeedRecord(arm="a", seed=seed, history=(), result=result, state=state)


def spread(*values):
    mean = sum(values) / len(values)
    return {"n": len(values), "mean": mean, "std": 0.0, "values": dict(enumerate(values))}


def test_errors_are_of_finished_seeds_and_named():
    seeds = {
        0: record(0, test_mse_0=1.0, test_mse_1=4.0),
        1: record(1, test_mse_0=3.0),
        2: record(2, state="stopped in the first epoch"),
    }
    first, second, third = target_errors(seeds, ("depth", "speed", "angle"))
    assert (first["name"], first["mse"]["mean"], first["mse"]["n"]) == ("depth", 2.0, 2)
    assert second["mse"]["values"] == {0: 4.0}
    assert third["mse"] is None


def test_only_regression_has_the_table():
    entry = {
        "figures": {"test_mse_best": spread(2.5)},
        "target_errors": [{"name": "depth", "mse": spread(2.0)}],
    }
    summary = {"primary": R2.primary, "baseline": "a", "arms": {"a": entry}}
    table = target_tables(summary)[-1]
    assert table.rows == [["depth", "2.00 ± 0"], ["mean", "2.50 ± 0"]]
    assert target_tables({**summary, "primary": "test_top1_best"}) == []


def test_the_score_of_real_valued_targets():
    score = score_of_recipe({"dataset": "regression_npz"})
    assert (score.primary, score.name, score.regression, score.multilabel) == (
        "test_r2_best",
        "R²",
        True,
        False,
    )
    assert not score_of_recipe({"dataset": "digits"}).regression
    assert "ECE" not in score.units


@pytest.mark.parametrize(
    ("start", "end", "shown"),
    [((0.8, 0.6), (0.02, 0.06), "×10"), ((0.5,), (0.0,), "all of it"), ((0.5, 0.4), (1.0, 0.1), "×0.50")],
)
def test_the_fall_is_the_smallest_over_seeds(start, end, shown):
    figures = {"nrc1": spread(*end), "collapse_time": None, "collapse_epoch": spread(3.0)}
    figures |= {"collapse_images": None, "collapse_missing": None}
    entry = {"figures": figures, "collapse_by_epoch": [{"epoch": 0, "nrc1": spread(*start)}]}
    blocks = regression_collapse({"baseline": "a", "arms": {"a": entry}}, [])
    table = next(block for block in blocks if hasattr(block, "rows"))
    assert table.rows[0][table.header.index("fell by")] == shown


def test_no_section_where_nothing_was_measured():
    entry = {"figures": {"nrc1": None}, "collapse_by_epoch": []}
    assert regression_collapse({"baseline": "a", "arms": {"a": entry}}, []) == []
