import json

import pytest
import scipy.stats

from etfhead.experiment.report import write_report
from etfhead.experiment.report.by_epoch import shown_epochs
from etfhead.experiment.report.summary import summarize

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}


def history(folder, arm, seed):
    lines = (folder / f"arms/{arm}/seed{seed}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def result(folder, arm, seed):
    return folder / f"arms/{arm}/seed{seed}/result.json"


def test_every_epoch_against_independent_arithmetic(fake_run):
    folder = fake_run(TOPS, epochs=4)
    arms = summarize(folder)["arms"]
    for arm, entry in arms.items():
        rows = entry["val_top1_by_epoch"]
        assert [row["epoch"] for row in rows] == [0, 1, 2, 3, 4]
        for row in rows[1:]:
            own = {seed: history(folder, arm, seed)[row["epoch"] - 1]["val_top1"] for seed in range(3)}
            assert row["values"] == own
            assert row["mean"] == pytest.approx(sum(own.values()) / 3)
            if arm == "linear":
                assert row["difference"] is None
                continue
            base = [history(folder, "linear", seed)[row["epoch"] - 1]["val_top1"] for seed in range(3)]
            interval = scipy.stats.ttest_rel(list(own.values()), base).confidence_interval()
            assert row["difference"]["low"] == pytest.approx(interval.low)
            assert row["difference"]["high"] == pytest.approx(interval.high)
        initial = {s: json.loads(result(folder, arm, s).read_text())["initial"]["val_top1"] for s in range(3)}
        assert rows[0]["values"] == initial


def test_seeds_that_are_not_shared_do_not_enter_a_difference(fake_run):
    folder = fake_run(TOPS, epochs=4, unfinished={("linear", 1): 3})
    row = summarize(folder)["arms"]["etf"]["val_top1_by_epoch"][1]
    assert set(row["values"]) == {0, 1, 2}
    assert set(row["difference"]["values"]) == {0, 2}


def test_runs_of_before_without_initial_figures_have_no_epoch_0(fake_run):
    folder = fake_run(TOPS, epochs=4)
    for path in folder.glob("arms/*/*/result.json"):
        content = json.loads(path.read_text())
        del content["initial"]
        path.write_text(json.dumps(content))
    assert [row["epoch"] for row in summarize(folder)["arms"]["etf"]["val_top1_by_epoch"]] == [1, 2, 3, 4]
    assert "epoch 0 " not in (write_report(folder).parent / "report.md").read_text()


@pytest.mark.parametrize(
    ("last", "epochs"), [(1, [0, 1]), (2, [0, 1, 2]), (4, [0, 1, 2, 3, 4]), (30, [0, 1, 2, 3, 15, 30])]
)
def test_the_table_shows_the_start_the_middle_and_the_end(fake_run, last, epochs):
    assert shown_epochs(last) == epochs
    folder = fake_run(TOPS, epochs=last)
    write_report(folder)
    section = (folder / "report.md").read_text().split("## Accuracy by epoch")[1].split("\n## ")[0]
    head = next(line for line in section.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [f"epoch {epoch}" for epoch in epochs]
    row = summarize(folder)["arms"]["etf"]["val_top1_by_epoch"][1]
    pair = row["difference"]
    assert f"{row['mean']:.2f} ± {row['std']:.2f}" in section
    bounds = " to ".join(f"{value:+.2f}" for value in (pair["low"], pair["high"])).replace("-", "−")
    assert f"{pair['mean']:+.2f}".replace("-", "−") + f" ({bounds})" in section


def test_no_finished_training_no_section(fake_run):
    folder = fake_run(TOPS, epochs=4, unfinished={(arm, seed): 2 for arm in TOPS for seed in range(3)})
    assert "Accuracy by epoch" not in (write_report(folder).parent / "report.md").read_text()


def test_time_to_orient_is_shown_where_an_arm_has_it(fake_run):
    folder = fake_run(TOPS, epochs=2)
    assert "orient" not in (write_report(folder).parent / "report.md").read_text()
    for seed, seconds in enumerate([1.0, 2.0, 3.0]):
        path = result(folder, "etf", seed)
        path.write_text(json.dumps({**json.loads(path.read_text()), "align_time": seconds}))
    cost = (write_report(folder).parent / "report.md").read_text().split("## Cost")[1].split("\n## ")[0]
    table = [line.split("|") for line in cost.splitlines() if line.startswith("|")]
    column = next(i for i, cell in enumerate(table[0]) if "of it to orient" in cell)
    assert {row[1].strip(): row[column].strip() for row in table[2:]} == {
        "linear (baseline)": "–",
        "etf": "2.00 s",
    }
    assert summarize(folder)["runs"][3]["align_time"] == 1.0


def test_heads_are_told_apart_by_what_happens_to_their_class_vectors(fake_run):
    names = ("linear", "etf", "means", "delta", "guided", "rank")
    tops = {name: [90.0, 91.0, 92.0 + i] for i, name in enumerate(names)}
    heads = {"means": "class_mean", "delta": "delta", "guided": "guided", "rank": "etf"}
    folder = fake_run(tops, heads=heads, epochs=2)
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(
        text.replace("rank:\n    head: etf", "rank:\n    head: etf\n    low_rank: 4")
    )
    summary = summarize(folder)
    kinds = {arm: entry["kind"] for arm, entry in summary["arms"].items()}
    assert kinds == {
        "linear": "learnable",
        "etf": "fixed",
        "means": "following",
        "delta": "following",
        "guided": "following",
        "rank": "learnable",
    }
    assert "the only fixed head" in summary["verdict"]
    assert "of 3 following heads" in summary["verdict"]
    assert summary["arms"]["means"]["verdict"]["sentence"].startswith("the following head means")
