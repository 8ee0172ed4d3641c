"""The last linear layers of a model as theory has them: explicit decays of them and of their input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.surgery import find_classifiers

__all__ = ["DecayedTail", "find_linear_tail", "tail_product"]

_OPTIONS = ("layers", "weight_decay", "feature_decay")


def find_linear_tail(model: nn.Module, layers: int | None = None) -> list[nn.Linear]:
    """The last linear layers that follow each other directly, the classifier last.

    Args:
        model: With one linear classifier, and linear layers without bias before it where more are asked for.
        layers: M, at least 1. None: all but the first where there are several, which then makes signed
            features; else the classifier alone.

    Raises:
        ValueError: If the model has no such layers.

    >>> from etfhead.experiment.models import etfhead_mlp
    >>> model = etfhead_mlp(num_classes=3, img_size=2, widths=[8], linear_widths=[6, 5])
    >>> [layer.weight.shape[0] for layer in find_linear_tail(model, 2)]
    [5, 3]
    >>> len(find_linear_tail(model)), len(find_linear_tail(etfhead_mlp(num_classes=3, img_size=2)))
    (2, 1)
    """
    found = find_classifiers(model)
    ordered = [module for module in model.modules() if not list(module.children())]
    if len(found) != 1 or ordered[-1] is not (last := next(iter(found.values()))):
        raise ValueError("tail_decay: expected a model that ends in one linear classifier")
    if layers is None:
        run = 0
        while run < len(ordered) and isinstance(ordered[-1 - run], nn.Linear):
            run += 1
        layers = max(1, run - 1)
    tail = ordered[-layers:]
    if len(tail) < layers or not all(isinstance(layer, nn.Linear) for layer in tail):
        kinds = ", ".join(type(layer).__name__ for layer in tail)
        raise ValueError(
            f"tail_decay: expected {layers} linear layer(s) at the end, got {kinds}; model etfhead_mlp has "
            "linear_widths for them"
        )
    if any(layer.bias is not None for layer in tail if layer is not last):
        raise ValueError("tail_decay: only the classifier may have a bias")
    return [layer for layer in tail if isinstance(layer, nn.Linear)]


def tail_product(layers: list[nn.Linear]) -> Tensor:
    """W_M ... W_1, (K, d), in float64 without a gradient."""
    product = layers[0].weight.detach().double()
    for layer in layers[1:]:
        product = layer.weight.detach().double() @ product
    return product


class DecayedTail(nn.Module):
    r"""A loss plus the decays of unconstrained-features theory, for features that a network makes.

    .. math:: \ell + \sum_{m=1}^{M} \frac{\lambda_W}{2} \lVert W_m \rVert_F^2
              + \frac{N \lambda_H}{2}\, \frac1B \sum_{i \in B} \lVert h_i \rVert^2

    whose last term is :math:`\tfrac{\lambda_H}{2} \lVert H \rVert_F^2` over all N images in expectation, h
    the input of the first of the M layers. As parts of the loss the decays are the theory's with any
    optimizer; that of the optimizer itself is left at 0.

    Args:
        loss: Of logits and targets.
        model: Watched in training mode.
        options: ``layers`` (M; see :func:`find_linear_tail`), ``weight_decay`` (lambda_W) and
            ``feature_decay`` (lambda_H).
        num_samples: N, training images.

    Raises:
        ValueError: If the model has no such layers, or an option is unknown or out of range.
    """

    def __init__(
        self, loss: nn.Module, model: nn.Module, options: Mapping[str, Any], num_samples: int
    ) -> None:
        super().__init__()
        if unknown := [key for key in options if key not in _OPTIONS]:
            raise ValueError(f"tail_decay: no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
        depth = options.get("layers")
        if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
            raise ValueError(f"tail_decay: layers: expected an integer of at least 1, got {depth!r}")
        for key in _OPTIONS[1:]:
            value = options.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0.0:
                raise ValueError(f"tail_decay: {key}: expected a positive number, got {value!r}")
        self.loss, self.num_samples = loss, num_samples
        self.weight_decay, self.feature_decay = (
            float(options["weight_decay"]),
            float(options["feature_decay"]),
        )
        # In a tuple: the layers are the model's, not the loss's to train.
        self._tail = (find_linear_tail(model, depth),)
        self._features: Tensor | None = None
        self._tail[0][0].register_forward_pre_hook(self._see)

    @property
    def layers(self) -> list[nn.Linear]:
        """W_1 to W_M."""
        return self._tail[0]

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # Without gradients nothing is trained on: an evaluation leaves the last step's features alone.
        if torch.is_grad_enabled():
            self._features = inputs[0]

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch, decays included."""
        loss: Tensor = self.loss(logits, target)
        weights = torch.stack([layer.weight.float().square().sum() for layer in self.layers]).sum()
        loss = loss + 0.5 * self.weight_decay * weights
        features, self._features = self._features, None
        if features is None or len(features) != len(logits):
            return loss
        energy = features.float().square().sum(1).mean()
        return loss + 0.5 * self.num_samples * self.feature_decay * energy
