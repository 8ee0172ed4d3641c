"""The report of label sets: its own words, columns and tables; nothing of it with one class an image."""

import json

import pytest

from etfhead.experiment.report import format_table, summarize, write_report
from etfhead.experiment.report.rows import columns
from etfhead.experiment.report.score import MULTILABEL, TOP1, score_of_recipe, score_of_summary

TOPS = {"bce": [80.0, 81.0, 82.0], "etf_pal": [83.0, 84.1, 85.3]}


@pytest.fixture
def label_run(fake_run):
    """Turns a fake run into one of label sets, with a figure of each kind."""

    def write(metric="exact_match", dataset="multilabel_digits", tops=TOPS):
        folder = fake_run(tops, dataset=dataset)

        def rename(row):
            return {
                key.replace("top1", metric): value for key, value in row.items() if not key.endswith("_ece")
            }

        for place in folder.glob("arms/*/seed*"):
            rows = [rename(json.loads(line)) for line in (place / "metrics.jsonl").read_text().splitlines()]
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            result = json.loads((place / "result.json").read_text())
            result["initial"] = rename(result["initial"])
            for when in ("last", "best"):
                figures = rename(result[when])
                others = {
                    f"test_{key}": 50.0 + at for at, key in enumerate(MULTILABEL) if key != "map_marginal"
                }
                others |= {"test_map_tail": 31.5, "test_exact_match_m2": 61.25}
                others |= {"test_exact_match_by_threshold": 71.0}
                if "etf" in str(place):
                    others |= {"test_exact_match_by_posterior": 72.5}
                result[when] = {**others, **figures}
            (place / "result.json").write_text(json.dumps(result))
        return folder

    return write


@pytest.mark.parametrize(
    ("metric", "dataset", "name"),
    [("exact_match", "multilabel_digits", "exact match"), ("map", "multilabel_npz", "mAP")],
)
def test_everything_speaks_of_the_primary_metric(label_run, metric, dataset, name):
    folder = label_run(metric, dataset)
    write_report(folder)
    summary = summarize(folder)
    assert summary["primary"] == f"test_{metric}_best"
    assert score_of_summary(summary) == score_of_recipe({"dataset": dataset})
    assert f"% test {name})" in summary["verdict"]
    assert summary["target"][f"val_{metric}"] is not None
    assert len(summary["arms"]["etf_pal"][f"val_{metric}_by_epoch"]) == 13
    assert summary["arms"]["etf_pal"]["differences"][f"test_{metric}_best"]["mean"] == pytest.approx(
        3.1333, abs=1e-3
    )
    text = (folder / "report.md").read_text()
    for words in ("accuracy", "top1", "ECE"):
        assert words.lower() not in text.lower().replace("piece", "").replace("received", ""), words
    assert f"Validation {name} against epoch" in text
    assert "Decisions: each arm's threshold" in text
    table = format_table(summary)
    assert f"test {name} %" in table
    assert max(map(len, table.splitlines())) <= 100


def _cells(line):
    return [cell.strip() for cell in line.strip("| ").split("|")][1:]


def test_tables_hold_what_arms_have_and_no_empty_column(label_run):
    folder = label_run()
    write_report(folder)
    text = (folder / "report.md").read_text()
    section = text[text.index("## Label sets") :]
    section = section[: section.index("\n## ", 5)]
    headers = [line for line in section.splitlines() if line.startswith("| arm")]
    assert [_cells(line) for line in headers] == [
        [name for key, name in MULTILABEL.items() if key != "map_marginal"],
        ["mAP, tail"],
        ["2 labels"],
        ["one threshold", "posterior"],
    ]
    (row,) = [line for line in section.splitlines() if line.startswith("| bce") and "71.00" in line]
    assert _cells(row) == ["71.00 ± 0.00", "–"]


def test_one_class_an_image_has_no_such_section(fake_run):
    folder = fake_run(TOPS)
    write_report(folder)
    text = (folder / "report.md").read_text()
    assert "Label sets" not in text
    assert "Decisions:" not in text


def test_columns_of_the_tasks_do_not_mix():
    single, several = columns(TOP1), columns(score_of_recipe({"dataset": "multilabel_npz"}))
    assert "target_val_top1" in single
    assert "collapse_nc1" in single
    assert not any("exact_match" in name or "map" in name for name in single)
    assert not any("top1" in name or "ece" in name or "collapse_nc" in name for name in several)
    assert several.index("test_map_best") < several.index("test_exact_match_best")
    assert len(set(several)) == len(several)
