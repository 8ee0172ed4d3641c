"""Heads whose class vectors follow the features: no gradient, one call after each training step."""

from __future__ import annotations

import warnings
from typing import Any, Self

import torch
from torch import Tensor, nn

from etfhead.heads.base import FeatureHead

__all__ = ["FollowingHead", "update_heads"]

_FORWARDS = 10  # a dry run, or a figure that is looked at, takes fewer


class FollowingHead(FeatureHead):
    """Base of the heads that learn their class vectors from features and targets, without gradients.

    A forward pass in training mode keeps its features aside, detached; :meth:`update` uses and drops them.
    Call it once a step, after ``backward()``, on every process: what a group of processes has seen is shared
    (:func:`~etfhead.heads.batch_sums.batch_sums`), so all heads stay equal. Only the last training forward
    counts, and its outputs must not be changed in place before the update; evaluation keeps nothing. A head
    that goes to evaluation after a training without any update warns, once.
    """

    _kept: tuple[Tensor, Tensor | None] | None = None  # features (B, d) and, where wanted, logits (B, K)
    _forwards: int | None = 0  # training forwards so far; None from the first update on

    def _wants_logits(self) -> bool:
        """Whether :meth:`_follow` can use the logits of the forward pass."""
        return False

    def _outputs(self, features: Tensor) -> Tensor:
        outputs = super()._outputs(features)
        if self.training:
            logits = _per_sample(outputs) if self._wants_logits() else None
            self._kept = (_per_sample(features), logits)
            # A compiled forward would be compiled anew for every number; of those none is counted.
            if not torch.compiler.is_compiling() and self._forwards is not None and outputs.requires_grad:
                self._forwards += 1
        return outputs

    def _is_held(self) -> bool:
        """Whether the head has parameters and none of them trains: its vectors are meant to stay."""
        parameters = list(self.parameters())
        return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; on the way to evaluation, warn of a training in which nothing moved."""
        if not mode and self.training and (self._forwards or 0) >= _FORWARDS and not self._is_held():
            warnings.warn(
                f"{type(self).__name__}: {self._forwards} training forwards and no update_heads(model, "
                "target): its class vectors have not moved; call it after each training step",
                stacklevel=2,
            )
            self._forwards = None
        return super().train(mode)

    def _follow(self, features: Tensor, target: Tensor, logits: Tensor | None) -> None:
        """Move the class vectors by one batch: features (B, d), target (B,) int64 or (B, K)."""
        raise NotImplementedError

    def start_from(self, vectors: Tensor) -> None:
        """Start at given class vectors or class means (K, d)."""
        raise NotImplementedError

    @torch.no_grad()
    def update(self, target: Tensor) -> None:
        """Move the class vectors by the batch of the last training forward.

        Args:
            target: Classes (B,), negative ones left out; or soft targets (B, K), as mixup makes them.

        Raises:
            ValueError: If there was no training forward since the last update, or targets do not fit it. A
                class from K up is named where targets are on the CPU; on a GPU it stops the kernel, as in
                torch's cross-entropy.
        """
        if self._kept is None:
            raise ValueError(
                "update: no features are kept; call it once after each forward pass in training mode, with "
                "that batch's targets"
            )
        features, logits = self._kept
        target = _checked_target(target, len(features), self.num_classes).to(features.device)
        self._kept = self._forwards = None
        with torch.autocast(features.device.type, enabled=False):
            self._follow(features, target, logits)

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles of a model are of its state between steps.
        return {**super().__getstate__(), "_kept": None, "_forwards": 0}


def update_heads(model: nn.Module, target: Tensor) -> int:
    """Call :meth:`FollowingHead.update` on every following head of a model, wrapped or not.

    Args:
        model: Any module; without following heads nothing happens.
        target: The targets of the step's batch.

    Returns:
        int: How many heads were updated.

    >>> update_heads(nn.Linear(8, 3), torch.tensor([0, 2]))
    0
    """
    following = [module for module in model.modules() if isinstance(module, FollowingHead)]
    for head in following:
        head.update(target)
    return len(following)


def _per_sample(values: Tensor) -> Tensor:
    """Mean over pixels or tokens, (B, ...), in float32 or wider."""
    wide = values.detach().to(torch.promote_types(values.dtype, torch.float32))
    if wide.ndim == 1:
        return wide[None]
    return wide if wide.ndim == 2 else wide.flatten(1, -2).mean(1)


def _checked_target(target: Tensor, samples: int, num_classes: int) -> Tensor:
    if target.ndim == 2 and target.is_floating_point() and target.shape == (samples, num_classes):
        return target
    if target.ndim != 1 or len(target) != samples or target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"target: expected {samples} classes, or weights of shape ({samples}, {num_classes}), for the "
            f"features of the last forward; got {target.dtype} of shape {tuple(target.shape)}"
        )
    # A GPU checks by itself when the class is looked up; asking it here would mean to wait.
    if target.device.type == "cpu" and len(target) and int(target.max()) >= num_classes:
        raise ValueError(f"target: expected classes below {num_classes}, got {int(target.max())}")
    return target.long()
