"""Optimised class vectors: the softmax code, for few classes in a narrow feature space."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import Frame, checked_seed, checked_size
from etfhead.frames.fitted import ClassMeansFrame

__all__ = ["CodeFrame", "softmax_code"]

_MOST_CLASSES = 5000
_MOST_WORK = 2**30  # K^2 d, what each step multiplies three times: minutes on one core
_SHARPEST = 1000.0  # exp(1000 x) tells cosines apart that differ by 0.001
_STEPS, _STEP_SIZE, _DECAY = 1000, 0.3, (0.9, 0.99)


def _refuse_long_search(K: int, d: int) -> None:
    if K > _MOST_CLASSES or K * K * d > _MOST_WORK:
        raise ValueError(
            f"num_classes={K} with in_features={d}: an optimised code is for num_classes <= {_MOST_CLASSES} "
            f"and num_classes^2 in_features <= {_MOST_WORK}, beyond which it takes too long; "
            'take frame="union", which needs no optimisation, or "class_means" from data'
        )


def softmax_code(num_classes: int, in_features: int, *, seed: int = 0) -> Tensor:
    r"""K unit vectors in R^d whose largest cosine is about as small as can be found.

    .. math:: \min_{\lVert w_i \rVert = 1} \; \sum_i \frac1t
              \log \sum_{j \ne i} e^{t \langle w_i, w_j \rangle}, \qquad t = 1 \to 1000

    At large t the largest cosine of each vector is what counts: the softmax code of Jiang et al.,
    "Generalized neural collapse for a large number of classes", 2023, arXiv 2310.05351. Adam on the sphere
    (one second moment a vector, so that steps turn with the frame), from Gaussian vectors, t growing
    geometrically while the step falls to zero. A local optimum; float64 on the CPU.

    Args:
        num_classes: K, from 2 to 5000, with K^2 d <= 2^30.
        in_features: d.
        seed: Seed of the start.

    Returns:
        Tensor: (K, d) float64, unit rows.

    Raises:
        ValueError: If a size or the seed is out of range; if K or K^2 d is too large, what to use.

    >>> code = softmax_code(4, 3)
    >>> [round(cosine, 3) for cosine in (code @ code.T)[0, 1:].tolist()]
    [-0.333, -0.333, -0.333]
    """
    K, d = checked_size("num_classes", num_classes, 2), checked_size("in_features", in_features, 1)
    _refuse_long_search(K, d)
    generator = torch.Generator("cpu").manual_seed(checked_seed(seed))
    gaussian = torch.randn(K, d, generator=generator, dtype=torch.float64, device="cpu")
    vectors = torch.nn.functional.normalize(gaussian, dim=1)
    mean, square = torch.zeros_like(vectors), vectors.new_zeros(K, 1)

    def tangent(x: Tensor) -> Tensor:
        return x - (x * vectors).sum(1, keepdim=True) * vectors

    for step in range(1, _STEPS + 1):
        done = step / _STEPS
        gram = (_SHARPEST**done * vectors @ vectors.T).fill_diagonal_(-math.inf)
        near = torch.softmax(gram, dim=1)
        gradient = tangent((near + near.T) @ vectors)
        mean = tangent(torch.lerp(gradient, mean, _DECAY[0]))
        square = torch.lerp(gradient.square().mean(1, keepdim=True), square, _DECAY[1])
        rms = (square / (1 - _DECAY[1] ** step)).sqrt().clamp(min=1e-12)
        size = _STEP_SIZE * (1 - done) / math.sqrt(d) / (1 - _DECAY[0] ** step)
        vectors = torch.nn.functional.normalize(vectors - size * mean / rms, dim=1)
    return vectors


class CodeFrame(Frame):
    """Optimised unit class vectors for any small K: :func:`softmax_code`, dense, kept as state.

    The least largest cosine of all frames for d + 1 < K, but at the cost of an optimisation (seconds for
    K = 1000, d = 64) and of K d numbers; it runs once, when the vectors are first asked for. Two machines may
    find codes that differ in rounding or more: the vectors travel with a checkpoint.

    Args:
        num_classes: K, from 2 to 5000, with K^2 d <= 2^30.
        in_features: d.
        seed: Seed of the start.
        vectors: (K, d) unit rows found before, such as ``state()["vectors"]``; nothing is optimised then.

    Raises:
        ValueError: If K or K^2 d is too large, or the vectors have another shape or are not unit.

    >>> CodeFrame(12, 3).coherence().max_cosine  # the icosahedron: 1 / sqrt(5)
    0.447...
    """

    name = "code"

    def __init__(
        self, num_classes: int, in_features: int, *, seed: int = 0, vectors: Tensor | None = None
    ) -> None:
        super().__init__(num_classes, in_features)
        self.seed = checked_seed(seed)
        self._vectors: Tensor | None = None
        if vectors is None:
            _refuse_long_search(self.num_classes, self.in_features)
        else:
            self._vectors = ClassMeansFrame(self.num_classes, self.in_features, vectors=vectors).matrix()

    @property
    def free_of_data(self) -> bool:
        """False: the vectors come from an optimiser."""
        return False

    @property
    def max_norm(self) -> float:
        """1: the vectors have unit norm."""
        return 1.0

    def matrix(self) -> Tensor:
        """Class vectors as rows: (K, d), float64, unit norm; the first call finds them."""
        if self._vectors is None:
            self._vectors = softmax_code(self.num_classes, self.in_features, seed=self.seed)
        return self._vectors.clone()

    def state(self) -> dict[str, Tensor]:
        """``vectors``."""
        return {"vectors": self.matrix()}

    def spec(self) -> dict[str, Any]:
        """JSON-able description; the vectors themselves are in :meth:`state`."""
        return {**super().spec(), "seed": self.seed}
