"""Classifier heads: the fixed ones, and the learnable ones they are compared with."""

from etfhead.heads.base import FeatureHead
from etfhead.heads.etf import ETFConvHead, ETFHead
from etfhead.heads.learnable import CosineConvHead, CosineHead, LinearConvHead, LinearHead
from etfhead.heads.scale import auto_scale

__all__ = [
    "CosineConvHead",
    "CosineHead",
    "ETFConvHead",
    "ETFHead",
    "FeatureHead",
    "LinearConvHead",
    "LinearHead",
    "auto_scale",
]
