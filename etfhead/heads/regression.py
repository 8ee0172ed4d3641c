"""The fixed head for real-valued targets: what a learnable one collapses to, known from the targets alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from etfhead.frames.base import checked_size
from etfhead.frames.target_moments import TargetStatistics, check_scales, inverse_root, target_statistics
from etfhead.heads.base import FeatureHead, Neck
from etfhead.heads.frame_state import real
from etfhead.heads.regression_weight import checked_energy, checked_statistics, regression_weight

__all__ = ["RegressionConvHead", "RegressionHead"]

_TOLERANCE = 1e-2  # the roundings of a checkpoint's life, bfloat16 on the way included
_FIXED = ("weight", "bias", "target_covariance")


class RegressionHead(FeatureHead):
    r"""Fixed head for n regression targets: W h + b with both known from the mean and covariance of targets.

    .. math:: W = \kappa\, \Sigma^{1/4} R, \quad b = \bar y, \qquad
              \kappa^2 = \frac{\mathrm{tr}\, \Sigma^{1/2}}{E}

    with R random, R R^T = I: the end of neural regression collapse (Andriopoulos et al., NeurIPS 2024, arXiv
    2409.04180) for weak decay of features. No other W of this norm fits the targets with less feature energy,
    the mean of ||h||^2, and the scale makes that energy E. Nothing is trained. With ``weight_decay`` and
    ``feature_decay``, W is the optimum of the loss with these decays instead, scale included
    (:func:`~etfhead.frames.ufm.ufm_gram`).

    A collapsed feature is linear in the target, hence signed: features behind a ReLU cannot reach it, so put
    a linear layer last, or ``neck="batchnorm"``. The state dict has ``weight`` and ``bias`` under the names
    of ``nn.Linear``, and ``target_covariance``. The targets travel with it: a head built from other targets
    takes over those of the checkpoint, and refuses a weight that is not of the form S R with its own R.

    Args:
        in_features: d, at least n.
        num_targets: n, at least 1.
        targets: Targets of the training split, (M, n) or (M,), or their
            :class:`~etfhead.frames.TargetStatistics`. Never those of validation or test samples.
        feature_energy: E, or ``"auto"`` for d: features of unit variance, as ``neck`` makes them.
        whiten: W = kappa Sigma^{1/2} R, the optimum where the loss is the squared error of whitened targets:
            train on ``mse_loss(head.whitened(outputs), head.whitened(targets))``. Every target then counts
            alike, however little it varies, and the mean squared error in the targets' units is no longer
            what is minimised.
        weight_decay: lambda_W of the explicit form; needs ``feature_decay``.
        feature_decay: lambda_H of the explicit form.
        allow_singular: Accept targets that depend on each other: in directions without variance the head
            predicts the mean, and :meth:`whitened` is the pseudo-inverse root, zero there.
        neck: ``"batchnorm"`` (no affine parameters) or None.
        basis: ``"haar"``, ``"hadamard"`` or ``"identity"`` for R.
        seed: Seed of R.
        device: Device of the buffers.
        dtype: Floating type of the buffers.

    Shape:
        - features: (..., d).
        - output: (..., n).

    Raises:
        ValueError: If n > d, targets are missing, not finite, constant, dependent or of scales too unlike for
            float64, or options contradict.

    Attributes:
        first_frame: The :class:`~etfhead.frames.RegressionFrame` it was built with; a checkpoint may have
            brought another covariance.

    >>> targets = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 5
    >>> head = RegressionHead(32, 3, targets=targets)
    >>> bool(torch.allclose(head(torch.zeros(32)), targets.mean(0)))
    True
    >>> head.fuse()
    Linear(in_features=32, out_features=3, bias=True)
    """

    least_classes: ClassVar[int] = 1

    weight: Tensor
    bias: Tensor
    target_covariance: Tensor

    def __init__(
        self,
        in_features: int,
        num_targets: int,
        *,
        targets: Tensor | TargetStatistics | None = None,
        feature_energy: float | Literal["auto"] = "auto",
        whiten: bool = False,
        weight_decay: float | None = None,
        feature_decay: float | None = None,
        allow_singular: bool = False,
        neck: Neck = None,
        basis: Literal["identity", "hadamard", "haar"] = "haar",
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        n = checked_size("num_targets", num_targets, 1)
        super().__init__(in_features, n, neck=neck, device=device, dtype=dtype)
        if n > self.in_features:
            raise ValueError(
                f"num_targets={n} with in_features={in_features}: {n} directions need as many features; "
                f"widen the last layer to at least {n}, or take a learnable nn.Linear"
            )
        self.whiten, self.allow_singular = whiten, allow_singular
        statistics = checked_statistics(targets, n)
        self.first_frame, weight = regression_weight(
            statistics,
            self.in_features,
            feature_energy=feature_energy,
            whiten=whiten,
            weight_decay=weight_decay,
            feature_decay=feature_decay,
            allow_singular=allow_singular,
            basis=basis,
            seed=seed,
        )
        self.feature_energy = checked_energy(feature_energy, self.in_features)
        self._exact = {
            "weight": weight,
            "bias": statistics.mean,
            "target_covariance": statistics.covariance,
        }
        self._whitening = inverse_root(statistics.covariance, pseudo=allow_singular)
        check_scales(statistics.covariance, self._whitening)
        like = torch.empty(0, device=device, dtype=dtype)
        for name, value in self._exact.items():
            self.register_buffer(name, like.new_empty(value.shape))
        self.reset_parameters()

    @classmethod
    def classes_in(cls, options: Mapping[str, Any]) -> int | None:
        """The number of targets, if there are any."""
        if options.get("targets") is None:
            return None
        return len(target_statistics(options["targets"]).mean)

    @property
    def num_targets(self) -> int:
        """The number n of targets, also under the other heads' name ``num_classes``."""
        return self.num_classes

    def reset_parameters(self) -> None:
        """Write weight and bias again from the targets they were built for; the neck forgets."""
        self._restore()
        if self.neck is not None:
            self.neck.reset_running_stats()

    def class_vectors(self) -> Tensor:
        """Targets' vectors as rows, (n, d): the weight."""
        return self.weight

    def whitened(self, values: Tensor) -> Tensor:
        """Sigma^{-1/2} (values - mean), for a loss in which every direction of the targets counts alike.

        Shape:
            - values: (..., n) outputs or targets; for the convolutional twin (B, n, H, W).
            - output: the same.
        """
        last = values.movedim(1, -1) if self.channel_dim == 1 else values
        if last.shape[-1] != self.num_targets:
            raise ValueError(f"values: expected {self.num_targets} targets, got shape {tuple(values.shape)}")
        white = (last - self._exact["bias"].to(values)) @ self._whitening.to(values)
        return white.movedim(-1, 1) if self.channel_dim == 1 else white

    def _restore(self) -> None:
        if not self.weight.is_meta:
            with torch.no_grad():
                for name in _FIXED:
                    self.get_buffer(name).copy_(self._exact[name])

    def _apply(self, fn: Any, recurse: bool = True) -> RegressionHead:
        dtype = self.weight.dtype
        super()._apply(fn, recurse)
        if self.weight.dtype != dtype:
            # .half().float() would leave rounded vectors behind.
            self._restore()
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        stored = {name: real(state_dict.get(prefix + name)) for name in _FIXED}
        weight = stored["weight"]
        fits = weight is not None and weight.shape == self.weight.shape
        if weight is not None and fits and not self.first_frame.has_form(weight.double(), _TOLERANCE):
            args[-1].append(
                f"{prefix}weight is not a symmetric matrix times this head's directions ({self._directions()}"
                "): a learnable layer or another head cannot become this one. Load that checkpoint before "
                "swap_head, or build the head with the basis and seed it was trained with."
            )
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)
        for name, tensor in stored.items():
            mine = self._exact[name]
            # What only went through rounding stays exact.
            if tensor is not None and tensor.shape == mine.shape and not torch.equal(tensor, mine.to(tensor)):
                self._exact[name] = tensor.double()
        self._whitening = inverse_root(self._exact["target_covariance"], pseudo=self.allow_singular)
        self._restore()

    def _logits(self, features: Tensor) -> Tensor:
        return nn.functional.linear(features, self.weight, self.bias)

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        return self.weight, self.bias

    def extra_repr(self) -> str:
        """Sizes and options for ``print(model)``."""
        frame, how = self.first_frame, f"feature_energy={self.feature_energy:.4g}, whiten={self.whiten}"
        if frame.weight_decay is not None:
            how = f"weight_decay={frame.weight_decay}, feature_decay={frame.feature_decay}"
        sizes = f"in_features={self.in_features}, num_targets={self.num_targets}"
        return f"{sizes}, {how}, {self._directions()}"

    def _directions(self) -> str:
        return f"basis={self.first_frame.basis!r}, seed={self.first_frame.seed}"


class RegressionConvHead(RegressionHead):
    """:class:`RegressionHead` in place of a 1x1 convolution: features (B, d, H, W), outputs (B, n, H, W).

    Targets are (M, n), one row a pixel: ``depth.movedim(1, -1).flatten(0, -2)``.

    >>> head = RegressionConvHead(16, 1, targets=torch.tensor([1.0, 2.0, 4.0]))
    >>> head(torch.randn(2, 16, 7, 7)).shape
    torch.Size([2, 1, 7, 7])
    """

    channel_dim = 1
