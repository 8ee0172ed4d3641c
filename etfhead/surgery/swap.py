"""Change the classifier of any model in place, and change it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from torch import nn

from etfhead import heads
from etfhead.surgery.classifiers import find_classifiers, inner_model, layer_sizes
from etfhead.surgery.head_factory import HEADS, build_head, check_options, checked_count
from etfhead.surgery.layer_checks import check_unwrapped
from etfhead.surgery.parallel import mark_fixed_buffers, unmark_fixed_buffers

__all__ = ["find_heads", "fold_head", "swap_head"]

M = TypeVar("M", bound=nn.Module)


def swap_head(
    model: M,
    head: Literal[
        "etf", "multilabel_etf", "class_mean", "delta", "guided", "cosine", "linear", "regression"
    ] = "etf",
    *,
    num_classes: int | None = None,
    class_counts: Sequence[int] | None = None,
    classifier: str | Sequence[str] | None = None,
    **head_options: Any,
) -> M:
    """Replace every classifier layer of a model by a head, in place.

    Works on all timm models that have a classifier, torchvision models, Hugging Face's timm wrapper, and
    any module by name; :func:`find_classifiers` tells which layers are meant. A head takes feature width,
    device, dtype and training mode from the layer it replaces. Everything else stays as it is: modules,
    ``requires_grad``, and pretrained layers between pooling and classifier (which timm's
    ``reset_classifier`` would draw anew). All heads are built before the first is put in place, so an error
    leaves the model untouched.

    A model with several classifiers (distilled, auxiliary, multi-branch) gets one head for each, with its
    own neck and scale. All use the same ``seed``, hence the same frame wherever widths agree: such models
    average the logits of their branches, and an average over two different frames would not be a frame.

    Args:
        model: A bare model; swap before wrapping (DDP, FSDP) or compiling.
        head: ``"etf"`` (fixed), ``"multilabel_etf"`` (fixed, decodes label sets), ``"class_mean"``,
            ``"delta"`` or ``"guided"`` (class vectors follow the data without gradients: call
            :func:`~etfhead.heads.update_heads` after each step), ``"regression"`` (fixed, for real-valued
            ``targets``), ``"cosine"`` (learnable unit class vectors) or ``"linear"``: the stock layer, kept
            when the number of classes stays, fresh when it changes; with a ``neck`` a learnable layer behind
            that neck.
        num_classes: K of the new head, at least 2; None keeps the model's, or counts the columns of a
            regression head's ``targets``, at least 1. The model's ``num_classes`` (and
            Hugging Face's ``num_labels``) follow. Needed for a timm model built with ``num_classes=0``.
        class_counts: Training samples of each class, for ``head="etf"`` with a ``frame`` that follows them:
            ``"orthogonal"``, ``"imbalanced_ce"`` or ``"seli"``.
        classifier: Dotted name or names of the layers to replace, instead of the search.
        **head_options: Options of :class:`~etfhead.heads.ETFHead`, :class:`~etfhead.heads.MultiLabelETFHead`,
            :class:`~etfhead.heads.ClassMeanHead`, :class:`~etfhead.heads.DeltaRuleHead`,
            :class:`~etfhead.heads.GuidedETFHead`, :class:`~etfhead.heads.RegressionHead`,
            :class:`~etfhead.heads.CosineHead` or :class:`~etfhead.heads.LinearHead`.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        ValueError: If there is no classifier, the model was swapped before, a name or option is unknown, a
            layer cannot be replaced, or the head does not exist for these sizes.
        TypeError: If the model is wrapped for parallel or compiled execution.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    >>> type(swap_head(model, classifier="3")[3]).__name__
    'ETFHead'
    """
    check_unwrapped(model)
    check_options(head, head_options)
    kind = HEADS[head][0]
    if num_classes is None:
        num_classes = kind.classes_in(head_options)
    if num_classes is not None:
        num_classes = checked_count(num_classes, kind.least_classes)
    if found := find_heads(model):
        raise ValueError(
            f"the model already has an etfhead head at {', '.join(map(repr, found))}: swap once, on a fresh "
            "model; fold_head turns a head back into a plain layer, timm's reset_classifier replaces it"
        )
    with _restored_on_error(model):
        layers = find_classifiers(model, classifier)
        if not layers:
            layers = _grow_classifier(model, num_classes)
        _check_complete(model, layers, num_classes, classifier)
        new: dict[str, nn.Module] = {}
        for name, layer in layers.items():
            new[name] = build_head(name, layer, head, num_classes, class_counts, head_options)
        for name, module in new.items():
            model.set_submodule(name, module)
            if num_classes is not None:
                _announce(model, name, num_classes, layer_sizes(layers[name])[1])
    mark_fixed_buffers(model)
    return model


def fold_head(model: M) -> M:
    """Turn every etfhead head of a model back into the stock layer, in place.

    The folded model needs no etfhead: its state dict loads strictly into the stock model with the same
    number of classes, and in evaluation mode the logits are the same up to float rounding. A folded layer
    always has a bias, as all of timm's classifiers do; the few models whose classifier has none
    (torchvision's ``maxvit_t``) gain a key.

    Args:
        model: A model that went through :func:`swap_head`, or holds heads of its own.

    Returns:
        nn.Module: ``model`` itself.

    Raises:
        ValueError: If the model holds no head, or one that no plain layer can express (L2-normalised
            features); the model is then left as it was.
        TypeError: If the model is wrapped for parallel or compiled execution.

    >>> model = swap_head(nn.Sequential(nn.Flatten(), nn.Linear(32, 10)), classifier="1")
    >>> fold_head(model.eval())[1]
    Linear(in_features=32, out_features=10, bias=True)
    """
    check_unwrapped(model)
    if isinstance(model, heads.FeatureHead):
        raise ValueError("fold_head: the model is itself a head; use model.fuse()")
    found = find_heads(model)
    if not found:
        raise ValueError("fold_head: the model has no etfhead head; it may be folded already")
    folded: dict[int, nn.Module] = {}
    for name, module in found.items():
        try:
            folded[id(module)] = module.fuse()
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if id(module) in folded:
            model.set_submodule(name, folded[id(module)])
    unmark_fixed_buffers(model)
    _forget_options(model)
    return model


def find_heads(model: nn.Module) -> dict[str, heads.FeatureHead]:
    """The etfhead heads inside a model, by dotted name.

    Args:
        model: Any module, wrapped or not.

    Returns:
        dict[str, FeatureHead]: Empty if there is none.

    >>> find_heads(nn.Linear(8, 3))
    {}
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, heads.FeatureHead)}


def _grow_classifier(model: nn.Module, num_classes: int | None) -> dict[str, nn.Module]:
    """Give a model built with ``num_classes=0`` its classifier."""
    inner, _ = inner_model(model)
    reset: Callable[..., None] | None = getattr(inner, "reset_classifier", None)
    if reset is None:
        raise ValueError(
            f"no classifier found in {type(inner).__name__}: if it has one, name it (classifier='head.fc'); "
            "encoder-only models (timm's *_enc, which silently accept num_classes) have none: choose a model "
            "with a classifier, or put a layer behind the encoder and name that"
        )
    if num_classes is None:
        raise ValueError(f"{type(inner).__name__} was built without a classifier: pass num_classes")
    old = {id(module) for module in inner.modules()}
    like = next(inner.parameters(), None)
    reset(num_classes)
    if like is not None:
        # Older versions of timm build the new layers on the CPU, in float32 and training mode.
        for module in [m for m in inner.modules() if id(m) not in old]:
            module.to(device=like.device, dtype=like.dtype).train(inner.training)
    if not (layers := find_classifiers(model)):
        raise ValueError(f"no classifier found in {type(inner).__name__} after reset_classifier; name it")
    return layers


def _check_complete(
    model: nn.Module,
    layers: dict[str, nn.Module],
    num_classes: int | None,
    classifier: str | Sequence[str] | None,
) -> None:
    """A new class count for some of a model's classifiers would break the sum of their logits."""
    if classifier is None or num_classes is None:
        return
    found = find_classifiers(model)
    rest = [n for n, layer in found.items() if n not in layers and layer_sizes(layer)[1] != num_classes]
    if rest and not found.keys().isdisjoint(layers):
        raise ValueError(f"classifier={classifier!r} with num_classes={num_classes}: name {rest} as well")


def _announce(model: nn.Module, name: str, num_classes: int, before: int) -> None:
    """Tell the modules around a classifier, and a Hugging Face configuration, its number of classes."""
    parts = name.split(".")
    for module in [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]:
        for attribute in ("num_classes", "num_labels", "out_features"):
            value = getattr(module, attribute, None)
            # out_features belongs to the classifier only around a projection (attention pooling).
            if isinstance(value, int) and (value == before or attribute != "out_features"):
                setattr(module, attribute, num_classes)
        config: Any = getattr(module, "config", None)
        if isinstance(getattr(config, "num_labels", None), int) and config.num_labels != num_classes:
            config.num_labels = num_classes


def _forget_options(model: nn.Module) -> None:
    """Leave the options of etfhead's timm plugin out of what timm writes beside the weights."""
    inner, _ = inner_model(model)
    options = getattr(inner, "_model_args", None)
    if isinstance(options, dict):
        inner._model_args = {k: v for k, v in options.items() if not k.startswith("etf_")}  # type: ignore[assignment]


@contextmanager
def _restored_on_error(model: nn.Module) -> Iterator[None]:
    """Put attributes, children and ``requires_grad`` of every module back if the body raises."""
    tables = ("_modules", "_parameters", "_buffers")
    saved = [
        (module, {k: dict(v) if k in tables else v for k, v in vars(module).items()})
        for module in model.modules()
    ]
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    except BaseException:
        for module, attributes in saved:
            vars(module).clear()
            vars(module).update(attributes)
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
        raise
