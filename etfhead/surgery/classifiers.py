"""Where a model keeps its classifier: every Linear or 1x1 convolution that writes class scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any

from torch import nn

from etfhead.heads import FeatureHead
from etfhead.surgery.layer_checks import check_layer, check_unwrapped, is_plain

__all__ = ["find_classifiers", "inner_model", "layer_sizes"]

# What torchvision and Hugging Face call the last child of a classification model.
_CONVENTIONAL = ("fc", "classifier", "head", "heads")


def find_classifiers(model: nn.Module, classifier: str | Sequence[str] | None = None) -> dict[str, nn.Module]:
    """The layers that write a model's class scores, by dotted name, in the order of the model.

    For timm models these are all layers named by ``pretrained_cfg["classifier"]`` or found below
    ``get_classifier()``: neither alone is complete (distilled, auxiliary and multi-branch heads). A Hugging
    Face timm wrapper is looked through. Models that declare nothing (torchvision, Hugging Face) are
    recognised when their last layer sits in a child called ``fc``, ``classifier``, ``head`` or ``heads``;
    auxiliary classifiers of the same width beside it count too.

    Args:
        model: Any bare model (not wrapped for parallel or compiled execution).
        classifier: Dotted name or names, as in ``model.named_modules()``, instead of the search.

    Returns:
        dict[str, nn.Module]: ``nn.Linear`` and 1x1 ``nn.Conv2d`` layers; empty if there is none.

    Raises:
        ValueError: If a given name does not exist or a layer found cannot be replaced (not plain,
            quantised, adapted, reparametrised, shared).
        TypeError: If the model is wrapped.

    >>> list(find_classifiers(nn.Sequential(nn.Flatten(), nn.Linear(8, 3)), "1"))
    ['1']
    """
    check_unwrapped(model)
    names = _search(model) if classifier is None else _given_names(model, classifier)
    for name in names:
        check_layer(model, name)
    return {name: model.get_submodule(name) for name in names}


def inner_model(model: nn.Module) -> tuple[nn.Module, str]:
    """The timm model inside Hugging Face's wrapper with the prefix of its names, or the model itself."""
    inner = getattr(model, "timm_model", None)
    return (inner, "timm_model.") if isinstance(inner, nn.Module) else (model, "")


def layer_sizes(layer: nn.Module) -> tuple[int, int]:
    """``(in_features, num_classes)`` of a Linear or Conv2d."""
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels, layer.out_channels
    assert isinstance(layer, nn.Linear)  # noqa: S101 - callers hold what find_classifiers returned
    return layer.in_features, layer.out_features


def _search(model: nn.Module) -> list[str]:
    inner, prefix = inner_model(model)
    return [prefix + name for name in _declared(inner) or _conventional(inner)]


def _declared(model: nn.Module) -> list[str]:
    """Names from timm's two declarations, ``pretrained_cfg["classifier"]`` and ``get_classifier()``."""
    modules = dict(model.named_modules())
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    listed = config.get("classifier") if isinstance(config, Mapping) else getattr(config, "classifier", None)
    listed = (listed,) if isinstance(listed, str) else (listed or ())
    components = [modules[name] for name in listed if name in modules]
    if callable(getter := getattr(model, "get_classifier", None)):
        # timm 1.0.15's own fails on its CLIP ResNets, which are listed.
        with suppress(AttributeError):
            components += _flatten(getter())
    if callable(getter) or components:
        width = getattr(model, "num_classes", None)
        found = {id(leaf) for component in components for leaf in _score_layers(component, width)}
        return [name for name, module in modules.items() if id(module) in found]
    return []


def _flatten(component: object) -> Iterator[nn.Module]:
    if isinstance(component, (tuple, list, nn.ModuleList)):
        for part in component:
            yield from _flatten(part)
    elif isinstance(component, nn.Module):
        yield component


def _score_layers(component: nn.Module, width: object) -> list[nn.Module]:
    """The layers of one declared component that write scores, not the hidden ones before them.

    Wrappers hold a norm, a pooling or an MLP beside the layer. A hidden layer that happens to have as many
    outputs as there are classes is told by the later layer that reads them.
    """
    if any(isinstance(module, FeatureHead) for module in component.modules()):
        return []  # swapped already: what is left beside a head is hidden
    layers = [m for m in component.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    if not layers:
        # A quantised layer, say: returned so that its check can say what is wrong with it.
        return [component] if hasattr(component, "weight") else []
    sizes = [layer_sizes(layer) for layer in layers]
    if width not in [out for _, out in sizes]:
        width = sizes[-1][1]  # the user replaced the layer by hand and num_classes is stale
    return [
        layer
        for i, (layer, (_, out)) in enumerate(zip(layers, sizes, strict=True))
        if out == width and all(later_in != out for later_in, _ in sizes[i + 1 :])
    ]


def _conventional(model: nn.Module) -> list[str]:
    """The last layer of a model that declares nothing, if its place has one of the usual names."""
    children = dict(model.named_children())
    auxiliary = [name for name in children if "aux" in name.lower()]
    main = _last_layer({name: child for name, child in children.items() if name not in auxiliary})
    # A hidden layer called fc, or a detection head, must not be taken for the classifier.
    if main is None or main.split(".")[0] not in _CONVENTIONAL or not is_plain(model.get_submodule(main)):
        return []
    child = children[main.split(".")[0]]
    if not isinstance(child, (nn.Linear, nn.Conv2d, nn.Sequential)):
        return []
    width = layer_sizes(model.get_submodule(main))[1]
    found = {main}
    for name in auxiliary:
        last = _last_layer({name: children[name]})
        if last and is_plain(layer := model.get_submodule(last)) and layer_sizes(layer)[1] == width:
            found.add(last)
    return [name for name, _ in model.named_modules() if name in found]


def _last_layer(children: Mapping[str, nn.Module]) -> str | None:
    """Name of the last module with parameters of its own."""
    names = [
        f"{child_name}.{name}" if name else child_name
        for child_name, child in children.items()
        for name, module in child.named_modules()
        if any(True for _ in module.parameters(recurse=False))
    ]
    return names[-1] if names else None


def _given_names(model: nn.Module, classifier: str | Sequence[str]) -> list[str]:
    names = [classifier] if isinstance(classifier, str) else list(classifier)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"classifier={classifier!r}: expected a dotted module name or a list of them")
    if len(set(names)) < len(names):
        raise ValueError(f"classifier={classifier!r}: a name appears twice")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in names:
        if name not in modules:
            raise ValueError(
                f"classifier={name!r}: the model has no such module{_suggest(model, name, modules)}"
            )
        below = [inner for inner, m in modules.items() if inner.startswith(name + ".") and is_plain(m)]
        if below and not is_plain(modules[name]):
            raise ValueError(
                f"classifier={name!r} is a {type(modules[name]).__name__}, not a layer; name the one to "
                f"replace: {', '.join(map(repr, below[-5:]))}"
            )
    return names


def _suggest(model: nn.Module, name: str, modules: Mapping[str, nn.Module]) -> str:
    close = get_close_matches(name, modules, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    if found := _search(model):
        return f"{hint}; its classifier: {', '.join(map(repr, found))}"
    layers = [candidate for candidate, module in modules.items() if candidate and is_plain(module)]
    return f"{hint}; its last plain layers: {', '.join(map(repr, layers[-5:])) or 'none'}"
