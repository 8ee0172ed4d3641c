"""Memorization and dilation in a report: figures, section and pictures of a run on noisy labels."""

import csv
import json

import numpy as np
import pytest

from etfhead.experiment.report.document import Heading, Table
from etfhead.experiment.report.features_plot import draw_features
from etfhead.experiment.report.memorization import (
    COMPARED,
    MEMORIZATION,
    MEMORIZATION_COLUMNS,
    last_memorization,
)
from etfhead.experiment.report.memorization_plot import draw_memorization
from etfhead.experiment.report.memorization_section import memorization
from etfhead.experiment.report.plot_style import png
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.setup_tables import data_table, settings_table
from etfhead.experiment.report.stats import paired_difference
from etfhead.experiment.report.summary import summarize, summarize_records
from etfhead.experiment.report.write import write_report


def value(arm, seed, epoch):
    return (2.0 if arm == "etf" else 3.0) + 0.1 * seed + 0.01 * epoch


@pytest.fixture
def noisy_run(fake_run):
    """Two arms, three seeds, twelve epochs, measured every fourth."""

    def write(tops=None, **options):
        folder = fake_run(tops or {"learnable": [80.0] * 3, "etf": [81.0] * 3}, **options)
        for place in folder.glob("arms/*/seed*"):
            arm, seed = place.parent.name, int(place.name.removeprefix("seed"))
            rows = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
            for row in rows:
                epoch = row["epoch"] + 1
                row["val_true_top1"] = row["val_top1"] + 5
                if epoch % 4 == 0:
                    row |= {f.key: value(arm, seed, epoch) for f in MEMORIZATION if f.key.startswith("md_")}
                    row["md_time"] = 0.25
            (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            if (place / "result.json").is_file():
                result = json.loads((place / "result.json").read_text())
                for when in ("best", "last"):
                    result[when] |= {"test_md_dilation": 7.0 + seed, "test_md_dilation_relative": 0.5}
                (place / "result.json").write_text(json.dumps(result))
        return folder

    return write


def test_the_last_measuring_and_the_test_set(noisy_run):
    records = read_run(noisy_run())
    row = last_memorization(records.runs["etf"][1])
    assert row.keys() == set(MEMORIZATION_COLUMNS)
    assert row["md_epoch"] == 12
    assert row["md_dilation"] == value("etf", 1, 12)
    assert row["md_time"] == pytest.approx(0.75)
    assert row["test_md_dilation_last"] == 8.0
    history = records.runs["etf"][1].history
    assert row["val_true_top1_last"] == history[-1]["val_true_top1"]
    best = max(history, key=lambda each: each["val_top1"])
    assert row["val_true_top1_best"] == best["val_true_top1"]


def test_an_unfinished_training_has_no_figures(noisy_run):
    records = read_run(noisy_run(unfinished={("etf", 1): 5, ("etf", 2): 0}))
    assert set(last_memorization(records.runs["etf"][1]).values()) == {None}
    summary = summarize_records(records)
    assert list(summary["arms"]["etf"]["figures"]["md_dilation"]["values"]) == [0]


def test_the_summary_has_figures_epochs_and_paired_differences(noisy_run):
    folder = noisy_run()
    summary = summarize(folder)
    entry = summary["arms"]["etf"]
    assert entry["figures"]["md_memorization_relative"]["mean"] == pytest.approx(2.1 + 0.12)
    assert [row["epoch"] for row in entry["memorization_by_epoch"]] == [4, 8, 12]
    assert entry["memorization_by_epoch"][0]["md_dilation"]["mean"] == pytest.approx(2.1 + 0.04)
    ours, theirs = (summary["arms"][arm]["figures"]["md_dilation"]["values"] for arm in ("etf", "learnable"))
    assert summary["memorization_differences"].keys() == {"etf"}
    pairs = summary["memorization_differences"]["etf"]
    assert pairs.keys() == set(COMPARED)
    assert pairs["md_dilation"]["mean"] == paired_difference(ours, theirs).mean == pytest.approx(-1.0)
    write_report(folder)
    with open(folder / "summary.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["md_dilation"]) == summary["runs"][0]["md_dilation"]
    assert (folder / "memorization.png").is_file()
    assert "Memorization and dilation" in (folder / "report.md").read_text()


def test_a_run_without_noise_has_none_of_it(fake_run):
    folder = fake_run({"learnable": [80.0] * 3, "etf": [81.0] * 3}, collapse=4)
    records = read_run(folder)
    summary = summarize_records(records)
    assert not any("md_" in key or "true" in key for key in summary["runs"][0])
    assert not any("md_" in key for key in summary["arms"]["etf"]["figures"])
    assert "memorization_differences" not in summary
    assert memorization(summary, []) == []
    assert draw_memorization(records, summary) is None
    assert draw_features(records, summary) is None


def test_the_section_shows_every_figure_and_the_accuracy_by_true_labels(noisy_run):
    summary = summarize(noisy_run())
    blocks = memorization(summary, [])
    assert blocks[0] == Heading("Memorization and dilation")
    last, differences, accuracy = (block for block in blocks if isinstance(block, Table))
    assert list(last.header) == ["arm", *(f"{f.name} (%)" if f.percent else f.name for f in MEMORIZATION)]
    assert [row[0] for row in last.rows] == ["learnable (baseline)", "etf"]
    assert len(last.rows[1]) == len(last.header)
    shown = dict(zip(last.header, last.rows[1], strict=True))
    assert shown["dilation (test)"] == "8.00 ± 1"
    assert shown["memorized (%)"] == "222.00 ± 10.00"  # of the made-up share 2.22
    assert [row[0] for row in differences.rows] == ["etf"]
    column = list(differences.header).index("dilation (validation)")
    assert differences.rows[0][column].startswith("−1.00")
    assert len(accuracy.rows) == 2


@pytest.mark.parametrize("arms", [2, 9])
def test_the_picture_of_few_and_of_many_arms(noisy_run, arms):
    folder = noisy_run({f"arm{i}": [80.0] * 2 for i in range(arms)})
    records = read_run(folder)
    figure = draw_memorization(records, summarize_records(records))
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert len(axes) == (2 if arms == 2 else arms - 1)
    if arms == 2:
        curves = [line for line in axes[0].get_lines() if len(line.get_xdata()) > 1]
        assert list(curves[0].get_xdata()) == [4, 8, 12]
    right = axes[1]
    way = right.get_lines()[0]
    assert list(way.get_ydata()) == pytest.approx([value("arm0", 0.5, epoch) for epoch in (4, 8, 12)])
    assert right.get_yscale() == "log"
    assert png(figure)[:4] == b"\x89PNG"


def leave_features(place, *, boundary=(1.0, 0.5, -0.2), seed=0):
    rng = np.random.default_rng(seed)
    true = np.repeat([0, 1], 20)
    observed = np.where(np.arange(40) % 5 == 0, 1 - true, true)
    np.savez(
        place / "features.npz",
        train=rng.normal(size=(40, 2)).astype(np.float32),
        observed=observed,
        true=true,
        test=rng.normal(size=(10, 2)).astype(np.float32),
        test_true=np.repeat([0, 1], 5),
        names=np.array(["feature 1", "feature 2"]),
        boundary=np.array(boundary),
    )


@pytest.mark.parametrize("boundary", [(1.0, 0.5, -0.2), (1.0, 0.0, -0.2), ()])
def test_the_picture_of_features_marks_wrong_labels(noisy_run, boundary):
    folder = noisy_run()
    for arm in ("learnable", "etf"):
        leave_features(folder / f"arms/{arm}/seed0", boundary=boundary)
    records = read_run(folder)
    figure = draw_features(records, summarize_records(records))
    axes = [axis for axis in figure.axes if axis.get_visible()]
    assert len(axes) == 4
    crosses = [line for line in axes[0].get_lines() if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 8
    dots = [line for line in axes[0].get_lines() if line.get_marker() == "."]
    assert sum(len(line.get_xdata()) for line in dots) == 32
    dashed = [line for line in axes[0].get_lines() if line.get_linestyle() == "--"]
    assert len(dashed) == bool(boundary)
    for line in dashed:
        a, b, c = boundary
        if b:
            assert np.abs(a * line.get_xdata() + b * line.get_ydata() + c).max() < 1e-9
        else:
            assert line.get_xdata() == pytest.approx([0.2, 0.2])
    assert png(figure)[:4] == b"\x89PNG"


def test_a_damaged_file_of_features_is_left_out(noisy_run):
    folder = noisy_run()
    leave_features(folder / "arms/etf/seed0")
    (folder / "arms/learnable/seed0/features.npz").write_bytes(b"PK broken")
    records = read_run(folder)
    figure = draw_features(records, summarize_records(records))
    assert sum(axis.get_visible() for axis in figure.axes) == 2


def test_noise_in_the_tables_of_setup_and_data():
    recipe = {
        "noise_kind": "symmetric",
        "noise_rate": 0.4,
        "noise_flips": {},
        "classes": [0, 1],
        "redraw": True,
    }
    rows = {row[0]: row[1] for row in settings_table(recipe, {}).rows}
    assert rows == {"classes": "0, 1", "noise_kind": "symmetric", "noise_rate": "0.4", "redraw": "yes"}
    data = {
        "label_noise": {"kind": "symmetric", "train_rate": 0.25},
        "label_transition": [[0.6, 0.4], [0.4, 0.6]],
        "draws": {"0": {}},
    }
    assert [row[0] for row in data_table(data).rows] == ["label_noise.kind", "label_noise.train_rate"]
