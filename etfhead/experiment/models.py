"""Small models for studies in minutes, registered with timm: ``etfhead_mlp`` and ``etfhead_cnn``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from timm.layers import create_act_layer
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

__all__ = ["SmallModel", "etfhead_cnn", "etfhead_mlp"]

Norm = Literal["batchnorm", "none"]

default_cfgs = generate_default_cfgs(
    {
        "etfhead_mlp": {"input_size": (1, 28, 28), "fixed_input_size": True, "classifier": "fc"},
        "etfhead_cnn": {"input_size": (1, 28, 28), "classifier": "fc"},
    }
)
# What timm.create_model hands to every entry point.
_OF_TIMM = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


class SmallModel(nn.Module):
    """A trunk of features (B, num_features) and a linear classifier, with the methods of timm's models.

    Args:
        trunk: From images (B, C, H, W) to features.
        num_features: Their number.
        num_classes: K; 0 leaves the classifier out.
        drop_rate: Dropout before it.
        bias: Whether it has a bias.
    """

    def __init__(
        self,
        trunk: nn.Module,
        num_features: int,
        num_classes: int,
        *,
        drop_rate: float = 0.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.trunk, self.num_features, self.head_hidden_size = trunk, num_features, num_features
        self.drop_rate, self.bias = drop_rate, bias
        self.pretrained_cfg = self.default_cfg = {"classifier": "fc"}
        self.reset_classifier(num_classes)

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.fc

    def reset_classifier(self, num_classes: int) -> None:
        """Put a new last layer in place; 0 for none."""
        self.num_classes = num_classes
        self.fc: nn.Module = (
            nn.Linear(self.num_features, num_classes, bias=self.bias) if num_classes else nn.Identity()
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Features (B, num_features)."""
        features: Tensor = self.trunk(x)
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits (B, K) of features, or the features after dropout."""
        x = nn.functional.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.forward_head(self.forward_features(x))


def _activation(name: str) -> nn.Module:
    if name == "identity":
        return nn.Identity()
    layer = create_act_layer(name)
    if layer is None:
        raise ValueError(f"act_layer: expected a name that timm knows or identity, got {name!r}")
    return layer


@register_model
def etfhead_mlp(
    pretrained: bool = False,
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    img_size: int = 28,
    widths: Sequence[int] = (512, 512),
    linear_widths: Sequence[int] = (),
    act_layer: str = "relu",
    norm: Norm = "none",
    bias: bool = True,
    drop_rate: float = 0.0,
    **of_timm: Any,
) -> SmallModel:
    """A multilayer perceptron on the pixels of an image.

    Args:
        pretrained: Must be False: there are no weights.
        num_classes: K.
        in_chans: Channels.
        img_size: Height and width.
        widths: Units of the hidden layers, each with activation.
        linear_widths: Units of layers without bias and activation after those, as deep linear theory has.
        act_layer: Any activation of timm, or ``"identity"``.
        norm: ``"batchnorm"`` before each activation, or ``"none"``.
        bias: Of the hidden layers and of the classifier.
        drop_rate: Dropout before the classifier.
        **of_timm: What timm hands to every entry point; has no effect.

    Raises:
        ValueError: If an option is none of these.

    >>> import torch
    >>> model = etfhead_mlp(num_classes=3, img_size=4, widths=[8], linear_widths=[5])
    >>> model(torch.zeros(2, 1, 4, 4)).shape, model.num_features
    (torch.Size([2, 3]), 5)
    """
    _check(pretrained, of_timm)
    if norm not in ("batchnorm", "none"):
        raise ValueError(f"norm: expected 'batchnorm' or 'none', got {norm!r}")
    layers: list[nn.Module] = [nn.Flatten()]
    width = in_chans * img_size * img_size
    for units in widths:
        layers.append(nn.Linear(width, units, bias=bias and norm == "none"))
        if norm == "batchnorm":
            layers.append(nn.BatchNorm1d(units))
        layers.append(_activation(act_layer))
        width = units
    for units in linear_widths:
        layers.append(nn.Linear(width, units, bias=False))
        width = units
    return SmallModel(nn.Sequential(*layers), width, num_classes, drop_rate=drop_rate, bias=bias)


@register_model
def etfhead_cnn(
    pretrained: bool = False,
    *,
    num_classes: int = 10,
    in_chans: int = 1,
    channels: Sequence[int] = (16, 32, 64),
    features: int = 128,
    act_layer: str = "relu",
    drop_rate: float = 0.0,
    **of_timm: Any,
) -> SmallModel:
    """A small convolutional network: stages of convolution, batch norm, activation and halving.

    Args:
        pretrained: Must be False: there are no weights.
        num_classes: K.
        in_chans: Channels.
        channels: Of the stages, each of one 3 x 3 convolution.
        features: Units of the layer between the pooled map and the classifier, with activation; 0 for none.
        act_layer: Any activation of timm, or ``"identity"``.
        drop_rate: Dropout before the classifier.
        **of_timm: What timm hands to every entry point; has no effect.

    Raises:
        ValueError: If an option is none of these.

    >>> import torch
    >>> etfhead_cnn(num_classes=3, channels=[4, 8], features=6)(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 3])
    """
    _check(pretrained, of_timm)
    layers: list[nn.Module] = []
    width = in_chans
    for units in channels:
        layers += [nn.Conv2d(width, units, 3, padding=1, bias=False), nn.BatchNorm2d(units)]
        layers += [_activation(act_layer), nn.MaxPool2d(2)]
        width = units
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    width *= 4
    if features:
        layers += [nn.Linear(width, features), _activation(act_layer)]
        width = features
    return SmallModel(nn.Sequential(*layers), width, num_classes, drop_rate=drop_rate)


def _check(pretrained: bool, options: dict[str, Any]) -> None:
    if pretrained:
        raise ValueError("pretrained: there are no weights of this model; write false")
    if unknown := [name for name in options if name not in _OF_TIMM]:
        raise ValueError(f"{', '.join(unknown)}: this model has no such option; remove it")
