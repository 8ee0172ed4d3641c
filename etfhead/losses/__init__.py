"""Losses that fixed heads need beside torch's own cross-entropy."""

from etfhead.losses.dot_regression import DotRegressionLoss, dot_regression
from etfhead.losses.frame_cross_entropy import FrameCrossEntropyLoss, frame_cross_entropy

__all__ = ["DotRegressionLoss", "FrameCrossEntropyLoss", "dot_regression", "frame_cross_entropy"]
