"""Every contender against the baseline: paired differences, ratios and outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from etfhead.experiment.report.score import Score
from etfhead.experiment.report.stats import (
    HOLM_FROM,
    MIN_SEEDS,
    Paired,
    holm,
    judge,
    paired_difference,
    paired_ratio,
)

__all__ = ["compare"]

_RATIOS = ("images_per_s", "train_time", "peak_memory_bytes")


def compare(arms: dict[str, dict[str, Any]], baseline: str, score: Score) -> int:
    """Add differences, ratios and outcomes to every contender; return the number of comparisons."""
    last: dict[str, Paired | None] = {}
    primary: dict[str, Paired | None] = {}
    for arm, entry in arms.items():
        if arm == baseline:
            continue
        pairs = {key: _paired(arms, arm, baseline, key, paired_difference) for key in score.figures}
        ratios = {key: _paired(arms, arm, baseline, key, paired_ratio) for key in _RATIOS}
        entry["differences"] = {key: None if pair is None else asdict(pair) for key, pair in pairs.items()}
        entry["ratios"] = {key: None if pair is None else asdict(pair) for key, pair in ratios.items()}
        primary[arm], last[arm] = pairs[score.primary], pairs[score.last]
    adjusted, adjusted_last = _adjusted(primary), _adjusted(last)
    for arm, pair in primary.items():
        arms[arm]["verdict"] = {
            "outcome": judge(pair, adjusted.get(arm)),
            "outcome_last": judge(last[arm], adjusted_last.get(arm)),
            "p_value": adjusted.get(arm),
        }
    return len(adjusted)


def _paired(arms: Mapping[str, Any], arm: str, baseline: str, key: str, how: Any) -> Paired | None:
    ours, theirs = arms[arm]["figures"][key], arms[baseline]["figures"][key]
    return None if ours is None or theirs is None else how(ours["values"], theirs["values"])


def _adjusted(pairs: Mapping[str, Paired | None]) -> dict[str, float]:
    raw = {
        arm: pair.p_value
        for arm, pair in pairs.items()
        if pair is not None and pair.p_value is not None and pair.n >= MIN_SEEDS
    }
    return raw if len(raw) < HOLM_FROM else dict(zip(raw, holm(list(raw.values())), strict=True))
