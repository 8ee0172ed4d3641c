"""Randomness without a state: every step's numbers follow from (seed, epoch, step) alone."""

from __future__ import annotations

import torch

from etfhead.experiment.data.rng import hash_keys, seed_all

__all__ = ["seed_model", "seed_step"]

_MODEL, _STEP = 11, 12  # hash streams, apart from those of the data


def seed_model(seed: int) -> None:
    """Seed the initial weights: the same for every arm of a seed."""
    _seed(int(hash_keys([0], seed, _MODEL)[0]))


def seed_step(seed: int, epoch: int, step: int, process: int = 0) -> None:
    """Seed dropout, stochastic depth and mixup of one optimisation step.

    Nothing is carried from step to step, so a resumed run draws what an uninterrupted one would have
    drawn, and arms that draw different amounts stay paired.

    Args:
        seed: Seed of the run.
        epoch: 0-based epoch.
        step: 0-based step in the epoch.
        process: Rank of the process; each has its own share of the batch.
    """
    _seed(int(hash_keys([step], seed, epoch, process, _STEP)[0]))


def _seed(key: int) -> None:
    seed_all(key)
    if torch.accelerator.is_available():  # else torch.manual_seed formats a stack for a GPU that never comes
        torch.manual_seed(key)  # every device, where seed_all leaves CUDA alone
