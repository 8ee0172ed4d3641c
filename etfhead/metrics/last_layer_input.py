"""What the class vectors of a model meet: the features in front of its last layer, whatever the model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.heads import FeatureHead
from etfhead.surgery import find_classifiers, find_heads

__all__ = ["class_vectors", "find_last_layer", "uncompiled", "unwrapped", "watching"]

_LARGEST = 2**28  # numbers of class vectors that are written out: 2 GB in float64


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def find_last_layer(model: nn.Module, classifier: str | None = None) -> tuple[str, nn.Module]:
    """Name and module of an etfhead head or a stock classifier; the first where a model has several.

    Args:
        model: Not wrapped.
        classifier: Dotted name, instead of the search.

    Raises:
        ValueError: If there is no such module, or none is found.
    """
    if classifier is not None:
        modules = dict(model.named_modules())
        if classifier not in modules:
            last = ", ".join(map(repr, list(modules)[-3:]))
            raise ValueError(
                f"classifier={classifier!r}: the model has no such module; its last ones: {last}"
            )
        return classifier, modules[classifier]
    found: dict[str, nn.Module] = {**find_heads(model)} or find_classifiers(model)
    if not found:
        raise ValueError(
            f"no classifier found in {type(model).__name__}: name the layer whose input is to be measured "
            "(classifier='head.fc')"
        )
    return next(iter(found.items()))


def class_vectors(layer: nn.Module) -> tuple[Tensor | None, int | None]:
    """Class vectors (K, d) of a layer and their number; None for those too many to write out, or unknown."""
    if isinstance(layer, FeatureHead):
        few = layer.num_classes * layer.in_features <= _LARGEST
        return (layer.class_vectors().detach() if few else None), layer.num_classes
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim < 2:
        return None, None
    return weight.detach().flatten(1), len(weight)


@contextmanager
def watching(layer: nn.Module, see: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """While the body runs, hand every batch that passes the layer to ``see(features, scores)``.

    Features (B, d) are those behind a head's neck and normalisation, averaged over pixels or tokens, as
    the scores (B, K) are.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        features, scores = next(iter((*inputs, *named.values()))), output
        axis = 1 if isinstance(module, nn.Conv2d) else -1
        if isinstance(module, FeatureHead):
            axis = module.channel_dim
            features = module.features_behind_neck(features)
            features = features.movedim(-1, axis)
        see(_per_sample(features, axis), _per_sample(scores, axis))

    handle = layer.register_forward_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def uncompiled() -> AbstractContextManager[Any]:
    """Run plain code: compiled code may have been made before a hook was there, anywhere in the model."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing it takes seconds
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _per_sample(values: Tensor, axis: int) -> Tensor:
    if values.ndim == 2:
        return values
    return values.movedim(axis, -1).flatten(1, -2).float().mean(1)
