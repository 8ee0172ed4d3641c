"""The imbalanced theorems: quick cases in full, and checks that fail when the prediction is wrong."""

import functools

import pytest
import torch

from etfhead.frames.imbalanced import seli_geometry
from etfhead.theory import imbalanced_ce, run_theorem
from etfhead.theory.imbalanced_ce import THEOREM
from etfhead.theory.imbalanced_ce_model import ImbalancedCEModel, support_vectors

CASES = {case.name: case for case in THEOREM.cases}
QUICK = [name for name in CASES if name.startswith(("ReLU  n=(5,2)", "SELI")) or "threshold of 2" in name]


@functools.cache
def solved(name):
    return CASES[name].run(1e-6, 1)


@pytest.mark.parametrize("name", QUICK)
def test_every_predicted_figure_is_found(name):
    assert solved(name).checks
    for check in solved(name).checks:
        assert check.ok, f"{check.what}: {check.predicted} predicted, {check.found} found"


def test_the_cases_span_what_they_must():
    names = " ".join(CASES)
    for word in ("ReLU", "0.9 x threshold of 2", "1.1 x threshold of 5", "SELI", "1e-07"):
        assert word in names
    collapsed = [
        model
        for model in imbalanced_ce._RELU
        if (imbalanced_ce.imbalanced_ce_geometry(
            model.class_counts, weight_decay=model.lambda_w, feature_decay=model.lambda_h
        ).mean_gram.diagonal() == 0).any()
    ]  # fmt: skip
    assert len(collapsed) == 1


def test_minorities_merge_above_their_threshold_and_not_below():
    below, above = (
        solved(next(name for name in QUICK if name.startswith(f"{x} x threshold of 2"))) for x in (0.9, 1.1)
    )
    spread = [{f.what: f.value for f in result.findings} for result in (below, above)]
    assert spread[0]["spread"] > 0.1
    assert spread[1]["spread"] < 1e-9
    assert spread[1]["|h| rarest / |h| most frequent"] > 0.1  # merged, but not zero


def test_the_support_vectors_are_feasible_and_tight():
    solution = support_vectors((3, 2, 1), 2, seed=1)
    logits = solution.features @ solution.weight.T
    labels = solution.model.labels
    gaps = logits.gather(1, labels[:, None]) - logits
    others = torch.ones_like(gaps, dtype=torch.bool).scatter(1, labels[:, None], False)
    torch.testing.assert_close(gaps[others], torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-7)
    assert solution.minimum.gradient < 1e-6
    assert solution.minimum.agreeing >= 1


def test_a_wrong_prediction_fails(monkeypatch):
    monkeypatch.setattr(imbalanced_ce, "seli_geometry", lambda counts: seli_geometry([4, 2, 1]))
    (name,) = [name for name in CASES if name.startswith("SELI  n=(3,2,1)")]
    failed = {check.what for check in CASES[name].run(1e-5, 0).checks if not check.ok}
    assert {"loss", "WW^T", "H^TH of class means"} <= failed
    assert "WH" not in failed  # the same for all counts


def test_non_negative_features_are_squares():
    model = ImbalancedCEModel((2, 1), 3, 0.1, 0.1, non_negative=True)
    variables = {"features": -torch.ones(3, 3), "weight": torch.zeros(2, 3)}
    assert (model.features(variables) == 1).all()
    assert model.loss(variables).item() == pytest.approx(0.1 / 2 * 9 + 0.6931472, rel=1e-6)


@pytest.mark.slow
def test_the_whole_theorem():
    assert run_theorem("imbalanced-ce", tolerance=1e-5, seed=3).ok
