"""Early-learning regularisation: stay with what was predicted before labels were memorised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import Reduction, check_not_negative, evaluate, expected
from etfhead.losses._sample_state import SampleLoss, times_drawn

__all__ = ["EarlyLearningRegularizationLoss", "early_learning_regularization"]

_CLAMP = 1e-4


def early_learning_regularization(
    logits: Tensor, target: Tensor, memory: Tensor, *, strength: float = 3.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy with a pull toward the running mean of a sample's own predictions.

    .. math:: \ell = -\log p_y + \lambda \log\bigl(1 - \langle p, t \rangle\bigr)

    Liu et al., "Early-learning regularization prevents memorization of noisy labels" (NeurIPS 2020, arXiv
    2007.00151). p is clamped to [1e-4, 1 - 1e-4] in the second term, as in the paper's code, and t is a
    constant.

    Published: lambda = 3 with momentum 0.7 (CIFAR-10, symmetric noise), 1 with 0.9 (CIFAR-10, asymmetric),
    7 with 0.9 (CIFAR-100).

    Args:
        logits: (B, K).
        target: Classes (B,), or class weights (B, K).
        memory: t, running means of the samples' predictions, (B, K), rows with sum at most 1.
        strength: lambda, at least 0.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes, types or options do not fit.

    >>> early_learning_regularization(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([[0.0, 1.0]]))
    tensor(-1.3863)
    """
    if memory.shape != logits.shape:
        raise ValueError(f"memory: expected shape {tuple(logits.shape)}, got {tuple(memory.shape)}")
    check_not_negative(strength=strength)
    return evaluate(
        lambda x, y: _per_sample(x, _clamped(x), y, memory.detach(), strength), logits, target, reduction
    )


def _clamped(log_p: Tensor) -> Tensor:
    # In place of clamp, whose derivative is slow on a CPU.
    return nn.functional.hardtanh(log_p.exp(), _CLAMP, 1.0 - _CLAMP)


def _per_sample(log_p: Tensor, p: Tensor, target: Tensor, memory: Tensor, strength: float) -> Tensor:
    agreement = (p * memory.to(p)).sum(1)
    return expected(torch.neg, log_p, target) + strength * torch.log1p(-agreement)


class EarlyLearningRegularizationLoss(SampleLoss):
    r"""Cross-entropy, and a memory of each training sample's predictions to stay with.

    .. math:: t_i \leftarrow \beta\,t_i + (1 - \beta) \frac{p_i}{\sum_k p_{ik}}

    before each loss in training mode (Liu et al., NeurIPS 2020, arXiv 2007.00151); see
    :func:`early_learning_regularization`. Without an index, in evaluation mode, it is cross-entropy.

    The memory is a buffer of N K numbers, 2 MB for 50,000 samples of 10 classes. Keep the loss outside the
    module that DistributedDataParallel wraps, which would overwrite it with the first process's, and call
    :meth:`~etfhead.losses._sample_state.SampleState.synchronize` after each epoch and before saving.

    Args:
        num_samples: N, the size of the training set.
        num_classes: K.
        strength: lambda, at least 0: 3 published for CIFAR-10 (1 with asymmetric noise), 7 for CIFAR-100.
        momentum: beta in [0, 1): 0.7 for CIFAR-10 with symmetric noise, 0.9 else.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer, or (B, K) float.
        - index: (B,), each sample's position in the training set.

    >>> loss = EarlyLearningRegularizationLoss(num_samples=100, num_classes=2)
    >>> value = loss(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([7, 99]))
    >>> loss.memory[7]
    tensor([0.1500, 0.1500])
    """

    memory: Tensor
    _rows = ("memory",)
    _shown = ("num_samples", "strength", "momentum", "reduction")

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        *,
        strength: float = 3.0,
        momentum: float = 0.7,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_samples, num_classes, reduction)
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum!r}: expected a number in [0, 1)")
        self.strength, self.momentum = strength, momentum
        self.register_buffer("memory", torch.zeros(num_samples, num_classes))
        nothing = torch.zeros(1, 2)
        early_learning_regularization(
            nothing, nothing[:, 0].long(), nothing, strength=strength, reduction=reduction
        )

    def _losses(self, x: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        p = _clamped(x)
        if self.training:  # predictions enter the memory before the loss is taken
            self._remember(p.detach(), rows)
        return _per_sample(x, p, target, self.memory.index_select(0, rows), self.strength)

    def _remember(self, p: Tensor, rows: Tensor) -> None:
        # Of a sample drawn twice the mean of both changes.
        share = (1.0 - self.momentum) / times_drawn(rows)[:, None]
        change = self.memory.index_select(0, rows).to(p).mul_(-share)
        self.add_to_rows("memory", rows, change.addcmul_(p, share / p.sum(1, keepdim=True)))
