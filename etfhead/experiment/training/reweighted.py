"""Openly re-weighted losses: from some epoch on a sample counts by how rare its class is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from etfhead.losses import effective_number_weights

__all__ = ["ReweightedLoss", "begin_epoch"]


class ReweightedLoss(nn.Module):
    r"""A loss whose samples get the weight of their class from an epoch on; before, all count alike.

    .. math:: \frac{\sum_i w_{y_i} \ell_i}{\sum_i w_{y_i}}

    as torch does it, with w the effective-number weights (Cui et al. 2019, arXiv 1901.05555). Deferred to the
    last epochs it is the DRW of Cao et al. (NeurIPS 2019, arXiv 1906.07413). Which epoch it is comes from
    :func:`begin_epoch`, so there is nothing to checkpoint.

    Args:
        loss: With ``reduction="none"``.
        class_counts: Training images of each class, (K,).
        start: Share of the epochs that pass first, in [0, 1); 0 weighs from the first.
        beta: Of the weights.

    >>> import torch
    >>> loss = ReweightedLoss(nn.CrossEntropyLoss(reduction="none"), [3, 1], start=0.5, beta=1.0)
    >>> z, y = torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    >>> loss.begin_epoch(0, 2), round(loss(z, y).item(), 4)
    (None, 0.41)
    >>> loss.begin_epoch(1, 2), round(loss(z, y).item(), 4)
    (None, 0.5516)
    """

    weight: Tensor

    def __init__(
        self, loss: nn.Module, class_counts: Sequence[int], *, start: float, beta: float = 0.999
    ) -> None:
        super().__init__()
        self.loss, self.start, self.beta = loss, start, beta
        self.active = start == 0.0
        self.register_buffer("weight", effective_number_weights(class_counts, beta=beta), persistent=False)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Say that a 0-based epoch of so many begins."""
        self.active = epoch >= round(self.start * epochs, 9)  # 0.28 * 25 is a little more than 7

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        each = self.loss(logits, target)
        if not self.active:
            return each.mean()
        share = target.to(self.weight.dtype) @ self.weight if target.ndim == 2 else self.weight[target]
        return (share * each).sum() / share.sum()

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"start={self.start!r}, beta={self.beta!r}"


def begin_epoch(criterion: nn.Module, epoch: int, epochs: int) -> None:
    """Tell the losses that follow the epochs which one begins, 0-based; the others do not notice."""
    for module in criterion.modules():
        if isinstance(module, ReweightedLoss):
            module.begin_epoch(epoch, epochs)
