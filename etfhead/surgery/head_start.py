"""How a head starts from the data: class means where its vectors meet them, and what each kind takes over."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from etfhead import heads
from etfhead.frames import Frame
from etfhead.heads.batch_sums import is_shared
from etfhead.surgery.class_pass import FeatureSums

__all__ = ["HeadStart", "start_behind_neck", "start_head"]


class HeadStart(NamedTuple):
    """Class means where the class vectors meet them and, unless they are of inputs, what surrounds them."""

    means: Tensor  # (K, d)
    mean: Tensor | None = None  # of all features there, (d,)
    some: Tensor | None = None  # a few features there, (n, d)
    neck: tuple[Tensor, Tensor] | None = None  # mean and variance before the neck


def start_behind_neck(head: nn.Module, sums: FeatureSums, empty: str) -> HeadStart:
    r"""What the class vectors of a head meet, from one pass of features.

    Behind a neck class means are :math:`(\mu_k - \mu) / \sqrt{\sigma^2 + \epsilon}`.

    Args:
        head: A head of etfhead's, or a linear classifier.
        sums: Of the features that reach it, before its neck.
        empty: ``"error"`` or ``"mean"``, for a class without samples.

    Raises:
        ValueError: If a class is empty and may not be.
    """
    means, mean, variance = sums.classes.means(empty=empty), sums.mean, sums.variance
    some = means if sums.some is None else sums.some
    neck = getattr(head, "neck", None)
    if neck is None:
        return HeadStart(means, mean, some)
    inverse = torch.rsqrt(variance + neck.eps)
    return HeadStart(
        (means - mean) * inverse, torch.zeros_like(mean), (some - mean) * inverse, (mean, variance)
    )


@torch.no_grad()
def start_head(head: nn.Module, frame: Frame, start: HeadStart) -> None:
    """Start a head from a frame made of its class means, in place; its neck takes their statistics.

    A fixed head adopts the frame, a guided one starts from the class means themselves, one that moves takes
    the frame's vectors, and a linear classifier scales them to logits of standard deviation 1.

    Args:
        head: A head of etfhead's, or a linear classifier.
        frame: Class vectors (K, d).
        start: What the frame was made of.
    """
    neck = getattr(head, "neck", None)
    if neck is not None and start.neck is not None:
        neck.running_mean.copy_(start.neck[0])
        neck.running_var.copy_(start.neck[1])
    if isinstance(head, heads.GuidedETFHead) and start.mean is not None:
        head.start_from(start.means)
    elif isinstance(head, heads.ETFHead):
        head.adopt_frame(frame)
    elif isinstance(head, heads.FollowingHead):
        head.start_from(frame.matrix())
    elif isinstance(head, heads.CosineHead):
        head.weight.copy_(frame.matrix())
    else:
        _start_linear(head, frame.matrix(), start)


def _start_linear(layer: Any, vectors: Tensor, start: HeadStart) -> None:
    """Rows of one length, so that logits have a standard deviation of 1; a bias that centres them."""
    length, offset = vectors.new_ones(()), vectors.new_zeros(len(vectors))
    if start.some is not None and start.mean is not None:
        deviation = ((start.some - start.mean).cpu().double() @ vectors.T).std()
        if is_shared():  # every process kept other samples
            shared = deviation.to(start.some)
            dist.all_reduce(shared)
            deviation = shared.cpu().double() / dist.get_world_size()
        length = 1.0 / deviation if deviation > 0 else length
        offset = -length * (vectors @ start.mean.cpu().double())
    layer.weight.copy_((length * vectors).view_as(layer.weight))
    if layer.bias is not None:
        layer.bias.copy_(offset)
