"""The heads that are measured against each other, each as one whole step on given features.

A step is forward, loss, backward to the features, and the update of whatever the head learns (of a fixed head
its scale, unless ``fixed_scale`` is in the name). Features are a leaf that wants a gradient, as a trunk's
would. ``fused`` is the loss that never holds all logits; the sides without it hold them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from etfhead.frames import UnionFrame
from etfhead.heads import ClassMeanHead, ETFHead, FollowingHead
from etfhead.heads.delta_rule import DeltaRuleHead
from etfhead.losses import FrameCrossEntropyLoss

__all__ = [
    "LEARNABLE",
    "SIDES",
    "Inputs",
    "Size",
    "Step",
    "bytes_to_hold",
    "bytes_to_move",
    "fits",
    "held_bytes",
    "inputs",
]

Step = Callable[[], object]


class Size(NamedTuple):
    """B samples of d features, K classes."""

    batch_size: int
    in_features: int
    num_classes: int

    def __str__(self) -> str:
        return f"B={self.batch_size}, d={self.in_features}, K={self.num_classes:,}"


class Inputs(NamedTuple):
    """Features (B, d), a leaf that wants a gradient, and classes (B,)."""

    features: Tensor
    target: Tensor
    num_classes: int

    @property
    def sizes(self) -> tuple[int, int]:
        """What a head is built with: d and K."""
        return self.features.shape[1], self.num_classes

    @property
    def like(self) -> dict[str, Any]:
        """Where a head lives and in which type."""
        return {"device": self.features.device, "dtype": self.features.dtype}


def inputs(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Inputs:
    """Random features and classes, the same for every side."""
    generator = torch.Generator(device).manual_seed(0)
    features = torch.randn(size[:2], generator=generator, device=device).to(dtype).requires_grad_()
    target = torch.randint(size.num_classes, size[:1], generator=generator, device=device)
    return Inputs(features, target, size.num_classes)


def whole_step(given: Inputs, loss: Callable[[], Tensor], head: nn.Module, optimizer: str = "adamw") -> Step:
    """Backward of the loss to the features and, where the head has some, its update."""
    parameters = list(head.parameters())
    update: torch.optim.Optimizer | None = None
    if parameters and optimizer == "sgd":
        update = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, fused=True)
    elif parameters:
        update = torch.optim.AdamW(parameters, lr=1e-3, fused=True)
    follow = head.update if isinstance(head, FollowingHead) else None

    def run() -> None:
        given.features.grad = None
        loss().backward()
        if update is not None:
            update.step()
            update.zero_grad(set_to_none=True)
        if follow is not None:
            follow(given.target)

    return run


def _linear(given: Inputs, *, optimizer: str = "adamw", compiled: bool = False) -> Step:
    layer = nn.Linear(*given.sizes, **given.like)

    def loss(features: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(layer(features), target)

    used = torch.compile(loss, dynamic=False) if compiled else loss
    return whole_step(given, lambda: used(given.features, given.target), layer, optimizer)


def _linear_autocast(given: Inputs) -> Step:
    """As most people train: weight and optimizer state in float32, products in the features' type."""
    device, narrow = given.features.device, given.features.dtype
    layer = nn.Linear(*given.sizes, device=device)

    def loss() -> Tensor:
        with torch.autocast(device.type, narrow):
            return F.cross_entropy(layer(given.features), given.target)

    return whole_step(given, loss, layer)


def _linear_chunked(given: Inputs) -> Step:
    """Torch's own fused loss; its chunks of samples are those of its default options."""
    layer = nn.Linear(*given.sizes, **given.like)
    options = nn.LinearCrossEntropyOptions()
    return whole_step(
        given,
        lambda: F.linear_cross_entropy(
            given.features, layer.weight, given.target, linear_bias=layer.bias, options=options
        ),
        layer,
    )


def _frozen(given: Inputs) -> Step:
    layer = nn.Linear(*given.sizes, **given.like).requires_grad_(requires_grad=False)
    return whole_step(given, lambda: F.cross_entropy(layer(given.features), given.target), nn.Identity())


def _of_head(given: Inputs, head: nn.Module) -> Step:
    """A step of one of this package's heads, with the loss that its ``fused`` asks for."""
    loss = FrameCrossEntropyLoss(head) if head.fused else F.cross_entropy
    return whole_step(given, lambda: loss(head(given.features), given.target), head)


def _simplex(given: Inputs, basis: Any, *, learn_scale: bool = True, fused: bool = False) -> Step:
    head = ETFHead(
        *given.sizes,
        frame="simplex",
        basis=basis,
        neck=None,
        learn_scale=learn_scale,
        fused=fused,
        **given.like,
    )
    return _of_head(given, head)


def _union(given: Inputs, *, antipodal: bool = False, fused: bool = False, compiled: bool = False) -> Step:
    width, classes = given.sizes
    frame = UnionFrame(classes, width, antipodal=antipodal)
    head = ETFHead(width, classes, frame=frame, neck=None, normalize=True, fused=fused, **given.like)
    if compiled:
        loss = FrameCrossEntropyLoss(head, compiled=True)
        return whole_step(given, lambda: loss(head(given.features), given.target), head)
    return _of_head(given, head)


def _following(given: Inputs, kind: type[nn.Module], **options: Any) -> Step:
    # Running means need float32, whatever the features are in.
    return _of_head(given, kind(*given.sizes, neck=None, device=given.features.device, **options))


def _ready_logits(given: Inputs) -> Step:
    """What no head with stored logits can go below: cross-entropy forward and backward on given logits."""
    logits = torch.randn(len(given.target), given.num_classes, **given.like).requires_grad_()

    def run() -> None:
        logits.grad = None
        F.cross_entropy(logits, given.target).backward()

    return run


def _traffic(given: Inputs) -> Step:
    """A copy that reads and writes as many bytes in all as :func:`bytes_to_move` says."""
    batch, width = given.features.shape
    size = Size(batch, width, given.num_classes)
    source = torch.zeros(
        bytes_to_move(size, given.features.element_size()) // 2,
        dtype=torch.uint8,
        device=given.features.device,
    )
    destination = torch.empty_like(source)
    return lambda: destination.copy_(source)


def bytes_to_move(size: Size, item: int = 4) -> int:
    """Bytes any step on a structured frame must move: features, their gradient, and a sign byte a class."""
    return 2 * item * size.batch_size * size.in_features + size.num_classes


def bytes_to_hold(size: Size, item: int = 4) -> int:
    """Bytes it must hold beside the features: their gradient, and a sign byte a class."""
    return item * size.batch_size * size.in_features + size.num_classes


_part = functools.partial
SIDES: dict[str, Callable[[Inputs], Step]] = {
    "linear_adamw": _linear,
    "linear_sgd": _part(_linear, optimizer="sgd"),
    "linear_compiled": _part(_linear, compiled=True),
    "linear_autocast": _linear_autocast,
    "linear_ce": _linear_chunked,
    "frozen_dense": _frozen,
    "class_mean": _part(_following, kind=ClassMeanHead, fused=True),
    "class_mean_uncentred": _part(_following, kind=ClassMeanHead, fused=True, centre=False),
    "delta_rule": _part(_following, kind=DeltaRuleHead, fused=False),
    "simplex_hadamard": _part(_simplex, basis="hadamard"),
    "simplex_hadamard_fixed_scale": _part(_simplex, basis="hadamard", learn_scale=False),
    "simplex_hadamard_fused": _part(_simplex, basis="hadamard", fused=True),
    "simplex_hadamard_fused_fixed_scale": _part(_simplex, basis="hadamard", fused=True, learn_scale=False),
    "simplex_identity": _part(_simplex, basis="identity"),
    "simplex_identity_fixed_scale": _part(_simplex, basis="identity", learn_scale=False),
    "simplex_identity_fused": _part(_simplex, basis="identity", fused=True),
    "simplex_identity_fused_fixed_scale": _part(_simplex, basis="identity", fused=True, learn_scale=False),
    "union": _part(_union, antipodal=False),
    "union_antipodal": _part(_union, antipodal=True),
    "union_fused": _part(_union, antipodal=False, fused=True),
    "union_antipodal_fused": _part(_union, antipodal=True, fused=True),
    "union_fused_compiled": _part(_union, fused=True, compiled=True),
    "floor": _ready_logits,
    "traffic_floor": _traffic,
}
LEARNABLE = ("linear_adamw", "linear_sgd", "linear_compiled", "linear_autocast", "linear_ce")


def fits(side: str, size: Size, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the side exists for this size, this type and this torch."""
    if side == "linear_ce":
        return hasattr(F, "linear_cross_entropy")
    if side == "delta_rule":
        return dtype == torch.float32
    if side == "linear_autocast":
        return dtype != torch.float32
    if side.startswith("simplex"):
        return size.num_classes <= size.in_features
    return not side.startswith("union") or size.num_classes >= size.in_features


def held_bytes(side: str, size: Size, item: int = 4) -> int:
    """Bytes of weight, weight gradient and optimizer state that a learnable side needs at once; else 0."""
    copies = {"linear_sgd": 3}.get(side, 4 if side in LEARNABLE else 0)
    item = 4 if side == "linear_autocast" else item
    return copies * item * (size.in_features + 1) * size.num_classes
