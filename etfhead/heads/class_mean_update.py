"""The rule by which class vectors follow the features of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.heads.batch_sums import BatchSums

__all__ = ["class_mean_update"]


def class_mean_update(means: Tensor, sums: BatchSums, *, momentum: float, repel: float = 0.0) -> Tensor:
    r"""Running means of the classes in a batch, moved toward their features and away from others' features.

    .. math:: m_k \leftarrow m_k + (1 - \beta)\,\bigl[\min(1, n_k)\,(\bar x_k - m_k) - \rho\,\bar x^-_k\bigr]

    with :math:`\bar x_k` the mean of the :math:`n_k` features of class k in the batch and :math:`\bar x^-_k`
    the mean of the features that have k as their closest wrong class.

    Args:
        means: Running means m of ``sums.rows``, (u, d).
        sums: What the batch says about these classes.
        momentum: beta in [0, 1).
        repel: rho >= 0.

    Returns:
        Tensor: The new running means, (u, d); rows of weight 0 keep every bit.

    >>> from etfhead.heads.batch_sums import batch_sums
    >>> sums = batch_sums(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), 2)
    >>> class_mean_update(torch.zeros(2, 2), sums, momentum=0.8)
    tensor([[0.1000, 0.1000],
            [0.0000, 0.0000]])
    """
    tiny = torch.finfo(means.dtype).tiny
    share = (1.0 - momentum) * sums.pull_weight.clamp(max=1.0)
    moved = means.lerp(sums.pull / sums.pull_weight.clamp(min=tiny)[:, None], share[:, None])
    if repel and sums.push is not None and sums.push_weight is not None:
        count = sums.push_weight.clamp(min=1.0)[:, None]
        moved = moved.addcdiv_(sums.push, count, value=-(1.0 - momentum) * repel)
    return moved
