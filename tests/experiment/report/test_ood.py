import csv
import json

import pytest

from etfhead.experiment.report import write_report
from etfhead.experiment.report.ood import OOD_COLUMNS, OOD_NAMES, ood
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize_records

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}
AUROC = {"linear": [80.0, 81.0, 82.0], "etf": [85.0, 85.5, 88.0]}


@pytest.fixture
def measured(fake_run):
    def write(problem=None, **options):
        folder = fake_run(TOPS, ood_dataset="digits", **options)
        for path in folder.glob("arms/*/seed*/result.json"):
            result = json.loads(path.read_text())
            for when in ("best", "last"):
                values = {
                    f"test_ood_auroc_{name}": AUROC[result["arm"]][result["seed"]] + at
                    for at, name in enumerate(OOD_NAMES)
                }
                if problem and result["arm"] == "etf":
                    del values["test_ood_auroc_neco"]
                    values["test_ood_problems"] = {"neco": problem}
                result[when] |= {"test_ood_images": 900, **values}
            path.write_text(json.dumps(result))
        return folder

    return write


def summary_of(folder):
    return summarize_records(read_run(folder))


def test_paired_differences_to_the_baseline(measured):
    summary = summary_of(measured())
    assert summary["ood"] == {"dataset": "digits", "images": 900, "problems": []}
    pair = summary["arms"]["etf"]["differences"]["test_ood_auroc_neco_best"]
    assert pair["values"] == {0: 5.0, 1: 4.5, 2: 6.0}
    assert pair["mean"] == pytest.approx(31 / 6)
    assert pair["low"] < pair["mean"] < pair["high"]
    assert summary["arms"]["etf"]["figures"]["test_ood_auroc_max_logit_best"]["mean"] == pytest.approx(
        258.5 / 3
    )


def test_the_section_shows_levels_and_differences(measured):
    heading, text, levels, _, pairs, bullets = ood(summary_of(measured()))
    assert heading.text == "Out-of-distribution images"
    assert "900 images of digits" in text.text
    assert levels.rows[0] == ["linear (baseline)", *(f"{81 + at:.2f} ± 1.00" for at in range(5))]
    assert pairs.rows[0][0] == "etf"
    assert pairs.rows[0][1].startswith("+5.17 (")
    assert len(bullets.items) == 3


def test_the_files_hold_the_figures(measured):
    folder = measured()
    write_report(folder)
    rows = list(csv.DictReader((folder / "summary.csv").open()))
    assert set(OOD_COLUMNS) <= rows[0].keys()
    assert float(rows[-1]["test_ood_auroc_nci_best"]) == 92.0
    assert json.loads((folder / "summary.json").read_text())["ood"]["images"] == 900
    assert "Out-of-distribution images" in (folder / "report.md").read_text()
    assert "NECO" in (folder / "report.html").read_text()


def test_a_missing_score_says_why_once(measured):
    folder = measured("features: all 9 training samples are <the same>")
    summary = summary_of(folder)
    assert summary["ood"]["problems"] == [
        "No NECO for etf, seed 0, best weights: features: all 9 training samples are <the same>."
    ]
    *_, pairs, bullets = ood(summary)
    assert pairs.rows[0][3] == "–"
    assert len(bullets.items) == 4
    write_report(folder)
    assert "<the same>" not in (folder / "report.html").read_text()


def test_unfinished_seeds_and_runs_without_outliers(measured, fake_run):
    summary = summary_of(measured(unfinished={("etf", 1): 3}))
    assert summary["arms"]["etf"]["differences"]["test_ood_auroc_nci_last"]["values"] == {0: 5.0, 2: 6.0}
    plain = summary_of(fake_run(TOPS, name="plain"))
    assert ood(plain) == []
    assert not set(OOD_COLUMNS) & plain["runs"][0].keys()
