import csv
import json
import statistics

import pytest

from etfhead.experiment.report import write_report
from etfhead.experiment.report.collapse import COLLAPSE, COLLAPSE_COLUMNS
from etfhead.experiment.report.rows import COLUMNS
from etfhead.experiment.report.summary import summarize

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}


def rows(folder, arm, seed):
    lines = (folder / f"arms/{arm}/seed{seed}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def initial(folder, arm, seed):
    return json.loads((folder / f"arms/{arm}/seed{seed}/result.json").read_text())["initial"]


@pytest.mark.parametrize("figure", COLLAPSE, ids=lambda figure: figure.key)
def test_every_measuring_against_independent_arithmetic(fake_run, figure):
    folder = fake_run(TOPS, epochs=6, collapse=3)
    for arm, entry in summarize(folder)["arms"].items():
        assert [row["epoch"] for row in entry["collapse_by_epoch"]] == [0, 3, 6]
        for row in entry["collapse_by_epoch"]:
            own = {
                seed: (
                    rows(folder, arm, seed)[row["epoch"] - 1] if row["epoch"] else initial(folder, arm, seed)
                )
                for seed in range(3)
            }
            values = {seed: measured[figure.key] for seed, measured in own.items()}
            assert row[figure.key]["values"] == values
            assert row[figure.key]["n"] == 3
            assert row[figure.key]["mean"] == pytest.approx(statistics.fmean(values.values()))
            assert row[figure.key]["std"] == pytest.approx(statistics.stdev(values.values()))
        assert entry["figures"][figure.key]["values"] == values  # those of the last measuring


def test_last_values_are_of_the_last_epoch_that_was_measured(fake_run):
    folder = fake_run(TOPS, epochs=8, collapse=3)
    for run in summarize(folder)["runs"]:
        row = rows(folder, run["arm"], run["seed"])[5]
        assert run["collapse_epoch"] == 6
        assert all(run[key] == row[key] for key in COLLAPSE_COLUMNS if key != "collapse_epoch")
        assert isinstance(run["collapse_images"], int)
        assert run["collapse_time"] == 1.5


def test_a_figure_that_the_last_measuring_lacks_is_not_taken_from_an_earlier_one(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=6, collapse=3)
    edit_rows(folder, lambda row, epoch: row.pop("collapse_nc3", None) if epoch == 6 else None, "etf/seed1")
    entry = summarize(folder)["arms"]["etf"]
    assert set(entry["figures"]["collapse_nc3"]["values"]) == {0, 2}
    assert set(entry["figures"]["collapse_nc1"]["values"]) == {0, 1, 2}
    assert [set(row["collapse_nc3"]["values"]) for row in entry["collapse_by_epoch"]] == [
        {0, 1, 2},
        {0, 1, 2},
        {0, 2},
    ]


def test_only_the_untrained_model_measured(fake_run):
    entry = summarize(fake_run(TOPS, epochs=2, collapse=9))["arms"]["etf"]
    assert [row["epoch"] for row in entry["collapse_by_epoch"]] == [0]
    assert entry["figures"]["collapse_epoch"]["mean"] == 0


def test_damaged_values_count_as_absent_and_the_summary_stays_json(fake_run, edit_rows):
    folder = fake_run(TOPS, epochs=6, collapse=3)

    def damage(row, epoch):
        row.update(collapse_nc1=float("nan"), collapse_nc3="0.1", collapse_images=None)

    edit_rows(folder, damage, "etf/*")
    summary = summarize(folder)
    json.dumps(summary, allow_nan=False)
    figures = summary["arms"]["etf"]["figures"]
    assert figures["collapse_nc1"] is figures["collapse_nc3"] is figures["collapse_images"] is None
    assert figures["collapse_cdnv"]["n"] == 3


def test_unfinished_trainings_are_left_out(fake_run):
    folder = fake_run(TOPS, epochs=6, collapse=3, unfinished={("etf", 1): 4})
    summary = summarize(folder)
    entry = summary["arms"]["etf"]
    assert all(set(row["collapse_nc1"]["values"]) == {0, 2} for row in entry["collapse_by_epoch"])
    stopped = next(run for run in summary["runs"] if (run["arm"], run["seed"]) == ("etf", 1))
    assert all(stopped[key] is None for key in COLLAPSE_COLUMNS)


def test_csv_has_the_last_values(fake_run):
    folder = fake_run(TOPS, epochs=6, collapse=3)
    write_report(folder)
    with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert {*COLLAPSE_COLUMNS, "collapse_time"} <= set(COLUMNS)
    for line in table:
        measured = rows(folder, line["arm"], int(line["seed"]))[5]
        assert all(float(line[figure.key]) == measured[figure.key] for figure in COLLAPSE)
        assert (line["collapse_epoch"], line["collapse_images"], line["collapse_missing"]) == (
            "6",
            "1000",
            "0",
        )
        assert line["collapse_time"] == "1.5"


def test_runs_of_before_have_empty_figures(fake_run):
    summary = summarize(fake_run(TOPS))
    for entry in summary["arms"].values():
        assert entry["collapse_by_epoch"] == []
        assert all(entry["figures"][key] is None for key in (*COLLAPSE_COLUMNS, "collapse_time"))
