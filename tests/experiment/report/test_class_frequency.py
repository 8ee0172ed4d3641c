import csv
import json

import pytest

from etfhead.experiment.report.class_frequency import FREQUENCY_COLUMNS, class_frequency
from etfhead.experiment.report.class_frequency_plot import draw_class_frequency, rank_curve
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.summary import summarize
from etfhead.experiment.report.write import write_report

TOPS = {"plain": [80.0, 81.0, 79.0], "etf_la": [84.0, 86.0, 85.0]}
FEW = {"plain": [40.0, 50.0, 45.0], "etf_la": [60.0, 69.0, 66.0]}
COUNTS = [3000, 1798, 1078, 646, 387, 232, 139, 83, 50, 30]


@pytest.fixture
def long_tail(fake_run):
    folder = fake_run(TOPS)
    for arm, values in FEW.items():
        for seed, few in enumerate(values):
            path = folder / "arms" / arm / f"seed{seed}" / "result.json"
            result = json.loads(path.read_text())
            for when, less in (("best", 0.0), ("last", 1.0)):
                result[when] |= {
                    "test_top1_many": 95.0 - less,
                    "test_top1_medium": 85.0 - less,
                    "test_top1_few": few - less,
                    "test_top1_by_rank": [95.0] * 3 + [85.0] * 4 + [few] * 3,
                }
            path.write_text(json.dumps(result))
    data = json.loads((folder / "data.json").read_text())
    (folder / "data.json").write_text(json.dumps({**data, "class_counts": COUNTS}))
    return folder


def test_summary_has_figures_and_paired_differences(long_tail):
    summary = summarize(long_tail)
    few = summary["arms"]["etf_la"]["figures"]["test_top1_few_best"]
    assert few["mean"] == pytest.approx(65.0)
    difference = summary["arms"]["etf_la"]["differences"]["test_top1_few_best"]
    assert difference["mean"] == pytest.approx(20.0)
    assert difference["values"] == {0: 20.0, 1: 19.0, 2: 21.0}
    assert summary["arms"]["plain"]["top1_by_rank"]["1"][-1] == 50.0
    assert summary["runs"][0]["test_top1_many_last"] == 94.0


def test_report_has_section_picture_and_columns(long_tail):
    write_report(long_tail)
    text = (long_tail / "report.md").read_text()
    assert "## By class frequency" in text
    assert "many: 3 classes of 3000 to 1078 images" in text
    assert "+20.00" in text
    assert (long_tail / "class_frequency.png").stat().st_size > 1000
    with (long_tail / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {float(row["test_top1_few_best"]) for row in rows} == {*FEW["plain"], *FEW["etf_la"]}


def test_a_balanced_run_says_nothing(fake_run):
    folder = fake_run(TOPS)
    summary = summarize(folder)
    assert class_frequency(summary, {}, []) == []
    assert draw_class_frequency(summary) is None
    assert not set(FREQUENCY_COLUMNS) & set(summary["runs"][0])


def test_without_medium_classes_the_last_group_is_compared(long_tail):
    summary = summarize(long_tail)
    for entry in summary["arms"].values():
        for when in ("best", "last"):
            entry["figures"][f"test_top1_medium_{when}"] = None
    step = {"class_counts": [3000] * 5 + [30] * 5, "draws": {"0": {}}}
    blocks = class_frequency(summary, step, [])
    (table,) = (block for block in blocks if isinstance(block, Table))
    assert table.header == ["arm", "many-shot", "few-shot", "few-shot, difference", "95 % interval"]
    assert "few: 5 classes of 30 images of the first seed" in blocks[1].text


def test_more_than_twenty_classes_are_averaged_in_groups():
    curve = rank_curve({"0": [float(k) for k in range(100)], "1": [float(k) + 2 for k in range(100)]})
    assert len(curve) == 20
    assert curve[0] == (3.0, 3.0, 2.0, 4.0)
    assert curve[-1] == (98.0, 98.0, 97.0, 99.0)
    assert rank_curve({"0": [None, 5.0]}) == [(2.0, 5.0, 5.0, 5.0)]
    assert rank_curve({}) == []


def test_many_arms_get_a_panel_each(long_tail):
    summary = summarize(long_tail)
    arms = summary["arms"]
    assert len(draw_class_frequency(summary).axes) == 1
    summary["arms"] = {**arms, **{f"more{i}": arms["etf_la"] for i in range(7)}}
    assert len(draw_class_frequency(summary).axes) == 9
