"""The memorization-dilation model of two classes with wrong labels, and the figures of a solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from etfhead.theory.minimise import Minimum

__all__ = ["DilationModel", "DilationSolution"]

_NODES = 48


@dataclass(frozen=True)
class DilationModel:
    r"""Two classes of clean features around h_n and wrongly labelled features u_n, h and u >= 0 in the plane.

    .. math:: R = \sum_n \mathbb{E}_{v \sim \mu_r}\, \ell_a(W(h_n + v), n) + \lambda_W \|W\|_F^2
              + \lambda_H \sum_n \|h_n\|^2
              + \eta \sum_n \left[\ell_a(W u_n, n) + \lambda_H \|u_n\|^2\right]

    u_n carries the label n and is of the other class n'. A network of limited expressivity cannot move it
    from its class without dilating the clean features to a radius r:

    .. math:: \eta\, \|h_{n'} - u_n\| \le C\, \frac{r}{\|h_1 - h_2\|}

    The risk is a reconstruction of that of Nguyen et al. (ICLR 2023, arXiv 2206.05530), not a quotation.

    Args:
        noise: eta, the weight of wrongly labelled samples against clean ones; their share is eta/(1 + eta).
        label_smoothing: a; the label keeps 1 - a/2. 0 is cross-entropy.
        lambda_h: Weight of ||h||^2.
        lambda_w: Weight of ||W||^2; None for the fixed simplex W = scale (1, -1; -1, 1) / sqrt(2).
        coupling: C; the smaller, the less expressive the network.
        scale: Norm of a fixed class vector.
        sphere: v is uniform on the circle of radius r, else normal with E||v||^2 = r^2.
        decay_dilation: Decay E||h_n + v||^2 instead of ||h_n||^2.
    """

    noise: float
    label_smoothing: float
    lambda_h: float = 1e-3
    lambda_w: float | None = 1e-3
    coupling: float = 5.0
    scale: float = 1.0
    sphere: bool = False
    decay_dilation: bool = False

    @property
    def name(self) -> str:
        """Every number of it, in one line."""
        learned = self.lambda_w is not None
        head = f"learned head lw={self.lambda_w:g}" if learned else f"fixed head scale={self.scale:g}"
        extra = (", v on a circle" if self.sphere else "") + (", v decays" if self.decay_dilation else "")
        return (
            f"eta={self.noise:g} a={self.label_smoothing:g}  {head} lh={self.lambda_h:g} "
            f"C={self.coupling:g}{extra}"
        )

    @property
    def fixed_gain(self) -> float:
        """The number s in w_1 - w_2 = s (1, -1) of the fixed head."""
        return math.sqrt(2) * self.scale

    @cached_property
    def quadrature(self) -> tuple[Tensor, Tensor]:
        """Where v of radius 1 lies along a direction, and with which probability; (Q,), (Q,)."""
        import numpy as np

        if self.sphere:
            angles = (torch.arange(_NODES, dtype=torch.float64) + 0.5) * math.pi / _NODES
            return angles.cos(), torch.full_like(angles, 1 / _NODES)
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        return torch.from_numpy(nodes) / math.sqrt(2), torch.from_numpy(weights) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class DilationSolution:
    """A minimum with ``means`` h (2, 2), ``noisy`` u (2, 2) and ``dilation`` r, and its figures."""

    model: DilationModel
    minimum: Minimum

    @property
    def separation(self) -> float:
        """||h_1 - h_2||."""
        h = self.minimum.point["means"]
        return (h[0] - h[1]).norm().item()

    @property
    def dilation(self) -> float:
        """The radius r over ||h_1 - h_2||."""
        return self.minimum.point["dilation"].item() / self.separation

    @property
    def memorization(self) -> float:
        """Mean distance of a wrongly labelled feature from the mean of its true class."""
        h, u = self.minimum.point["means"], self.minimum.point["noisy"]
        return (h.flip(0) - u).norm(dim=1).mean().item()

    def asymmetry(self) -> float:
        """How far the classes are from mirror images, relative to the separation, or from orthogonal."""
        h, u = self.minimum.point["means"], self.minimum.point["noisy"]
        mirrored = max((h[0] - h[1].flip(0)).norm().item(), (u[0] - u[1].flip(0)).norm().item())
        cosine = torch.nn.functional.cosine_similarity(h[0], h[1], dim=0).abs().item()
        return max(mirrored / self.separation, cosine)
