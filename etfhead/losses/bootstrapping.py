"""Bootstrapping: labels mixed with what the network says itself."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from etfhead.losses._class_sums import class_sums
from etfhead.losses._class_terms import Best, Entropy
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate

__all__ = ["BootstrappingLoss", "bootstrapping"]

Mode = Literal["soft", "hard"]
_SHARES = {"soft": 0.95, "hard": 0.8}


def bootstrapping(
    logits: Tensor,
    target: Tensor,
    *,
    mode: Mode = "hard",
    beta: float | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy to a mixture of the label and the prediction.

    .. math:: \ell = -\sum_k \bigl(\beta\,e_y + (1 - \beta)\,t\bigr)_k \log p_k, \qquad
              t = p \ \text{(soft)}, \quad t = e_{\arg\max p} \ \text{(hard)}

    Reed et al., "Training deep neural networks on noisy labels with bootstrapping" (ICLR 2015 workshop, arXiv
    1412.6596). Soft is cross-entropy with the prediction's entropy as a regulariser: the gradient goes
    through t as well.

    Published: beta = 0.95 (soft), 0.8 (hard).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K).
        mode: ``"soft"`` or ``"hard"``.
        beta: The label's share, in [0, 1]; None takes the published one.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> import torch
    >>> bootstrapping(torch.tensor([[2.0, 0.0]]), torch.tensor([1]), beta=0.0)  # the prediction is right
    tensor(0.1269)
    """
    return evaluate(
        lambda x, y: _per_sample(x, y, mode=mode, beta=beta),
        logits,
        target,
        reduction,
        own_softmax=mode == "soft",
    )


def _per_sample(log_p: Tensor, target: Tensor, *, mode: str, beta: float | None) -> Tensor:
    if mode not in _SHARES:
        raise ValueError(f"mode={mode!r}: expected 'soft' or 'hard'")
    share = _SHARES[mode] if beta is None else beta
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"beta={beta!r}: expected a number in [0, 1], or None")
    label, own = class_sums(log_p, target, Entropy() if mode == "soft" else Best())
    return -share * label - (1.0 - share) * own


class BootstrappingLoss(LabelLoss):
    """Module form of :func:`bootstrapping`.

    Args:
        mode: ``"soft"`` or ``"hard"``.
        beta: The label's share, in [0, 1]; None takes the published 0.95 (soft) or 0.8 (hard).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> import torch
    >>> BootstrappingLoss(mode="soft")(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.6931)
    """

    _per_sample = staticmethod(_per_sample)

    @property
    def _own_softmax(self) -> bool:
        return bool(self.mode == "soft")

    def __init__(
        self, *, mode: Mode = "hard", beta: float | None = None, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, mode=mode, beta=beta)
