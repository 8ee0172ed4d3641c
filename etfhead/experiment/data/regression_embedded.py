"""Regression tables that need no file: scikit-learn's, and a generated one for smoke runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from etfhead.experiment.data.regression_parts import RegressionParts, Samples, draw_parts, make_parts
from etfhead.experiment.data.rng import hash_keys

__all__ = ["read_diabetes", "read_linnerud", "read_regression_synthetic"]

_COUNT, _TARGETS = 240, 3
_SALT = 20_261


def read_linnerud(*, val_fraction: float = 0.1, split_seed: int = 0) -> RegressionParts:
    """Weight, waist and pulse of 20 men from three exercises: far too few to conclude anything.

    Example:
        >>> parts = read_linnerud(val_fraction=0.2)
        >>> len(parts.train), len(parts.val), len(parts.test), parts.target_names
        (13, 3, 4, ('Weight', 'Waist', 'Pulse'))
    """
    from sklearn.datasets import load_linnerud

    note = "20 samples: the data show that collapse can be measured and say nothing about test errors"
    return _of_bunch(load_linnerud(), "load_linnerud", val_fraction, split_seed, (note,))


def read_diabetes(*, val_fraction: float = 0.1, split_seed: int = 0) -> RegressionParts:
    """Progression of diabetes after a year, one target, from ten measurements of 442 patients.

    Example:
        >>> parts = read_diabetes()
        >>> len(parts.train), len(parts.val), len(parts.test), parts.train.inputs.shape[1]
        (319, 35, 88, 10)
    """
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes(scaled=False)
    bunch["target_names"] = ["progression"]
    return _of_bunch(bunch, "load_diabetes", val_fraction, split_seed, ())


def read_regression_synthetic(
    columns: int, *, val_fraction: float = 0.1, split_seed: int = 0
) -> RegressionParts:
    """Three correlated targets of a table with so many columns, 240 rows.

    The numbers come from a hash, not from a generator, so they are the same on every machine.

    Args:
        columns: D.
        val_fraction: Share of what is not in the test split that validation takes.
        split_seed: Draws those.

    Example:
        >>> read_regression_synthetic(8).train.inputs.shape[1:]
        (8,)
    """
    uniform = hash_keys(np.arange(_COUNT * columns), _SALT).reshape(_COUNT, columns) / 2.0**63
    x = 2 * uniform - 1
    mixing = hash_keys(np.arange(columns * _TARGETS), _SALT, 1).reshape(columns, _TARGETS) / 2.0**62 - 1
    drive = x @ mixing
    y = np.stack([drive[:, 0], drive[:, 0] + drive[:, 1], np.sin(drive[:, 2]) - drive[:, 1]], axis=1)
    part = draw_parts(_COUNT, val_fraction, split_seed)
    return make_parts(Samples(x, y), part, [f"target {k}" for k in range(_TARGETS)], root="generated")


def _of_bunch(
    bunch: Any, name: str, val_fraction: float, split_seed: int, notes: tuple[str, ...]
) -> RegressionParts:
    targets = np.asarray(bunch["target"], dtype=np.float64).reshape(len(bunch["data"]), -1)
    samples = Samples(np.ascontiguousarray(bunch["data"], dtype=np.float64), targets)
    part = draw_parts(len(samples), val_fraction, split_seed)
    return make_parts(samples, part, bunch["target_names"], root=f"sklearn.datasets.{name}", notes=notes)
