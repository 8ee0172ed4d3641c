"""What must hold before a layer is replaced: the model is bare, the layer is plain and nobody else's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

__all__ = ["check_layer", "check_unwrapped", "is_plain"]

# By class name along the MRO: asking by type would import torch.distributed and torch._dynamo.
_WRAPPERS = {
    "DistributedDataParallel": "unwrap it with .module",
    "DataParallel": "unwrap it with .module",
    "FullyShardedDataParallel": "build the model again",
    "FSDPModule": "build the model again",
    "OptimizedModule": "unwrap it with ._orig_mod",
    "DeepSpeedEngine": "unwrap it with .module",
    "_FabricModule": "unwrap it with .module",
    "ScriptModule": "start from the eager model",
}

_ADAPTERS = {"BaseTunerLayer", "AuxiliaryTrainingWrapper", "ModulesToSaveWrapper"}  # peft's


def check_unwrapped(model: object, where: str = "model") -> None:
    """Refuse what is not a bare module: a wrapper holds its own view of the parameters it was given.

    Raises:
        TypeError: If ``model`` is no ``nn.Module``, or is wrapped for parallel or compiled execution.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{where}: expected a torch.nn.Module, got {type(model).__name__}")
    for base in type(model).__mro__:
        if (remedy := _WRAPPERS.get(base.__name__)) is not None:
            raise TypeError(
                f"{where} is a {base.__name__}: change the head first, then wrap the model (or {remedy})"
            )
    if getattr(model, "_compiled_call_impl", None) is not None:
        raise TypeError(f"{where} is compiled (.compile()): change the head first, then compile")


def is_plain(layer: nn.Module) -> bool:
    """Whether the layer computes exactly ``x W^T + b``: nn.Linear or a 1x1 nn.Conv2d, or timm's Linear."""
    if isinstance(layer, nn.Conv2d):
        pointwise = (layer.kernel_size, layer.stride, layer.groups) == ((1, 1), (1, 1), 1)
        return type(layer).forward is nn.Conv2d.forward and pointwise and layer.padding in ((0, 0), "valid")
    # timm's Linear repeats nn.Linear's forward with a cast that only TorchScript sees.
    cls = type(layer)
    timms = cls.__name__ == "Linear" and cls.__module__.startswith("timm.layers")
    return isinstance(layer, nn.Linear) and (cls.forward is nn.Linear.forward or timms)


def check_layer(model: nn.Module, name: str) -> None:
    """Check that the layer ``name`` of ``model`` can be replaced and later folded back.

    Raises:
        ValueError: If the layer is not a plain Linear or 1x1 Conv2d, is quantised, adapted or
            reparametrised, or shares its parameters.
        TypeError: If it sits inside a parallel or compiled wrapper.
    """
    parts = name.split(".")
    for depth in range(1, len(parts)):
        parent = ".".join(parts[:depth])
        check_unwrapped(model.get_submodule(parent), f"classifier={name!r}: {parent!r}")
    _check_not_adapted(model, name)
    layer = model.get_submodule(name)
    where = f"classifier={name!r}"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        raise ValueError(f"{where}: {type(layer).__name__} has no size yet; run one forward pass first")
    if not is_plain(layer):
        raise ValueError(
            f"{where} is {_describe(layer)}: expected a plain Linear, or a Conv2d with kernel_size=1, "
            "stride=1, no padding and groups=1 (swap the head before quantising a model)"
        )
    if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
        raise ValueError(
            f"{where}: its weight is computed from other tensors (parametrize, weight_norm, spectral_norm, "
            "prune); remove the parametrisation first"
        )
    weight = layer.weight
    if type(weight) is not nn.Parameter or not weight.is_floating_point():
        kind = f"{type(weight).__name__} of {weight.dtype}"
        raise ValueError(f"{where}: its weight is a {kind}; swap the head before quantising or sharding")
    _check_unshared(model, name)


def _check_not_adapted(model: nn.Module, name: str) -> None:
    parts = name.split(".")
    for depth in range(len(parts) + 1):
        module = model.get_submodule(".".join(parts[:depth]))
        if hasattr(module, "lora_A") or any(base.__name__ in _ADAPTERS for base in type(module).__mro__):
            raise ValueError(
                f"classifier={name!r} carries an adapter ({type(module).__name__}): merge or remove it, or "
                "swap the head before adding adapters"
            )


def _check_unshared(model: nn.Module, name: str) -> None:
    own: dict[int, Tensor] = {id(p): p for p in model.get_submodule(name).parameters(recurse=False)}
    holders = [
        holder
        for holder, parameter in model.named_parameters(remove_duplicate=False)
        if id(parameter) in own and holder.rpartition(".")[0] != name
    ]
    if holders:
        raise ValueError(
            f"classifier={name!r} shares parameters with {', '.join(map(repr, holders))}: replacing it would "
            "leave those behind; untie them first"
        )


def _describe(layer: nn.Module) -> str:
    name = type(layer).__name__
    if isinstance(layer, nn.Conv2d):
        sizes = ("kernel_size", "stride", "padding", "groups")
        return f"a {name} with " + ", ".join(f"{size}={getattr(layer, size)}" for size in sizes)
    module = type(layer).__module__
    return f"a {name}" if module.startswith("torch.nn.modules") else f"a {module}.{name}"
