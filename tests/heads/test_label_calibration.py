"""Calibration against searches of every threshold and against the samples' own gaps."""

import math

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score

from etfhead.frames.tagwise import tagwise_gaps
from etfhead.heads.label_calibration import (
    best_class_thresholds,
    best_threshold,
    count_features,
    fit_counts,
    fit_gaps,
    fit_offsets,
)
from etfhead.heads.label_search import centred_logits


def samples(N, K, *, noise=1.0, seed=0, gaps=None, digits=None, most=None):
    """Noisy logits around the prototypes of label sets of 1 to ``most`` labels, and these."""
    generator = torch.Generator().manual_seed(seed)
    m = torch.randint(1, (most or K - 1) + 1, (N,), generator=generator)
    order = torch.rand(N, K, generator=generator).argsort(1).argsort(1)
    hot = order < m[:, None]
    gaps = tagwise_gaps(K, 100.0, range(1, K)) if gaps is None else gaps
    logits = gaps[m - 1][:, None] * hot + noise * torch.randn(N, K, generator=generator, dtype=torch.float64)
    return (logits if digits is None else logits.round(decimals=digits)), hot


def micro_f1(hot, chosen):
    return 2 * (hot & chosen).sum().item() / (hot.sum() + chosen.sum()).item()


def candidates(scores):
    """Every threshold that can make a difference."""
    values = scores.unique().tolist()
    return [values[0] - 1.0, *values]


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("seed", range(4))
def test_threshold_of_the_best_micro_f1_is_found(seed, digits):
    logits, hot = samples(60, 5, seed=seed, digits=digits)
    scores = centred_logits(logits)
    if digits:
        scores = scores.round(decimals=digits)  # equal scores that no threshold separates
    best = max(micro_f1(hot, scores > t) for t in candidates(scores))
    found = best_threshold(scores, hot)
    assert f1_score(hot, scores > found, average="micro") == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_threshold_of_the_best_exact_match_is_found(seed):
    logits, hot = samples(60, 4, seed=seed)
    hot[:3], hot[3:6] = False, True  # empty and full sets are matched too
    scores = centred_logits(logits)
    best = max(((scores > t) == hot).all(1).sum().item() for t in candidates(scores))
    found = best_threshold(scores, hot, "exact_match")
    assert ((scores > found) == hot).all(1).sum().item() == best


def test_exact_match_of_full_sets_alone_takes_everything():
    scores = torch.tensor([[1.0, 2.0], [0.5, 3.0]])
    assert best_threshold(scores, torch.ones(2, 2, dtype=torch.bool), "exact_match") < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_each_class_has_its_best_threshold(seed):
    logits, hot = samples(50, 5, seed=seed)
    hot[:, 3], hot[:, 4] = False, True
    scores = centred_logits(logits)
    found = best_class_thresholds(scores, hot, 0.25)
    assert found[3] == 0.25
    assert found[4] < scores[:, 4].min()
    for k in (0, 1, 2):
        best = max(micro_f1(hot[:, k], scores[:, k] > t) for t in candidates(scores[:, k]))
        assert f1_score(hot[:, k], scores[:, k] > found[k]) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("objective", ["micro_f1", "exact_match"])
def test_threshold_separates_neighbouring_floats(objective):
    low = torch.tensor(1.0)
    scores = torch.stack([torch.nextafter(low, torch.tensor(2.0)), low])[None]
    found = best_threshold(scores, torch.tensor([[True, False]]), objective)
    assert (scores > found).tolist() == [[True, False]]


def test_threshold_lies_in_the_middle_of_its_interval():
    scores = torch.tensor([[4.0, -1.0, -3.0], [2.0, 1.0, -3.0]])
    hot = torch.tensor([[True, False, False], [True, False, False]])
    assert best_threshold(scores, hot) == 1.5
    assert best_threshold(scores, hot, "exact_match") == 1.5


def test_gaps_are_least_squares():
    logits, hot = samples(300, 5, seed=1)
    gaps = fit_gaps(logits, hot)
    centred = centred_logits(logits)
    for m in range(1, 5):
        rows = hot.sum(1) == m
        design = (hot[rows].double() - m / 5).reshape(-1, 1)
        expected = torch.linalg.lstsq(design, centred[rows].reshape(-1, 1)).solution.item()
        assert gaps[m - 1].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("normalize", [False, True])
def test_missing_numbers_of_labels_follow_the_closed_form(normalize):
    curve = tagwise_gaps(8, 300.0, range(1, 8), normalize=normalize)
    logits, hot = samples(100, 8, noise=0.0, gaps=curve, most=2)
    torch.testing.assert_close(fit_gaps(logits, hot, normalize=normalize), curve, rtol=1e-6, atol=0)


def test_rare_numbers_of_labels_need_min_samples():
    curve = tagwise_gaps(5, 300.0, range(1, 5))
    logits, hot = samples(100, 5, noise=0.0, gaps=curve, most=2)
    odd = torch.tensor([[50.0, 50.0, 50.0, 0.0, 0.0]])
    logits, hot = torch.cat([logits, odd]), torch.cat([hot, odd > 0])
    assert fit_gaps(logits, hot, min_samples=1)[2] == 50.0
    torch.testing.assert_close(fit_gaps(logits, hot, min_samples=2), curve, rtol=1e-6, atol=0)
    # Where nothing occurs often enough, everything counts.
    assert fit_gaps(odd, odd > 0, min_samples=10)[2] == 50.0


def test_offsets_are_the_noise_times_the_log_prior_of_a_set():
    K, noise = 8, 0.9
    gaps = tagwise_gaps(K, 300.0, range(1, K))
    logits, hot = samples(20_000, K, noise=noise, gaps=gaps, most=4)
    offsets = fit_offsets(logits, hot, gaps)
    for m in (1, 2, 4):
        expected = 2 * noise**2 * math.log(0.25 / math.comb(K, m))
        assert offsets[m - 1].item() == pytest.approx(expected, rel=0.02)
    never = 2 * noise**2 * math.log(0.5 / 20_000 / math.comb(K, 6))
    assert offsets[5].item() == pytest.approx(never, rel=0.02)
    edge = torch.tensor([[False] * K, [True] * K])
    more = torch.cat([logits, 50 * torch.randn(2, K, dtype=torch.float64)])
    torch.testing.assert_close(fit_offsets(more, torch.cat([hot, edge]), gaps), offsets)


def test_empty_and_full_sets_do_not_touch_the_gaps():
    logits, hot = samples(50, 4)
    more = torch.cat([logits, 9 * torch.randn(2, 4, dtype=torch.float64)])
    edge = torch.tensor([[False] * 4, [True] * 4])
    torch.testing.assert_close(fit_gaps(more, torch.cat([hot, edge])), fit_gaps(logits, hot))


def test_count_model_beats_the_mean_on_new_samples_and_is_nearly_exact_at_collapse():
    K, most = 12, 4
    gaps = tagwise_gaps(K, 1000.0, range(1, K))
    for noise, least in ((0.0, 0.9999), (0.7, 0.95), (1.5, 0.35)):
        logits, hot = samples(2000, K, noise=noise, gaps=gaps, most=most)
        known = (fit_gaps(logits, hot), best_threshold(centred_logits(logits), hot))
        weights = fit_counts(count_features(logits, *known), hot.sum(1))
        fresh, truth = samples(2000, K, noise=noise, gaps=gaps, most=most, seed=1)
        m = truth.sum(1).double()
        error = (count_features(fresh, *known) @ weights[1:] + weights[0] - m).square().mean()
        assert 1 - error / m.var() > least


def test_count_model_is_ridge_regression_of_standardised_inputs():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5 + 2
    y = torch.arange(40) % 4
    reference = Ridge(alpha=1e-3 * 40).fit((x - x.mean(0)) / x.std(0, correction=0), y)
    expected = reference.predict((x - x.mean(0)) / x.std(0, correction=0))
    weights = fit_counts(x, y)
    assert (x @ weights[1:] + weights[0]).tolist() == pytest.approx(expected.tolist())
    still = torch.ones(4, 2, dtype=torch.float64)  # inputs that do not vary say nothing
    assert fit_counts(still, torch.tensor([1, 1, 2, 2])).tolist() == [1.5, 0.0, 0.0]


@pytest.mark.parametrize("m", [1, 2, 5])
def test_all_three_counts_count_labels(m):
    logits = torch.zeros(1, 20)
    logits[0, :m] = 50.0
    known = count_features(logits, torch.full((19,), 50.0), 20.0)
    assert known[0, :3].tolist() == pytest.approx([m] * 3, rel=1e-6)
    assert known.shape == (1, 3 + 16)
    assert known[0, 3:].tolist() == pytest.approx(sorted(centred_logits(logits)[0].tolist())[::-1][:16])


def test_bad_input():
    logits, hot = samples(20, 4)
    with pytest.raises(ValueError, match="no sample has a label"):
        best_threshold(logits, torch.zeros_like(hot))
    with pytest.raises(ValueError, match="objective='f2'"):
        best_threshold(logits, hot, "f2")
    with pytest.raises(ValueError, match="train the model first"):
        fit_gaps(-logits, hot)
