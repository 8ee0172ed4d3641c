"""Class vectors where cross-entropy over ReLU features ends on unequal classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from etfhead.frames.counted import CountedFrame, geometric_decay

__all__ = ["ImbalancedCEFrame"]


class ImbalancedCEFrame(CountedFrame):
    r"""Optimum of cross-entropy over non-negative features, for K <= d: centred orthogonal directions.

    .. math:: M \propto (I - \tfrac1K 1 1^\top)\, \mathrm{diag}\bigl(n_k^{1/4} M_k^{1/2}\bigr)\, U^\top,
              \qquad M_k = \Bigl[ \log \Bigl( (K-1) \Bigl[ \frac{\sqrt{n_k}}
              {N \sqrt{\frac{K-1}{K} \lambda_W \lambda_H}} - 1 \Bigr] \Bigr) \Bigr]_+

    with U the directions of the class means, which are orthogonal; M_k is the same for all classes in the
    limit of small decays (Dang et al. 2024, arXiv 2401.02058;
    :func:`~etfhead.frames.imbalanced.imbalanced_ce_geometry` has the features, too). The simplex for equal
    counts. Classes with :math:`n_k \le N^2 \lambda_W \lambda_H K / (K - 1)` have a zero mean, and class
    vectors that differ only by what the others leave them: all such classes share one. ReLU features fit
    ``basis="identity"``, whose directions are non-negative; another basis turns the frame.

    Args:
        num_classes: K, from 2 to ``in_features``.
        in_features: d.
        class_counts: Training samples of each class, (K,) positive integers.
        weight_decay: lambda_W of 1/N sum_i CE + lambda_W/2 ||W||^2 + lambda_H/2 ||H||^2.
        feature_decay: lambda_H there, for features of all N samples. Both 0 for the limit of small ones.
        basis: Directions: ``identity``, ``hadamard`` or ``haar``, as in
            :class:`~etfhead.frames.SimplexFrame`.
        seed: Seed of the basis; ``identity`` has none to use.

    Raises:
        ValueError: If K > d, counts or decays are out of range, or every class collapses.

    >>> frame = ImbalancedCEFrame(3, 4, class_counts=[100, 10, 10])
    >>> norms = frame.matrix().norm(dim=1)
    >>> bool(norms[0] > norms[1]), bool(frame.matrix().sum(0).norm() < 1e-12)
    (True, True)
    """

    name = "imbalanced_ce"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        class_counts: Sequence[int] | Tensor,
        weight_decay: float = 0.0,
        feature_decay: float = 0.0,
        basis: str = "hadamard",
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes,
            in_features,
            class_counts=class_counts,
            spare_class=False,
            needs="orthogonal class means need",
            basis=basis,
            seed=seed,
        )
        self.weight_decay, self.feature_decay = weight_decay, feature_decay
        K, counts = self.num_classes, self._counts
        squares, share = counts.sqrt(), (K - 1) / K
        if decay := geometric_decay(weight_decay, feature_decay):
            ratio = squares / (counts.sum().item() * decay * math.sqrt(share))
            squares = squares * ((K - 1) * (ratio - 1)).clamp(min=1.0).log()
        size = self._set_lengths(squares, centred=True)
        if decay:
            self.optimal_scale = size * math.sqrt(math.sqrt(feature_decay / weight_decay / share))

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "weight_decay": self.weight_decay, "feature_decay": self.feature_decay}
