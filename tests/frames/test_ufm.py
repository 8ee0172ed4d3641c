"""The Gram matrix of the last layer against the convex problem it solves, and against classification's."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from etfhead.frames import ufm_gram
from etfhead.frames.imbalanced import orthogonal_geometry
from etfhead.frames.ufm import checked_covariance, spectral_map

EXACT = {"dtype": torch.float64}


def covariance(n, seed=0):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), **EXACT)
    return root @ root.T / n


def profiled_loss(sigma, gram, weight_decay, feature_decay):
    """The loss after the best features of a given W: a ridge regression in closed form."""
    inverse = torch.linalg.inv(gram + feature_decay * torch.eye(len(gram), **EXACT))
    return (feature_decay * (sigma @ inverse).trace() + weight_decay * gram.trace()) / 2


@pytest.mark.parametrize(("weight_decay", "feature_decay"), [(0.01, 0.02), (0.5, 0.4), (2.0, 0.05)])
def test_no_other_gram_matrix_costs_less(weight_decay, feature_decay):
    sigma = covariance(4)
    best = ufm_gram(sigma, weight_decay=weight_decay, feature_decay=feature_decay)
    root = spectral_map(best, torch.sqrt).requires_grad_()
    lowest = profiled_loss(sigma, root @ root.T, weight_decay, feature_decay)
    (gradient,) = torch.autograd.grad(lowest, root)
    assert gradient.abs().max() < 1e-7
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 0.1, 1.0):
        for _ in range(50):
            other = root.detach() + size * torch.randn(4, 4, generator=generator, **EXACT)
            assert profiled_loss(sigma, other @ other.T, weight_decay, feature_decay) > lowest


def test_it_is_the_square_root_less_a_threshold():
    sigma = covariance(3)
    gram = ufm_gram(sigma, weight_decay=0.01, feature_decay=0.04)
    root = torch.from_numpy(scipy.linalg.sqrtm(sigma.numpy()).real)
    torch.testing.assert_close(gram, 2 * (root - 0.02 * torch.eye(3, **EXACT)))


def test_directions_below_the_threshold_vanish_in_any_basis():
    turn = torch.linalg.qr(covariance(3, seed=2)).Q
    sigma = turn @ torch.diag(torch.tensor([4.0, 1.0, 0.04], **EXACT)) @ turn.T
    gram = ufm_gram(sigma, weight_decay=0.5, feature_decay=0.5)
    torch.testing.assert_close(gram, turn @ torch.diag(torch.tensor([1.5, 0.5, 0.0], **EXACT)) @ turn.T)
    assert not ufm_gram(sigma, weight_decay=2.0, feature_decay=2.1).any()


def test_few_features_keep_the_largest_directions():
    sigma = torch.diag(torch.tensor([1.0, 9.0, 4.0], **EXACT))
    gram = ufm_gram(sigma, weight_decay=0.1, feature_decay=0.1, in_features=2)
    torch.testing.assert_close(gram, torch.diag(torch.tensor([0.0, 2.9, 1.9], **EXACT)))
    full = ufm_gram(sigma, weight_decay=0.1, feature_decay=0.1)
    assert torch.equal(ufm_gram(sigma, weight_decay=0.1, feature_decay=0.1, in_features=7), full)


@pytest.mark.parametrize("counts", [[60, 40, 25, 12, 3], [5, 5, 5]])
@pytest.mark.parametrize("bias", [True, False])
def test_one_hot_targets_are_the_theorem_of_classification(counts, bias):
    total = sum(counts)
    shares = torch.tensor(counts, **EXACT) / total
    sigma = torch.diag(shares) - (torch.outer(shares, shares) if bias else 0)
    gram = ufm_gram(sigma, weight_decay=3e-3, feature_decay=total * 2e-3)
    expected = orthogonal_geometry(counts, weight_decay=3e-3, feature_decay=2e-3, bias=bias)
    torch.testing.assert_close(gram, expected.weight_gram, rtol=1e-12, atol=1e-12)


def test_float32_rounding_and_gradients_are_taken_off():
    sigma = covariance(3).float().requires_grad_()
    gram = ufm_gram(sigma, weight_decay=1, feature_decay=1e-4)
    assert gram.dtype == torch.float64
    assert not gram.requires_grad


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.ones(3), r"shape \(n, n\), got shape \(3,\)"),
        ([[1.0]], "got list"),
        (torch.ones(2, 3), r"shape \(2, 2\), got shape \(2, 3\)"),
        (torch.tensor([[1.0, 0.5], [0.2, 1.0]]), "symmetric"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "eigenvalue -1"),
        (torch.tensor([[math.nan]]), "NaN"),
    ],
)
def test_what_is_no_covariance_is_refused(matrix, message):
    with pytest.raises(ValueError, match=f"covariance: .*{message}"):
        ufm_gram(matrix, weight_decay=0.1, feature_decay=0.1)


def test_bad_sizes_and_decays_are_refused():
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="weight_decay=0"):
        ufm_gram(eye, weight_decay=0, feature_decay=0.1)
    with pytest.raises(ValueError, match="feature_decay=nan"):
        ufm_gram(eye, weight_decay=0.1, feature_decay=math.nan)
    with pytest.raises(ValueError, match="in_features=0"):
        ufm_gram(eye, weight_decay=0.1, feature_decay=0.1, in_features=0)
    with pytest.raises(ValueError, match=r"x: .*shape \(3, 3\)"):
        checked_covariance("x", eye, 3)


def test_a_spectral_map_is_that_of_scipy():
    sigma = covariance(4)
    inverse = spectral_map(sigma, torch.rsqrt)
    assert np.allclose(inverse.numpy(), scipy.linalg.fractional_matrix_power(sigma.numpy(), -0.5))
