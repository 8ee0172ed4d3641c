"""Layer-wise learning rate decay that a head without parameters does not shift."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from etfhead.heads import FeatureHead

__all__ = ["layer_decay_groups"]

_PLACEHOLDER = "layer_decay_level"


def layer_decay_groups(
    model: nn.Module, *, layer_decay: float = 0.75, weight_decay: float = 0.05, **options: Any
) -> list[dict[str, Any]]:
    r"""Layer decay: timm's ``param_groups_layer_decay`` with the learning rates of the stock model.

    .. math:: \text{lr\_scale}(\ell) = \text{layer\_decay}^{\,L - \ell}

    timm numbers the levels \(\ell\) that have parameters, from the stem up to the classifier at L. A head
    without any (``learn_scale=False``) takes the top level away in most families, and every trunk learning
    rate is divided by the decay: 1.33 times as large at 0.75, a confounder of any comparison with a learnable
    head. Here each head keeps its level. Heads with their learnable scale need no help: timm's own groups
    are then the same as these.

    Args:
        model: A model with etfhead heads, or without: then these are timm's groups.
        layer_decay: Factor from one level to the level below.
        weight_decay: As in timm.
        **options: Further options of ``timm.optim.param_groups_layer_decay``.

    Returns:
        list[dict]: Parameter groups with ``lr_scale``, for timm's optimizers and schedulers, which multiply
        by it. PyTorch's own do not know ``lr_scale``: set ``group["lr"] = lr * group["lr_scale"]``.

    >>> import timm
    >>> from etfhead import swap_head
    >>> model = swap_head(timm.create_model("test_vit", num_classes=10), learn_scale=False)
    >>> from timm.optim import param_groups_layer_decay
    >>> max(group["lr_scale"] for group in param_groups_layer_decay(model, layer_decay=0.5))
    1.0
    >>> max(group["lr_scale"] for group in layer_decay_groups(model, layer_decay=0.5))  # the norm's
    0.5
    """
    from timm.optim import param_groups_layer_decay

    with _levels_kept(model):
        groups: list[dict[str, Any]] = param_groups_layer_decay(
            model, weight_decay=weight_decay, layer_decay=layer_decay, **options
        )
    return groups


@contextmanager
def _levels_kept(model: nn.Module) -> Iterator[None]:
    """An empty frozen parameter in every head: timm counts its level and leaves it out of the groups."""
    heads = [module for module in model.modules() if isinstance(module, FeatureHead)]
    for head in heads:
        head.register_parameter(_PLACEHOLDER, nn.Parameter(torch.empty(0), requires_grad=False))
    try:
        yield
    finally:
        for head in heads:
            delattr(head, _PLACEHOLDER)
