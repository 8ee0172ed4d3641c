"""Dense frames whose class vectors come from data: the turned simplex, and softened class means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import Frame
from etfhead.frames.coherence import Coherence, welch_bound

__all__ = ["ClassMeansFrame", "OrientedSimplexFrame"]

_UNIT = 1e-6  # float32 rounding of a row moves its norm by less
_GRAM_ROWS = 1024


class ClassMeansFrame(Frame):
    """Unit class vectors from class means, for any K: :func:`class_means_code` computes them.

    Its state is the vectors themselves: ``make_frame(**frame.spec(), **frame.state())`` builds it again. The
    product with K d numbers is dense.

    Args:
        num_classes: K.
        in_features: d.
        vectors: (K, d) unit rows.

    Raises:
        ValueError: If the vectors have another shape, are not finite, or are not unit to 1e-6.

    >>> from etfhead.frames.orient import class_means_code
    >>> means = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    >>> frame = ClassMeansFrame(100, 8, vectors=class_means_code(means, 8))
    >>> frame.logits(torch.ones(2, 8)).shape
    torch.Size([2, 100])
    """

    name = "class_means"

    def __init__(self, num_classes: int, in_features: int, *, vectors: Tensor) -> None:
        super().__init__(num_classes, in_features)
        expected = (self.num_classes, self.in_features)
        if tuple(vectors.shape) != expected:
            raise ValueError(f"vectors: expected shape {expected}, got {tuple(vectors.shape)}")
        vectors = vectors.detach().to("cpu").to(torch.float64, copy=True).contiguous()
        norm = vectors.norm(dim=1)
        if not torch.isfinite(norm).all():
            bad = (~torch.isfinite(norm)).nonzero().flatten().tolist()
            raise ValueError(
                f"vectors: not all finite: {len(bad)} of {len(norm)} rows, the first is class {bad[0]}; "
                "expected unit rows. Look for broken samples or a trunk that diverged"
            )
        if (off := (norm - 1).abs().max().item()) > _UNIT:
            raise ValueError(f"vectors: expected unit rows, got norms up to {off:.2g} from 1; normalise them")
        self._vectors = vectors

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, CPU."""
        return self._vectors.clone()

    def state(self) -> dict[str, Tensor]:
        """``vectors``."""
        return {"vectors": self.matrix()}

    @property
    def max_norm(self) -> float:
        """Norm of every class vector."""
        return 1.0

    def spec(self) -> dict[str, Any]:
        """JSON-able description: the sizes; what comes from data is in :meth:`state`."""
        return super().spec()


class OrientedSimplexFrame(ClassMeansFrame):
    """A simplex ETF turned toward class means, for K <= d + 1: :func:`orient_simplex` computes it.

    Args:
        num_classes: K, at most ``in_features`` + 1.
        in_features: d.
        vectors: (K, d) unit rows with pairwise cosine -1/(K - 1).

    Raises:
        ValueError: If the vectors have another shape, are not finite, or are not a simplex ETF to 1e-6.

    >>> from etfhead.frames.orient import orient_simplex
    >>> means = torch.randn(10, 16, generator=torch.Generator().manual_seed(0))
    >>> OrientedSimplexFrame(10, 16, vectors=orient_simplex(means)).coherence().max_cosine
    -0.1111111111111111
    """

    name = "oriented_simplex"

    def __init__(self, num_classes: int, in_features: int, *, vectors: Tensor) -> None:
        super().__init__(num_classes, in_features, vectors=vectors)
        if self.num_classes > self.in_features + 1:
            raise ValueError(
                f"num_classes={num_classes} with in_features={in_features}: a simplex ETF needs "
                f"num_classes <= in_features + 1 = {self.in_features + 1}; use frame='class_means'"
            )
        off = 0.0
        for start in range(0, self.num_classes, _GRAM_ROWS):
            gram = self._vectors[start : start + _GRAM_ROWS] @ self._vectors.T
            rows = torch.arange(len(gram), device="cpu")
            gram[rows, rows + start] = self._cosine
            off = max(off, (gram - self._cosine).abs().max().item())
        if off > _UNIT:
            raise ValueError(
                f"vectors: pairwise cosines up to {off:.2g} from -1/(K - 1); expected a simplex ETF, as "
                "orient_simplex(vectors) makes of them"
            )

    @property
    def _cosine(self) -> float:
        return -1.0 / (self.num_classes - 1)

    def coherence(self) -> Coherence:
        """Exactly -1/(K - 1), the least that K vectors can reach."""
        return Coherence(self._cosine, -self._cosine, welch_bound(self.num_classes, self.in_features))
