"""The verdict in words. The rule behind it is in :mod:`etfhead.experiment.report.stats`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report.formatting import mean_std, signed
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.stats import HOLM_FROM, MIN_SEEDS

__all__ = [
    "KINDS",
    "NO_VERDICT",
    "OUTCOMES",
    "contender_sentence",
    "disagreements",
    "overall_outcome",
    "overall_sentence",
]

KINDS = ("fixed", "following", "learnable")  # what happens to class vectors; gradient-free ones first

OUTCOMES = {
    "helped": "helped",
    "hurt": "hurt",
    "no_measurable_difference": "no measurable difference",
    "no_spread": "no verdict: equal differences on every seed",
    "too_few_seeds": "too few seeds for a verdict",
    "no_data": "no verdict: no finished seed in common",
}

# Why there is none.
NO_VERDICT = {
    "too_few_seeds": "too few seeds",
    "no_spread": "equal differences on every seed",
    "no_data": "no finished seed in common",
}


def contender_sentence(summary: Mapping[str, Any], arm: str) -> str:
    """One sentence about one contender, with the numbers it rests on."""
    return f"{_subject(summary, arm)} {_clause(summary, arm)}."


def overall_sentence(summary: Mapping[str, Any]) -> str:
    """The whole comparison in one sentence: gradient-free heads first, losses beside wins."""
    baseline = summary["baseline"]
    figure = summary["arms"][baseline]["figures"][summary["primary"]]
    contenders = [arm for arm in summary["arms"] if arm != baseline]
    contenders.sort(key=lambda arm: KINDS.index(summary["arms"][arm]["kind"]))
    if not contenders:
        return f"There is no contender beside the baseline {baseline}, so there is nothing to compare."
    if figure is None:
        return f"No verdict yet: the baseline {baseline} has no finished seed."
    text = f"Against {baseline} ({mean_std(figure)} % test {score_of_summary(summary).name}), "
    if len(contenders) < HOLM_FROM:
        text += "; ".join(f"{_subject(summary, arm)} {_clause(summary, arm)}" for arm in contenders)
    else:
        text += _grouped(summary, contenders)
    remarks = []
    if summary["holm"]:
        remarks.append(f"verdicts adjusted for {summary['comparisons']} comparisons")
    missing = summary["expected"] - summary["finished"]
    if missing:
        remarks.append(f"preliminary: {missing} of {summary['expected']} trainings unfinished")
    return text + (f" ({'; '.join(remarks)})" if remarks else "") + "."


def overall_outcome(summary: Mapping[str, Any]) -> str:
    """The outcome that all gradient-free heads share (all contenders where none is one), else ``mixed``."""
    contenders = [entry for arm, entry in summary["arms"].items() if arm != summary["baseline"]]
    gradient_free = [entry for entry in contenders if entry["kind"] != "learnable"]
    outcomes = {entry["verdict"]["outcome"] for entry in gradient_free or contenders}
    return outcomes.pop() if len(outcomes) == 1 else "mixed"


def disagreements(summary: Mapping[str, Any]) -> list[str]:
    """Notes on contenders whose verdict depends on the choice of the epoch."""
    notes = []
    for arm, entry in summary["arms"].items():
        judged = entry.get("verdict")
        if judged and judged["outcome"] != judged["outcome_last"]:
            best, last = OUTCOMES[judged["outcome"]], OUTCOMES[judged["outcome_last"]]
            where = f"{best} at the best validation epoch, {last} at the last epoch"
            notes.append(f"{arm}: the verdict depends on the epoch: {where}")
    return notes


def _subject(summary: Mapping[str, Any], arm: str) -> str:
    return f"the {summary['arms'][arm]['kind']} head {arm}"


def _clause(summary: Mapping[str, Any], arm: str) -> str:
    pair = summary["arms"][arm]["differences"][summary["primary"]]
    judged = summary["arms"][arm]["verdict"]
    if pair is None:
        return "has no verdict, because it shares no finished seed with the baseline"
    seeds = len(pair["values"])
    mean = f"{signed(pair['mean'])} points"
    if judged["outcome"] == "too_few_seeds":
        return f"has too few seeds for a verdict ({_have([seeds])}; so far {mean})"
    if judged["outcome"] == "no_spread":
        return f"has no verdict (exactly {mean} on each of {seeds} seeds: no spread to judge by)"
    if pair["low"] is None:
        name = score_of_summary(summary).name
        return f"made no measurable difference (equal {name} on each of {seeds} seeds)"
    low, high = signed(pair["low"]), signed(pair["high"])
    if judged["outcome"] != "no_measurable_difference":
        return f"{judged['outcome']}: {mean} (95 % interval {low} to {high}, {seeds} seeds)"
    if _leaves_out_zero(summary, arm):
        adjusting = f"only before adjusting for {summary['comparisons']} comparisons"
        hedge = f"its 95 % interval {low} to {high} leaves out zero, but {adjusting}"
    else:
        hedge = f"the data allow between {low} and {high} points"
    return f"made no measurable difference ({mean}; {hedge}, {seeds} seeds)"


def _grouped(summary: Mapping[str, Any], contenders: list[str]) -> str:
    parts = []
    for kind in KINDS:
        group = [arm for arm in contenders if summary["arms"][arm]["kind"] == kind]
        if group:
            heads = f"the only {kind} head" if len(group) == 1 else f"of {len(group)} {kind} heads"
            parts.append(f"{heads} {_tally(summary, group)}")
    return "; ".join(parts)


def _tally(summary: Mapping[str, Any], group: list[str]) -> str:
    by_outcome: dict[str, list[str]] = {}
    for arm in group:
        by_outcome.setdefault(summary["arms"][arm]["verdict"]["outcome"], []).append(arm)
    parts = []
    for outcome in ("helped", "hurt"):
        named = [f"{arm} {_mean(summary, arm)}" for arm in by_outcome.pop(outcome, [])]
        many = f"{len(named)} " if len(group) > 1 else ""
        parts.append(f"{many}{outcome} ({', '.join(named)})" if named else "")
    same = by_outcome.pop("no_measurable_difference", [])
    if same:
        many = f"{len(same)} " if len(group) > 1 else ""
        parts.append(f"{many}made no measurable difference ({_allowed(summary, same)})")
    if by_outcome:
        many = f"{sum(map(len, by_outcome.values()))} " if len(group) > 1 else ""
        parts.append(f"{many}got no verdict ({_reasons(summary, by_outcome)})")
    parts = [part for part in parts if part]
    return ", ".join(parts[:-1]) + (" and " if len(parts) > 1 else "") + parts[-1]


def _allowed(summary: Mapping[str, Any], same: Sequence[str]) -> str:
    """How large a difference the data still allow: the interval of one contender, or what holds them all."""
    pairs = [summary["arms"][arm]["differences"][summary["primary"]] for arm in same]
    known = [pair for pair in pairs if pair["low"] is not None]
    close = sum(_leaves_out_zero(summary, arm) for arm in same)
    if not known:
        equal = f"equal {score_of_summary(summary).name} on each"
        return f"{equal} seed" if len(same) > 1 else f"{same[0]}: {equal} of {len(pairs[0]['values'])} seeds"
    low, high = min(pair["low"] for pair in known), max(pair["high"] for pair in known)
    reach = f"{signed(low)} to {signed(high)}"
    if len(same) > 1:
        hedge = f"; for {close} of them only the unadjusted interval leaves out zero"
        return f"95 % intervals within {reach}{hedge if close else ''}"
    hedge = ", which leaves out zero only before adjusting"
    return f"{same[0]} {_mean(summary, same[0])}; 95 % interval {reach}{hedge if close else ''}"


def _reasons(summary: Mapping[str, Any], by_outcome: Mapping[str, Sequence[str]]) -> str:
    """Why contenders got no verdict; with their numbers where the reasons differ."""
    reasons = dict(NO_VERDICT)
    if few := by_outcome.get("too_few_seeds"):
        pairs = [summary["arms"][arm]["differences"][summary["primary"]] for arm in few]
        reasons["too_few_seeds"] = _have([len(pair["values"]) for pair in pairs])
    if len(by_outcome) == 1:
        return reasons[next(iter(by_outcome))]
    return ", ".join(f"{len(arms)} with {reasons[outcome]}" for outcome, arms in by_outcome.items())


def _have(seeds: Sequence[int]) -> str:
    """How many seeds there are of those that a verdict needs."""
    fewest, most = min(seeds), max(seeds)
    count = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f"{count} paired seed{'s' if most > 1 else ''} of the {MIN_SEEDS} needed"


def _leaves_out_zero(summary: Mapping[str, Any], arm: str) -> bool:
    pair = summary["arms"][arm]["differences"][summary["primary"]]
    return pair["low"] is not None and (pair["low"] > 0 or pair["high"] < 0)


def _mean(summary: Mapping[str, Any], arm: str) -> str:
    return signed(summary["arms"][arm]["differences"][summary["primary"]]["mean"])
