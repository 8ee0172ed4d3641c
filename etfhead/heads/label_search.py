"""The largest logits of each sample: how many of them are the nearest label set, and which they are."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best_counts", "centred_logits", "descending", "top_labels", "wide_type"]

# From 512 classes on, selecting up to a 16th of them is faster than sorting all (benchmarks/label_decoding).
_FEW, _MANY = 16, 512


def centred_logits(logits: Tensor) -> Tensor:
    """Logits less their mean over the classes, (..., K), in float32 or wider: what a simplex head knows.

    Raises:
        ValueError: If there are fewer than two classes, or a logit is not finite.

    >>> centred_logits(torch.tensor([[1.0, 3.0]])).tolist()
    [[-1.0, 1.0]]
    """
    if logits.ndim < 1 or logits.shape[-1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits: expected floats of shape (..., K), K >= 2, got {logits.dtype} {tuple(logits.shape)}"
        )
    if not logits.isfinite().all():
        raise ValueError("logits: NaN or infinity among them; label sets need finite logits")
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide - wide.mean(-1, keepdim=True)


def best_counts(
    ordered: Tensor, gaps: Tensor | None, num_classes: int, offsets: Tensor | None = None
) -> Tensor:
    r"""Number of labels of the nearest prototype.

    .. math:: m^* = \arg\max_m\; 2 \delta_m Z_m - \delta_m^2 \frac{m (K - m)}{K} + b_m
            \quad\text{or}\quad \arg\max_m \frac{Z_m}{\sqrt{m (K - m)}}

    Args:
        ordered: The largest centred logits in decreasing order, (..., M): sets of up to M labels count.
        gaps: delta_m for m = 1, 2, ..., of which as many count as there are; None for the cosine.
        num_classes: K.
        offsets: b_m, as many as gaps; None for zeros.

    Returns:
        Tensor: m* (...), int64, from 1 to K - 1.

    >>> best_counts(torch.tensor([3.0, -1.0, -1.0, -1.0]), None, 4).item()
    1
    """
    K = num_classes
    most = min(ordered.shape[-1], K - 1, K if gaps is None else len(gaps))
    wide = wide_type(ordered)
    m = torch.arange(1, most + 1, device=ordered.device, dtype=wide)
    size = m * (K - m)
    sums = ordered[..., :most].cumsum(-1, dtype=wide)
    if gaps is None:
        return sums.mul_(size.rsqrt()).argmax(-1) + 1
    delta = gaps[:most].to(m)
    constant = delta.square() * size / K
    if offsets is not None:
        constant = constant - offsets[:most].to(m)
    return sums.mul_(2.0 * delta).sub_(constant).argmax(-1) + 1


def top_labels(values: Tensor, counts: int | Tensor, ordered: Tensor | None = None) -> Tensor:
    """The largest values of each row as multi-hot, a number of its own in each row.

    Args:
        values: (..., K).
        counts: How many, (...) or one number, from 0 to K. Equal values go to the lower class first.
        ordered: The largest of ``values`` in decreasing order, as many as the largest count, if known.

    Returns:
        Tensor: (..., K), bool.

    >>> top_labels(torch.tensor([[1.0, 3.0, 2.0], [1.0, 1.0, 0.0]]), torch.tensor([2, 1])).int().tolist()
    [[0, 1, 1], [1, 0, 0]]
    """
    K = values.shape[-1]
    if ordered is None:
        ordered = descending(values, max(counts, 1) if isinstance(counts, int) else K)
    counts = torch.as_tensor(counts, device=values.device).expand(values.shape[:-1])
    last = ordered.gather(-1, (counts - 1).clamp(min=0).unsqueeze(-1))
    chosen = (values >= last) & (counts > 0).unsqueeze(-1)
    tied = chosen.sum(-1) != counts
    if tied.any():
        order = values[tied].sort(dim=-1, descending=True, stable=True).indices
        first = torch.arange(K, device=values.device) < counts[tied].unsqueeze(-1)
        chosen[tied] = torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, first)
    return chosen


def descending(values: Tensor, most: int) -> Tensor:
    """The largest ``most`` of each row in decreasing order."""
    if most * _FEW <= values.shape[-1] >= _MANY:
        return values.topk(most, dim=-1).values
    if values.device.type != "cpu":
        return values.sort(dim=-1, descending=True).values[..., :most]
    # torch moves indices along; NumPy's sort of the bare values is several times as fast.
    ordered = -values.detach()
    ordered.numpy().sort(axis=-1)
    return ordered.neg_()[..., :most]


def wide_type(like: Tensor) -> torch.dtype:
    """Float64, in which sums keep their digits; float32 on Apple's GPUs, which have no other."""
    return torch.float32 if like.device.type == "mps" else torch.float64
