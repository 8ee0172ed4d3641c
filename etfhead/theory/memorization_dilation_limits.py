r"""Closed forms of the memorization-dilation model for vanishing noise, and where nothing is memorised.

With p = ||h_n||, s the gain of w_1 - w_2 = s (1, -1) and g = s p the clean logit gap, sigma the logistic
function. The model is symmetric and its h_n orthogonal; everything else follows from the gradient being zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from etfhead.theory.memorization_dilation_model import DilationModel

__all__ = ["CleanPoint", "clean_point", "strong_coupling_rate", "vanishing_noise_rate"]


class CleanPoint(NamedTuple):
    """Norm p of the class features and gain s of the head; both 0 if the classes collapse."""

    norm: float
    gain: float

    @property
    def gap(self) -> float:
        """Logit of the label minus that of the other class."""
        return self.norm * self.gain


def clean_point(model: DilationModel, mixed: float = 0.0) -> CleanPoint:
    r"""Lowest point of both classes with a weight m, ``mixed``, of wrong labels at each class mean.

    .. math:: \sigma(-g) = \frac{m + \frac a2 (1 - m) + c}{1 + m}, \qquad
              c = \sqrt{2 (1 + m) \lambda_W \lambda_H} \ \text{or}\ 2 (1 + m) \lambda_H p / s

    with a learned and with a fixed head. Without wrong labels and decay g is ln(1 + 2(1 - a)/a), the gap that
    smoothed labels ask for.

    >>> round(clean_point(DilationModel(0.1, 0.1, lambda_h=1e-16)).gap, 3), round(math.log(19), 3)
    (2.944, 2.944)
    """
    smoothed = mixed + model.label_smoothing / 2 * (1 - mixed)
    decay = 2 * (1 + mixed) * model.lambda_h
    if smoothed >= (1 + mixed) / 2:
        return CleanPoint(0.0, 0.0)
    if model.lambda_w is None:
        from scipy.optimize import brentq
        from scipy.special import expit

        s = model.fixed_gain
        # Zero where the slope of the risk is; sigma is at most a half, which bounds p.
        p = brentq(
            lambda p: smoothed + decay * p / s - (1 + mixed) * expit(-s * p),
            0.0,
            s * (1 + mixed) / decay,
            xtol=1e-15,
            rtol=1e-14,
        )
        return CleanPoint(p, s)
    wrong = (smoothed + math.sqrt(decay * model.lambda_w)) / (1 + mixed)
    if wrong >= 0.5:
        return CleanPoint(0.0, 0.0)
    gap = math.log((1 - wrong) / wrong)
    # At equal decay of both factors: lambda_W s^2 = 2 (1 + mixed) lambda_H p^2.
    ratio = math.sqrt(decay / model.lambda_w)
    return CleanPoint(math.sqrt(gap / ratio), math.sqrt(gap * ratio))


def vanishing_noise_rate(model: DilationModel) -> float:
    r"""Limit of :math:`r / (\eta \|h_1 - h_2\|)` for eta to 0: :math:`\sqrt2\, p / C`.

    The few wrong labels are memorised in full, u_n = h_n, so that the dilation is the clean separation. Label
    smoothing lowers it at any a: the gap falls, and with a learned head the rate with its root.

    >>> cross_entropy, smoothed = (vanishing_noise_rate(DilationModel(0.0, a)) for a in (0.0, 0.1))
    >>> round(smoothed / cross_entropy, 4)
    0.6666
    """
    return math.sqrt(2) * clean_point(model).norm / model.coupling


def strong_coupling_rate(model: DilationModel) -> float:
    r"""Limit of :math:`r / (C \|h_1 - h_2\|)` for C to 0 at a separation that stays:

    .. math:: \frac{\|(A,\, A + 2 \lambda_H p)\|}{2 \sigma(g) \sigma(-g) s^2 p^2}, \qquad
              A = s (\sigma(g) - a/2)

    Almost nothing can be memorised: u_n is at h_n', and what it is moved by balances the pull of its label
    against the curvature of the clean loss. Label smoothing weakens the pull, but also the separation by
    which r is divided: either can win. With ``decay_dilation`` the curvature has 2 lambda_H more.
    """
    p, s = clean_point(model, mixed=model.noise)
    right = 1 / (1 + math.exp(-s * p))
    pull = s * (right - model.label_smoothing / 2)
    curvature = right * (1 - right) * s**2 + (2 * model.lambda_h if model.decay_dilation else 0.0)
    return math.hypot(pull, pull + 2 * model.lambda_h * p) / (2 * curvature * p**2)
