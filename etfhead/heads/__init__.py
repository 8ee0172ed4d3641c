"""Classifier heads: fixed ones, ones that follow the data, and the learnable ones they are compared with."""

from etfhead.heads.base import FeatureHead
from etfhead.heads.class_mean import ClassMeanConvHead, ClassMeanHead
from etfhead.heads.delta_rule import DeltaRuleConvHead, DeltaRuleHead
from etfhead.heads.etf import ETFConvHead, ETFHead
from etfhead.heads.following import FollowingHead, update_heads
from etfhead.heads.frame_head import FrameHead
from etfhead.heads.guided import GuidedETFConvHead, GuidedETFHead
from etfhead.heads.label_decoding import decode_labels
from etfhead.heads.label_sets import label_lists, multi_hot
from etfhead.heads.learnable import CosineConvHead, CosineHead, LinearConvHead, LinearHead
from etfhead.heads.low_rank import LowRank
from etfhead.heads.multilabel import MultiLabelETFConvHead, MultiLabelETFHead
from etfhead.heads.regression import RegressionConvHead, RegressionHead
from etfhead.heads.scale import auto_scale

__all__ = [
    "ClassMeanConvHead",
    "ClassMeanHead",
    "CosineConvHead",
    "CosineHead",
    "DeltaRuleConvHead",
    "DeltaRuleHead",
    "ETFConvHead",
    "ETFHead",
    "FeatureHead",
    "FollowingHead",
    "FrameHead",
    "GuidedETFConvHead",
    "GuidedETFHead",
    "LinearConvHead",
    "LinearHead",
    "LowRank",
    "MultiLabelETFConvHead",
    "MultiLabelETFHead",
    "RegressionConvHead",
    "RegressionHead",
    "auto_scale",
    "decode_labels",
    "label_lists",
    "multi_hot",
    "update_heads",
]
