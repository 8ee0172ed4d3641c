from __future__ import annotations

import numpy as np
import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data.regression_datasets import (
    RegressionEvalDataset,
    RegressionTrainDataset,
    TableFetch,
)
from etfhead.experiment.data.regression_embedded import (
    read_diabetes,
    read_linnerud,
    read_regression_synthetic,
)
from etfhead.experiment.data.target_scaling import column_statistics, fit_scaling
from etfhead.frames.target_moments import target_statistics


def test_scaling_is_scikit_learns_and_keeps_the_correlations():
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    targets = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 3)) * [1, 100, 1e-3] + [5, -1e4, 0]
    scaling = fit_scaling(targets, "abc")
    scaled = scaling.standardised(targets)
    assert np.allclose(scaled, StandardScaler().fit_transform(targets), atol=1e-10)
    expected = target_statistics(torch.from_numpy(scaled))
    assert torch.allclose(scaling.statistics.covariance, expected.covariance, atol=1e-10)
    assert torch.allclose(scaling.statistics.covariance.diagonal(), torch.ones(3, dtype=torch.float64))


def test_one_target_has_a_covariance_of_one_number():
    assert fit_scaling(np.arange(4.0)[:, None], ["a"]).statistics.covariance.tolist() == [[1.0]]


def test_constant_targets_are_named():
    with pytest.raises(DataError, match="1 of 2 targets are the same number in all 5 training samples: 'b'"):
        fit_scaling(np.stack([np.arange(5.0), np.full(5, 0.1)], axis=1), ["a", "b"])


def test_numbers_without_a_variance_are_named():
    huge = np.stack([np.arange(5.0), 1e200 * np.arange(5.0)], axis=1)
    with pytest.raises(DataError, match="target 'b': its numbers are so large that they have no variance"):
        fit_scaling(huge, ["a", "b"])
    with pytest.raises(DataError, match="column 1: its numbers are so large"):
        column_statistics(huge)


def test_constant_columns_become_zero():
    table = np.stack([np.arange(6.0), np.full(6, 0.1)], axis=1)
    mean, std = column_statistics(table)
    assert std[1] == 1.0
    assert np.allclose(
        (table - mean) / std, np.stack([(np.arange(6) - 2.5) / np.arange(6).std(), 0 * table[:, 1]], 1)
    )


def test_rows_become_images_of_one_pixel():
    table = np.arange(12.0).reshape(4, 3)
    fetch = TableFetch(table, np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0]))
    targets = np.arange(8.0).reshape(4, 2)
    train, plain = RegressionTrainDataset(fetch, targets), RegressionEvalDataset(fetch, targets)
    for image, target in (train[2, 99], plain[2], train.__getitems__([(2, 1)])[0]):
        assert image.shape == (3, 1, 1)
        assert image.flatten().tolist() == [6.0, 3.0, 1.5]
        assert target.dtype == torch.float32
        assert target.tolist() == [4.0, 5.0]
    assert len(train) == len(plain) == 4


@pytest.mark.parametrize(
    ("read", "columns", "targets"),
    [(read_linnerud, 3, 3), (read_diabetes, 10, 1), (lambda **kw: read_regression_synthetic(5, **kw), 5, 3)],
)
def test_embedded_sets_are_whole(read, columns, targets):
    parts, other = read(val_fraction=0.2), read(val_fraction=0.2, split_seed=3)
    for part in (parts.train, parts.val, parts.test):
        assert part.inputs.shape[1] == columns
        assert part.targets.shape[1] == targets == len(parts.target_names)
    assert np.array_equal(parts.test.targets, other.test.targets)
    assert not np.array_equal(parts.val.targets, other.val.targets)
    fit_scaling(parts.train.targets, parts.target_names)
