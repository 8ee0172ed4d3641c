"""SOP: a sparse correction of each training label, learned beside the network."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from etfhead.losses._label_loss import Reduction, classes_of, evaluate
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
    return evaluate(lambda x, y: _parts(x, classes_of(y), u, v).losses, logits, target, reduction)


class _Parts(NamedTuple):
    losses: Tensor
    lowered: Tensor  # (B, K), the rest (B, 1)
    own: Tensor
    total: Tensor
    share: Tensor
    named: Tensor
    missed: Tensor


def _parts(x: Tensor, target: Tensor, u: Tensor, v: Tensor) -> _Parts:
    """The losses and what else their derivatives are made of."""
    column = target[:, None]
    raised = u.to(x).square().clamp(max=1.0 - _CLAMP)[:, None]
    lowered = v.to(x).square().clamp(max=1.0 - _CLAMP).scatter(1, column, 0.0)
    corrected = torch.softmax(x, 1).scatter_add(1, column, raised) - lowered.detach()
    # Never above 2. In place of clamp, whose derivative is slow on a CPU.
    corrected = nn.functional.hardtanh(corrected, _CLAMP, 4.0)
    own, total = corrected.gather(1, column), corrected.sum(1, keepdim=True)
    share = own / total
    named = x.argmax(1, keepdim=True)
    missed = (named != column).to(x.dtype)
    error = (raised.detach() - missed).square() + lowered.square().sum(1, keepdim=True)
    error = error + missed * (1.0 - 2.0 * lowered.gather(1, named))
    losses = error - share.clamp(min=_CLAMP).log()
    return _Parts(losses[:, 0], lowered, own, total, share, named, missed)


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
    _own_softmax = True

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

    def _losses(self, x: Tensor, target: Tensor, rows: Tensor) -> Tensor:
        u, v = self.u.index_select(0, rows), self.v.index_select(0, rows)
        parts = _parts(x, classes_of(target), u, v)
        if self.training:
            self._step(parts, rows, u.to(x)[:, None], v.to(x))
        return parts.losses

    @torch.no_grad()
    def _step(self, parts: _Parts, rows: Tensor, u: Tensor, v: Tensor) -> None:
        # The derivatives written out, but for what is clamped.
        largest, size = 1.0 - _CLAMP, max(1, len(rows))
        free = (parts.own > _CLAMP) & (parts.share > _CLAMP) & (u.square() < largest)
        of_u = 2.0 * u * (1.0 / parts.total - 1.0 / parts.own) * free
        of_v = parts.lowered.scatter_add(1, parts.named, -parts.missed).mul_(v)
        of_v = torch.ops.aten.hardtanh_backward(of_v, v, -math.sqrt(largest), math.sqrt(largest))
        self.add_to_rows("u", rows, of_u[:, 0].mul_(-self.lr_u / size))
        self.add_to_rows("v", rows, of_v.mul_(-4.0 * self.lr_v / size))
