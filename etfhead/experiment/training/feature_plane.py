"""Features as points of a plane: the two of a narrow network, or a view of two classes in a wide one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from etfhead.metrics.last_layer_input import class_vectors

__all__ = ["FeaturePlane", "feature_plane"]


class FeaturePlane(NamedTuple):
    """Where a feature h lies: ``(h - origin) @ axes``.

    Attributes:
        origin: (d,).
        axes: (d, 2), orthonormal columns.
        names: What each axis is.
        boundary: Of two classes (a, b, c): the layer names class 1 where a x + b y + c > 0; else None.
    """

    origin: Tensor
    axes: Tensor
    names: tuple[str, str]
    boundary: tuple[float, float, float] | None

    def points(self, features: Tensor) -> Tensor:
        """Coordinates (N, 2) of features (N, d), float32."""
        return ((features.double() - self.origin) @ self.axes).float()


def feature_plane(features: Tensor, layer: nn.Module) -> FeaturePlane | None:
    """The plane that features are shown in; None where no plane shows them without a choice.

    Features of two dimensions are shown as they are. Of two classes in d dimensions, the first axis is the
    difference of the two class vectors, all that the layer sees, and the second the direction in which the
    features vary most beside it.

    Args:
        features: (N, d), finite.
        layer: Its class vectors multiply them.
    """
    wide = features.detach().double().cpu()
    d = wide.shape[1]
    vectors, K = class_vectors(layer)
    if d != 2 and (K != 2 or d < 2 or vectors is None):
        return None
    normal = None if K != 2 or vectors is None else (vectors[1] - vectors[0]).double().cpu()
    if d == 2:
        plane = FeaturePlane(torch.zeros(2).double(), torch.eye(2).double(), ("feature 1", "feature 2"), None)
    else:
        assert normal is not None  # noqa: S101 - K is 2 here
        if not bool(normal.norm() > 0):
            return None  # one class vector: there is no direction between the classes
        first = normal / normal.norm()
        mean = wide.mean(0)
        rest = (wide - mean) - ((wide - mean) @ first)[:, None] * first
        second = torch.linalg.eigh(rest.T @ rest)[1][:, -1]
        second = second - (second @ first) * first
        second = second * second[second.abs().argmax()].sign()  # eigenvectors come with either sign
        if not bool(second.norm() > 0):
            return None
        names = ("along the difference of the class vectors", "largest variance beside it")
        axes = torch.stack([first, second / second.norm()], 1)
        plane = FeaturePlane(mean, axes, names, None)
    if normal is None:
        return plane
    a, b = (normal @ plane.axes).tolist()
    return plane._replace(boundary=(a, b, float(normal @ plane.origin) + _bias_difference(layer)))


def _bias_difference(layer: nn.Module) -> float:
    bias = getattr(layer, "bias", None)
    if not isinstance(bias, Tensor) or len(bias) != 2:
        return 0.0
    first, second = bias.detach().tolist()
    return float(second - first)
