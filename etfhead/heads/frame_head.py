"""Heads whose logits are a scale times a frame: fused training, and the best classes without all logits."""

from __future__ import annotations

import torch
from torch import Tensor

from etfhead.frames import Frame
from etfhead.frames.streaming import streamed_topk
from etfhead.heads.base import FeatureHead

__all__ = ["FrameHead", "checked_flag", "whole"]


class FrameHead(FeatureHead):
    """Base of the heads with logits = scale * frame.apply(features behind the neck).

    Attributes:
        frame: The frame, or the stand-in of a head whose vectors move.
        fused: Whether the training forward returns features for a streamed loss
            (:class:`~etfhead.losses.FrameCrossEntropyLoss`) instead of logits.
    """

    frame: Frame
    fused: bool = False

    def logit_factors(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Scale (1,) and the frame's factors: logits are the one times the frame applied with the other."""
        raise NotImplementedError

    def _outputs(self, features: Tensor) -> Tensor:
        return features if self.fused and self.training else super()._outputs(features)

    def _logits(self, features: Tensor) -> Tensor:
        scale, factors = self.logit_factors()
        return scale * self.frame.apply(features, factors)

    @torch.no_grad()
    def topk(self, features: Tensor, k: int) -> torch.return_types.topk:
        """The k largest logits and their classes, without holding all K logits of a sample.

        Args:
            features: (..., d); for the convolutional twin (B, d, H, W).
            k: From 1 to K.

        Returns:
            torch.return_types.topk: ``values`` and ``indices``, (..., k); (B, k, H, W).
        """
        if not 1 <= k <= self.num_classes:
            raise ValueError(f"k={k!r}: expected an integer from 1 to num_classes={self.num_classes}")
        best = self._top(self.features_behind_neck(features), k)
        if self.channel_dim == 1:
            best = torch.return_types.topk([part.movedim(-1, 1) for part in best])  # type: ignore[arg-type]
        return best

    def _top(self, features: Tensor, k: int) -> torch.return_types.topk:
        scale, factors = self.logit_factors()
        return streamed_topk(whole(scale) * features, self.frame, factors, k)


def checked_flag(argument: str, value: bool) -> bool:
    """True or False, or a ValueError that names the argument."""
    if not isinstance(value, bool):
        raise ValueError(f"{argument}={value!r}: expected True or False")
    return value


def whole(parameter: Tensor) -> Tensor:
    """The parameter, gathered where FSDP2 has sharded it: every process must ask."""
    gather = getattr(parameter, "full_tensor", None)
    return parameter if gather is None else gather()
