"""Stand-in for a frame whose class vectors move: they live in a head's buffer, not here."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from etfhead.frames import Frame

__all__ = ["MovingFrame"]


class MovingFrame(Frame):
    """Dense unit class vectors that are given at every call, as ``factors["weight"]``.

    It lets functions that take a frame and its factors (top-k, streamed cross-entropy) work on a head that
    keeps its vectors in a buffer.

    >>> import torch
    >>> MovingFrame(2, 3).apply(torch.ones(1, 3), {"weight": torch.eye(2, 3)})
    tensor([[1., 1.]])
    """

    name = "moving"

    max_norm = 1.0

    def matrix(self) -> Tensor:
        """Refused: no vectors are held here."""
        raise ValueError("this frame's class vectors move with their head: use head.class_vectors()")

    def spec(self) -> dict[str, Any]:
        """Name and sizes."""
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}
