"""Image sets with a validation split that is never the test set, and items that are drawn by key."""

from __future__ import annotations

from etfhead.experiment.data.load import LoadedData, load_data, read_data
from etfhead.experiment.data.loader import make_eval_loader, make_train_loader
from etfhead.experiment.data.sampler import KeyedBatchSampler
from etfhead.experiment.data.sets import Splits

__all__ = [
    "KeyedBatchSampler",
    "LoadedData",
    "Splits",
    "load_data",
    "make_eval_loader",
    "make_train_loader",
    "read_data",
]
