"""Classifier heads that are known before training.

``import etfhead`` costs nothing until a name is used: the command line answers without loading torch,
and timm, torchvision and matplotlib load only in the functions that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from etfhead._version import __version__

if TYPE_CHECKING:
    from etfhead import frames, heads, losses, metrics, theory
    from etfhead.frames import Frame, make_frame
    from etfhead.heads import (
        ClassMeanHead,
        DeltaRuleHead,
        ETFHead,
        GuidedETFHead,
        MultiLabelETFHead,
        RegressionHead,
    )
    from etfhead.surgery import align_head, fold_head, swap_head

__all__ = [
    "ClassMeanHead",
    "DeltaRuleHead",
    "ETFHead",
    "Frame",
    "GuidedETFHead",
    "MultiLabelETFHead",
    "RegressionHead",
    "__version__",
    "align_head",
    "fold_head",
    "frames",
    "heads",
    "losses",
    "make_frame",
    "metrics",
    "swap_head",
    "theory",
]

_HOME = {
    "ETFHead": "etfhead.heads",
    "ClassMeanHead": "etfhead.heads",
    "DeltaRuleHead": "etfhead.heads",
    "GuidedETFHead": "etfhead.heads",
    "MultiLabelETFHead": "etfhead.heads",
    "RegressionHead": "etfhead.heads",
    "Frame": "etfhead.frames",
    "make_frame": "etfhead.frames",
    "swap_head": "etfhead.surgery",
    "fold_head": "etfhead.surgery",
    "align_head": "etfhead.surgery",
}
_MODULES = ("frames", "heads", "losses", "metrics", "theory")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"etfhead.{name}")
    else:
        raise AttributeError(f"module 'etfhead' has no attribute {name!r}")
    globals()[name] = value  # the next access skips this function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
