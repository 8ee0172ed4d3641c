"""Forward and backward correction by a known or estimated transition matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etfhead.losses._class_sums import class_sums
from etfhead.losses._class_terms import Mixed, Weighed
from etfhead.losses._label_loss import LabelLoss, Reduction, evaluate
from etfhead.losses.transition import checked_transition, transition_inverse

__all__ = [
    "BackwardCorrectionLoss",
    "ForwardCorrectionLoss",
    "backward_correction",
    "forward_correction",
]


def forward_correction(
    logits: Tensor, target: Tensor, transition: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy of the observed label under the noise: the prediction passes through it first.

    .. math:: \ell = -\log \sum_i p_i T_{iy}, \qquad T_{ij} = P(\text{observed } j \mid \text{true } i)

    Patrini et al., "Making deep neural networks robust to label noise: a loss correction approach" (CVPR
    2017, arXiv 1609.03683). With the right T the minimiser is that of the clean data; T = I is cross-entropy.
    A label that T says nobody gets, a column of zeros, has the loss infinity.

    Args:
        logits: (B, K) of the *true* classes.
        target: Observed classes (B,), or weights (B, K): the loss is linear in them.
        transition: T, (K, K), rows sum to 1.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit, or a row of T is no distribution.

    >>> T = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> forward_correction(torch.zeros(1, 2), torch.tensor([0]), T)  # -log(0.45 + 0.1)
    tensor(0.5978)
    """
    columns = checked_transition(transition).T
    return evaluate(lambda x, y: _forward(x, y, columns), logits, target, reduction, own_softmax=True)


def backward_correction(
    logits: Tensor, target: Tensor, transition: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy averaged over labels with the inverse of the noise: unbiased, and possibly negative.

    .. math:: \ell = -\sum_k (T^{-1})_{yk} \log p_k

    Patrini et al. (CVPR 2017, arXiv 1609.03683). Over the observed labels of a true class its mean is that
    class' cross-entropy. It has no lower bound and a large variance where T is nearly singular.

    Args:
        logits: (B, K) of the *true* classes.
        target: Observed classes (B,), or weights (B, K): the loss is linear in them.
        transition: T, (K, K), rows sum to 1; regular.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit, a row of T is no distribution, or T is singular.

    >>> T = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    >>> losses = [backward_correction(torch.tensor([[1.0, 0.0]]), torch.tensor([y]), T) for y in (0, 1)]
    >>> 0.9 * losses[0] + 0.1 * losses[1]  # as many of them as class 0 has
    tensor(0.3133)
    """
    inverse = transition_inverse(checked_transition(transition))
    return evaluate(lambda x, y: _backward(x, y, inverse), logits, target, reduction)


def _matched(matrix: Tensor, log_p: Tensor) -> Tensor:
    if len(matrix) != log_p.shape[1]:
        raise ValueError(
            f"transition: expected one row for each of the {log_p.shape[1]} classes, got {len(matrix)}"
        )
    return matrix.to(log_p)


def _forward(log_p: Tensor, target: Tensor, columns: Tensor) -> Tensor:
    columns = _matched(columns, log_p)
    if target.ndim == 1:
        if log_p.is_cuda or torch.compiler.is_compiling():  # nothing to wait for, and fast there
            return _of_logarithms(log_p, columns.index_select(0, target).log())
        _, observed = class_sums(log_p, target, Mixed(columns, target))
        lost = observed < _lost_below(observed)
        if not bool(lost.any()):
            return -observed.log()
        (rows,) = lost.nonzero(as_tuple=True)
        exact = torch.logsumexp(log_p[rows].log_softmax(1) + columns[target[rows]].log(), dim=1)
        return -observed.masked_fill(lost, 1.0).log().index_put((rows,), exact)
    with torch.autocast(log_p.device.type, enabled=False):
        mixed = log_p.exp() @ columns.T
    # A label without weight may be one that no class leads to: its logarithm is not taken. Where all classes
    # that lead to a label underflow, the sum is taken of logarithms.
    counts = target != 0
    lost = counts & (mixed < _lost_below(mixed))
    observed = mixed.masked_fill(lost | ~counts, 1.0).log()
    rows, labels = lost.nonzero(as_tuple=True)
    if len(rows):
        exact = torch.logsumexp(log_p[rows] + columns[labels].log(), dim=1)
        observed = observed.index_put((rows, labels), exact)
    return -(target * observed).sum(1)


def _of_logarithms(x: Tensor, log_columns: Tensor) -> Tensor:
    """Losses of classes from logits and the logarithms of their columns of T, (B, K)."""
    # With q = softmax(x + log T_y) the sum of p_i T_iy is p_j T_jy / q_j for every j; most digits has the
    # largest q_j.
    joint = x + log_columns
    best = joint.detach().argmax(1, keepdim=True)
    parts = torch.log_softmax(joint, 1).gather(1, best) - torch.log_softmax(x, 1).gather(1, best)
    weight = log_columns.gather(1, best)
    # A label that no class leads to has no q; its loss is -log 0.
    return (parts - weight).masked_fill(weight == -torch.inf, torch.inf)[:, 0]


def _lost_below(x: Tensor) -> float:
    """Sums of probabilities below this have lost digits to underflow."""
    return torch.finfo(x.dtype).tiny / torch.finfo(x.dtype).eps


def _backward(log_p: Tensor, target: Tensor, inverse: Tensor) -> Tensor:
    inverse = _matched(inverse, log_p)
    if target.ndim == 1:
        weights = inverse.index_select(0, target)
    else:
        with torch.autocast(log_p.device.type, enabled=False):
            weights = target @ inverse
        if weights.requires_grad:
            return -(weights * log_p).sum(1)
    return -class_sums(log_p, target, Weighed(weights))[1]


class _CorrectionLoss(LabelLoss):
    matrix: Tensor

    def __init__(self, transition: Tensor, *, reduction: Reduction = "mean") -> None:
        nn.Module.__init__(self)
        self.reduction = reduction
        self._names = ()
        self.register_buffer("matrix", self._prepared(checked_transition(transition)), persistent=False)
        evaluate(
            self.per_sample,
            torch.zeros(1, len(transition), device=transition.device),
            torch.zeros(1, dtype=torch.long, device=transition.device),
            reduction,
        )

    def _prepared(self, transition: Tensor) -> Tensor:
        raise NotImplementedError

    def per_sample(self, x: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) from log-probabilities and checked targets."""
        return type(self)._per_sample(x, target, self.matrix)

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return f"num_classes={len(self.matrix)}, reduction={self.reduction!r}"


class ForwardCorrectionLoss(_CorrectionLoss):
    """Module form of :func:`forward_correction`.

    Args:
        transition: T, (K, K), rows sum to 1; kept as a buffer that state dicts leave out.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> ForwardCorrectionLoss(torch.eye(3))(torch.zeros(1, 3), torch.tensor([0]))
    tensor(1.0986)
    """

    _per_sample = staticmethod(_forward)

    @property
    def _own_softmax(self) -> bool:
        return True

    def _prepared(self, transition: Tensor) -> Tensor:
        return transition.T.contiguous()  # labels pick columns


class BackwardCorrectionLoss(_CorrectionLoss):
    """Module form of :func:`backward_correction`.

    Args:
        transition: T, (K, K), rows sum to 1; inverted once, the inverse kept as a buffer that state dicts
            leave out.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    >>> BackwardCorrectionLoss(torch.eye(3))(torch.zeros(1, 3), torch.tensor([0]))
    tensor(1.0986)
    """

    _per_sample = staticmethod(_backward)

    def _prepared(self, transition: Tensor) -> Tensor:
        return transition_inverse(transition)
