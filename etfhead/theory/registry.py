"""Which theorems there are. Nothing here loads torch before one is run."""

from __future__ import annotations

import importlib
import math
import time
from typing import NamedTuple

from etfhead.theory.result import Theorem, TheoryResult

__all__ = ["THEOREMS", "run_theorem"]


class _Entry(NamedTuple):
    module: str
    summary: str


# A new theorem is one module with a `THEOREM`, and one line here.
THEOREMS: dict[str, _Entry] = {
    "multilabel": _Entry(
        "etfhead.theory.multilabel", "pick-all-label loss, balanced within each label count"
    ),
    "deep-linear": _Entry(
        "etfhead.theory.deep_linear", "squared error and cross-entropy behind several linear layers"
    ),
    "imbalanced-ce": _Entry(
        "etfhead.theory.imbalanced_ce", "cross-entropy with unequal classes: ReLU, signed, SELI"
    ),
    "regression": _Entry("etfhead.theory.regression", "squared error with decay, any covariance of targets"),
    "memorization-dilation": _Entry(
        "etfhead.theory.memorization_dilation", "wrong labels: label smoothing against cross-entropy"
    ),
}


def run_theorem(name: str, *, tolerance: float = 1e-5, seed: int = 0, progress: bool = False) -> TheoryResult:
    """Minimise every case of a theorem and compare with its closed form.

    Args:
        name: A key of `THEOREMS`.
        tolerance: Largest relative error that counts as equal.
        seed: Seed of the minimiser's starts.
        progress: Show a progress line on a terminal's stderr.

    Returns:
        TheoryResult: Its ``ok`` says whether every predicted figure was found.

    Raises:
        ValueError: If the name is not registered or the tolerance is not a positive finite number.

    >>> run_theorem("monolabel")
    Traceback (most recent call last):
    ValueError: theorem='monolabel': there is none of that name; choose from multilabel, ...
    """
    if name not in THEOREMS:
        raise ValueError(f"theorem={name!r}: there is none of that name; choose from {', '.join(THEOREMS)}")
    if not (0 < tolerance < math.inf):
        raise ValueError(f"tolerance={tolerance}: must be a positive finite number, such as 1e-5")
    from tqdm import tqdm

    theorem: Theorem = importlib.import_module(THEOREMS[name].module).THEOREM
    start = time.perf_counter()
    # disable=None: silent unless stderr is a terminal.
    shown = tqdm(theorem.cases, desc=name, unit="case", leave=False, disable=None if progress else True)
    cases = tuple(case.run(tolerance, seed) for case in shown)
    return TheoryResult(name, theorem, tolerance, seed, cases, time.perf_counter() - start)
