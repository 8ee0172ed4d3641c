"""How far the last layer has collapsed: pure functions, and torchmetrics over them."""

from etfhead.metrics.collapse_metric import NeuralCollapse
from etfhead.metrics.functional import neural_collapse
from etfhead.metrics.simplex_distance import product_distance, self_duality, simplex_distance
from etfhead.metrics.variability import class_distance_variance, within_over_between

__all__ = [
    "NeuralCollapse",
    "class_distance_variance",
    "neural_collapse",
    "product_distance",
    "self_duality",
    "simplex_distance",
    "within_over_between",
]
