"""Heads by name, built to take the place of a given layer."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from etfhead import heads
from etfhead.surgery.classifiers import layer_sizes

__all__ = ["build_head", "check_options", "checked_count"]

# Each head with its twin for (B, d, H, W) features.
HEADS: dict[str, tuple[type[heads.FeatureHead], type[heads.FeatureHead]]] = {
    "etf": (heads.ETFHead, heads.ETFConvHead),
    "cosine": (heads.CosineHead, heads.CosineConvHead),
    "linear": (heads.LinearHead, heads.LinearConvHead),
    "class_mean": (heads.ClassMeanHead, heads.ClassMeanConvHead),
    "delta": (heads.DeltaRuleHead, heads.DeltaRuleConvHead),
    "guided": (heads.GuidedETFHead, heads.GuidedETFConvHead),
    "multilabel_etf": (heads.MultiLabelETFHead, heads.MultiLabelETFConvHead),
    "regression": (heads.RegressionHead, heads.RegressionConvHead),
}
_FROM_LAYER = ("in_features", "num_classes", "device", "dtype")


def check_options(head: str, options: dict[str, Any]) -> None:
    """Refuse an unknown head and options that it does not have."""
    if head not in HEADS:
        raise ValueError(f"head={head!r}: expected one of {_choices(head, HEADS)}")
    known = [
        name
        for name, p in inspect.signature(HEADS[head][0]).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in _FROM_LAYER
    ]
    for option in options:
        if option in _FROM_LAYER:
            raise ValueError(f"{option}: taken from the layer that is replaced; leave it out")
        if option not in known:
            raise ValueError(f"{option}: not an option of head={head!r}; it has {_choices(option, known)}")
    if head == "linear" and options.get("neck") is None and set(options) - {"neck"}:
        raise ValueError(f"head='linear' without a neck keeps the stock layer; it takes no {list(options)}")


def _choices(given: object, known: Iterable[str]) -> str:
    known = list(known)
    close = get_close_matches(str(given), known, n=1)
    return ", ".join(map(repr, known)) + (f"; did you mean {close[0]!r}?" if close else "")


def checked_count(num_classes: Any, least: int = 2) -> int:
    """The number of classes as an int of at least ``least``."""
    try:
        count = -1 if isinstance(num_classes, bool) else operator.index(num_classes)
    except TypeError:
        count = -1
    if count < least:
        raise ValueError(f"num_classes={num_classes!r}: expected an integer of at least {least}")
    return count


def _checked_class_counts(class_counts: Iterable[Any], K: int, kind: type[nn.Module]) -> list[int]:
    counts = list(class_counts)
    if len(counts) != K:
        raise ValueError(f"class_counts: expected {K} numbers, one per class, got {len(counts)}")
    for label, count in enumerate(counts):
        try:
            valid = not isinstance(count, bool) and int(count) == count and count > 0
        except (TypeError, ValueError, OverflowError):
            valid = False
        if not valid:
            raise ValueError(f"class_counts[{label}]={count!r}: expected a positive number of samples")
    if "class_counts" not in inspect.signature(kind).parameters:
        raise ValueError(f"class_counts: {kind.__name__} has no use for it; leave it out, or take head='etf'")
    return [int(count) for count in counts]


def build_head(
    name: str,
    layer: nn.Module,
    head: str,
    num_classes: int | None,
    class_counts: Sequence[int] | None,
    options: dict[str, Any],
) -> nn.Module:
    """The head that takes the place of ``layer``, or ``layer`` itself where it already is that head.

    Raises:
        ValueError: If the head does not exist for these sizes and options, naming the layer.
    """
    in_features, width = layer_sizes(layer)
    like: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    try:
        kind = HEADS[head][isinstance(layer, nn.Conv2d)]
        K = checked_count(width if num_classes is None else num_classes, kind.least_classes)
        if class_counts is not None:
            options = {**options, "class_counts": _checked_class_counts(class_counts, K, kind)}
        if head == "linear" and options.get("neck") is None:
            return layer if width == K else _fresh_layer(layer, K, bias=layer.bias is not None, **like)
        return kind(in_features, K, **options, **like).train(layer.training)
    except ValueError as error:
        raise ValueError(f"classifier {name!r} (in_features={in_features}): {error}") from error
    except (TypeError, RuntimeError) as error:
        # Tensors are compared with an error of their own; other errors of torch are not about options.
        if isinstance(error, RuntimeError) and not str(error).startswith("Boolean value of Tensor"):
            raise
        given = ", ".join(f"{key}: {type(value).__name__}" for key, value in options.items())
        raise ValueError(
            f"classifier {name!r} (in_features={in_features}): an option of head={head!r} has a type that it "
            f"does not take; got {given} ({error})"
        ) from error


def _fresh_layer(layer: nn.Module, num_classes: int, **options: Any) -> nn.Module:
    in_features, _ = layer_sizes(layer)
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(in_features, num_classes, 1, **options).train(layer.training)
    return nn.Linear(in_features, num_classes, **options).train(layer.training)
