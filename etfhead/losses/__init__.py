"""Losses that fixed heads need beside torch's own cross-entropy, and losses that stand wrong labels."""

from etfhead.losses.active_negative import ActiveNegativeLoss, active_negative, l1_norm
from etfhead.losses.active_passive import ActivePassiveLoss, active_passive
from etfhead.losses.asymmetric import (
    AsymmetricExponentialLoss,
    AsymmetricGeneralizedCrossEntropyLoss,
    AsymmetricMeanSquareLoss,
    AsymmetricUnhingedLoss,
    asymmetric_exponential,
    asymmetric_generalized_cross_entropy,
    asymmetric_mean_square,
    asymmetric_unhinged,
)
from etfhead.losses.batch_contrast import NONLLoss, NTCELoss, nonl, ntce
from etfhead.losses.bi_tempered import BiTemperedLoss, bi_tempered, tempered_log_softmax
from etfhead.losses.bootstrapping import BootstrappingLoss, bootstrapping
from etfhead.losses.bounded_cross_entropy import (
    HuberizedCrossEntropyLoss,
    PolyCrossEntropyLoss,
    TaylorCrossEntropyLoss,
    huberized_cross_entropy,
    poly_cross_entropy,
    taylor_cross_entropy,
)
from etfhead.losses.class_weights import effective_number_weights
from etfhead.losses.dot_regression import DotRegressionLoss, dot_regression
from etfhead.losses.early_learning import EarlyLearningRegularizationLoss, early_learning_regularization
from etfhead.losses.etf_dot import ETFDotLoss, etf_dot
from etfhead.losses.frame_cross_entropy import FrameCrossEntropyLoss, frame_cross_entropy
from etfhead.losses.generalized_cross_entropy import GeneralizedCrossEntropyLoss, generalized_cross_entropy
from etfhead.losses.jensen_shannon import JensenShannonLoss, jensen_shannon
from etfhead.losses.joint_asymmetric import JointAsymmetricLoss, joint_asymmetric
from etfhead.losses.label_relaxation import LabelRelaxationLoss, label_relaxation
from etfhead.losses.label_smoothing import (
    LabelSmoothingCrossEntropyLoss,
    label_smoothing_cross_entropy,
    label_smoothing_scale,
)
from etfhead.losses.ldam import LDAMLoss, ldam, ldam_margins
from etfhead.losses.logit_adjustment import LogitAdjustedLoss, adjust_logits, log_prior, logit_adjusted
from etfhead.losses.logit_clip import LogitClipLoss, logit_clip
from etfhead.losses.loss_correction import (
    BackwardCorrectionLoss,
    ForwardCorrectionLoss,
    backward_correction,
    forward_correction,
)
from etfhead.losses.normalized_cross_entropy import (
    NormalizedCrossEntropyLoss,
    NormalizedNegativeLoss,
    normalized_cross_entropy,
    normalized_negative_loss,
)
from etfhead.losses.pick_all_label import PickAllLabelLoss, pick_all_label
from etfhead.losses.sparse_overparametrization import (
    SparseOverparametrizationLoss,
    sparse_overparametrization,
)
from etfhead.losses.squared_error import SquaredErrorLoss, squared_error
from etfhead.losses.symmetric_cross_entropy import (
    MeanAbsoluteErrorLoss,
    ReverseCrossEntropyLoss,
    SymmetricCrossEntropyLoss,
    mean_absolute_error,
    reverse_cross_entropy,
    symmetric_cross_entropy,
)
from etfhead.losses.transition import estimate_transition

__all__ = [
    "ActiveNegativeLoss",
    "ActivePassiveLoss",
    "AsymmetricExponentialLoss",
    "AsymmetricGeneralizedCrossEntropyLoss",
    "AsymmetricMeanSquareLoss",
    "AsymmetricUnhingedLoss",
    "BackwardCorrectionLoss",
    "BiTemperedLoss",
    "BootstrappingLoss",
    "DotRegressionLoss",
    "ETFDotLoss",
    "EarlyLearningRegularizationLoss",
    "ForwardCorrectionLoss",
    "FrameCrossEntropyLoss",
    "GeneralizedCrossEntropyLoss",
    "HuberizedCrossEntropyLoss",
    "JensenShannonLoss",
    "JointAsymmetricLoss",
    "LDAMLoss",
    "LabelRelaxationLoss",
    "LabelSmoothingCrossEntropyLoss",
    "LogitAdjustedLoss",
    "LogitClipLoss",
    "MeanAbsoluteErrorLoss",
    "NONLLoss",
    "NTCELoss",
    "NormalizedCrossEntropyLoss",
    "NormalizedNegativeLoss",
    "PickAllLabelLoss",
    "PolyCrossEntropyLoss",
    "ReverseCrossEntropyLoss",
    "SparseOverparametrizationLoss",
    "SquaredErrorLoss",
    "SymmetricCrossEntropyLoss",
    "TaylorCrossEntropyLoss",
    "active_negative",
    "active_passive",
    "adjust_logits",
    "asymmetric_exponential",
    "asymmetric_generalized_cross_entropy",
    "asymmetric_mean_square",
    "asymmetric_unhinged",
    "backward_correction",
    "bi_tempered",
    "bootstrapping",
    "dot_regression",
    "early_learning_regularization",
    "effective_number_weights",
    "estimate_transition",
    "etf_dot",
    "forward_correction",
    "frame_cross_entropy",
    "generalized_cross_entropy",
    "huberized_cross_entropy",
    "jensen_shannon",
    "joint_asymmetric",
    "l1_norm",
    "label_relaxation",
    "label_smoothing_cross_entropy",
    "label_smoothing_scale",
    "ldam",
    "ldam_margins",
    "log_prior",
    "logit_adjusted",
    "logit_clip",
    "mean_absolute_error",
    "nonl",
    "normalized_cross_entropy",
    "normalized_negative_loss",
    "ntce",
    "pick_all_label",
    "poly_cross_entropy",
    "reverse_cross_entropy",
    "sparse_overparametrization",
    "squared_error",
    "symmetric_cross_entropy",
    "taylor_cross_entropy",
    "tempered_log_softmax",
]
