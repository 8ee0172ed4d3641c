"""Statistics of regression targets against NumPy, and what is refused."""

import numpy as np
import pytest
import torch

from etfhead.frames import TargetStatistics, target_statistics
from etfhead.frames.target_moments import check_independent, check_scales, inverse_root


def targets(samples=40, n=3, seed=0):
    return torch.randn(samples, n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_mean_and_covariance_are_numpys(offset):
    values = targets().double() + offset
    found = target_statistics(values)
    assert np.allclose(found.mean.numpy(), values.numpy().mean(0), rtol=1e-15)
    expected = np.cov(values.numpy() - offset, rowvar=False, ddof=0)
    assert np.allclose(found.covariance.numpy(), expected, rtol=1e-8)


def test_one_target_integers_and_statistics():
    single = target_statistics(torch.tensor([1, 2, 6]))
    assert (single.mean.tolist(), single.covariance.shape) == ([3.0], (1, 1))
    assert single.covariance.item() == pytest.approx(14 / 3)
    again = target_statistics(single)
    assert torch.equal(again.covariance, single.covariance)
    assert target_statistics(np.eye(3)).mean.tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([[1.0, float("nan")], [2.0, 1.0], [3.0, 4.0]]), "1 of 3 samples hold NaN"),
        (torch.tensor([[1.0, 5.0, 0.1], [2.0, 5.0, 0.1]]), r"\[1, 2\] of 3 are constant"),
        (torch.full((7,), 0.1), r"\[0\] of 1 are constant"),
        (torch.ones(1, 3), r"at least two samples, got \(1, 3\)"),
        (torch.ones(2, 3, 4), r"got \(2, 3, 4\)"),
        ("age", "got str"),
        (torch.tensor([[1.0], [3.0], [5.0]]).double() * 1e200, "up to 5e\\+200 have no variance in float64"),
        (TargetStatistics(torch.zeros(2), torch.eye(3)), r"targets.mean: expected shape \(3,\)"),
        (TargetStatistics(torch.zeros(2), torch.tensor([[1.0, 3.0], [3.0, 1.0]])), "targets.covariance"),
        (TargetStatistics(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0]))), r"\[1\] of 2 are constant"),
        (TargetStatistics(torch.tensor([torch.nan]), torch.eye(1)), "targets.mean: holds NaN"),
    ],
)
def test_bad_targets_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        target_statistics(values)


def test_dependent_targets_are_named_whatever_their_units():
    values = targets(n=4).double()
    values[:, 2] = 1e6 * (values[:, 0] - values[:, 3])
    with pytest.raises(ValueError, match=r"0\.\d+ t0 - 0\.\d+ t2 - 0\.\d+ t3 is constant"):
        check_independent(target_statistics(values).covariance)
    with pytest.raises(ValueError, match="more samples than targets"):
        check_independent(target_statistics(targets(4, 5)).covariance)


def test_unlike_units_are_not_dependence():
    check_independent(target_statistics(targets().double() * torch.tensor([1e-8, 1.0, 1e8])).covariance)


def test_of_many_dependent_targets_some_are_named():
    with pytest.raises(ValueError, match=r"(0\.\d+ t\d+ [-+] ){6}\.\.\. is constant"):
        check_independent(target_statistics(targets(6, 12)).covariance)


def test_the_inverse_root_whitens_and_its_pseudo_inverse_ignores_rounding():
    sigma = target_statistics(targets()).covariance
    root = inverse_root(sigma)
    torch.testing.assert_close(root @ sigma @ root, torch.eye(3).double())
    flat = torch.diag(torch.tensor([4.0, 1e-13])).double()
    assert inverse_root(flat, pseudo=True).tolist() == [[0.5, 0.0], [0.0, 0.0]]
    assert inverse_root(flat)[1, 1].item() == pytest.approx(10**6.5)


@pytest.mark.parametrize("pseudo", [False, True])
def test_scales_that_hide_targets_are_refused_and_others_are_not(pseudo):
    values = targets(200).double() @ targets(3, seed=1).double()
    for units in ([1.0, 1.0, 1.0], [100.0, 1.0, 0.1]):
        sigma = target_statistics(values * torch.tensor(units)).covariance
        check_scales(sigma, inverse_root(sigma, pseudo=pseudo))
    sigma = target_statistics(values * torch.tensor([1e9, 1.0, 1e-9]).double()).covariance
    with pytest.raises(ValueError, match="too unlike to tell the small ones from rounding; standardise"):
        check_scales(sigma, inverse_root(sigma, pseudo=pseudo))


def test_directions_without_variance_are_not_scales():
    values = targets(200).double()
    sigma = target_statistics(torch.cat([values, values[:, :1] + values[:, 1:2]], 1)).covariance
    check_scales(sigma, inverse_root(sigma, pseudo=True))
