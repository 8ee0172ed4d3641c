"""Names of the losses that an arm can train with, by what an image carries."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "CLASS_LOSSES",
    "MULTILABEL_LOSSES",
    "REGRESSION_LOSSES",
    "ClassLossName",
    "LossName",
    "MultiLabelLossName",
    "RegressionLossName",
]

ClassLossName = Literal[
    "cross_entropy",
    "dot_regression",
    "label_smoothing",
    "label_relaxation",
    "generalized_cross_entropy",
    "symmetric_cross_entropy",
    "reverse_cross_entropy",
    "mean_absolute_error",
    "normalized_cross_entropy",
    "normalized_negative",
    "active_passive",
    "active_negative",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_unhinged",
    "asymmetric_exponential",
    "asymmetric_mean_square",
    "joint_asymmetric",
    "bootstrapping",
    "forward_correction",
    "backward_correction",
    "taylor_cross_entropy",
    "huberized_cross_entropy",
    "poly_cross_entropy",
    "bi_tempered",
    "jensen_shannon",
    "logit_clip",
    "etf_dot",
    "early_learning",
    "sparse_overparametrization",
    "logit_adjusted",
    "balanced_softmax",
    "ldam",
    "ntce",
    "nonl",
    "mse",
]
MultiLabelLossName = Literal["pick_all_label", "binary_cross_entropy", "asymmetric", "zlpr", "two_way"]
RegressionLossName = Literal["mse"]  # of classes too: the squared error of one-hot targets
LossName = Literal[ClassLossName, MultiLabelLossName, RegressionLossName]

CLASS_LOSSES: tuple[str, ...] = get_args(ClassLossName)
MULTILABEL_LOSSES: tuple[str, ...] = get_args(MultiLabelLossName)
REGRESSION_LOSSES: tuple[str, ...] = get_args(RegressionLossName)
