"""Bi-tempered logistic loss: a bounded logarithm of a heavy-tailed softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.losses._complement import complement
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate
from etfhead.losses._tempered import power, snapped, tail_power, tempered_factors

__all__ = ["BiTemperedLoss", "bi_tempered", "tempered_log_softmax"]


def bi_tempered(
    logits: Tensor, target: Tensor, *, t1: float = 0.8, t2: float = 1.2, reduction: Reduction = "mean"
) -> Tensor:
    r"""Bregman divergence of the tempered logarithm between label and tempered softmax.

    .. math:: \ell = \sum_k y_k (\log_{t_1} y_k - \log_{t_1} p_k)
              - \frac{1}{2 - t_1} \sum_k (y_k^{2 - t_1} - p_k^{2 - t_1}), \quad
              \log_t x = \frac{x^{1 - t} - 1}{1 - t}

    with p of :func:`tempered_log_softmax`. Amid et al., "Robust bi-tempered logistic loss based on Bregman
    divergences" (NeurIPS 2019, arXiv 1906.03361). t1 < 1 bounds the loss (outliers far from the boundary),
    t2 > 1 gives the softmax heavy tails (labels wrong close to it); t1 = t2 = 1 is cross-entropy. The
    published code stops the normaliser after 5 fixed-point steps; here it is solved, and its gradient is
    exact.

    Published: chosen by data set, t1 between 0.2 and 1 and t2 between 1 and 4; (0.8, 1.2) is common.

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K) that sum to 1.
        t1: Of the logarithm, in [0, 1].
        t2: Of the softmax, at least 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> bi_tempered(torch.zeros(1, 2), torch.tensor([0]), t1=1.0, t2=1.0)
    tensor(0.6931)
    """
    return evaluate(lambda x, y: _per_sample(x, y, t1=t1, t2=t2), logits, target, reduction, log_space=False)


def tempered_log_softmax(logits: Tensor, t: float) -> Tensor:
    r"""Logarithm of the heavy-tailed softmax.

    .. math:: p_k = \exp_t(z_k - \lambda), \quad \exp_t x = [1 + (1 - t) x]^{1/(1 - t)}, \quad
              \sum_k p_k = 1

    The gradient is that of the implicit function; there is no second derivative.

    Args:
        logits: (B, K), float32 or wider.
        t: At least 1; 1 is log-softmax.

    Raises:
        ValueError: If t is below 1.

    >>> tempered_log_softmax(torch.tensor([[1.0, 0.0]]), 2.0).exp()  # 1 / (1 + lambda - z)
    tensor([[0.6180, 0.3820]])
    """
    _check_tail(t)
    if t == 1.0:
        return nn.functional.log_softmax(logits, dim=1)
    log_p: Tensor = _TemperedLogSoftmax.apply(logits, tail_power(t))
    return log_p


class _TemperedLogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, n: float) -> Tensor:
        factors = tempered_factors(logits, n)
        ctx.save_for_backward(factors)
        ctx.n = n
        return factors.log().mul_(-n)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        inverse = ctx.saved_tensors[0].reciprocal()
        # p^t / sum p^t is the derivative of lambda.
        escort = power(inverse, ctx.n).mul_(inverse)
        pull = inverse.mul_(gradient)
        return pull - escort * (pull.sum(1, keepdim=True) / escort.sum(1, keepdim=True)), None


class _LabelLosses(torch.autograd.Function):
    """Losses of classes with their gradient, for t2 > 1."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, t1: float, t2: float) -> Tensor:
        n, column = tail_power(t2), target[:, None]
        inverse = tempered_factors(logits, n).reciprocal_()
        log_p = n * inverse.gather(1, column).log()
        escort = power(inverse, n + 1.0)  # p^t2
        total = escort.sum(1, keepdim=True)
        own = torch.exp((t2 - t1) * log_p)
        if t1 == 1.0:
            powers, slope = torch.ones_like(total), escort.mul_(own / total)
        else:
            exponent = snapped(n * (1.0 - t1))
            bent = inverse if exponent == 1.0 else power(inverse, exponent)  # p^(1 - t1)
            product = escort * bent
            pulls = product.sum(1, keepdim=True)
            powers = total if exponent == 1.0 else product.div_(inverse).sum(1, keepdim=True)
            slope = bent.sub_((pulls - own) / total).mul_(escort)
        if logits.requires_grad:
            ctx.save_for_backward(slope.scatter_add_(1, column, -own))
        return ((powers - 1.0) / (2.0 - t1) - _log_of_exp(log_p, t1))[:, 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (slope,) = ctx.saved_tensors
        return slope * gradient[:, None], None, None, None


def _per_sample(logits: Tensor, target: Tensor, *, t1: float, t2: float) -> Tensor:
    if not 0.0 <= t1 <= 1.0:
        raise ValueError(f"t1={t1!r}: expected a number in [0, 1]")
    _check_tail(t2)
    if target.ndim == 1 and t2 > 1.0:
        losses: Tensor = _LabelLosses.apply(logits, target, t1, t2)
        return losses
    log_p = tempered_log_softmax(logits, t2)
    powers = torch.exp((2.0 - t1) * log_p).sum(1) / (2.0 - t1)
    if target.ndim == 1:
        own = log_p.gather(1, target[:, None])[:, 0]
        return powers - 1.0 / (2.0 - t1) - _log_of_exp(own, t1)
    log_y = torch.where(target > 0, target, 1.0).log()
    entropy = (target * _log_of_exp(log_y, t1)).sum(1) - target.pow(2.0 - t1).sum(1) / (2.0 - t1)
    return powers + entropy - (target * _log_of_exp(log_p, t1)).sum(1)


def _check_tail(t: float) -> None:
    if not 1.0 <= t < math.inf:
        raise ValueError(f"t2={t!r}: expected a number of at least 1")


def _log_of_exp(x: Tensor, t: float) -> Tensor:
    """Tempered logarithm of exp(x)."""
    return x if t == 1.0 else complement((1.0 - t) * x) / (t - 1.0)


class BiTemperedLoss(LabelLoss):
    """Module form of :func:`bi_tempered`.

    Args:
        t1: Temperature of the logarithm, in [0, 1].
        t2: Temperature of the softmax, at least 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> BiTemperedLoss()
    BiTemperedLoss(t1=0.8, t2=1.2, reduction='mean')
    """

    _per_sample = staticmethod(_per_sample)
    _log_space = False

    def __init__(self, *, t1: float = 0.8, t2: float = 1.2, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, t1=t1, t2=t2)
