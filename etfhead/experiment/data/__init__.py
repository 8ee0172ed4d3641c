"""Image sets with a validation split that is never the test set, and items that are drawn by key."""

from __future__ import annotations

from etfhead.experiment.data.load import Splits, load_data
from etfhead.experiment.data.loader import make_eval_loader, make_train_loader
from etfhead.experiment.data.sampler import KeyedBatchSampler

__all__ = ["KeyedBatchSampler", "Splits", "load_data", "make_eval_loader", "make_train_loader"]
