"""Class vectors that learn by the delta rule: no gradient through the head, no optimizer state."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch import distributed as dist

from etfhead.heads.base import Neck
from etfhead.heads.batch_sums import countable, is_shared
from etfhead.heads.frame_head import whole
from etfhead.heads.unit_vectors import UnitVectorHead

__all__ = ["DeltaRuleConvHead", "DeltaRuleHead", "delta_update"]

_TINY = 1e-12  # shortest length to divide by, as in torch.nn.functional.normalize
_NUMBERS = 2**24  # errors of a block: 64 MB, so that a GPU's kernels take longer than their launches
_CACHED = 2**18  # on a CPU: a block of class vectors that stays in the cache from one operation to the next


def delta_update(
    vectors: Tensor, features: Tensor, errors: Tensor, *, rate: float, out: Tensor | None = None
) -> Tensor:
    r"""Move unit class vectors toward the features they missed and away from those they wrongly claimed.

    .. math:: w_k \leftarrow \operatorname{unit}\Bigl(w_k + \eta \sum_i (t_{ik} - p_{ik})\,x_i\Bigr)

    with p the softmax of the logits and t the target: the delta rule of Widrow & Hoff ("Adaptive switching
    circuits", 1960) for softmax outputs, which is one step of plain gradient descent on a cosine classifier.

    Args:
        vectors: w, (K, d), unit rows.
        features: x, (B, d), unit rows.
        errors: t - p, (B, K).
        rate: eta, how far one wholly wrong sample moves its class vector.
        out: Where the new vectors go, which may be ``vectors``; by default a tensor of their own.

    Returns:
        Tensor: The new unit vectors, (K, d).

    >>> w, x = torch.eye(2), torch.tensor([[0.0, 1.0]])
    >>> delta_update(w, x, torch.tensor([[0.5, -0.5]]), rate=1.0)
    tensor([[0.8944, 0.4472],
            [0.0000, 1.0000]])
    """
    return _to_unit(torch.addmm(vectors, errors.T, features, alpha=rate, out=out))


class DeltaRuleHead(UnitVectorHead):
    r"""Cosine classifier whose class vectors learn by the delta rule, once after each step.

    .. math:: z_k = s\,\langle x/|x|,\; w_k\rangle, \qquad
              w_k \leftarrow \operatorname{unit}\Bigl(w_k + \eta \sum_i (t_{ik} - p_{ik})\,x_i/|x_i|\Bigr)

    with x = neck(h). Nothing flows through autograd to the class vectors, and no optimizer keeps moments of
    them; only the scale is a parameter. Call :func:`~etfhead.heads.update_heads` after each training step.
    The update is one product of the size of the forward pass. Where running class means
    (:class:`~etfhead.ClassMeanHead`, cheaper) follow only their own class, this rule also yields to the
    confusions of the moment, which matters where classes overlap.

    Args:
        in_features: d.
        num_classes: K, at least 2.
        neck: ``"batchnorm"`` or None.
        rate: eta > 0.
        scale: Positive number, or ``"auto"`` (:func:`~etfhead.heads.auto_scale`).
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` and in the targets t.
        fused: In training mode return the unit features instead of logits, for a streamed loss
            (:class:`~etfhead.losses.FrameCrossEntropyLoss`); the update then computes logits in blocks.
        seed: Seed of the random class vectors it starts from; :meth:`start_from` gives it better ones.
        device: Device of the buffers.
        dtype: Floating type of the buffers; small steps need float32.

    Shape:
        - features: (..., d).
        - output: (..., K).

    Raises:
        ValueError: On sizes, options or features that do not fit, naming them.

    >>> head = DeltaRuleHead(8, 3, neck=None, rate=10.0)
    >>> for _ in range(5):
    ...     _ = head(torch.eye(3, 8))
    ...     head.update(torch.tensor([0, 1, 2]))
    >>> head(torch.eye(3, 8)).argmax(1).tolist()
    [0, 1, 2]
    """

    title, marker = "delta-rule", "delta_rule"

    delta_rule: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        neck: Neck = "batchnorm",
        rate: float = 0.05,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        label_smoothing: float = 0.0,
        fused: bool = False,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(rate, bool) or not 0.0 < rate < float("inf"):
            raise ValueError(f"rate={rate!r}: expected a positive number")
        self.rate = float(rate)
        super().__init__(
            in_features,
            num_classes,
            neck=neck,
            scale=scale,
            learn_scale=learn_scale,
            label_smoothing=label_smoothing,
            fused=fused,
            seed=seed,
            device=device,
            dtype=dtype,
        )

    def _register_state(self, like: Tensor) -> None:
        self.register_buffer("delta_rule", torch.ones((), dtype=torch.int64, device=like.device))

    def _start(self) -> None:
        self.delta_rule.fill_(1)

    def _wants_logits(self) -> bool:
        return not self.fused

    def _follow(self, features: Tensor, target: Tensor, logits: Tensor | None) -> None:
        drop = ~countable(features, target)[:, None]
        features = features.masked_fill(drop, 0.0)
        rows = _classes_at_once(features, self.num_classes, stored=logits is not None)
        if logits is None:
            scaled = whole(self.scale.detach()).to(features) * features
            parts = [(scaled @ part.to(scaled).T).logsumexp(1) for part in self.weight.split(rows)]
            normaliser = torch.stack(parts).logsumexp(0)[:, None]
        else:
            probabilities = logits.to(features).softmax(1)
        if target.ndim == 1:
            # Looked up, so that a GPU refuses what is no class; negative ones are dropped.
            target = torch.arange(self.num_classes, device=target.device)[target.clamp(min=0)]
        for first in range(0, self.num_classes, rows):
            part = self.weight[first : first + rows]
            here = slice(first, first + len(part))
            if logits is None:
                excess = (scaled @ part.to(scaled).T).sub_(normaliser).exp_()
            else:
                excess = probabilities[:, here]
            self._subtract_targets(excess, target, here)
            self._move(part, features, excess.masked_fill_(drop, 0.0))

    def _subtract_targets(self, excess: Tensor, target: Tensor, here: slice) -> None:
        """Subtract columns of the targets, as the loss has them: soft as given, or one-hot with smoothing."""
        if target.ndim == 2:
            excess -= target[:, here]
            return
        own = (target - here.start)[:, None]
        column = own.clamp(0, excess.shape[1] - 1)
        excess.scatter_add_(1, column, (own == column).to(excess) * (self.label_smoothing - 1.0))
        if self.label_smoothing:
            excess -= self.label_smoothing / self.num_classes

    def _move(self, part: Tensor, features: Tensor, excess: Tensor) -> None:
        moved = part.to(features)  # the part itself where it has that type
        if is_shared():
            total = excess.T @ features
            dist.all_reduce(total)
            _to_unit(moved.sub_(total, alpha=self.rate))
        else:
            delta_update(moved, features, excess, rate=-self.rate, out=moved)
        part.copy_(moved)

    def extra_repr(self) -> str:
        """Sizes, scale and rate for ``print(model)``."""
        return f"{super().extra_repr()}, rate={self.rate:g}"


class DeltaRuleConvHead(DeltaRuleHead):
    """:class:`DeltaRuleHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    A sample counts with the mean over its pixels.
    """

    channel_dim = 1


def _to_unit(rows: Tensor) -> Tensor:
    """Divide rows by their L2 norms, in place."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    return rows.div_(torch.linalg.vector_norm(rows, dim=1, keepdim=True, dtype=wide).clamp_(min=_TINY))


def _classes_at_once(features: Tensor, num_classes: int, *, stored: bool) -> int:
    """How many classes a block has; the same on every process, whose shares of a batch may differ."""
    samples = len(features)
    if is_shared():
        most = torch.full((), samples, device=features.device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        samples = int(most)
    elif features.device.type == "cpu":
        return max(1, _CACHED // max(1, samples, features.shape[1]))
    elif stored:  # errors of all classes are held: nothing is saved by blocks
        return num_classes
    return max(1, _NUMBERS // max(1, samples))
