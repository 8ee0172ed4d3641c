"""Orthogonal class vectors: where the squared error ends, with the lengths that class counts give them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from etfhead.frames.coherence import Coherence, welch_bound
from etfhead.frames.counted import CountedFrame, geometric_decay
from etfhead.frames.imbalanced import of_sum_zero_part

__all__ = ["OrthogonalFrame"]


class OrthogonalFrame(CountedFrame):
    r"""General orthogonal frame for K <= d: orthogonal class vectors, longer for classes with more samples.

    .. math:: M M^\top \propto \mathrm{diag}\Bigl(\bigl[\sqrt{n_k} - N\sqrt{\lambda_W \lambda_H}\bigr]_+\Bigr)

    The optimum of the squared error of a linear layer without bias over free features, at any counts (Dang et
    al. 2023, arXiv 2301.00437; :func:`~etfhead.frames.imbalanced.orthogonal_geometry` has the features, too).
    Orthonormal for equal counts. Classes with :math:`n_k \le N^2 \lambda_W \lambda_H` get a zero vector. With
    ``bias`` it is the optimum for a layer with a bias of no decay, K <= d + 1,

    .. math:: M M^\top \propto \bigl[(\mathrm{diag}(n) - n n^\top / N)^{1/2} - N\sqrt{\lambda_W \lambda_H}\,I
              \bigr]_+,

    which is the simplex for equal counts and neither orthogonal nor equiangular else.

    Args:
        num_classes: K, from 2 to ``in_features``.
        in_features: d.
        class_counts: Training samples of each class, (K,) positive integers; None for equal counts.
        weight_decay: lambda_W of 1/(2N) ||W H - Y||^2 + lambda_W/2 ||W||^2 + lambda_H/2 ||H||^2.
        feature_decay: lambda_H there, for features of all N samples. Both 0 for the limit of small ones.
        bias: Whether the layer has a bias.
        basis: Directions: ``identity``, ``hadamard`` or ``haar``, as in
            :class:`~etfhead.frames.SimplexFrame`.
        seed: Seed of the basis; ``identity`` has none to use.

    Raises:
        ValueError: If K > d (d + 1 with ``bias``), counts or decays are out of range, decays are given
            without counts, or every class collapses.

    >>> frame = OrthogonalFrame(3, 3, class_counts=[81, 16, 1], basis="identity")
    >>> (frame.matrix().diagonal() ** 2 / frame.matrix()[2, 2] ** 2).round(decimals=12).tolist()
    [9.0, 4.0, 1.0]
    """

    name = "orthogonal"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        class_counts: Sequence[int] | Tensor | None = None,
        weight_decay: float = 0.0,
        feature_decay: float = 0.0,
        bias: bool = False,
        basis: str = "hadamard",
        seed: int = 0,
    ) -> None:
        if not isinstance(bias, bool):
            raise ValueError(f"bias={bias!r}: expected True or False")
        super().__init__(
            num_classes,
            in_features,
            class_counts=class_counts,
            spare_class=bias,
            needs="class vectors that sum to zero need" if bias else "orthogonal class vectors need",
            basis=basis,
            seed=seed,
        )
        self.weight_decay, self.feature_decay, self.bias = weight_decay, feature_decay, bias
        decay = geometric_decay(weight_decay, feature_decay)
        if decay and class_counts is None:
            raise ValueError(
                "class_counts: needed with weight_decay and feature_decay, for what a decay does depends on "
                "how many samples there are; give both or neither"
            )
        counts = self._counts
        total = counts.sum()
        threshold = total.item() * decay

        def strength(eigenvalues: Tensor) -> Tensor:
            return (eigenvalues.sqrt() - threshold).clamp(min=0.0)

        if not bias or self.balanced:
            size = self._set_lengths(strength(counts), centred=bias)
        else:
            spread = counts.diag() - counts.outer(counts / total)
            (root,) = of_sum_zero_part(spread, lambda x: strength(x).sqrt())
            size = self._set_root(root)
        if decay:
            self.optimal_scale = size * math.sqrt(math.sqrt(feature_decay / weight_decay))

    def coherence(self) -> Coherence:
        """Exactly 0 without a bias; measured with one."""
        if self.bias:
            return super().coherence()
        return Coherence(0.0, 0.0, welch_bound(self.num_classes, self.in_features))

    def _options(self) -> dict[str, Any]:
        return {
            **super()._options(),
            "weight_decay": self.weight_decay,
            "feature_decay": self.feature_decay,
            "bias": self.bias,
        }
