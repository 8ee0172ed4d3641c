"""Memorization and dilation: the model against loops, both solvers, the limits, and checks that can fail."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from etfhead.theory import memorization_dilation, run_theorem
from etfhead.theory.memorization_dilation import THEOREM
from etfhead.theory.memorization_dilation_full import FullProblem, solve_full
from etfhead.theory.memorization_dilation_limits import (
    clean_point,
    strong_coupling_rate,
    vanishing_noise_rate,
)
from etfhead.theory.memorization_dilation_model import DilationModel
from etfhead.theory.memorization_dilation_symmetric import solve_symmetric, symmetric_risk

CASES = {case.name: case for case in THEOREM.cases}
LEARNED = DilationModel(0.2, 0.1, lambda_h=0.01, lambda_w=0.02, coupling=2.0)
MODELS = [
    LEARNED,
    replace(LEARNED, sphere=True, decay_dilation=True),
    replace(LEARNED, lambda_w=None, scale=1.7),
    replace(LEARNED, lambda_w=None, label_smoothing=0.0, decay_dilation=True),
]


def drawn_point(model, seed=0):
    values = torch.randn(13, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values[:9] = values[:9].abs()
    return values[: FullProblem(model).size].numpy()


def naive_risk(model, x):
    """Loops over the definition, with torch's label smoothing and a Riemann sum over the plane of v."""
    h, u, r = x[:4].reshape(2, 2), x[4:8].reshape(2, 2), x[8]
    if model.lambda_w is None:
        W = model.scale / math.sqrt(2) * np.array([[1.0, -1.0], [-1.0, 1.0]])
    else:
        W = x[9:].reshape(2, 2)
    angles = np.arange(64) * 2 * np.pi / 64
    if model.sphere:
        radii, weights = np.array([r]), np.array([1.0])
    else:  # |v|^2 / r^2 is exponential in two dimensions
        radii = np.linspace(0, 7, 4001) * r
        weights = np.exp(-((radii / r) ** 2)) * radii
        weights /= weights.sum()

    def entropy(features, label):
        logits = torch.as_tensor(features @ W.T)
        labels = torch.full((len(logits),), label)
        return torch.nn.functional.cross_entropy(
            logits, labels, label_smoothing=model.label_smoothing, reduction="none"
        ).numpy()

    total = 0.0 if model.lambda_w is None else model.lambda_w * (W**2).sum()
    for label in range(2):
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        dilated = h[label] + (radii[:, None, None] * directions).reshape(-1, 2)
        total += np.repeat(weights / 64, 64) @ entropy(dilated, label) + model.lambda_h * h[label] @ h[label]
        total += model.lambda_h * r**2 if model.decay_dilation else 0.0
        noisy = entropy(u[label : label + 1], label)[0] + model.lambda_h * u[label] @ u[label]
        total += model.noise * noisy
    return total


@functools.cache
def solved(name):
    return CASES[name].run(1e-5, 1)


def name_of(text):
    (name,) = [name for name in CASES if name.startswith(text)]
    return name


@pytest.mark.parametrize("model", MODELS)
def test_the_risk_is_the_definition(model):
    for seed in range(3):
        x = drawn_point(model, seed)
        assert FullProblem(model).risk(x)[0] == pytest.approx(naive_risk(model, x), rel=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_slopes_are_those_of_differences(model):
    from scipy.optimize import approx_fprime

    problem, x = FullProblem(model), drawn_point(model)
    np.testing.assert_allclose(
        problem.risk(x)[1], approx_fprime(x, lambda y: problem.risk(y)[0], 1e-7), atol=1e-5
    )
    np.testing.assert_allclose(problem.slack_slopes(x), approx_fprime(x, problem.slack, 1e-7), atol=1e-5)


def test_the_constraint_pairs_a_noisy_sample_with_its_true_class():
    problem = FullProblem(LEARNED)
    x = np.array([3.0, 0, 0, 4, 0, 4, 1, 0, 0.5, 0, 0, 0, 0])  # u_1 is at h_2, u_2 two away from h_1
    np.testing.assert_allclose(problem.slack(x), [2 * 0.5, 2 * 0.5 - 0.2 * 2 * 5])


@pytest.mark.parametrize("model", MODELS)
def test_the_symmetric_risk_is_the_risk_of_mirror_images(model):
    p, a, b, s = 1.3, 0.9, 0.4, 1.1
    gain = model.fixed_gain if model.lambda_w is None else s
    r = model.noise * math.hypot(p - b, a) * math.sqrt(2) * p / model.coupling
    x = np.array([p, 0, 0, p, a, b, b, a, r, s / 2, -s / 2, -s / 2, s / 2])[: FullProblem(model).size]
    features = torch.tensor([p, a, b], dtype=torch.float64)
    found = symmetric_risk(model, features, torch.tensor(gain, dtype=torch.float64)).item()
    assert found == pytest.approx(FullProblem(model).risk(x)[0], rel=1e-12)
    np.testing.assert_allclose(FullProblem(model).slack(x), 0, atol=1e-12)


@pytest.mark.parametrize("model", MODELS)
def test_both_solvers_agree_and_nothing_is_unexplained(model):
    full, symmetric = solve_full(model, 0), solve_symmetric(model)
    assert full.minimum.gradient < 1e-6
    assert symmetric.minimum.gradient < 1e-12
    assert full.minimum.loss == pytest.approx(symmetric.minimum.loss, rel=1e-9)
    for figure in ("dilation", "memorization", "separation"):
        assert getattr(full, figure) == pytest.approx(getattr(symmetric, figure), rel=1e-5)
    assert full.asymmetry() < 1e-5
    # The constraint is tight: this is why the dilation is the memorization times eta / C.
    assert full.dilation == pytest.approx(model.noise * full.memorization / model.coupling, rel=1e-5)


def test_without_decay_the_clean_gap_is_what_smoothed_labels_ask_for():
    for head in (DilationModel(0.0, 0.1, 1e-14), DilationModel(0.0, 0.1, 1e-14, None, scale=3.0)):
        for a in (0.05, 0.1, 0.4):
            gap = clean_point(replace(head, label_smoothing=a)).gap
            assert gap == pytest.approx(math.log(1 + 2 * (1 - a) / a), rel=1e-6)


@pytest.mark.parametrize("mixed", [0.0, 0.2])
@pytest.mark.parametrize("model", [LEARNED, replace(LEARNED, lambda_w=None, scale=0.7)])
def test_the_clean_point_is_the_lowest_of_a_grid_around_it(model, mixed):
    point = clean_point(model, mixed)

    def risk(p, s):
        z = torch.tensor([[s * p, 0.0], [s * p, 0.0]], dtype=torch.float64)
        losses = torch.nn.functional.cross_entropy(
            z, torch.tensor([0, 1]), label_smoothing=model.label_smoothing, reduction="none"
        )
        decay = 2 * (1 + mixed) * model.lambda_h * p**2 + (model.lambda_w or 0.0) * s**2
        return 2 * (losses[0] + mixed * losses[1]).item() + decay

    lowest = risk(*point)
    for dp in (-1e-3, 1e-3):
        assert risk(point.norm + dp, point.gain) > lowest
        if model.lambda_w is not None:
            assert risk(point.norm, point.gain + dp) > lowest
            assert risk(point.norm + dp, point.gain - dp) > lowest
        assert risk(point.norm + dp, point.gain) - lowest < 1e-4


def test_classes_collapse_under_too_much_decay_or_smoothing():
    assert clean_point(DilationModel(0.0, 0.0, 0.5, 0.25)).gap == 0
    assert clean_point(DilationModel(0.0, 0.0, 0.5, 0.249)).gap > 0
    assert clean_point(DilationModel(0.0, 1.0, 1e-3, None)).norm == 0


@pytest.mark.parametrize("head", [DilationModel(0.0, 0.0), DilationModel(0.0, 0.0, lambda_w=None)])
def test_with_vanishing_noise_more_smoothing_dilates_less(head):
    rates = [vanishing_noise_rate(replace(head, label_smoothing=a)) for a in (0, 0.05, 0.1, 0.2, 0.4, 0.8)]
    assert rates == sorted(rates, reverse=True)
    assert len(set(rates)) == 6
    # Nearly all of it is there at a small rate.
    at_small_noise = solve_symmetric(replace(head, noise=1e-4, label_smoothing=0.1)).dilation / 1e-4
    assert at_small_noise == pytest.approx(rates[2], rel=1e-3)


@pytest.mark.parametrize(
    "model", [DilationModel(0.2, 0.2, 0.02, 0.01), DilationModel(0.1, 0.1, 0.01, None, decay_dilation=True)]
)
def test_the_limit_of_strong_coupling_is_neared_by_the_whole_problem(model):
    errors = [
        abs(solve_full(replace(model, coupling=c), 0).dilation / c / strong_coupling_rate(model) - 1)
        for c in (0.04, 0.02)
    ]
    assert errors[1] < 0.02
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize(
    "start",
    [
        "eta=0.4 a=0.2  fixed head scale=1 lh=0.001 C=5",
        "eta=0.05 a=0.1  learned head lw=0.001 lh=0.001 C=5",
        "eta to 0, rate = r / (eta |h_1 - h_2|): learned",
        "C to 0, rate = r / (C |h_1 - h_2|): fixed head, eta=0.2",
    ],
)
def test_every_predicted_figure_is_found(start):
    checks = solved(name_of(start)).checks
    assert checks
    for check in checks:
        assert check.ok, f"{check.what}: {check.predicted} predicted, {check.found} found"


def test_the_direction_is_checked_wherever_it_is_claimed():
    claimed = [name for name in CASES if "C=5" in name and "a=0  " not in name]
    assert len(claimed) == 24
    for name in (claimed[0], claimed[-1]):
        assert "dilates less than cross-entropy (1: yes)" in {check.what for check in solved(name).checks}


def test_a_dilation_above_cross_entropys_fails():
    fixed = DilationModel(0.2, 0.2, lambda_w=None, coupling=0.1)  # where it is above
    result = memorization_dilation._figures_case(fixed, True, 1e-5, 0)
    assert [check.what for check in result.checks if not check.ok] == [
        "dilates less than cross-entropy (1: yes)"
    ]
    ratio = {finding.what: finding.value for finding in result.findings}["of cross-entropy's"]
    assert 1.1 < ratio < 1.2
    closed = [strong_coupling_rate(replace(fixed, label_smoothing=a)) for a in (0.0, 0.2)]
    assert closed[1] / closed[0] == pytest.approx(1.138, abs=1e-3)


def test_a_wrong_limit_fails(monkeypatch):
    monkeypatch.setattr(
        memorization_dilation, "vanishing_noise_rate", lambda model: 1.001 * vanishing_noise_rate(model)
    )
    result = memorization_dilation._vanishing_noise_case(DilationModel(0.0, 0.0), 1e-5, 0)
    assert {check.what for check in result.checks if not check.ok} == {
        f"a={a}: rate" for a in ("0", "0.1", "0.2")
    }


def test_no_feasible_end_fails_instead_of_passing(monkeypatch):
    monkeypatch.setattr(FullProblem, "slack", lambda self, x: np.array([-1.0, -1.0]))
    found = solve_full(LEARNED, 0, starts=1)
    assert math.isnan(found.dilation)
    assert found.minimum.agreeing == 0


def test_the_output_says_that_it_is_a_reconstruction():
    assert "NOT quoted" in THEOREM.source
    assert "reconstruction" in THEOREM.notes[0]


@pytest.mark.slow
def test_the_whole_theorem():
    assert run_theorem("memorization-dilation", seed=3).ok
