"""Turn a head toward the data: class vectors from class means, in one pass and closed form."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from etfhead import heads
from etfhead.frames import AssignedFrame, ClassMeansFrame, Frame, OrientedSimplexFrame
from etfhead.frames.assign import assign_classes
from etfhead.frames.counted import is_made_for_counts
from etfhead.frames.orient import class_means_code, orient_simplex
from etfhead.surgery.class_pass import FeatureSums, Progress, sum_features, sum_inputs
from etfhead.surgery.classifiers import find_classifiers, layer_sizes
from etfhead.surgery.head_start import HeadStart, start_behind_neck, start_head
from etfhead.surgery.layer_checks import check_unwrapped
from etfhead.surgery.swap import find_heads

__all__ = ["align_head"]

_FRAMES = ("auto", "simplex", "class_means", "assigned")


def align_head(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    source: Literal["features", "inputs"] = "features",
    frame: Literal["auto", "simplex", "class_means", "assigned"] = "auto",
    exponent: float = 0.25,
    empty: Literal["error", "mean"] = "error",
    max_batches: int | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    r"""Start a model's class vectors from class means of its features or inputs, in place, without training.

    One pass without gradients in evaluation mode; modes are put back. ``features``: class means of what
    reaches each head, and the neck's statistics from the same pass; behind the neck they are
    :math:`(\mu_k - \mu) / \sqrt{\sigma^2 + \epsilon}`. Heads that normalise features get the directions of
    these means, not the means of normalised features. ``inputs``: class means of the images (channels
    averaged, at most 16 x 16 pixels) as a code of d numbers; the model is not run.

    From the means come, in closed form, the simplex turned by Procrustes
    (:func:`~etfhead.frames.orient.orient_simplex`), softened principal components
    (:func:`~etfhead.frames.orient.class_means_code`), or an assignment of the classes to the vectors of the
    head's frame (:func:`~etfhead.frames.assign.assign_classes`); aligning again starts from the last one. A
    fixed head adopts the result as its frame; a class-mean or learnable head (etfhead's, or the model's own
    linear classifier) starts from it. A linear classifier's rows are scaled so that logits have a standard
    deviation of 1, and its bias makes them 0 at the mean feature.

    Args:
        model: A bare model with a head of etfhead's, or a plain linear classifier.
        loader: Yields ``(images, target, ...)``; targets are classes (B,) or weights (B, K).
        source: ``"features"`` or ``"inputs"``.
        frame: ``"simplex"`` (K <= d + 1), ``"class_means"``, ``"assigned"`` (fixed heads), or ``"auto"``: for
            a fixed head the simplex where it exists, ``class_means`` otherwise.
        exponent: Of the singular values in a ``class_means`` code: 1 for class means as they are.
        empty: What to do about a class without samples: ``"error"``, or ``"mean"`` to place it at the mean of
            the others.
        max_batches: Use only so many batches; None for all.
        device: Where the model is; None for the device of its first tensor.
        progress: Called after each batch with the numbers of batches and samples so far.

    Returns:
        dict[str, Any]: ``samples`` (of all processes), ``seconds``, ``classes``, ``source`` and ``frame``.

    Raises:
        ValueError: If there is no head, an option does not fit it, a class is empty, a target is out of
            range, or features are not finite (naming the batch). The model's class vectors are then as they
            were.
        TypeError: If the model is wrapped for parallel or compiled execution.

    >>> model = nn.Sequential(nn.Linear(4, 8), heads.ETFHead(8, 3))
    >>> align_head(model, [(torch.randn(9, 4), torch.arange(9) % 3)])["frame"]
    'oriented_simplex'
    """
    began = time.perf_counter()
    check_unwrapped(model)
    if source not in ("features", "inputs"):
        raise ValueError(f"source={source!r}: expected 'features' or 'inputs'")
    found = _heads(model)
    kinds = {name: _resolve(frame, name, head) for name, head in found.items()}
    if device is None:
        device = next(itertools.chain(model.parameters(), model.buffers())).device
    common: dict[str, Any] = {
        "device": torch.device(device),
        "max_batches": None if max_batches is None else max(1, max_batches),
        "progress": progress,
    }
    starts: dict[str, HeadStart] = {}
    if source == "features":
        sums = {
            name: FeatureSums(*_sizes(head), _axis(head), common["device"]) for name, head in found.items()
        }
        sum_features(model, found, sums, loader, **common)
        for name, head in found.items():
            sums[name].all_reduce()
            starts[name] = start_behind_neck(head, sums[name], empty)
        classes = next(iter(sums.values())).classes
    else:
        classes = sum_inputs(_sizes(next(iter(found.values())))[0], loader, **common)
        means = classes.all_reduce().means(empty=empty)
        for name, head in found.items():
            code = class_means_code(means, _sizes(head)[1], exponent=exponent, rotate=False)
            starts[name] = HeadStart(code)
    frames = {name: _frame(kinds[name], head, starts[name], exponent) for name, head in found.items()}
    for name, head in found.items():
        start_head(head, frames[name], starts[name])
    return {
        "samples": round(classes.counts.sum().item()),
        "seconds": time.perf_counter() - began,
        "classes": classes.num_classes,
        "source": source,
        "frame": next(iter(frames.values())).name,
    }


def _heads(model: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {**find_heads(model)} or find_classifiers(model)
    if not found:
        raise ValueError(
            "align_head: the model has no head, and no classifier that is found; call swap_head first"
        )
    return found


def _sizes(head: nn.Module) -> tuple[int, int]:
    """K and d."""
    if isinstance(head, heads.FeatureHead):
        return head.num_classes, head.in_features
    return layer_sizes(head)[::-1]


def _axis(head: nn.Module) -> int:
    return (
        head.channel_dim if isinstance(head, heads.FeatureHead) else 1 if isinstance(head, nn.Conv2d) else -1
    )


def _resolve(frame: str, name: str, head: nn.Module) -> str:
    """The kind of frame for a head, or a ValueError before any time is spent."""
    num_classes, in_features = _sizes(head)
    fits = num_classes <= in_features + 1
    where = f"{name}: frame={frame!r}"
    if isinstance(head, heads.RegressionHead):
        raise ValueError(f"{name}: real-valued targets have no classes to turn to; leave this head as it is")
    if frame not in _FRAMES:
        raise ValueError(f"frame={frame!r}: expected one of {', '.join(map(repr, _FRAMES))}")
    if frame == "auto":
        return "simplex" if fits and isinstance(head, heads.ETFHead) else "class_means"
    if frame == "simplex" and not fits:
        raise ValueError(
            f"{where}: {num_classes} classes need in_features >= {num_classes - 1}, got {in_features}; use "
            "'class_means'"
        )
    if frame != "simplex" and isinstance(head, heads.GuidedETFHead):
        raise ValueError(f"{where}: a guided head's frame is a simplex; use 'auto'")
    if frame == "assigned" and not (isinstance(head, heads.ETFHead) and _assignable(head)):
        raise ValueError(
            f"{where}: only an ETFHead built with a closed-form frame has vectors to hand out; use "
            "'class_means'"
        )
    return frame


def _is_linear(head: nn.Module) -> bool:
    return isinstance(head, heads.LinearHead | nn.Linear | nn.Conv2d)


def _assignable(head: heads.ETFHead) -> Frame | None:
    """The frame whose vectors are handed out: the present one or, under adopted vectors, the first."""
    known = (head.frame, head.first_frame)
    return next((frame for frame in known if isinstance(frame, AssignedFrame) or _is_free(frame)), None)


def _is_free(frame: Frame) -> bool:
    return frame.free_of_data and not is_made_for_counts(frame)


def _frame(kind: str, head: nn.Module, start: HeadStart, exponent: float) -> Frame:
    sizes, means = _sizes(head), start.means
    if kind == "simplex":
        return OrientedSimplexFrame(*sizes, vectors=orient_simplex(means))
    if kind == "class_means":
        if start.mean is not None:  # of features; those of inputs are a code already
            # What all class means share tells no class apart, but where neither neck nor bias takes it from
            # the features it must stay in the class vectors: these would else meet it each at another angle.
            shared = getattr(head, "neck", None) is None and not _is_linear(head)
            means = class_means_code(means, sizes[1], exponent=exponent, centre=not shared)
        return ClassMeansFrame(*sizes, vectors=means)
    assert isinstance(head, heads.ETFHead)  # noqa: S101 - _resolve saw to it
    base = _assignable(head)
    assert base is not None  # noqa: S101
    return assign_classes(base, means)
