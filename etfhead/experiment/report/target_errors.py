"""Errors of every target, in its own unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.records import SeedRecord, number
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.stats import spread_by_seed

__all__ = ["target_errors", "target_tables"]


def target_errors(seeds: Mapping[int, SeedRecord], names: Sequence[str]) -> list[dict[str, Any]]:
    """Test errors of one arm over its finished seeds, at the best validation epoch.

    Args:
        seeds: Records by seed.
        names: Of the targets.

    Returns:
        list: For each target its ``name`` and ``mse``, the mean squared error in its unit squared, with
        ``n``, ``mean``, ``std`` and ``values`` by seed; None without one.
    """
    finished = {seed: run.result["best"] for seed, run in seeds.items() if run.finished and run.result}
    return [
        {
            "name": name,
            "mse": spread_by_seed(
                {
                    seed: value
                    for seed, best in finished.items()
                    if (value := number(best, f"test_mse_{k}")) is not None
                }
            ),
        }
        for k, name in enumerate(names)
    ]


def target_tables(summary: Mapping[str, Any]) -> list[Block]:
    """The mean squared error of every target and arm; no blocks for another task."""
    if not score_of_summary(summary).regression:
        return []
    arms = summary["arms"]
    entries = next(iter(arms.values()))["target_errors"]
    header = [fmt.arm_name(arm, summary["baseline"]) for arm in arms]
    rows = [
        [entry["name"], *(fmt.wide_mean_std(arm["target_errors"][k]["mse"]) for arm in arms.values())]
        for k, entry in enumerate(entries)
    ]
    rows.append(["mean", *(fmt.wide_mean_std(arm["figures"]["test_mse_best"]) for arm in arms.values())])
    return [
        Heading("Every target"),
        Paragraph(
            "Test mean squared error at the best validation epoch, each target in its own unit, squared. "
            "Their mean is led by the target with the largest numbers; NMSE and R² weigh all alike."
        ),
        Table(["target", *header], rows),
    ]
