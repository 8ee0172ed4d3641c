"""SOP: a sparse correction of each training label, learned beside the network."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import Reduction, classes_of, evaluate, expected
from etfhead.losses._sample_state import SampleLoss

__all__ = ["SparseOverparametrizationLoss", "sparse_overparametrization"]

_CLAMP = 1e-4


def sparse_overparametrization(
    logits: Tensor, target: Tensor, u: Tensor, v: Tensor, *, reduction: Reduction = "mean"
) -> Tensor:
    r"""Cross-entropy of a prediction with a label correction added, and the error of the corrected label.

    .. math:: s = u^2 e_y - v^2 (1 - e_y), \quad
              \ell = -\log \phi(p + s)_y + \lVert e_{\arg\max p} + s - e_y \rVert^2

    phi clamps at 1e-4 and divides by the sum. The first term trains the network and u, the second trains v,
    as in Liu et al., "Robust training under label noise by over-parameterization" (ICML 2022, arXiv
    2202.14026) and its code; the squares are kept below 1 - 1e-4.

    Args:
        logits: (B, K).
        target: Classes (B,).
        u: (B,), a number for each label.
        v: (B, K), a number for each class.
        reduction: ``"none"`` (B,), ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: If shapes or types do not fit.

    >>> u, v = torch.zeros(1), torch.zeros(1, 2)
    >>> sparse_overparametrization(torch.zeros(1, 2), torch.tensor([0]), u, v)  # cross-entropy, as p = e_y
    tensor(0.6931)
    """
    if u.shape != logits.shape[:1] or v.shape != logits.shape:
        raise ValueError(
            f"u, v: expected shapes {tuple(logits.shape[:1])} and {tuple(logits.shape)}, got "
            f"{tuple(u.shape)} and {tuple(v.shape)}"
        )
    return evaluate(lambda x, y: _per_sample(x, classes_of(y), u, v), logits, target, reduction)


def _per_sample(log_p: Tensor, target: Tensor, u: Tensor, v: Tensor) -> Tensor:
    label = nn.functional.one_hot(target, log_p.shape[1]).to(log_p.dtype)
    raised = (u.to(log_p).square()[:, None] * label).clamp(max=1.0 - _CLAMP)
    lowered = (v.to(log_p).square() * (1.0 - label)).clamp(max=1.0 - _CLAMP)
    corrected = (log_p.exp() + raised - lowered.detach()).clamp(min=_CLAMP)
    shares = (corrected / corrected.sum(1, keepdim=True)).clamp(min=_CLAMP)
    named = nn.functional.one_hot(log_p.argmax(1), log_p.shape[1]).to(log_p.dtype)
    error = named + raised.detach() - lowered - label
    return expected(lambda x: -x.log(), shares, target) + error.square().sum(1)


class SparseOverparametrizationLoss(SampleLoss):
    r"""Cross-entropy that learns, for each training sample, how far its label is wrong.

    .. math:: u_i \leftarrow u_i - \eta_u \frac{\partial}{\partial u_i} \tfrac1B \sum_j \ell_j, \qquad
              v_i \leftarrow v_i - \eta_v \frac{\partial}{\partial v_i} \tfrac1B \sum_j \ell_j

    after each loss in training mode, at the numbers the loss was taken with: what plain SGD on u and v does
    in the paper (Liu et al., ICML 2022, arXiv 2202.14026), without a second optimizer, and whatever the
    reduction, the loss scaler or gradient accumulation. See :func:`sparse_overparametrization`. Without an
    index, in evaluation mode, it is cross-entropy. SOP+ adds consistency and balance terms; they are not
    here.

    u and v are buffers of N (K + 1) numbers. With several processes: as for
    :class:`~etfhead.losses.EarlyLearningRegularizationLoss`, outside the wrapped module, and
    :meth:`~etfhead.losses._sample_state.SampleState.synchronize` after each epoch and before saving. B is
    then one process' batch.

    Args:
        num_samples: N, the size of the training set.
        num_classes: K.
        lr_u: Published: 10 for CIFAR-10; on CIFAR-100, 1 with symmetric and 0.1 with asymmetric noise.
        lr_v: Published: 10 for CIFAR-10; on CIFAR-100, 10 with symmetric and 100 with asymmetric noise.
        std: Standard deviation of the initial u and v, 1e-8: zero would never move.
        seed: Of those.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - logits: (B, K).
        - target: (B,) integer.
        - index: (B,), each sample's position in the training set.

    >>> loss = SparseOverparametrizationLoss(num_samples=100, num_classes=2)
    >>> loss(torch.zeros(2, 2), torch.tensor([0, 0]), torch.tensor([7, 99]))
    tensor(0.6931)
    """

    u: Tensor
    v: Tensor
    _rows = ("u", "v")
    _shown = ("num_samples", "lr_u", "lr_v", "reduction")

    def __init__(
        self,
        num_samples: int,
        num_classes: int,
        *,
        lr_u: float = 10.0,
        lr_v: float = 10.0,
        std: float = 1e-8,
        seed: int = 0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(num_samples, num_classes, reduction)
        for name, value in (("lr_u", lr_u), ("lr_v", lr_v), ("std", std)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name}={value!r}: expected a positive number")
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError(f"seed={seed!r}: expected an integer")
        self.lr_u, self.lr_v, self.std = lr_u, lr_v, std
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("u", (num_samples,)), ("v", (num_samples, num_classes))):
            start = std * torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
            self.register_buffer(name, start.to(self.touched.device, torch.float32))
        nothing = torch.zeros(1, 2)
        sparse_overparametrization(nothing, nothing[:, 0].long(), nothing[:, 0], nothing, reduction=reduction)

    def _losses(self, log_p: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        classes_of(target)
        u, v = self.u.index_select(0, rows), self.v.index_select(0, rows)
        losses = _per_sample(log_p, target, u, v)
        if self.training:
            self._step(log_p.detach(), target, rows, u, v)
        return losses

    def _step(self, log_p: Tensor, target: Tensor, rows: Tensor, u: Tensor, v: Tensor) -> None:
        with torch.enable_grad():
            u, v = u.detach().requires_grad_(), v.detach().requires_grad_()
            loss = _per_sample(log_p, target, u, v).mean()
        of_u, of_v = torch.autograd.grad(loss, (u, v))
        self.add_to_rows("u", rows, -self.lr_u * of_u, mean=False)
        self.add_to_rows("v", rows, -self.lr_v * of_v, mean=False)
