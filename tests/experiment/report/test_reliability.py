import json
import random

import pytest

from etfhead.experiment.report.plots import draw, figures
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.reliability import pooled_bins, reliability
from etfhead.experiment.report.sections import build_report
from etfhead.experiment.report.summary import summarize_records

TOPS = {"linear": [96.8, 97.1, 97.4], "etf": [97.9, 98.0, 98.5]}


def bins(seed):
    rng = random.Random(seed)
    counts = [rng.choice([0, 0, 1, 5, 40]) for _ in range(14)] + [300]
    edges = [100 * (b + 0.5) / 15 for b in range(15)]
    confidence = [e if n else None for n, e in zip(counts, edges, strict=True)]
    accuracy = [100 * rng.random() if n else None for n in counts]
    return {"count": counts, "confidence": confidence, "accuracy": accuracy}


@pytest.fixture
def measured(fake_run):
    def write(tops=TOPS, change=lambda found: found, **options):
        folder = fake_run(tops, **options)
        for path in folder.glob("arms/*/seed*/result.json"):
            result = json.loads(path.read_text())
            for when in ("best", "last"):
                result[when]["test_reliability"] = change(bins(f"{path}{when}"[-40:]))
            path.write_text(json.dumps(result))
        return folder

    return write


def load(folder):
    records = read_run(folder)
    return records, summarize_records(records)


def test_pooled_over_seeds_as_if_all_images_were_one_set(measured):
    folder = measured()
    _, summary = load(folder)
    diagrams = [
        json.loads((folder / f"arms/etf/seed{s}/result.json").read_text())["best"]["test_reliability"]
        for s in range(3)
    ]
    found = summary["arms"]["etf"]["reliability"]["best"]
    for b in range(15):
        counts = [d["count"][b] for d in diagrams]
        assert found["count"][b] == sum(counts)
        if sum(counts):
            right = sum(n * d["accuracy"][b] for n, d in zip(counts, diagrams, strict=True) if n)
            assert found["accuracy"][b] == pytest.approx(right / sum(counts))
    gaps = summary["arms"]["etf"]["figures"]["test_overconfidence_best"]["values"]
    n, c, a = (diagrams[1][key] for key in ("count", "confidence", "accuracy"))
    whole = sum(n)
    expected = sum(k * (x - y) for k, x, y in zip(n, c, a, strict=True) if k) / whole
    assert gaps[1] == pytest.approx(expected)
    assert pooled_bins([]) is None


def test_the_picture_has_a_panel_and_its_counts_for_each_arm(measured):
    figure = figures(*load(measured()))["reliability.png"]
    visible = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") for axis in visible if axis.get_title(loc="left")] == [
        "linear (baseline)",
        "etf",
    ]
    lower = visible[-1]
    assert sum(bar.get_height() for bar in lower.patches) == pytest.approx(100)
    upper = visible[1]
    lines = upper.get_lines()[0]
    assert list(lines.get_xdata()) == list(lines.get_ydata()) == [0, 100]


@pytest.mark.parametrize("arms", [1, 7, 13])
def test_many_arms_are_drawn(measured, arms):
    tops = {f"etf{i}": [90.0, 91.0] for i in range(arms)}
    folder = measured(tops)
    figure = figures(*load(folder))["reliability.png"]
    assert sum(axis.get_visible() for axis in figure.axes) == 2 * arms


def test_the_section_says_what_it_shows(measured):
    records, summary = load(measured())
    pictures = draw(records, summary)
    text = str(build_report(records, summary, pictures))
    assert "Calibration" in text
    assert "reliability.png" in text
    heading, _, table, figure = reliability(summary, [object()])
    assert heading.text == "Calibration"
    assert [row[0] for row in table.rows] == ["linear (baseline)", "etf"]
    assert all(cell != "–" for row in table.rows for cell in row)
    assert figure is not None


def test_runs_without_it_show_nothing(fake_run):
    records, summary = load(fake_run(TOPS))
    assert reliability(summary, []) == []
    assert "reliability" not in summary["arms"]["etf"]
    assert "reliability.png" not in draw(records, summary)


@pytest.mark.parametrize(
    "damage",
    [
        lambda found: None,
        lambda found: [1, 2],
        lambda found: {"count": [1]},
        lambda found: {**found, "count": [0] * 15},
        lambda found: {**found, "count": ["<b>"] * 15},
        lambda found: {**found, "accuracy": [None] * 15},
        lambda found: {**found, "confidence": [float("nan")] * 15},
    ],
)
def test_what_is_no_diagram_is_left_out(measured, damage):
    _, summary = load(measured(change=damage))
    assert reliability(summary, []) == []


def test_one_arm_without_a_finished_seed_is_not_drawn(measured):
    folder = measured(unfinished={("etf", seed): 3 for seed in range(3)})
    records, summary = load(folder)
    figure = figures(records, summary)["reliability.png"]
    assert sum(axis.get_visible() for axis in figure.axes) == 2
    assert "–" in str(reliability(summary, []))
