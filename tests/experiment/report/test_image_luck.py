import json
import math

import numpy as np
import pytest

from etfhead.experiment.report.image_luck import image_luck, image_margin
from etfhead.experiment.report.summary import summarize
from etfhead.experiment.report.write import format_table, write_report

# +1.94 points on 240 images, with little spread over seeds: helped, by 4.7 images.
SMALL = {"linear": [77.0, 77.4, 77.9], "etf": [78.5, 79.5, 80.12]}


def _resize(folder, test):
    path = folder / "data.json"
    data = json.loads(path.read_text())
    data["sizes"]["test"] = test
    path.write_text(json.dumps(data))
    return folder


def _notes(folder):
    return [note for note in summarize(folder)["notes"] if "which images are in the test set" in note]


def _spread_over_test_sets(contender, baseline, images, draws=20_000):
    """Standard deviation, in points, of the difference over test sets; chances by kind of image and seed."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(contender.shape[0], size=(draws // 10, images))
    right = [
        (rng.random((*kinds.shape, chance.shape[1])) < chance[kinds]).mean(2)
        for chance in (contender, baseline)
    ]
    return 100 * (right[0] - right[1]).mean(1).std()


def test_independent_arms_of_one_seed_reach_the_bound():
    contender, baseline = np.array([[0.8]]), np.array([[0.7]])
    margin = image_margin(80.0, 70.0, 200)
    assert margin == pytest.approx(1.96 * 100 * math.sqrt((0.8 * 0.2 + 0.7 * 0.3) / 200), rel=1e-3)
    assert 1.96 * _spread_over_test_sets(contender, baseline, 200) == pytest.approx(margin, rel=0.06)


@pytest.mark.parametrize("seeds", [1, 3])
def test_images_that_are_hard_for_both_arms_stay_below_it(seeds):
    contender = np.array([[0.99] * seeds, [0.30] * seeds])
    baseline = np.array([[0.97] * seeds, [0.25] * seeds])
    margin = image_margin(100 * contender.mean(), 100 * baseline.mean(), 150)
    assert 1.96 * _spread_over_test_sets(contender, baseline, 150) < 0.9 * margin


def test_identities_of_the_bound():
    assert image_margin(90.0, 80.0, 400) == image_margin(80.0, 90.0, 400)
    assert image_margin(90.0, 80.0, 400) == pytest.approx(image_margin(10.0, 20.0, 400))
    assert image_margin(90.0, 80.0, 1600) == pytest.approx(image_margin(90.0, 80.0, 400) / 2)
    assert image_margin(100.0, 0.0, 7) == 0


def test_a_small_claim_of_few_images_is_noted_beside_the_verdict(fake_run):
    folder = _resize(fake_run(SMALL), 240)
    summary = summarize(folder)
    assert summary["arms"]["etf"]["verdict"]["outcome"] == "helped"
    margin = 1.96 * 100 * math.sqrt((0.77433 * 0.22567 + 0.79373 * 0.20627) / 240)
    note = (
        "240 test images: etf +1.94 points are 4.7 of them; other test images alone could move that by up to "
        f"±{margin:.1f} points (95 %), and the interval covers seeds, not which images are in the test set"
    )
    assert _notes(folder) == [note]
    assert f"Note: {note}." in " ".join(format_table(summary).split())
    write_report(folder)
    assert note in (folder / "report.md").read_text()


def test_several_claims_share_a_note(fake_run):
    folder = _resize(fake_run({**SMALL, "etf_bad": [75.5, 75.8, 76.5]}), 240)
    [note] = _notes(folder)
    assert note.startswith("240 test images: etf +1.94 points are 4.7 of them, etf_bad −1.50 points 3.6;")
    assert "could move these" in note
    assert "the intervals cover seeds" in note


@pytest.mark.parametrize("images", [10_000, None])
def test_a_claim_of_many_images_or_of_an_unknown_number_is_not_noted(fake_run, images):
    assert not _notes(_resize(fake_run(SMALL), images))


def test_nothing_is_noted_where_nothing_is_claimed(fake_run):
    assert not _notes(_resize(fake_run({"linear": [77.0, 77.4, 77.9], "etf": [77.1, 77.2, 78.0]}), 240))
    assert not _notes(_resize(fake_run({"linear": [77.0, 77.4], "etf": [79.0, 79.5]}, name="two"), 240))


@pytest.mark.parametrize(("primary", "notes"), [("exact_match", 1), ("map", 0), ("r2", 0)])
def test_only_shares_of_images_have_the_bound(fake_run, primary, notes):
    summary = summarize(_resize(fake_run(SMALL), 240))
    key = f"test_{primary}_best"
    for entry in summary["arms"].values():
        for table in ("figures", "differences"):
            if table in entry:
                entry[table][key] = entry[table][summary["primary"]]
    assert len(image_luck({**summary, "primary": key})) == notes
