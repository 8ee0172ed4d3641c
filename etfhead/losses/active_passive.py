"""Active-passive loss: the sum of one that learns and one that tolerates."""

from __future__ import annotations

from torch import Tensor, nn

from etfhead.losses._label_loss import LabelLoss, Reduction, check_not_negative, evaluate
from etfhead.losses.normalized_cross_entropy import NormalizedCrossEntropyLoss
from etfhead.losses.symmetric_cross_entropy import ReverseCrossEntropyLoss

__all__ = ["ActivePassiveLoss", "active_passive"]


def active_passive(
    logits: Tensor,
    target: Tensor,
    *,
    active: LabelLoss | None = None,
    passive: LabelLoss | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A weighed sum of two losses, from one softmax.

    .. math:: \ell = \alpha\,\ell_{\text{active}} + \beta\,\ell_{\text{passive}}

    Ma et al., "Normalized loss functions for deep learning with noisy labels" (ICML 2020, arXiv 2006.13554).
    An active loss raises the label's probability, a passive one lowers the others'; if both are symmetric the
    sum is.

    Published: (alpha, beta) = (1, 1) for CIFAR-10, (10, 0.1) for CIFAR-100, (1, 10) for MNIST, with NCE or
    NFL and reverse cross-entropy (or mean absolute error).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K).
        active: A loss of this package that works on probabilities; None takes
            :class:`~etfhead.losses.NormalizedCrossEntropyLoss`. Its reduction is not used.
        passive: Likewise; None takes :class:`~etfhead.losses.ReverseCrossEntropyLoss`.
        alpha: Weight of the active loss, at least 0.
        beta: Weight of the passive loss, at least 0.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> from etfhead.losses import MeanAbsoluteErrorLoss
    >>> active_passive(torch.zeros(1, 4), torch.tensor([0]), passive=MeanAbsoluteErrorLoss())
    tensor(1.7500)
    """
    first, second = _parts(active, passive)
    return evaluate(
        lambda x, y: _sum(x, y, first=first, second=second, alpha=alpha, beta=beta),
        logits,
        target,
        reduction,
    )


def _parts(active: nn.Module | None, passive: nn.Module | None) -> tuple[LabelLoss, LabelLoss]:
    first = NormalizedCrossEntropyLoss() if active is None else active
    second = ReverseCrossEntropyLoss() if passive is None else passive
    for name, loss in (("active", first), ("passive", second)):
        if not isinstance(loss, LabelLoss) or not loss._log_space:
            raise ValueError(
                f"{name}: expected a loss of this package that works on probabilities, such as "
                f"MeanAbsoluteErrorLoss(), got {type(loss).__name__}"
            )
    return first, second  # type: ignore[return-value]


def _sum(
    log_p: Tensor, target: Tensor, *, first: LabelLoss, second: LabelLoss, alpha: float, beta: float
) -> Tensor:
    check_not_negative(alpha=alpha, beta=beta)
    return alpha * first.per_sample(log_p, target) + beta * second.per_sample(log_p, target)


class ActivePassiveLoss(LabelLoss):
    """Module form of :func:`active_passive`.

    Args:
        active: A loss of this package that works on probabilities; None takes
            :class:`~etfhead.losses.NormalizedCrossEntropyLoss`.
        passive: Likewise; None takes :class:`~etfhead.losses.ReverseCrossEntropyLoss`.
        alpha: Weight of the active loss.
        beta: Weight of the passive loss.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``; those of the two losses are not used.

    >>> import torch
    >>> ActivePassiveLoss(alpha=10.0, beta=0.1)(torch.zeros(1, 4), torch.tensor([0])).item()
    3.190...
    """

    def __init__(
        self,
        active: LabelLoss | None = None,
        passive: LabelLoss | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 1.0,
        reduction: Reduction = "mean",
    ) -> None:
        nn.Module.__init__(self)
        self.active, self.passive = _parts(active, passive)
        self.alpha, self.beta, self.reduction = alpha, beta, reduction
        self._names = ("alpha", "beta")
        self._try()

    def per_sample(self, x: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) from log-probabilities and checked targets."""
        return _sum(x, target, first=self.active, second=self.passive, alpha=self.alpha, beta=self.beta)
