"""A simplex that turns with the running class means: no gradient, closed form."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from etfhead.frames import Frame, OrientedSimplexFrame, SimplexFrame
from etfhead.frames.base import checked_size
from etfhead.frames.orient import orient_simplex
from etfhead.heads.base import Neck
from etfhead.heads.batch_sums import batch_sums
from etfhead.heads.class_mean_update import class_mean_update
from etfhead.heads.etf import ETFHead
from etfhead.heads.following import FollowingHead

__all__ = ["GuidedETFConvHead", "GuidedETFHead"]


class GuidedETFHead(FollowingHead, ETFHead):
    r"""Simplex ETF turned every few steps to the simplex nearest to the running class means.

    .. math:: M = \arg\max_{M M^\top = G} \operatorname{tr}(M^\top H), \qquad
              H_k \leftarrow H_k + (1 - \beta)\,(\bar x_k - H_k)

    with G the Gram matrix of a simplex ETF and :math:`\bar x_k` the mean of a batch's features of class k
    behind the neck (:func:`~etfhead.frames.orient_simplex`; Markou, Ajanthan & Gould, "Guiding Neural
    Collapse", NeurIPS 2024, arXiv 2411.01248, differentiate through the nearest simplex at every step). The
    margins are those of :class:`~etfhead.ETFHead`, only the direction follows. Call
    :func:`~etfhead.heads.update_heads` after each training step; a turn is one SVD of (K, d) on the CPU.

    Args:
        in_features: d.
        num_classes: K, 2 <= K <= d + 1.
        basis: Basis of the simplex it starts from.
        neck: ``"batchnorm"`` (no affine parameters) or None.
        normalize: L2-normalise the features behind the neck; such a head cannot be folded.
        scale: As for :class:`~etfhead.ETFHead`.
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        momentum: beta in [0, 1), the share of a running mean that stays.
        every: Steps from one turn to the next, at least 1.
        until: Steps after which it turns no more; None for never.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        fused: In training mode return features instead of logits, as in :class:`~etfhead.ETFHead`.
        seed: Seed of the simplex it starts from.
        device: Device of the buffers.
        dtype: Floating type of the buffers.

    Shape:
        - features: (..., d).
        - output: (..., K).

    Raises:
        ValueError: On sizes, options or features that do not fit, naming them.

    >>> head = GuidedETFHead(8, 3, neck=None, every=1, momentum=0.0)
    >>> _ = head(torch.eye(3, 8))
    >>> head.update(torch.tensor([2, 0, 1]))
    >>> head(torch.eye(3, 8)).argmax(1).tolist()
    [2, 0, 1]
    """

    class_means: Tensor
    updates: Tensor
    _counted: tuple[Tensor, int | None, int] | None = None  # the buffer ``updates``, its version, its number

    # An average of turned simplices (EMA) is no simplex; loading takes the nearest one.
    _load_tolerance = 0.5

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        basis: Literal["identity", "hadamard", "haar"] = "hadamard",
        neck: Neck = "batchnorm",
        normalize: bool = False,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        momentum: float = 0.9,
        every: int = 20,
        until: int | None = None,
        label_smoothing: float = 0.0,
        fused: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum={momentum!r}: expected a number in [0, 1)")
        start = _data_frame(SimplexFrame(num_classes, in_features, basis=basis, seed=seed))
        super().__init__(
            in_features,
            num_classes,
            frame=start,
            neck=neck,
            normalize=normalize,
            scale=scale,
            learn_scale=learn_scale,
            label_smoothing=label_smoothing,
            fused=fused,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        self.momentum, self.every = float(momentum), checked_size("every", every, 1)
        self.until = None if until is None else checked_size("until", until, 0)
        self.register_buffer("class_means", torch.zeros_like(self.weight))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=self.weight.device))

    def reset_parameters(self) -> None:
        """Start again from the seed's simplex, without class means."""
        self.frame = self.first_frame
        super().reset_parameters()
        if "class_means" in self._buffers:  # not yet while the base class is being built
            self.class_means.zero_()
            self.updates.zero_()

    def start_from(self, vectors: Tensor) -> None:
        """Let the running means start at class means (K, d) behind the neck, and turn to them.

        Raises:
            ValueError: If the shape differs or a number is not finite.
        """
        if vectors.shape != self.class_means.shape:
            raise ValueError(
                f"vectors: expected shape {tuple(self.class_means.shape)}, got {tuple(vectors.shape)}"
            )
        oriented = OrientedSimplexFrame(self.num_classes, self.in_features, vectors=orient_simplex(vectors))
        with torch.no_grad():
            self.class_means.copy_(vectors)
        self.adopt_frame(oriented)

    def adopt_frame(self, frame: Frame) -> None:
        """Take another simplex of the same sizes.

        Raises:
            ValueError: If the frame is of other sizes or no simplex.
        """
        if not isinstance(frame, OrientedSimplexFrame | SimplexFrame):
            raise ValueError(f"frame: a guided head's is a simplex, got {frame!r}")
        super().adopt_frame(_data_frame(frame))

    def _follow(self, features: Tensor, target: Tensor, logits: Tensor | None) -> None:
        sums = batch_sums(features, target, self.num_classes)
        before = self.class_means[sums.rows].to(features)
        self.class_means[sums.rows] = class_mean_update(before, sums, momentum=self.momentum).to(
            self.class_means
        )
        step = self._count()
        if step % self.every == 0 and (self.until is None or step <= self.until):
            vectors = orient_simplex(self.class_means)
            self.frame = OrientedSimplexFrame(self.num_classes, self.in_features, vectors=vectors)
            self._restore_frame()

    def _is_held(self) -> bool:
        return (self.until is not None and int(self.updates) >= self.until) or super()._is_held()

    def _count(self) -> int:
        """Count an update. A GPU is asked for the number only where it may be another, and before a turn."""
        counted, version, step = self._counted or (None, None, 0)
        known = counted is self.updates and version is not None and version == _version(self.updates)
        if not known or (step + 1) % self.every == 0:
            step = int(self.updates)
        self.updates += 1
        self._counted = (self.updates, _version(self.updates), step + 1)
        return step + 1

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_counted": None}

    def extra_repr(self) -> str:
        """Frame, scale and schedule for ``print(model)``."""
        until = "" if self.until is None else f", until={self.until}"
        return f"{super().extra_repr()}, momentum={self.momentum:g}, every={self.every}{until}"


class GuidedETFConvHead(GuidedETFHead):
    """:class:`GuidedETFHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    A sample counts with the mean over its pixels.
    """

    channel_dim = 1


def _data_frame(frame: Frame) -> OrientedSimplexFrame:
    if isinstance(frame, OrientedSimplexFrame):
        return frame
    return OrientedSimplexFrame(frame.num_classes, frame.in_features, vectors=frame.matrix())


def _version(tensor: Tensor) -> int | None:
    """How often a tensor was changed in place; None for one made in inference mode, which does not count."""
    return None if tensor.is_inference() else tensor._version
