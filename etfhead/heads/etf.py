"""The head that is known before training: a fixed frame, a neck without parameters, one scale."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from etfhead.frames import Frame, make_frame
from etfhead.heads.base import FeatureHead, Neck, unit_features
from etfhead.heads.frame_state import ID_BITS, fingerprint, mismatch
from etfhead.heads.scale import resolve_scale

__all__ = ["ETFConvHead", "ETFHead"]

_PREFIX = "frame_"  # buffers that hold a structured frame's factors


class ETFHead(FeatureHead):
    r"""Fixed classifier head: logits = s M neck(h), with the class vectors M known before training.

    .. math:: z = \tfrac{s}{\sqrt{d}}\,M\,\nu(h), \qquad
            M M^\top = \tfrac{K}{K-1}\bigl(I - \tfrac1K 1 1^\top\bigr)

    The neck makes features signed and centred, which is what a simplex needs: ReLU features alone reach a
    cosine of at most ~0.71 to a random frame's vectors (Yang et al., NeurIPS 2022, arXiv 2203.09081, use a
    BatchNorm for the same reason). Behind it, logits are divided by sqrt(d) (with ``basis="identity"`` by
    sqrt(K), the features it reads), as if features had unit norm. The only trainable parameter is the scale.

    A dense frame lives in the persistent buffer ``weight`` beside a zero ``bias``, a structured one
    (:attr:`Frame.structured`: ``identity``, and ``hadamard`` when K d is large) in its seed: its factors are
    rebuilt, and the state dict carries a fingerprint. Loading a state dict whose class vectors are not this
    frame is refused, also with ``strict=False``.

    Args:
        in_features: d.
        num_classes: K, 2 <= K <= d + 1.
        frame: ``"auto"``, a frame's name, or a :class:`~etfhead.frames.Frame`.
        basis: ``"identity"``, ``"hadamard"`` or ``"haar"``; unused when ``frame`` is a Frame.
        neck: ``"batchnorm"`` (no affine parameters) or None.
        normalize: L2-normalise the features behind the neck; such a head cannot be folded.
        scale: Positive number, or ``"auto"``: for features of unit norm (``neck`` or ``normalize``) the
            scale at which cross-entropy with ``label_smoothing`` is minimal at the frame
            (:func:`~etfhead.heads.auto_scale`); 1 otherwise.
        learn_scale: Train the scale (one parameter of shape (1,)); otherwise it is a buffer.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        seed: Seed of the frame's basis.
        device: Device of the buffers.
        dtype: Floating type of the buffers.

    Shape:
        - features: (..., d).
        - output: (..., K).

    Raises:
        ValueError: On sizes, options or features that do not fit, naming them.

    >>> head = ETFHead(64, 10)
    >>> sum(p.numel() for p in head.parameters() if p.requires_grad)
    1
    >>> head(torch.randn(32, 64)).shape
    torch.Size([32, 10])
    >>> head.eval().fuse()
    Linear(in_features=64, out_features=10, bias=True)
    """

    weight: Tensor
    bias: Tensor
    frame_id: Tensor
    scale: Tensor

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        frame: str | Frame = "auto",
        basis: Literal["identity", "hadamard", "haar"] = "hadamard",
        neck: Neck = "batchnorm",
        normalize: bool = False,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        label_smoothing: float = 0.0,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, num_classes, neck=neck, device=device, dtype=dtype)
        if not isinstance(frame, Frame):
            frame = make_frame(
                frame, num_classes=num_classes, in_features=in_features, basis=basis, seed=seed
            )
        if (frame.num_classes, frame.in_features) != (num_classes, in_features):
            raise ValueError(
                f"frame: expected num_classes={num_classes}, in_features={in_features}, got {frame}"
            )
        if not isinstance(normalize, bool) or not isinstance(learn_scale, bool):
            raise ValueError(
                f"normalize={normalize!r}, learn_scale={learn_scale!r}: expected True or False for both"
            )
        self.frame = frame
        # Behind the neck the features that class vectors reach have a mean square norm of their number:
        # divided by its root, one scale means the same at every width.
        self._gain = 1.0 if neck is None or normalize else frame.active_features**-0.5
        self.normalize = normalize
        self.label_smoothing = label_smoothing
        self._initial_scale = resolve_scale(
            scale, num_classes, label_smoothing, unit_features=normalize or neck is not None
        )
        like = torch.empty(0, device=device, dtype=dtype)
        self.register_buffer("frame_id", like.new_empty(ID_BITS))
        self._factor_names: tuple[str, ...] = ("weight",)
        if not frame.structured:
            self.register_buffer("weight", like.new_empty(num_classes, in_features))
            self.register_buffer("bias", like.new_empty(num_classes))
        initial_scale = like.new_empty(1)
        if learn_scale:
            self.scale = nn.Parameter(initial_scale)
        else:
            self.register_buffer("scale", initial_scale)
        self.reset_parameters()

    def _buffer_name(self, factor: str) -> str:
        return _PREFIX + factor if self.frame.structured else factor

    def init_non_persistent_buffers(self) -> None:
        """Derive the structured frame's factors from its seed (timm's hook after ``to_empty``)."""
        if self.frame.structured:
            factors = self.frame.factors()
            self._factor_names = tuple(factors)
            for name, factor in factors.items():
                self.register_buffer(self._buffer_name(name), factor.to(self.scale), persistent=False)

    # Hugging Face's timm wrapper looks for the singular name.
    init_non_persistent_buffer = init_non_persistent_buffers

    def reset_parameters(self) -> None:
        """Derive frame, scale and statistics again from the seed; the same values on every device."""
        self._restore_frame()
        if self.scale.is_meta:
            return
        with torch.no_grad():
            self.scale.fill_(self._initial_scale)
        if self.neck is not None:
            self.neck.reset_running_stats()

    def _restore_frame(self) -> None:
        """Write every fixed tensor from the frame, in the head's present type and on its device."""
        self.init_non_persistent_buffers()
        if self.scale.is_meta:
            return
        with torch.no_grad():
            self.frame_id.copy_(fingerprint(self._identity()))
            if not self.frame.structured:
                self.weight.copy_(self.frame.matrix())
                self.bias.zero_()

    def _apply(self, fn: Any, recurse: bool = True) -> ETFHead:
        dtype = self.scale.dtype
        super()._apply(fn, recurse)
        if self.scale.dtype != dtype:
            # .half().float() would leave rounded class vectors behind.
            self._restore_frame()
        return self

    def _identity(self) -> dict[str, Any]:
        """What a state dict must have been trained with to belong to this head."""
        return {**self.frame.spec(), "normalize": self.normalize}

    def class_vectors(self) -> Tensor:
        """Class vectors as rows, (K, d), in the head's type and on its device, without the scale."""
        return self.frame.matrix().to(self.scale) if self.frame.structured else self.weight

    def _logits(self, features: Tensor) -> Tensor:
        if self.normalize:
            features = unit_features(features)
        factors = {name: getattr(self, self._buffer_name(name)) for name in self._factor_names}
        return self.scale * self._gain * self.frame.apply(features, factors)

    def _linear(self) -> tuple[Tensor, Tensor | None]:
        if self.normalize:
            raise ValueError(
                "fuse: a head with normalize=True is not linear in its features and has no plain-layer "
                "equivalent; train with normalize=False (the default), or ship the head as it is"
            )
        return self.scale.detach().double() * self._gain * self.class_vectors().double(), None

    def extra_repr(self) -> str:
        """Frame, coherence and scale for ``print(model)``."""
        scale = "meta" if self.scale.is_meta else f"{self.scale.item():.4g}"
        kind = "learnable" if self.scale.requires_grad else "fixed"
        cosine = self.frame.coherence().max_cosine
        return (
            f"frame={self.frame}, max_cosine={cosine:.4g}, normalize={self.normalize}, scale={scale} ({kind})"
        )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *args: Any
    ) -> None:
        error_msgs: list[str] = args[-1]
        complaint = mismatch(state_dict, prefix, identity=self._identity(), exact=self.frame.matrix)
        if complaint is not None:
            error_msgs.append(complaint)
            return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *args)
        # Whatever the file held in the end (rounded, averaged, or a model built on meta), this is exact.
        self._restore_frame()


class ETFConvHead(ETFHead):
    """:class:`ETFHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    >>> ETFConvHead(16, 5)(torch.randn(2, 16, 7, 7)).shape
    torch.Size([2, 5, 7, 7])
    """

    channel_dim = 1
