"""Losses that fixed heads need beside torch's own cross-entropy."""

from etfhead.losses.dot_regression import DotRegressionLoss, dot_regression
from etfhead.losses.frame_cross_entropy import FrameCrossEntropyLoss, frame_cross_entropy
from etfhead.losses.pick_all_label import PickAllLabelLoss, pick_all_label

__all__ = [
    "DotRegressionLoss",
    "FrameCrossEntropyLoss",
    "PickAllLabelLoss",
    "dot_regression",
    "frame_cross_entropy",
    "pick_all_label",
]
