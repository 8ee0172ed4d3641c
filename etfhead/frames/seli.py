"""Class vectors of the simplex-encoded-labels interpolation, the end of cross-entropy at vanishing decay."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from etfhead.frames.counted import CountedFrame
from etfhead.frames.imbalanced import of_sum_zero_part

__all__ = ["SeliFrame"]


class SeliFrame(CountedFrame):
    r"""SELI for K <= d + 1: closer together where classes are rare, in the direction cross-entropy tends to.

    .. math:: M M^\top \propto (C D C)^{1/2}, \qquad C = I - \tfrac1K 1 1^\top,\ D = \mathrm{diag}(n_k)

    Class vectors of the support vector machine over free signed features (Thrampoulidis et al. 2022, arXiv
    2208.05512; :func:`~etfhead.frames.imbalanced.seli_geometry` has the features, too), to which
    cross-entropy without bias comes only like one over the logarithm of its decay. The simplex for equal
    counts; only the ratios of the counts matter. No fast path unless they are equal: K d numbers, and an
    eigenvalue problem of size K.

    Args:
        num_classes: K, from 2 to ``in_features`` + 1.
        in_features: d.
        class_counts: Training samples of each class, (K,) positive integers.
        basis: Directions: ``identity``, ``hadamard`` or ``haar``, as in
            :class:`~etfhead.frames.SimplexFrame`.
        seed: Seed of the basis; ``identity`` has none to use.

    Raises:
        ValueError: If K > d + 1 or the counts are out of range.

    >>> frame = SeliFrame(3, 2, class_counts=[100, 1, 1])
    >>> unit = frame.matrix() / frame.matrix().norm(dim=1, keepdim=True)
    >>> bool(unit[1] @ unit[2] > unit[0] @ unit[1])
    True
    """

    name = "seli"

    def __init__(
        self,
        num_classes: int,
        in_features: int,
        *,
        class_counts: Sequence[int] | Tensor,
        basis: str = "hadamard",
        seed: int = 0,
    ) -> None:
        super().__init__(
            num_classes,
            in_features,
            class_counts=class_counts,
            spare_class=True,
            needs="class vectors that sum to zero need",
            basis=basis,
            seed=seed,
        )
        if self.balanced:
            self.optimal_scale = self._set_lengths(self._counts.sqrt(), centred=True)
        else:
            (root,) = of_sum_zero_part(self._counts.diag(), lambda x: x.pow(0.25))
            self.optimal_scale = self._set_root(root)
