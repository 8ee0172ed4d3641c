"""Heads with unit class vectors in a buffer: cosine logits, no gradient to the vectors."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from etfhead.heads.base import Neck, unit_features
from etfhead.heads.following import FollowingHead
from etfhead.heads.frame_head import FrameHead, checked_flag
from etfhead.heads.moving_frame import MovingFrame
from etfhead.heads.scale import resolve_scale

__all__ = ["UnitVectorHead"]

_ROWS = 4096  # class vectors drawn at once


class UnitVectorHead(FollowingHead, FrameHead):
    r"""Base of the following heads with logits s <x/|x|, w_k>, x = neck(h), and unit rows w_k in ``weight``.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        scale: Positive number, or ``"auto"`` (:func:`~etfhead.heads.auto_scale`).
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        label_smoothing: Smoothing of the loss.
        fused: In training mode return the unit features instead of logits.
        seed: Seed of the random class vectors it starts from.
        device: Device of the buffers.
        dtype: Floating type of the buffers.
    """

    title: ClassVar[str]  # what messages call the head
    marker: ClassVar[str]  # buffer that tells its state dict from a learnable head's

    weight: Tensor
    scale: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck,
        scale: float | Literal["auto"],
        learn_scale: bool,
        label_smoothing: float,
        fused: bool,
        seed: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__(in_features, num_classes, neck=neck, device=device, dtype=dtype)
        self.frame, self.fused = MovingFrame(num_classes, in_features), checked_flag("fused", fused)
        self.seed, self.label_smoothing = seed, label_smoothing
        self._initial_scale = resolve_scale(scale, num_classes, label_smoothing, unit_features=True)
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("weight", like.new_empty(num_classes, in_features))
        self._register_state(like)
        initial_scale = like.new_empty(1)
        if checked_flag("learn_scale", learn_scale):
            self.scale = nn.Parameter(initial_scale)
        else:
            self.register_buffer("scale", initial_scale)
        self.reset_parameters()

    def _register_state(self, like: Tensor) -> None:
        """Register the buffers a head keeps beside its class vectors, in the type of ``like``."""
        raise NotImplementedError

    def _start(self) -> None:
        """Set these buffers to what belongs to fresh class vectors."""
        raise NotImplementedError

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Start again from the seed's random unit vectors; the same on every device."""
        if self.weight.is_meta:
            return
        generator = torch.Generator("cpu").manual_seed(self.seed)
        for block in self.weight.split(_ROWS):
            drawn = torch.randn(block.shape, generator=generator, device="cpu")
            block.copy_(unit_features(drawn.double()))
        self._start()
        self.scale.fill_(self._initial_scale)
        if self.neck is not None:
            self.neck.reset_running_stats()

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Let the class vectors start at the directions of given vectors (K, d), class means for example.

        Raises:
            ValueError: If the shape differs or a number is not finite.
        """
        if vectors.shape != self.weight.shape or not vectors.isfinite().all():
            raise ValueError(
                f"vectors: expected finite numbers of shape {tuple(self.weight.shape)}, got "
                f"{tuple(vectors.shape)}"
            )
        for block, given in zip(self.weight.split(_ROWS), vectors.split(_ROWS), strict=True):
            block.copy_(unit_features(given.cpu().double()))
        self._start()

    def class_vectors(self) -> Tensor:
        """Unit class vectors, (K, d)."""
        return self.weight

    def logit_factors(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Scale (1,) and the frame's factors: logits are the one times the frame applied with the other."""
        return self.scale, {"weight": self.weight}

    def _normalised(self, features: Tensor) -> Tensor:
        return unit_features(features)

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        raise ValueError(
            f"fuse: a {self.title} head normalises its features and has no plain-layer equivalent; ship it "
            "as it is"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        if prefix + "weight" in state_dict and prefix + self.marker not in state_dict:
            error_msgs: list[str] = args[-1]
            error_msgs.append(
                f"{prefix}weight is not that of a {self.title} head (no {prefix}{self.marker} beside it): "
                "load that checkpoint before swap_head, or give its class vectors to start_from"
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)

    def extra_repr(self) -> str:
        """Sizes and scale for ``print(model)``."""
        hidden = "meta" if self.scale.is_meta else "sharded" if hasattr(self.scale, "to_local") else None
        scale = hidden or f"{self.scale.item():.4g}"
        kind = "learnable" if self.scale.requires_grad else "fixed"
        return f"{super().extra_repr()}, scale={scale} ({kind})"
