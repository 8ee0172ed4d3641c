"""What a study says: in how many settings each head helped, hurt or made no measurable difference."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report.stats import HOLM_FROM
from etfhead.experiment.report.verdict import KINDS, NO_VERDICT

__all__ = ["WORDS", "count_outcomes", "equal_loss_sentence", "study_outcome", "study_sentence", "tally"]

WORDS = {"helped": "helped", "hurt": "hurt", "no_measurable_difference": "made no measurable difference"}
_OPEN = "got no verdict"

_Counts = Mapping[str, int]


def count_outcomes(summary: Mapping[str, Any], arm: str) -> dict[str, dict[str, int]]:
    """In how many settings a contender has each outcome, at the best and at the last epoch.

    Args:
        summary: Of a study; its ``settings`` are read.
        arm: The contender.
    """
    verdicts = [
        entry["verdict"]
        for one in summary["settings"].values()
        if (entry := (one["summary"] or {"arms": {}})["arms"].get(arm)) is not None and "verdict" in entry
    ]
    return {
        "best": dict(Counter(verdict["outcome"] for verdict in verdicts)),
        "last": dict(Counter(verdict["outcome_last"] for verdict in verdicts)),
    }


def study_sentence(summary: Mapping[str, Any]) -> str:
    """The whole study in a few sentences: gradient-free heads first, losses beside wins."""
    settings = summary["settings"]
    baseline = summary["baseline"]
    contenders = [arm for arm in summary["arms"] if arm != baseline]
    judged = sum(one["summary"] is not None for one in settings.values())
    if not contenders:
        return f"There is no contender beside the baseline {baseline}, so there is nothing to compare."
    if not judged:
        return "No verdict yet: no setting was started."
    contenders.sort(key=lambda arm: KINDS.index(summary["arms"][arm]["kind"]))
    text = f"Against {baseline} in {_many(judged, 'setting')}, "
    if len(contenders) < HOLM_FROM:
        parts = [f"the {summary['arms'][arm]['kind']} head {arm} {_one(summary, arm)}" for arm in contenders]
    else:
        parts = _by_kind(summary, contenders)
    text += "; ".join(parts) + "."
    missing = summary["expected"] - summary["finished"]
    if missing:
        text += f" Preliminary: {missing} of {summary['expected']} trainings unfinished."
    return text


def equal_loss_sentence(summary: Mapping[str, Any]) -> str | None:
    """Heads at equal loss over all settings, or ``None`` without a pair."""
    pairs = [
        pair
        for one in summary["settings"].values()
        if one["summary"] is not None
        for pair in one["summary"]["equal_loss"]["pairs"]
    ]
    if not pairs:
        return None
    best = Counter(pair["outcome"] for pair in pairs)
    last = Counter(pair["outcome_last"] for pair in pairs)
    return (
        f"At equal loss ({_many(len(pairs), 'comparison')}), a gradient-free head in place of the learnable "
        f"one {tally(best, len(pairs))} at the best epoch; at the last epoch it {tally(last, len(pairs))}."
    )


def study_outcome(summary: Mapping[str, Any]) -> str:
    """The outcome that all gradient-free heads have in all settings, else ``mixed``."""
    arms = [entry for arm, entry in summary["arms"].items() if arm != summary["baseline"]]
    chosen = [entry for entry in arms if entry["kind"] != "learnable"] or arms
    outcomes = {outcome for entry in chosen for outcome in entry["counts"]["best"]}
    return outcomes.pop() if len(outcomes) == 1 else "mixed"


def tally(counts: _Counts, of: int) -> str:
    """Counts as a clause.

    >>> tally({"helped": 3, "no_measurable_difference": 1}, 4), tally({"hurt": 4}, 4)
    ('helped in 3 and made no measurable difference in 1', 'hurt in all 4')
    >>> tally({"helped": 1, "too_few_seeds": 2}, 3)
    'helped in 1 and got no verdict in 2 (too few seeds)'
    """
    parts = {words: counts.get(outcome, 0) for outcome, words in WORDS.items()}
    parts[_OPEN] = sum(counts.values()) - sum(parts.values())
    found = [f"{words} in {'all ' if n == of > 1 else ''}{n}" for words, n in parts.items() if n]
    if parts[_OPEN]:
        found[-1] += f" ({_reasons(counts)})"
    return ", ".join(found[:-1]) + (" and " if len(found) > 1 else "") + (found[-1] if found else _OPEN)


def _reasons(counts: _Counts) -> str:
    """Why there are settings without a verdict; counted where the reasons differ."""
    reasons = {NO_VERDICT[outcome]: n for outcome, n in counts.items() if n and outcome in NO_VERDICT}
    return ", ".join(reason if len(reasons) == 1 else f"{reason} in {n}" for reason, n in reasons.items())


def _one(summary: Mapping[str, Any], arm: str) -> str:
    counts = summary["arms"][arm]["counts"]
    of = sum(counts["best"].values())
    text = tally(counts["best"], of)
    return (
        text
        if counts["last"] == counts["best"]
        else f"{text} (at the last epoch {tally(counts['last'], of)})"
    )


def _by_kind(summary: Mapping[str, Any], contenders: Sequence[str]) -> list[str]:
    parts = []
    for kind in KINDS:
        group = [summary["arms"][arm]["counts"] for arm in contenders if summary["arms"][arm]["kind"] == kind]
        if group:
            best, last = (sum((Counter(c[when]) for c in group), Counter()) for when in ("best", "last"))
            of = sum(best.values())
            heads = _many(len(group), f"{kind} head")
            text = f"{heads} ({_many(of, 'comparison')}) {tally(best, of)}"
            parts.append(text if best == last else f"{text} (at the last epoch {tally(last, of)})")
    return parts


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
