"""The head that is known before training: a fixed frame, a neck without parameters, one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from etfhead.frames import Frame
from etfhead.heads.base import Neck, unit_features
from etfhead.heads.fixed import FixedHead
from etfhead.heads.frame_choice import choose_frame, describe_frame
from etfhead.heads.frame_head import checked_flag
from etfhead.heads.low_rank import LowRank
from etfhead.heads.scale import resolve_scale

__all__ = ["ETFConvHead", "ETFHead"]


class ETFHead(FixedHead):
    r"""Fixed classifier head: logits = s M neck(h), with the class vectors M known before training.

    .. math:: z = \tfrac{s}{\sqrt{d}}\,M\,\nu(h), \qquad
            M M^\top = \tfrac{K}{K-1}\bigl(I - \tfrac1K 1 1^\top\bigr)

    for the simplex, K <= d + 1; other frames serve more classes. The neck makes features signed and centred,
    which is what a simplex needs: ReLU features alone reach a cosine of at most ~0.71 to a random frame's
    vectors (Yang et al., NeurIPS 2022, arXiv 2203.09081, use a BatchNorm for the same reason). Behind it,
    logits are divided by sqrt(d) (with ``basis="identity"`` by sqrt(K), the features it reads), as if
    features had unit norm. The only trainable parameter is the scale.

    A dense frame lives in the persistent buffer ``weight`` beside a zero ``bias``, a structured one
    (:attr:`Frame.structured`: ``identity``, and ``hadamard`` when K d is large) in its seed: its factors are
    rebuilt, and the state dict carries a fingerprint. Loading a state dict whose class vectors are not this
    frame is refused, also with ``strict=False``, unless they are what :func:`~etfhead.align_head` makes of
    it: those are adopted.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        frame: ``"auto"``, a frame's name, or a :class:`~etfhead.frames.Frame`.
        class_counts: Training samples of each class, for the frames that follow them: ``"orthogonal"``,
            ``"imbalanced_ce"`` and ``"seli"``, here in the limit of small decays.
        basis: ``"identity"``, ``"hadamard"`` or ``"haar"``, for the frames that have one.
        neck: ``"batchnorm"`` (no affine parameters) or None.
        normalize: L2-normalise the features behind the neck; such a head cannot be folded.
        scale: Positive number, or ``"auto"``: for features of unit norm (``neck`` or ``normalize``) the
            scale at which cross-entropy with ``label_smoothing`` is minimal at a simplex
            (:func:`~etfhead.heads.auto_scale`; other frames start at the same); 1 otherwise.
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        low_rank: Rank r of a learnable correction of the class vectors, r (K + d) parameters
            (:class:`~etfhead.heads.LowRank`); 0 for none.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        fused: In training mode return the features behind neck and normalisation instead of logits, for
            :class:`~etfhead.losses.FrameCrossEntropyLoss`; needs ``low_rank=0``.
        seed: Seed of the frame.
        device: Device of the buffers.
        dtype: Floating type of the buffers.

    Shape:
        - features: (..., d).
        - output: (..., K).

    Raises:
        ValueError: On sizes, options or features that do not fit, naming them.

    >>> head = ETFHead(64, 10)
    >>> sum(p.numel() for p in head.parameters() if p.requires_grad)
    1
    >>> head(torch.randn(32, 64)).shape
    torch.Size([32, 10])
    >>> head.eval().fuse()
    Linear(in_features=64, out_features=10, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        frame: str | Frame = "auto",
        class_counts: Sequence[int] | None = None,
        basis: Literal["identity", "hadamard", "haar"] = "hadamard",
        neck: Neck = "batchnorm",
        normalize: bool = False,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        low_rank: int = 0,
        label_smoothing: float = 0.0,
        fused: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, neck=neck, device=device, dtype=dtype)
        self.normalize = checked_flag("normalize", normalize)
        self.fused = checked_flag("fused", fused)
        if fused and low_rank:
            raise ValueError(
                f"fused=True with low_rank={low_rank}: a streamed loss has no place for it; take one"
            )
        self.label_smoothing = label_smoothing
        self._initial_scale = resolve_scale(
            scale, num_classes, label_smoothing, unit_features=normalize or neck is not None
        )
        like = torch.empty(0, device=device, dtype=dtype)
        options: dict[str, Any] = {"basis": basis, "seed": seed}
        if class_counts is not None:
            options["class_counts"] = class_counts
        self._hold_first(choose_frame(frame, self.in_features, self.num_classes, **options), like)
        initial_scale = like.new_empty(1)
        if checked_flag("learn_scale", learn_scale):
            self.scale = nn.Parameter(initial_scale)
        else:
            self.register_buffer("scale", initial_scale)
        self.correction: LowRank | None = None
        if low_rank != 0:
            self.correction = LowRank(
                low_rank, in_features, num_classes, seed=seed, device=device, dtype=dtype
            )
        self.reset_parameters()

    def _gain_of(self, frame: Frame) -> float:
        # Behind the neck the features that class vectors reach have a mean square norm of their number:
        # divided by its root, one scale means the same at every width.
        return 1.0 if self.neck is None or self.normalize else frame.active_features**-0.5

    def _identity(self, spec: dict[str, Any]) -> dict[str, Any]:
        return {**spec, "normalize": self.normalize}

    def reset_parameters(self) -> None:
        """Derive frame, scale and statistics again from the seed; the same values on every device."""
        self._restore_frame()
        if self.scale.is_meta:
            return
        with torch.no_grad():
            self.scale.fill_(self._initial_scale)
        if self.correction is not None:
            self.correction.reset_parameters()
        if self.neck is not None:
            self.neck.reset_running_stats()

    def class_vectors(self) -> Tensor:
        """Class vectors as rows, (K, d), in the head's type and on its device, without the scale."""
        vectors = self._fixed_vectors()
        return vectors if self.correction is None else vectors + self.correction.matrix()

    def _normalised(self, features: Tensor) -> Tensor:
        return unit_features(features) if self.normalize else features

    def _logits(self, features: Tensor) -> Tensor:
        logits = super()._logits(features)
        return (
            logits
            if self.correction is None
            else logits + self.scale * self._gain * self.correction(features)
        )

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        if self.normalize:
            raise ValueError(
                "fuse: a head with normalize=True is not linear in its features and has no plain-layer "
                "equivalent; train with normalize=False (the default), or ship the head as it is"
            )
        vectors = self._fixed_vectors().double()
        if self.correction is not None:
            vectors = (
                vectors + self.correction.left.detach().double() @ self.correction.right.detach().double()
            )
        return self.scale.detach().double() * self._gain * vectors, None

    def _top(self, features: Tensor, k: int) -> torch.return_types.topk:
        return super()._top(features, k) if self.correction is None else self._logits(features).topk(k)

    def extra_repr(self) -> str:
        """Frame, coherence and scale for ``print(model)``."""
        hidden = "meta" if self.scale.is_meta else "sharded" if hasattr(self.scale, "to_local") else None
        scale = hidden or f"{self.scale.item():.4g}"
        kind = "learnable" if self.scale.requires_grad else "fixed"
        fused = ", fused=True" if self.fused else ""
        return f"{describe_frame(self.frame)}, normalize={self.normalize}, scale={scale} ({kind}){fused}"


class ETFConvHead(ETFHead):
    """:class:`ETFHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    >>> ETFConvHead(16, 5)(torch.randn(2, 16, 7, 7)).shape
    torch.Size([2, 5, 7, 7])
    """

    channel_dim = 1
