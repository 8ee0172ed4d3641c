"""What a head costs: parameters, bytes, and bytes of optimizer state."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from etfhead.surgery import find_classifiers, find_heads

__all__ = ["head_modules", "head_scale", "model_costs", "optimizer_costs"]


def head_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The heads that were swapped in, or the stock classifiers of a model that has none."""
    return dict(find_heads(model)) or find_classifiers(model)


def head_scale(model: nn.Module) -> float | None:
    """The number that multiplies the logits of the (first) head; None for a linear one."""
    for head in find_heads(model).values():
        scale = getattr(head, "scale", None)
        if isinstance(scale, Tensor):
            return float(scale.detach().float().mean())
    return None


def model_costs(model: nn.Module, heads: Mapping[str, nn.Module]) -> dict[str, int]:
    """Parameters of the model and its heads, and bytes of the heads' parameters and buffers."""
    parameters = list(model.parameters())
    return {
        "params_total": sum(p.numel() for p in parameters),
        "params_trainable": sum(p.numel() for p in parameters if p.requires_grad),
        "params_head": sum(p.numel() for p in _parameters(heads) if p.requires_grad),
        "head_bytes": sum(
            _bytes(t) for head in heads.values() for t in chain(head.parameters(), head.buffers())
        ),
    }


def optimizer_costs(
    optimizer: torch.optim.Optimizer, model: nn.Module, heads: Mapping[str, nn.Module]
) -> dict[str, int]:
    """Bytes of optimizer state (moments, counters), of the model and of its heads alone."""
    return {
        "optimizer_state_bytes": sum(_state_bytes(optimizer, p) for p in model.parameters()),
        "optimizer_state_bytes_head": sum(_state_bytes(optimizer, p) for p in _parameters(heads)),
    }


def _parameters(heads: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    return [parameter for head in heads.values() for parameter in head.parameters()]


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _state_bytes(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> int:
    # .get: indexing the optimizer's defaultdict would add an entry for a parameter it never updates.
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    return sum(_bytes(value) for value in state.values() if isinstance(value, Tensor))
