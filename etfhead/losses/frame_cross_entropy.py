"""Cross-entropy fused with a frame: the logits are never held."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from etfhead.frames import Frame
from etfhead.losses._sample_losses import Method, Reduction, check_product_dtype, reduced, sample_losses

__all__ = ["FrameCrossEntropyLoss", "frame_cross_entropy"]


def frame_cross_entropy(
    features: Tensor,
    target: Tensor,
    frame: Frame,
    *,
    scale: float | Tensor = 1.0,
    factors: dict[str, Tensor] | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    logit_adjustment: Tensor | None = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    method: Method = "auto",
    block: int | None = None,
    product_dtype: torch.dtype | None = None,
    compiled: bool = False,
) -> Tensor:
    r"""Cross-entropy of the logits s M x + c, from one pass over blocks of classes.

    .. math:: \ell_i = -\log \frac{e^{z_{i y_i}}}{\sum_k e^{z_{ik}}}, \qquad z_i = s\,M x_i + c

    Equals ``torch.nn.functional.cross_entropy`` of these logits with the same options, but holds a block of
    them at a time: memory beyond the features is O(B x block) for any K. The pass also sums e^z times class
    vectors, which is the gradient, so that backward has nothing to form again (Cut Cross-Entropy, Wijmans et
    al. 2024, arXiv 2411.09009, whose class vectors learn, makes its logits twice). Where logits stay within
    +-64, exponentials are summed as they are; elsewhere with an online maximum (Milakov & Gimelshein 2018,
    arXiv 1805.02867).

    Gradients go to ``features`` and to ``scale``, once: there is no second derivative, and none for the
    frame's factors, ``weight`` and ``logit_adjustment``, which are refused if they ask for one. Sums are
    float32 or wider, also under autocast. Block products are in ``product_dtype``.

    Args:
        features: x (..., d).
        target: Class indices (...).
        frame: The frame M.
        scale: s, a number or a tensor with one element, which may need a gradient.
        factors: ``frame.factors()`` on the features' device; built at every call if not given.
        weight: Weight of each class (K,), at least 0, as in torch's cross-entropy.
        label_smoothing: a in [0, 1]; the rest of the target goes to all classes alike.
        ignore_index: Samples of this target count for nothing.
        logit_adjustment: c (K,), such as the log of class frequencies (Menon et al., ICLR 2021, arXiv
            2007.07314).
        normalize: Divide features by their L2 norm first.
        reduction: ``"none"`` (...), ``"mean"`` (weighted as torch does) or ``"sum"``.
        method: ``"bounded"`` (no maxima; refused beyond 64), ``"online"``, or ``"auto"``: bounded for a
            structured frame where the bound scale x norm x largest class vector is within 64. On a GPU, where
            the softmax of a block is one kernel, this is a check at most.
        block: Classes at once, rounded up to what the frame allows; by default a block of logits has 2 MB of
            float32 (128 MB on a GPU).
        product_dtype: Type of the products of features and class vectors, ``torch.bfloat16`` or
            ``torch.float32``. By default a linear layer's: bfloat16 on a GPU for bfloat16 features and under
            bfloat16 autocast, the features' type (float32 at least) elsewhere. Say it where features that
            were made under autocast have been cast to float32 and the loss is outside of it, as accelerate
            does.
        compiled: On a GPU, have ``torch.compile`` make fewer kernels of the elementwise part of the pass: at
            300,000 classes 30 % less time and 40 % less memory, for some ten seconds at the first call.

    Returns:
        Tensor: The loss, in float32 or wider.

    Raises:
        ValueError: If shapes, types or options do not fit, and on a CPU if a target is not a class.

    >>> from etfhead.frames import SimplexFrame
    >>> frame = SimplexFrame(10, 64)
    >>> x, y = torch.randn(8, 64), torch.arange(8)
    >>> loss = frame_cross_entropy(x, y, frame, scale=2.0)
    >>> torch.allclose(loss, torch.nn.functional.cross_entropy(2.0 * frame.logits(x), y), atol=1e-5)
    True
    """
    losses, shares, _ = sample_losses(
        features,
        target,
        frame,
        scale=scale,
        factors=factors,
        weight=weight,
        label_smoothing=label_smoothing,
        ignore_index=ignore_index,
        logit_adjustment=logit_adjustment,
        normalize=normalize,
        method=method,
        block=block,
        product_dtype=product_dtype,
        compiled=compiled,
    )
    return reduced(losses, shares, reduction)


class FrameCrossEntropyLoss(nn.Module):
    """:func:`frame_cross_entropy` on the features that a head with ``fused=True`` returns in training mode.

    The head stays where it is: the loss has no parameter and no second copy of the head in its state dict.
    It reads the head's frame, factors and scale at every call. In evaluation mode such a head returns logits,
    and the loss is cross-entropy on them.

    Args:
        head: An :class:`~etfhead.heads.ETFHead`, or a head that follows its data, built with ``fused=True``:
            it has a ``frame`` and ``logit_factors()``.
        weight: Weight of each class (K,).
        label_smoothing: In [0, 1].
        ignore_index: Samples of this target count for nothing.
        logit_adjustment: Added to the logits, (K,).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        method: ``"auto"``, ``"bounded"`` or ``"online"``.
        block: Classes at once.
        product_dtype: Type of the products, None for a linear layer's.
        compiled: On a GPU, compile the elementwise part of the pass.

    Shape:
        - x: The head's output, (..., d); (B, d, H, W) from a convolutional twin.
        - target: (...); (B, H, W).

    Raises:
        ValueError: If the head has no frame, or is not fused, or for an unknown ``product_dtype``.

    >>> from etfhead.heads import ETFHead
    >>> head = ETFHead(64, 10, fused=True)
    >>> loss = FrameCrossEntropyLoss(head, label_smoothing=0.1)
    >>> loss(head(torch.randn(32, 64)), torch.randint(10, (32,))).backward()
    >>> list(loss.state_dict())
    []
    """

    weight: Tensor | None
    logit_adjustment: Tensor | None
    # Losses that an earlier version pickled whole lack these.
    product_dtype: torch.dtype | None = None
    compiled: bool = False

    def __init__(
        self,
        head: nn.Module,
        *,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ignore_index: int = -100,
        logit_adjustment: Tensor | None = None,
        reduction: Reduction = "mean",
        method: Method = "auto",
        block: int | None = None,
        product_dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        if getattr(head, "correction", None) is not None:
            raise ValueError("head: its low-rank correction learns and cannot be streamed; take low_rank=0")
        if not hasattr(head, "logit_factors") or not getattr(head, "fused", False):
            raise ValueError(
                "head: expected one that returns features in training mode, such as ETFHead(..., "
                f"fused=True), got {type(head).__name__}"
            )
        check_product_dtype(product_dtype)
        self._head: tuple[Any] = (head,)  # in a tuple, so that it does not become a submodule
        self.register_buffer("weight", weight)
        self.register_buffer("logit_adjustment", logit_adjustment)
        self.label_smoothing = label_smoothing
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.method = method
        self.block = block
        self.product_dtype = product_dtype
        self.compiled = compiled

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch."""
        return self._loss(x, target, with_prediction=False)[0]

    def with_predictions(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the class with the head's largest logit for each sample, from the same pass."""
        return self._loss(x, target, with_prediction=True)

    def _loss(self, x: Tensor, target: Tensor, *, with_prediction: bool) -> tuple[Tensor, Tensor]:
        (head,) = self._head
        x = x.movedim(getattr(head, "channel_dim", -1), -1)
        options: dict[str, Any] = {
            "weight": self.weight,
            "label_smoothing": self.label_smoothing,
            "ignore_index": self.ignore_index,
        }
        if not head.training:
            return self._of_logits(x, target, options)
        scale, factors = head.logit_factors()
        losses, shares, predictions = sample_losses(
            x,
            target,
            head.frame,
            scale=scale,
            factors=factors,
            logit_adjustment=self.logit_adjustment,
            method=self.method,
            block=self.block,
            product_dtype=self.product_dtype,
            compiled=self.compiled,
            with_prediction=with_prediction,
            **options,
        )
        return reduced(losses, shares, self.reduction), predictions

    def _of_logits(self, logits: Tensor, target: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
        adjusted = logits.float() if logits.dtype != torch.float64 else logits
        if self.logit_adjustment is not None:
            adjusted = adjusted + self.logit_adjustment.to(adjusted.dtype)
        if self.weight is not None:
            options["weight"] = self.weight.to(adjusted.dtype)
        loss = nn.functional.cross_entropy(
            adjusted.reshape(-1, adjusted.shape[-1]),
            target.reshape(-1).long(),
            reduction=self.reduction,
            **options,
        )
        return loss.view(target.shape) if self.reduction == "none" else loss, logits.argmax(-1)

    def extra_repr(self) -> str:
        """Options for ``print(loss)``."""
        options = (
            "label_smoothing",
            "ignore_index",
            "reduction",
            "method",
            "block",
            "product_dtype",
            "compiled",
        )
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in options)
