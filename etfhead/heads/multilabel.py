"""The fixed head for several labels a sample: pick-all-label logits, read out as label sets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from etfhead.frames import Frame
from etfhead.frames.base import checked_size
from etfhead.frames.tagwise import filled_gaps
from etfhead.heads.base import Neck
from etfhead.heads.etf import ETFHead
from etfhead.heads.frame_head import checked_flag
from etfhead.heads.label_readout import LabelReadout

__all__ = ["MultiLabelETFConvHead", "MultiLabelETFHead"]


class MultiLabelETFHead(LabelReadout, ETFHead):
    r"""Fixed simplex head for label sets: the logits of :class:`ETFHead`, decoded by the collapse geometry.

    Trained with :class:`~etfhead.losses.PickAllLabelLoss`, features of several labels collapse to scaled sums
    of the features of the single ones, and class vectors to a simplex (Li et al., ICML 2024, arXiv
    2310.15903). Here the simplex is there from the start, and :meth:`decode` finds the nearest of all label
    sets' prototypes. Training, folding and checkpoints are those of :class:`ETFHead`.

    What decoding needs beside the logits comes from :meth:`calibrate`, which fits it to data and keeps it in
    buffers. Without calibration it follows from the scale s, assuming that the features of single labels have
    unit norm in the units of the scale (behind the neck sqrt(d)), hence a gap s K/(K - 1) between the logit
    of their label and the others, and the closed forms of :mod:`etfhead.frames.tagwise` for more labels (with
    ``normalize`` all features have unit norm, which fixes every gap). Calibrate again after more training.

    Args:
        in_features: d.
        num_classes: K, at least 2 and, for the simplex, at most d + 1.
        frame: ``"simplex"``, or another as for :class:`ETFHead`; prototypes are then nearest in the space of
            centred logits, not of features.
        basis: As for :class:`ETFHead`.
        neck: As for :class:`ETFHead`.
        normalize: As for :class:`ETFHead`.
        scale: As for :class:`ETFHead`.
        learn_scale: As for :class:`ETFHead`.
        low_rank: As for :class:`ETFHead`.
        label_smoothing: Smoothing of the loss, used by ``scale="auto"`` alone.
        normalized_loss: Whether the loss divides by the number of labels
            (``PickAllLabelLoss(normalize=True)``), used by the closed forms alone.
        max_labels: Largest label set to answer; None for no limit.
        seed: Seed of the frame.
        device: Device of the buffers.
        dtype: Floating type of the buffers.

    Attributes:
        calibration_size: Samples that :meth:`calibrate` saw, () int64; 0 before.

    Shape:
        - features: (..., d).
        - output: (..., K).

    >>> head = MultiLabelETFHead(64, 5, neck=None).eval()
    >>> features = head.class_vectors()[[0, 2]].sum(0, keepdim=True)
    >>> head.decode(features, from_features=True).int().tolist()
    [[1, 0, 1, 0, 0]]
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        frame: str | Frame = "simplex",
        basis: Literal["identity", "hadamard", "haar"] = "hadamard",
        neck: Neck = "batchnorm",
        normalize: bool = False,
        scale: float | Literal["auto"] = "auto",
        learn_scale: bool = True,
        low_rank: int = 0,
        label_smoothing: float = 0.0,
        normalized_loss: bool = False,
        max_labels: int | None = None,
        seed: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_features,
            num_classes,
            frame=frame,
            basis=basis,
            neck=neck,
            normalize=normalize,
            scale=scale,
            learn_scale=learn_scale,
            low_rank=low_rank,
            label_smoothing=label_smoothing,
            seed=seed,
            device=device,
            dtype=dtype,
        )
        self.normalized_loss = checked_flag("normalized_loss", normalized_loss)
        if max_labels is not None and checked_size("max_labels", max_labels, 1) > self.num_classes:
            raise ValueError(
                f"max_labels={max_labels}: expected at most num_classes={num_classes}, or None for no limit"
            )
        self.max_labels = max_labels
        self._hold_calibration(self.scale.detach())

    def reset_parameters(self) -> None:
        """Derive frame, scale and statistics again from the seed, and forget the calibration."""
        super().reset_parameters()
        if hasattr(self, "calibration_size"):  # the base class calls this before there is one
            self.reset_calibration()

    def adopt_frame(self, frame: Frame) -> None:
        """Take other class vectors of the same sizes, in place; the calibration belonged to the old ones."""
        super().adopt_frame(frame)
        self.reset_calibration()

    def _assumed_gaps(self) -> Tensor:
        K = self.num_classes
        single = self.scale.detach().abs().item() * K / (K - 1)
        if self.normalize:
            m = torch.arange(1, K, dtype=torch.float64, device="cpu")
            gaps = single * ((K - 1) / (m * (K - m))).sqrt()
        else:
            gaps = filled_gaps(K, {1: single}, normalize=self.normalized_loss)
        return gaps.to(self.scale.device, torch.float32)

    def extra_repr(self) -> str:
        """Frame, scale and calibration for ``print(model)``."""
        state = "meta" if self.calibration_size.is_meta else f"{self.calibration_size.item()} samples"
        return f"{super().extra_repr()}, calibration={state}"


class MultiLabelETFConvHead(MultiLabelETFHead):
    """:class:`MultiLabelETFHead` in place of a 1x1 convolution: features (B, d, H, W), logits (B, K, H, W).

    >>> MultiLabelETFConvHead(16, 5).eval().decode(torch.randn(2, 16, 7, 7), from_features=True).shape
    torch.Size([2, 5, 7, 7])
    """

    channel_dim = 1
