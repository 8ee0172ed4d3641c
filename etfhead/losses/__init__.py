"""Losses that fixed heads need beside torch's own cross-entropy."""

from etfhead.losses.dot_regression import DotRegressionLoss, dot_regression

__all__ = ["DotRegressionLoss", "dot_regression"]
