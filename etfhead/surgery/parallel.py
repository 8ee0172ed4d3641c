"""Fixed class vectors under DistributedDataParallel: sent once, or never, instead of before every step."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch import nn

from etfhead.heads import FeatureHead
from etfhead.heads.fixed import FixedHead
from etfhead.surgery.layer_checks import check_unwrapped

__all__ = ["FixedBuffers", "fixed_buffers", "mark_fixed_buffers", "prepare_ddp", "unmark_fixed_buffers"]

M = TypeVar("M", bound=nn.Module)

# Where DistributedDataParallel looks for the names of tensors that it shall leave alone.
_ATTRIBUTE = "_ddp_params_and_buffers_to_ignore"


def prepare_ddp(model: M) -> M:
    """Let every process take the first one's fixed class vectors, once; DDP then never sends them again.

    ``DistributedDataParallel`` broadcasts all buffers from the first process before every training step: for
    K classes of d features 4 K d bytes that never change. :func:`~etfhead.swap_head` already marks vectors
    that follow from a seed. This one is for vectors made from data (:func:`~etfhead.align_head`), and for a
    module that holds the swapped model, such as a LightningModule. Call it in every process, right before
    wrapping.

    The marks are looked up when DDP wraps the model, so a head that was folded, reset or changed in between
    is synchronised as usual. Statistics of the neck, and class vectors that follow the data, stay with DDP.

    Args:
        model: The bare module that will be wrapped; it may hold the swapped model at any depth.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        ValueError: If the model holds no etfhead head.
        TypeError: If it is wrapped already.

    >>> from etfhead import ETFHead
    >>> model = prepare_ddp(nn.Sequential(nn.Flatten(), ETFHead(32, 10)))
    >>> sorted(model._ddp_params_and_buffers_to_ignore)
    ['1.bias', '1.frame_id', '1.weight']
    """
    check_unwrapped(model)
    if not any(isinstance(module, FeatureHead) for module in model.modules()):
        raise ValueError("prepare_ddp: the model has no etfhead head; call it after swap_head")
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        buffers = dict(model.named_buffers())
        for name in fixed_buffers(model):
            distributed.broadcast(buffers[name], src=0)
    _mark(model, from_data=True)
    return model


def mark_fixed_buffers(model: nn.Module) -> None:
    """Tell DDP to leave alone the class vectors that every process builds alike, without communication."""
    _mark(model, from_data=False)


def unmark_fixed_buffers(model: nn.Module) -> None:
    """Take the marks away, and leave what the user had listed."""
    marks = getattr(model, _ATTRIBUTE, None)
    if isinstance(marks, FixedBuffers):
        delattr(model, _ATTRIBUTE)
        if marks.others:
            setattr(model, _ATTRIBUTE, marks.others)


def fixed_buffers(model: nn.Module, *, from_data: bool = True) -> list[str]:
    """Dotted names of the buffers that no training step changes.

    Args:
        model: Any module.
        from_data: Name those of frames made from data too.

    >>> from etfhead import ETFHead
    >>> fixed_buffers(nn.Sequential(ETFHead(64, 10, basis="identity")))
    ['0.frame_id']
    """
    names = []
    for prefix, head in model.named_modules():
        if isinstance(head, FixedHead) and (from_data or head.frame.free_of_data):
            own = {"weight", "bias", "frame_id", *head._factor_names.values()} & head._buffers.keys()
            names += [f"{prefix}.{name}" if prefix else name for name in sorted(own)]
    return names


class FixedBuffers(Iterable[str]):
    """The names of a model's fixed buffers at the moment of asking, beside what the user had listed.

    A plain list would go stale: after ``fold_head`` or timm's ``reset_classifier`` the same name is a trained
    parameter, whose gradients DDP would silently not average.

    Args:
        model: The module that DDP will wrap; not kept alive.
        others: Names that were there before.
        from_data: As in :func:`fixed_buffers`.
    """

    def __init__(self, model: nn.Module, others: Iterable[str] = (), *, from_data: bool = False) -> None:
        self._model = weakref.ref(model)
        self.others = list(others)
        self.from_data = from_data

    def __iter__(self) -> Iterator[str]:
        model = self._model()
        yield from self.others
        if model is not None:
            yield from fixed_buffers(model, from_data=self.from_data)

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedBuffers | list[str]:
        # The copy of a model lists its own heads. Copied alone, this is a list.
        model = self._model()
        if model is None or id(model) not in memo:
            return list(self)
        return FixedBuffers(memo[id(model)], self.others, from_data=self.from_data)

    def __reduce__(self) -> tuple[Any, ...]:
        model = self._model()
        if model is None or not fixed_buffers(model, from_data=self.from_data):
            return list, (self.others,)  # a model that was left by reset_classifier loads without etfhead
        return _rebuilt, (model, self.others, self.from_data)


def _rebuilt(model: nn.Module, others: list[str], from_data: bool) -> FixedBuffers:
    return FixedBuffers(model, others, from_data=from_data)


def _mark(model: nn.Module, *, from_data: bool) -> None:
    before = getattr(model, _ATTRIBUTE, ())
    others = before.others if isinstance(before, FixedBuffers) else list(before)
    setattr(model, _ATTRIBUTE, FixedBuffers(model, others, from_data=from_data))
