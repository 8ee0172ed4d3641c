"""How far the last layer has collapsed: pure functions, and torchmetrics over them.

Names load when they are first used, and torchmetrics with the first class.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etfhead.metrics.collapse_metric import NeuralCollapse
    from etfhead.metrics.collapse_monitor import CollapseMonitor
    from etfhead.metrics.distance_to_frame import FrameDistance, frame_distance
    from etfhead.metrics.functional import neural_collapse
    from etfhead.metrics.label_scores import MultiLabelScores
    from etfhead.metrics.label_set_collapse import MultiLabelCollapse
    from etfhead.metrics.memorization import memorization_figures
    from etfhead.metrics.memorization_dilation import MemorizationDilation
    from etfhead.metrics.multilabel_counts import label_groups
    from etfhead.metrics.multilabel_functional import multilabel_collapse, multilabel_scores
    from etfhead.metrics.ood import PrincipalDirections, nci_score, neco_score, principal_directions
    from etfhead.metrics.regression_functional import regression_collapse
    from etfhead.metrics.regression_metric import RegressionCollapse
    from etfhead.metrics.simplex_geometry import product_distance, self_duality, simplex_distance
    from etfhead.metrics.variability import class_distance_variance, within_over_between

__all__ = [
    "CollapseMonitor",
    "FrameDistance",
    "MemorizationDilation",
    "MultiLabelCollapse",
    "MultiLabelScores",
    "NeuralCollapse",
    "PrincipalDirections",
    "RegressionCollapse",
    "class_distance_variance",
    "frame_distance",
    "label_groups",
    "memorization_figures",
    "multilabel_collapse",
    "multilabel_scores",
    "nci_score",
    "neco_score",
    "neural_collapse",
    "principal_directions",
    "product_distance",
    "regression_collapse",
    "self_duality",
    "simplex_distance",
    "within_over_between",
]

# A name here never equals that of a module of the package: importing the module would hide it.
_HOME = {
    "CollapseMonitor": "collapse_monitor",
    "FrameDistance": "distance_to_frame",
    "MemorizationDilation": "memorization_dilation",
    "MultiLabelCollapse": "label_set_collapse",
    "MultiLabelScores": "label_scores",
    "NeuralCollapse": "collapse_metric",
    "PrincipalDirections": "ood",
    "RegressionCollapse": "regression_metric",
    "class_distance_variance": "variability",
    "frame_distance": "distance_to_frame",
    "label_groups": "multilabel_counts",
    "memorization_figures": "memorization",
    "multilabel_collapse": "multilabel_functional",
    "multilabel_scores": "multilabel_functional",
    "nci_score": "ood",
    "neco_score": "ood",
    "neural_collapse": "functional",
    "principal_directions": "ood",
    "product_distance": "simplex_geometry",
    "regression_collapse": "regression_functional",
    "self_duality": "simplex_geometry",
    "simplex_distance": "simplex_geometry",
    "within_over_between": "variability",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'etfhead.metrics' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"etfhead.metrics.{_HOME[name]}"), name)
    globals()[name] = value  # the next access skips this function
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
