import pytest
import torch

from etfhead.frames import target_statistics, ufm_gram
from etfhead.heads.regression_weight import checked_energy, checked_statistics, regression_weight

D = 16


def moments(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, dtype=torch.float64, generator=generator)
    spread = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)[:n]
    return target_statistics(torch.randn(50, n, dtype=torch.float64, generator=generator) @ mix * spread + 5)


def power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("energy", ["auto", 2.5])
@pytest.mark.parametrize("whiten", [False, True])
def test_the_weight_is_the_closed_form(n, energy, whiten):
    given = moments(n)
    frame, weight = regression_weight(given, D, feature_energy=energy, whiten=whiten, seed=2)
    exponent = 0.5 if whiten else 0.25
    gain = power(given.covariance, 1 - 2 * exponent).trace() / (D if energy == "auto" else energy)
    expected = gain.sqrt() * power(given.covariance, exponent) @ frame.directions()
    torch.testing.assert_close(weight, expected)
    assert (frame.exponent, frame.seed) == (exponent, 2)


def test_the_gram_matrix_is_the_theorems():
    given = moments()
    sigma = given.covariance
    _, weight = regression_weight(given, D)
    gram = weight @ weight.T
    torch.testing.assert_close(gram @ gram / (gram @ gram).trace(), sigma / sigma.trace())
    _, explicit = regression_weight(given, D, weight_decay=0.02, feature_decay=0.03)
    expected = ufm_gram(sigma, weight_decay=0.02, feature_decay=0.03)
    torch.testing.assert_close(explicit @ explicit.T, expected)


def test_directions_without_variance_need_no_energy():
    both = torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="singular"):
        regression_weight(target_statistics(both), D)
    # Rounding may leave the second eigenvalue of [[1, 1], [1, 1]] above zero: tr of the root is sqrt(2).
    _, weight = regression_weight(target_statistics(both), D, feature_energy=2.0, allow_singular=True)
    assert weight.norm().item() ** 2 == pytest.approx(2**0.5 / 2 * 2**0.5, rel=1e-6)


def test_energies():
    assert checked_energy("auto", 7) == 7.0
    assert checked_energy(2, 7) == 2.0
    for bad in (0, -1.0, float("inf"), float("nan"), "big", None, True):
        with pytest.raises(ValueError, match="feature_energy="):
            checked_energy(bad, 7)


def test_statistics_are_those_of_the_targets_and_of_that_many():
    targets = torch.tensor([[1.0, 2.0], [3.0, -2.0], [5.0, 3.0]])
    found = checked_statistics(targets, 2)
    torch.testing.assert_close(found.mean, targets.double().mean(0))
    assert torch.equal(checked_statistics(found, 2).covariance, found.covariance)
    with pytest.raises(ValueError, match="expected 3 columns, as num_targets, got 2"):
        checked_statistics(targets, 3)
    with pytest.raises(ValueError, match="made from the training targets"):
        checked_statistics(None, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"whiten": True, "weight_decay": 0.1, "feature_decay": 0.1}, "no whitening"),
        ({"feature_energy": 2.0, "weight_decay": 0.1, "feature_decay": 0.1}, "leave it at 'auto'"),
        ({"weight_decay": 0.1}, "expected both or neither"),
        ({"weight_decay": 1e3, "feature_decay": 1e3}, "the best weight is then zero; lower them"),
        ({"allow_singular": 1}, "allow_singular=1"),
    ],
)
def test_options_that_contradict_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        regression_weight(moments(), D, **options)
