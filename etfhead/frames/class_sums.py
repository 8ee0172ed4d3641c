"""Class means of any number of classes in one pass over the data, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from etfhead.frames.base import checked_size

__all__ = ["ClassSums"]

_NAMED = 5  # empty classes that an error message lists


class ClassSums:
    r"""Per-class sums of features, with the mean and variance of all of them; streams, any K.

    .. math:: \mu_k = \frac{\sum_i y_{ik}\, h_i}{\sum_i y_{ik}}, \qquad
              \sigma_j^2 = \frac{1}{n} \sum_i w_i (h_{ij} - \bar h_j)^2, \quad w_i = \sum_k y_{ik}

    Memory is K m numbers and does not grow with the data. The result does not depend on how the data are
    split into batches or in which order they come, up to float64 rounding. The variance is merged batch by
    batch from centred squares (Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances", 1979): a mean that is large beside the spread costs no digits.

    Args:
        num_classes: K, at least 1.
        in_features: m, the width of what is summed.
        device: Where the sums live and are added up; float64, or float32 on ``mps``, which has no float64.

    >>> sums = ClassSums(2, 1)
    >>> sums.update(torch.tensor([[1.0], [3.0], [10.0]]), torch.tensor([0, 0, 1]))
    >>> sums.means().flatten().tolist(), sums.total_variance.tolist()
    ([2.0, 10.0], [14.888888888888891])
    """

    def __init__(
        self, num_classes: int, in_features: int, *, device: torch.device | str | None = "cpu"
    ) -> None:
        self.num_classes = checked_size("num_classes", num_classes, 1)
        self.in_features = checked_size("in_features", in_features, 1)
        self.device = torch.device("cpu" if device is None else device)
        self.dtype = torch.float32 if self.device.type == "mps" else torch.float64
        kind: Any = {"device": self.device, "dtype": self.dtype}
        self.counts = torch.zeros(self.num_classes, **kind)
        self.sums = torch.zeros(self.num_classes, self.in_features, **kind)
        self._weight = torch.zeros((), **kind)
        self._mean = torch.zeros(self.in_features, **kind)
        self._squares = torch.zeros(self.in_features, **kind)
        self.batches = 0
        self._reduced = False

    @torch.no_grad()
    def update(self, features: Tensor, target: Tensor, *, ignore_index: int = -100) -> None:
        """Add one batch.

        Args:
            features: (B, m), any floating type, any device.
            target: (B,) classes, or (B, K) non-negative weights of a sample over the classes (mixup).
            ignore_index: Samples of this class are skipped, whatever their features.

        Raises:
            ValueError: If the shapes do not fit, a class is not in 0..K-1, a number is not finite (the
                message names the batch), or :meth:`all_reduce` has been called.
        """
        if self._reduced:
            raise ValueError(
                "update after all_reduce: the sums are already those of all processes; start anew"
            )
        if features.ndim != 2 or features.shape[1] != self.in_features:
            raise ValueError(
                f"features: expected shape (B, {self.in_features}), got {tuple(features.shape)}; "
                "flatten or pool them first"
            )
        features = features.to(self.device).to(self.dtype)  # in two steps: mps cannot hold float64
        target = target.to(self.device)
        soft = target.is_floating_point()
        expected = (len(features), self.num_classes) if soft else (len(features),)
        if tuple(target.shape) != expected:
            raise ValueError(f"target: expected shape {expected}, got {tuple(target.shape)}")
        if soft:
            self._add_soft(features, target.to(self.dtype))
        else:
            keep = target != ignore_index
            self._add_hard(features[keep], target[keep].long())
        self.batches += 1

    def _add_hard(self, features: Tensor, target: Tensor) -> None:
        if len(target) and not 0 <= int(target.min()) <= int(target.max()) < self.num_classes:
            raise ValueError(
                f"target: expected classes from 0 to {self.num_classes - 1}, got {int(target.min())} to "
                f"{int(target.max())} in batch {self.batches}"
            )
        self._check_finite("features", features)
        weights = torch.ones_like(target, dtype=self.dtype)
        self._merge(features, weights)
        self.counts.index_add_(0, target, weights)
        self.sums.index_add_(0, target, features)

    def _add_soft(self, features: Tensor, target: Tensor) -> None:
        self._check_finite("target", target)
        if (target < 0).any():
            raise ValueError(
                f"target: expected weights >= 0, got {target.min().item():g} in batch {self.batches}"
            )
        self._check_finite("features", features)
        self._merge(features, target.sum(1))
        self.counts += target.sum(0)
        self.sums += target.T @ features

    def _check_finite(self, argument: str, values: Tensor) -> None:
        if bad := int((~torch.isfinite(values)).sum()):
            raise ValueError(
                f"{argument}: {bad} of {values.numel()} numbers of batch {self.batches} are NaN or infinite; "
                "look for broken samples, or run the model in float32"
            )

    def _merge(self, features: Tensor, weights: Tensor) -> None:
        weight = weights.sum()
        if weight == 0:
            return
        mean = weights @ features / weight
        squares = weights @ (features - mean).square()
        total = self._weight + weight
        gap = mean - self._mean
        self._mean += gap * (weight / total)
        self._squares += squares + gap.square() * (self._weight * weight / total)
        self._weight = total

    @torch.no_grad()
    def all_reduce(self) -> ClassSums:
        """Sum over all processes, in place; returns itself. Call it once, after the last update.

        Nothing happens without an initialised ``torch.distributed`` group, nor on a second call. Sums on the
        CPU go over the current GPU where the group is NCCL's, which knows no other memory.
        """
        distributed = torch.distributed
        if self._reduced or not (distributed.is_available() and distributed.is_initialized()):
            return self
        device = _shared_device(self.device, distributed.get_backend())

        def summed(tensor: Tensor) -> Tensor:
            shared = tensor.to(device)
            distributed.all_reduce(shared)
            return shared.to(self.device)

        own_weight, own_mean = self._weight.clone(), self._mean
        self.counts, self.sums, moment = map(summed, (self.counts, self.sums, own_mean * own_weight))
        self._weight = summed(self._weight)
        if self._weight > 0:
            self._mean = moment / self._weight
            self._squares += own_weight * (own_mean - self._mean).square()  # now about the common mean
            self._squares = summed(self._squares)
        self._reduced = True
        return self

    def means(self, *, empty: str = "error") -> Tensor:
        """Class means, (K, m), of the sums' type and on their device.

        Args:
            empty: What a class without samples gets: ``error``, or ``mean``: the mean of the other class
                means, which says nothing about where the class belongs.

        Raises:
            ValueError: If there are empty classes and ``empty`` is ``error``, or nothing but empty classes.
        """
        if empty not in ("error", "mean"):
            raise ValueError(f"empty={empty!r}: expected 'error' or 'mean'")
        missing = self.counts == 0
        count = int(missing.sum())
        if count == self.num_classes:
            raise ValueError(
                f"means: no sample of any of the {count} classes; update with batches first, or give a "
                "loader that has some"
            )
        if count and empty == "error":
            which = ", ".join(map(str, missing.nonzero().flatten()[:_NAMED].tolist()))
            raise ValueError(
                f"means: {count} of {self.num_classes} classes have no sample "
                f"({which}{', ...' if count > _NAMED else ''}); use more batches or empty='mean'"
            )
        means = self.sums / self.counts.clamp(min=torch.finfo(self.dtype).tiny)[:, None]
        if count:
            means[missing] = means[~missing].mean(0)
        return means

    @property
    def total_mean(self) -> Tensor:
        """Mean of all samples, (m,); zero before the first."""
        return self._mean.clone()

    @property
    def total_variance(self) -> Tensor:
        """Variance of every feature over all samples (divided by n), (m,); zero before the first."""
        return self._squares / self._weight.clamp(min=torch.finfo(self.dtype).tiny)


def _shared_device(device: torch.device, backend: str) -> torch.device:
    """Where a process group of this backend can sum what is on ``device``."""
    return torch.device("cuda") if backend == "nccl" and device.type == "cpu" else device
