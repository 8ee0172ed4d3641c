"""Train the last stages of a model and keep the rest a fixed function."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from etfhead.experiment.suggest import did_you_mean
from etfhead.experiment.training.accounting import head_modules

__all__ = ["freeze_all_but", "frozen_modules", "train_mode"]


def freeze_all_but(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Stop the gradients of every parameter that neither the head nor a prefix covers, in place.

    Args:
        model: With its head in place; the head always trains.
        prefixes: Dotted names of parameters or modules, as in ``blocks.5``; none = the head alone.

    Raises:
        ValueError: If a prefix covers no parameter, or nothing is left to train.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> freeze_all_but(model, ["1"])
    >>> [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    ['1.weight', '1.bias']
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(_covers(prefix, name) for name in names):
            places = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, 5)}
            parts = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            hint = did_you_mean(prefix, sorted(places))
            raise ValueError(
                f"trainable: the model has no parameters at {prefix!r}{hint}; its parts are {parts}"
            )
    kept = (*prefixes, *head_modules(model))
    for name, parameter in model.named_parameters():
        if not any(_covers(prefix, name) for prefix in kept):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"trainable: {list(prefixes)} leaves nothing to train; name a part of the model")


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The outermost modules outside the head that hold parameters and none that trains."""
    found: list[nn.Module] = []
    heads = {id(head) for head in head_modules(model).values()}
    _collect(model, heads, found)
    return found


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Put a model in training mode except for its frozen parts.

    In evaluation mode their batch norms keep the statistics they came with and nothing drops out, so that
    they stay the function that the trained layers were started on.

    Args:
        model: The model.
        frozen: From :func:`frozen_modules`.
    """
    model.train()
    for module in frozen:
        module.eval()


def _covers(prefix: str, name: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _collect(module: nn.Module, heads: set[int], found: list[nn.Module]) -> None:
    if id(module) in heads:  # its neck follows the features even where nothing in it trains
        return
    inside = {id(inner) for inner in module.modules()}
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters) and not heads & inside:
        found.append(module)
        return
    for child in module.children():
        _collect(child, heads, found)
