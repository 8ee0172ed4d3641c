"""Class vectors that are running class means: no gradient, no optimizer state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from etfhead.heads.base import Neck, unit_features
from etfhead.heads.batch_sums import batch_sums
from etfhead.heads.class_mean_update import class_mean_update
from etfhead.heads.unit_vectors import UnitVectorHead

__all__ = ["ClassMeanConvHead", "ClassMeanHead"]

_ROWS = 4096  # class vectors that start at once
# On a CPU: class vectors that stay in the cache while they are moved to a new origin.
_CACHED = 2**17
_TINY = 1e-12  # shortest length to divide by, as in torch.nn.functional.normalize


class ClassMeanHead(UnitVectorHead):
    r"""Cosine classifier whose class vectors are running means of the unit features of their class.

    .. math:: z_k = s\,\langle x/|x|,\; w_k\rangle, \qquad w_k = \frac{m_k - c\,\bar m}{|m_k - c\,\bar m|}

    with x = neck(h), m_k the running mean of class k (:func:`class_mean_update`) and :math:`\bar m` the mean
    of all m_k. Class vectors get no gradient: call :func:`~etfhead.heads.update_heads` after each training
    step. Only the scale trains. Classes absent from a batch keep their running mean; with ``centre`` all
    class vectors move a little with :math:`\bar m`, which costs O(K d) a step, otherwise O(B d).

    A running mean is kept as its unit class vector (buffer ``weight``), a length and the origin
    :math:`c\,\bar m`, so that K d numbers are stored once.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        momentum: Share of a running mean that stays, in [0, 1).
        centre: Whether class vectors are taken from the mean of all classes; a number in [0, 1] for c.
        repel: How strongly a sample pushes its closest wrong class vector away; 0 for not at all.
        scale: Positive number, or ``"auto"`` (:func:`~etfhead.heads.auto_scale`).
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        fused: In training mode return the unit features instead of logits, for a streamed loss
            (:class:`~etfhead.losses.FrameCrossEntropyLoss`).
        seed: Seed of the random class vectors it starts from; :meth:`start_from` gives it better ones.
        device: Device of the buffers.
        dtype: Floating type of the buffers; a running mean needs float32.

    Shape:
        - features: (..., d).
        - output: (..., K).

    Raises:
        ValueError: On sizes, options or features that do not fit, naming them.

    >>> head = ClassMeanHead(8, 3, neck=None, momentum=0.0, centre=False)
    >>> _ = head(torch.eye(3, 8))
    >>> head.update(torch.tensor([0, 1, 2]))
    >>> bool(torch.equal(head.class_vectors(), torch.eye(3, 8)))
    True
    """

    title, marker = "class-mean", "length"

    length: Tensor
    origin: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck = "batchnorm",
        momentum: float = 0.9,
        centre: bool | float = True,
        repel: float = 0.0,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        label_smoothing: float = 0.0,
        fused: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum!r}: expected a number in [0, 1)")
        if not 0.0 <= centre <= 1.0:
            raise ValueError(f"centre={centre!r}: expected True, False or a number in [0, 1]")
        if not 0.0 <= repel < float("inf"):
            raise ValueError(f"repel={repel!r}: expected a number >= 0")
        self.momentum, self.centre, self.repel = float(momentum), float(centre), float(repel)
        super().__init__(
            in_features,
            num_classes,
            neck=neck,
            scale=scale,
            learn_scale=learn_scale,
            label_smoothing=label_smoothing,
            fused=fused,
            seed=seed,
            device=device,
            dtype=dtype,
        )

    def _register_state(self, like: Tensor) -> None:
        self.register_buffer("length", like.new_empty(self.num_classes))
        self.register_buffer("origin", like.new_empty(self.in_features))

    def _start(self) -> None:
        self.length.fill_(1.0)
        self.origin.zero_()
        if not self.centre:
            return
        # In float64 on the CPU: the same on every device.
        total = torch.zeros(self.in_features, dtype=torch.float64, device="cpu")
        for vectors in self.weight.split(_ROWS):
            total += vectors.cpu().sum(0, dtype=torch.float64)
        self.origin.copy_(total * (self.centre / self.num_classes))
        origin = self.origin.cpu().double()
        for vectors, length in zip(self.weight.split(_ROWS), self.length.split(_ROWS), strict=True):
            moved = vectors.cpu().double() - origin
            length.copy_(torch.linalg.vector_norm(moved, dim=1))
            vectors.copy_(unit_features(moved))

    def running_means(self, rows: Tensor | slice = slice(None)) -> Tensor:
        """Running means m of some classes, (..., d)."""
        return torch.addcmul(self.origin, self.length[rows][..., None], self.weight[rows])

    def _wants_logits(self) -> bool:
        return bool(self.repel) and not self.fused

    def _follow(self, features: Tensor, target: Tensor, logits: Tensor | None) -> None:
        rivals = None
        if self.repel:
            best = self._top(features.to(self.weight), 2) if logits is None else logits.topk(2)
            rivals = _closest_wrong(best.indices, target)
        sums = batch_sums(features, target, self.num_classes, rivals)
        before = self.running_means(sums.rows).to(features)
        after = class_mean_update(before, sums, momentum=self.momentum, repel=self.repel)
        if not self.centre:
            self._write(sums.rows, after - self.origin, only=sums.touched())
            return
        moved = after - before
        if sums.first is not None:
            moved.mul_(sums.first[:, None])
        origin = self.origin + (moved.sum(0) * (self.centre / self.num_classes)).to(self.origin)
        if isinstance(sums.rows, slice):  # all are written anew
            self.origin.copy_(origin)
        else:
            self._recentre(origin)
        self._write(sums.rows, after - self.origin)

    def _recentre(self, origin: Tensor) -> None:
        """Express all running means from another origin."""
        shift = self.origin - origin
        on_cpu = shift.device.type == "cpu"
        count = max(1, _CACHED // self.in_features) if on_cpu else self.num_classes
        for vectors, length in zip(self.weight.split(count), self.length.split(count), strict=True):
            wide = vectors if vectors.element_size() >= 4 else vectors.float()
            torch.addcmul(shift.to(wide), length[:, None].to(wide), wide, out=wide)
            new = torch.linalg.vector_norm(wide, dim=1)
            length.copy_(new)
            vectors.copy_(wide.div_(new.clamp_(min=_TINY)[:, None]))
        self.origin.copy_(origin)

    def _write(self, rows: Tensor | slice, vectors: Tensor, only: Tensor | None = None) -> None:
        """Write running means as seen from the origin; where ``only`` (u,) is False, the old ones stay."""
        length = torch.linalg.vector_norm(vectors, dim=1)
        unit = vectors.div_(length.clamp(min=_TINY)[:, None]).to(self.weight)
        length = length.to(self.length)
        if only is not None:
            unit = torch.where(only[:, None], unit, self.weight[rows])
            length = torch.where(only, length, self.length[rows])
        self.length[rows] = length
        self.weight[rows] = unit

    def extra_repr(self) -> str:
        """Sizes, scale and options for ``print(model)``."""
        return (
            f"{super().extra_repr()}, momentum={self.momentum:g}, centre={self.centre:g}, "
            f"repel={self.repel:g}"
        )


class ClassMeanConvHead(ClassMeanHead):
    """:class:`ClassMeanHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    A sample counts with the mean over its pixels.
    """

    channel_dim = 1


def _closest_wrong(top: Tensor, target: Tensor) -> Tensor:
    """Of each sample's two closest classes (B, 2) the first that is not its own (the heaviest target)."""
    own = target.argmax(1) if target.ndim == 2 else target
    first, second = top.unbind(1)
    return torch.where(first == own, second, first)
