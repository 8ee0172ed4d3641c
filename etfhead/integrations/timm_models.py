"""``etf_<model>``: every timm model with a fixed head, by name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import timm
from torch import nn

from etfhead.surgery import find_heads, swap_head

__all__ = ["etf_model", "register"]

PREFIX = "etf_"
# These need a call after each step, which an unchanged trainer does not make.
_FOLLOWING = ("class_mean", "delta", "guided")

_logger = logging.getLogger(__name__)


def etf_model(name: str, **options: Any) -> nn.Module:
    """A timm model whose classifier is a fixed head.

    Args:
        name: A timm model, without ``etf_``; a tag behind a dot chooses pretrained weights.
        **options: Options of ``timm.create_model``; those that start with ``etf_`` go to
            :func:`~etfhead.swap_head` (``etf_head``, ``etf_basis``, ``etf_label_smoothing``, ...), with
            ``"none"`` for None, which timm drops on the way.

    Returns:
        nn.Module: The swapped model. ``etfhead.fold_head`` gives the stock model back.

    Raises:
        ValueError: If timm has no such model, the model has no classifier, or an option does not fit.

    >>> etf_model("test_resnet", num_classes=10, etf_basis="haar").get_classifier().frame.spec()["basis"]
    'haar'
    """
    tagless = name.partition(".")[0]
    if not timm.is_model(tagless) or tagless.startswith(PREFIX):
        raise ValueError(f"name={name!r}: timm {timm.__version__} has no such model; see timm.list_models()")
    return _swapped(timm.create_model, options, name)


def register() -> list[str]:
    """Register ``etf_<model>`` for every model that timm knows by now, and return the new names.

    Importing :mod:`etfhead.integrations.timm_plugin` does this; call it again after registering models of
    your own.
    """
    from timm.models import model_entrypoint, register_model

    new = []
    for name in timm.list_models():
        if not name.startswith(PREFIX) and not timm.is_model(PREFIX + name):
            entry = _entry_point(PREFIX + name, model_entrypoint(name))
            globals()[entry.__name__] = register_model(entry)  # timm lists it in __all__
            new.append(entry.__name__)
    return new


def _entry_point(name: str, build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    def entry(pretrained: bool = False, **options: Any) -> nn.Module:
        return _swapped(build, {"pretrained": pretrained, **options})

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"timm's {name.removeprefix(PREFIX)} with a fixed head."
    return entry


def _swapped(build: Callable[..., nn.Module], options: dict[str, Any], *args: Any) -> nn.Module:
    ours: dict[str, Any] = {
        key.removeprefix(PREFIX): None if value == "none" else value
        for key, value in options.items()
        if key.startswith(PREFIX)
    }
    head: Any = ours.pop("head", "etf")
    if head in _FOLLOWING:
        raise ValueError(
            f"etf_head={head!r} needs update_heads(model, target) after each step, and an unchanged trainer "
            "does not call it; take 'etf', or a loop of your own"
        )
    model = build(*args, **{key: value for key, value in options.items() if not key.startswith(PREFIX)})
    swap_head(model, head, **ours)
    if any(next(module.parameters(), None) is None for module in find_heads(model).values()):
        _logger.warning(
            "The head has no parameters: with --layer-decay the learning rates of the trunk are those of the "
            "stock model divided by the decay. Multiply --lr by it, or leave etf_learn_scale out."
        )
    return model
