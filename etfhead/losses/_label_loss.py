"""What all losses of logits and labels share: checks, log-probabilities, soft labels, reduction, module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

__all__ = [
    "LabelLoss",
    "Reduction",
    "check_not_negative",
    "check_range",
    "classes_of",
    "evaluate",
    "expected",
    "reduce_losses",
]

Reduction = Literal["none", "mean", "sum"]


def evaluate(
    per_sample: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,
    target: Tensor,
    reduction: str,
    *,
    log_space: bool = True,
    own_softmax: bool = False,
) -> Tensor:
    """Check a batch, widen it to float32, take a loss of each sample and reduce.

    Args:
        per_sample: From log-probabilities (B, K) and targets to losses (B,).
        logits: (B, K), any floating type.
        target: Classes (B,), or class weights (B, K).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        log_space: Whether ``per_sample`` takes log-probabilities; False hands over the widened logits.
        own_softmax: Whether logits do as well if the targets are classes, as it begins with a softmax.

    Raises:
        ValueError: If shapes, types, classes or the reduction do not fit.
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: expected 'none', 'mean' or 'sum'")
    if logits.ndim != 2 or not logits.is_floating_point() or logits.shape[1] < 2:
        raise ValueError(
            f"logits: expected floats of shape (B, K), K >= 2, got {logits.dtype} {tuple(logits.shape)}"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    target = _checked_target(target, wide)
    log_space = log_space and not (own_softmax and target.ndim == 1)
    x = nn.functional.log_softmax(wide, dim=1) if log_space else wide
    return reduce_losses(per_sample(x, target), reduction)


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """Losses (B,), their mean over the batch, or their sum."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def expected(of_class: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> Tensor:
    """A loss that depends on one number of the labelled class, (B,); soft labels weigh the classes' losses.

    Args:
        of_class: Elementwise, from that number to the loss.
        x: The number of each class, (B, K).
        target: Checked: classes (B,), or weights (B, K).
    """
    if target.ndim == 2:
        return (target * of_class(x)).sum(1)
    return of_class(x.gather(1, target[:, None])[:, 0])


def classes_of(target: Tensor) -> Tensor:
    """Checked targets as classes (B,), or a ValueError for a loss without soft labels."""
    if target.ndim != 1:
        raise ValueError(
            f"target: this loss takes integer classes ({len(target)},), got {target.dtype} "
            f"{tuple(target.shape)}"
        )
    return target


def check_not_negative(**options: float) -> None:
    """Raise a ValueError that names the option which is negative, infinite or NaN."""
    for name, value in options.items():
        if not 0.0 <= value < math.inf:
            raise ValueError(f"{name}={value!r}: expected a number of at least 0")


def check_range(target: Tensor, classes: int) -> None:
    """Raise a ValueError for integer targets that are no class.

    A GPU checks by itself when the label is looked up; asking it here would mean to wait.
    """
    if target.device.type == "cpu" and len(target) and not torch.compiler.is_compiling():
        low, high = (int(bound) for bound in target.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(
                f"target: expected classes from 0 to {classes - 1}, got {low} to {high}; "
                "leave out samples without a label first"
            )


def _checked_target(target: Tensor, logits: Tensor) -> Tensor:
    """Classes as int64, or class weights in the type of the logits."""
    if target.is_floating_point() and target.shape == logits.shape:
        return target.to(logits.dtype)
    integral = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if not integral or target.shape != logits.shape[:1]:
        raise ValueError(
            f"target: expected integer classes ({len(logits)},) or float class weights "
            f"{tuple(logits.shape)}, got {target.dtype} {tuple(target.shape)}"
        )
    check_range(target, logits.shape[1])
    return target.long()


class LabelLoss(nn.Module):
    """A loss of logits and labels as a module: it holds its options and nothing else.

    A subclass names its per-sample function, which checks the options. They are tried when the module is
    made, so that a bad one is not met at the first batch.

    Args:
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        **options: Keyword arguments of the per-sample function; each becomes an attribute.
    """

    _per_sample: ClassVar[Any]
    _log_space: ClassVar[bool] = True

    @property
    def _own_softmax(self) -> bool:
        return False

    def __init__(self, reduction: Reduction = "mean", **options: Any) -> None:
        super().__init__()
        self.reduction = reduction
        self._names = tuple(options)
        for name, value in options.items():
            setattr(self, name, value)
        self._try()

    def _try(self) -> None:
        evaluate(self.per_sample, torch.zeros(1, 2), torch.zeros(1, dtype=torch.long), self.reduction)

    def per_sample(self, x: Tensor, target: Tensor) -> Tensor:
        """Losses (B,) from log-probabilities (logits, for a loss without a softmax) and checked targets."""
        return type(self)._per_sample(x, target, **{name: getattr(self, name) for name in self._names})

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        return evaluate(
            self.per_sample,
            logits,
            target,
            self.reduction,
            log_space=self._log_space,
            own_softmax=self._own_softmax,
        )

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in (*self._names, "reduction"))
