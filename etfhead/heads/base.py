"""What every head here shares: feature axis, neck, and folding into the stock layer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from etfhead.frames.base import checked_size

__all__ = ["FeatureHead", "Neck", "unit_features"]

Neck = Literal["batchnorm"] | None


def unit_features(features: Tensor) -> Tensor:
    """Features (..., d) over their L2 norm, in float32 or wider; a zero vector stays zero in fp16 too."""
    wide = features.to(torch.promote_types(features.dtype, torch.float32))
    return nn.functional.normalize(wide, dim=-1).to(features.dtype)


class FeatureHead(nn.Module):
    r"""Base of the heads: checks the features, applies the neck, folds back into a stock layer.

    The ``batchnorm`` neck is BatchNorm without affine parameters: features come out signed, centred and of
    unit variance. It holds no trainable parameter and folds exactly into the layer behind it.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        device: Device of the buffers.
        dtype: Floating type of the buffers.
    """

    channel_dim = -1  # the feature axis; the 1x1-convolution twins have it at 1
    least_classes: ClassVar[int] = 2  # a class needs another; a regression target does not

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if neck not in ("batchnorm", None):
            raise ValueError(f"neck={neck!r}: expected 'batchnorm' or None")
        self.in_features = checked_size("in_features", in_features, 1)
        self.num_classes = checked_size("num_classes", num_classes, self.least_classes)
        self.out_features = self.num_classes
        self.neck = None
        if neck == "batchnorm":
            self.neck = nn.BatchNorm1d(in_features, affine=False, device=device, dtype=dtype)

    @classmethod
    def classes_in(cls, options: Mapping[str, Any]) -> int | None:
        """Number of outputs that keyword options decide; None where the replaced layer does."""
        return None

    def class_vectors(self) -> Tensor:
        """Class vectors as rows, (K, d), as the logits use them before the scale."""
        raise NotImplementedError

    def _logits(self, features: Tensor) -> Tensor:
        """Logits (..., K) from features (..., d) as :meth:`features_behind_neck` gives them."""
        raise NotImplementedError

    def _normalised(self, features: Tensor) -> Tensor:
        """What a head does to features (..., d) between the neck and the class vectors; nothing here."""
        return features

    def _outputs(self, features: Tensor) -> Tensor:
        """What the forward pass returns for features (..., d) behind the neck."""
        return self._logits(features)

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        """Weight (K, d) and bias (K) of the linear map behind the neck, or ValueError if it is not linear."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """Logits of features.

        Shape:
            - features: (..., d); for the convolutional twin (B, d, H, W).
            - output: (..., K); (B, K, H, W).
        """
        outputs = self._outputs(self.features_behind_neck(features))
        return outputs.movedim(-1, 1) if self.channel_dim == 1 else outputs

    def features_behind_neck(self, features: Tensor) -> Tensor:
        """What the class vectors meet: features behind the neck, L2-normalised where the head does that.

        Shape:
            - features: (..., d); for the convolutional twin (B, d, H, W).
            - output: (..., d); (B, H, W, d).
        """
        if features.ndim <= max(self.channel_dim, 0) or features.shape[self.channel_dim] != self.in_features:
            raise ValueError(
                f"features: expected {self.in_features} features in dimension {self.channel_dim}, "
                f"got shape {tuple(features.shape)}"
            )
        if self.channel_dim == 1:
            features = features.movedim(1, -1)
        if self.neck is not None:
            flat = features if features.ndim == 2 else features.reshape(-1, self.in_features)
            features = self.neck(flat).view(features.shape)
        return self._normalised(features)

    def fuse(self) -> nn.Module:
        """The stock layer with the same logits in evaluation mode: nn.Linear, or a 1x1 nn.Conv2d.

        ``timm.utils.reparameterize_model`` calls this by name. The fold is computed in float64; the neck
        enters with its running statistics.

        Raises:
            ValueError: If the head is not linear in its features (L2 normalisation), or still on meta.
        """
        weight, bias = self._linear()
        if weight.is_meta:
            raise ValueError("fuse: the head is on the meta device; load or reset its parameters first")
        folded = weight.detach().double()
        offset = torch.zeros_like(folded[:, 0]) if bias is None else bias.detach().double()
        if self.neck is not None:
            mean, var = self.neck.running_mean, self.neck.running_var
            assert mean is not None  # noqa: S101 - BatchNorm1d keeps both unless told otherwise
            assert var is not None  # noqa: S101
            folded = folded * torch.rsqrt(var.double() + self.neck.eps)
            offset = offset - folded @ mean.double()
        like = next(itertools.chain(self.parameters(), self.buffers()))
        return self._stock_layer(folded.to(like), offset.to(like))

    def _stock_layer(self, weight: Tensor, bias: Tensor) -> nn.Module:
        # Built on meta: drawing initial values would move the caller's random state for nothing.
        layer: nn.Linear | nn.Conv2d
        if self.channel_dim == 1:
            layer = nn.Conv2d(self.in_features, self.num_classes, 1, device="meta")
            weight = weight[:, :, None, None]
        else:
            layer = nn.Linear(self.in_features, self.num_classes, device="meta")
        layer.weight, layer.bias = nn.Parameter(weight.contiguous()), nn.Parameter(bias)
        return layer.train(self.training)

    def extra_repr(self) -> str:
        """Sizes and options for ``print(model)``."""
        return f"in_features={self.in_features}, num_classes={self.num_classes}"
