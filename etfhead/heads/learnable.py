"""Learnable heads a fixed one is compared with: the same neck and scale, class vectors trained."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from etfhead.heads.base import FeatureHead, Neck, unit_features
from etfhead.heads.scale import resolve_scale

__all__ = ["CosineConvHead", "CosineHead", "LinearConvHead", "LinearHead"]


class LinearHead(FeatureHead):
    """Learnable linear classifier behind the neck of :class:`~etfhead.ETFHead`: the control for the neck.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    >>> LinearHead(8, 3, neck="batchnorm").eval().fuse()
    Linear(in_features=8, out_features=3, bias=True)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, neck=neck, device=device, dtype=dtype)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.empty(num_classes, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as nn.Linear draws them, uniform of variance 1/(3d); zero bias."""
        bound = self.in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.zeros_(self.bias)
        if self.neck is not None:
            self.neck.reset_running_stats()

    def class_vectors(self) -> Tensor:
        """The weight, (K, d)."""
        return self.weight

    def _logits(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight, self.bias)

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias


class CosineHead(FeatureHead):
    r"""Learnable cosine classifier: z_k = s <w_k / |w_k|, h / |h|> (Luo et al. 2018, arXiv 1702.05870).

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        scale: Positive number, or ``"auto"`` (:func:`~etfhead.heads.auto_scale`).
        learn_scale: Train the scale.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        device: Device of the parameters.
        dtype: Floating type of the parameters.

    >>> logits = CosineHead(8, 3, scale=2.0)(torch.randn(4, 8))
    >>> bool(logits.abs().max() <= 2)
    True
    """

    scale: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck = None,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        label_smoothing: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, neck=neck, device=device, dtype=dtype)
        self._initial_scale = resolve_scale(scale, num_classes, label_smoothing, unit_features=True)
        self.weight = nn.Parameter(torch.empty(num_classes, in_features, device=device, dtype=dtype))
        initial_scale = torch.empty(1, device=device, dtype=dtype)
        if learn_scale:
            self.scale = nn.Parameter(initial_scale)
        else:
            self.register_buffer("scale", initial_scale)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Class vectors uniform on the sphere, scale at its initial value."""
        nn.init.normal_(self.weight)
        nn.init.constant_(self.scale, self._initial_scale)
        with torch.no_grad():
            self.weight.copy_(unit_features(self.weight))
        if self.neck is not None:
            self.neck.reset_running_stats()

    def class_vectors(self) -> Tensor:
        """Unit class vectors, (K, d)."""
        return unit_features(self.weight)

    def _normalised(self, features: Tensor) -> Tensor:
        return unit_features(features)

    def _logits(self, features: Tensor) -> Tensor:
        return self.scale * nn.functional.linear(features, self.class_vectors())

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        raise ValueError(
            "fuse: a cosine head normalises its features and has no plain-layer equivalent; ship it as it is"
        )


class LinearConvHead(LinearHead):
    """:class:`LinearHead` in place of a 1x1 convolution: (B, d, H, W) to (B, K, H, W)."""

    channel_dim = 1


class CosineConvHead(CosineHead):
    """:class:`CosineHead` in place of a 1x1 convolution: (B, d, H, W) to (B, K, H, W)."""

    channel_dim = 1
