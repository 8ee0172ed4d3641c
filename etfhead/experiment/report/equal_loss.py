"""Heads at equal loss: every fixed or following head against the learnable one that has the same loss.

A run with several losses has one baseline, but its question is often another for each loss: does a fixed head
do as well as a learnable one that is trained the same way? The pairs follow from the arms' options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.score import score_of_summary
from etfhead.experiment.report.stats import HOLM_FROM, MIN_SEEDS, Paired, holm, judge, paired_difference
from etfhead.experiment.report.verdict import OUTCOMES

__all__ = ["HEAD_OPTIONS", "equal_loss", "equal_loss_pairs", "heads_at_equal_loss", "loss_name", "loss_of"]

# What an arm says about its head. All its other options, the loss first, must agree within a pair.
HEAD_OPTIONS = frozenset(
    {
        "head",
        "frame",
        "frame_options",
        "basis",
        "neck",
        "normalize",
        "scale",
        "learn_scale",
        "orient",
        "exponent",
        "low_rank",
        "fused",
        "momentum",
        "centre",
        "repel",
        "rate",
        "every",
        "feature_energy",
        "allow_singular",
        "decode",
    }
)

_Arms = Mapping[str, Mapping[str, Any]]


def loss_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What an arm trains with beside its head: its loss and everything else that is set.

    >>> loss_of({"head": "etf", "loss": "generalized_cross_entropy", "loss_options": {"q": 0.7}})
    {'loss': 'generalized_cross_entropy', 'loss_options': {'q': 0.7}}
    """
    chosen = {
        key: value
        for key, value in settings.items()
        if key not in HEAD_OPTIONS and value not in (None, False, {})
    }
    return {"loss": "cross_entropy", **chosen}


def loss_name(settings: Mapping[str, Any]) -> str:
    """The same in words.

    >>> loss_name({"loss": "elr", "loss_options": {"beta": 0.7}}), loss_name({"head": "linear"})
    ('elr (beta 0.7)', 'cross_entropy')
    """
    chosen = loss_of(settings)
    name = str(chosen.pop("loss"))
    options = {**chosen.pop("loss_options", {}), **chosen}
    words = ", ".join(f"{key} {value}" for key, value in options.items())
    return f"{name} ({words})" if words else name


def equal_loss_pairs(arms: _Arms, baseline: str) -> list[tuple[str, str]]:
    """Contender and reference of every pair: a gradient-free head, and ``head: linear`` with the same loss.

    Among several such references one with the contender's neck goes first, then the baseline.

    Args:
        arms: Entries of a summary: ``settings`` and ``kind``.
        baseline: Name of the baseline.

    >>> ce, gce = {"loss": "cross_entropy"}, {"loss": "generalized_cross_entropy"}
    >>> arms = {
    ...     "ce": {"kind": "learnable", "settings": {"head": "linear", **ce}},
    ...     "gce": {"kind": "learnable", "settings": {"head": "linear", **gce}},
    ...     "gce_etf": {"kind": "fixed", "settings": {"head": "etf", **gce}},
    ... }
    >>> equal_loss_pairs(arms, "ce")
    [('gce_etf', 'gce')]
    """
    pairs = []
    for arm, entry in arms.items():
        own = entry["settings"]
        references = [
            name
            for name, other in arms.items()
            if other["settings"].get("head", "linear") == "linear"
            and loss_of(other["settings"]) == loss_of(own)
        ]
        if entry["kind"] != "learnable" and references:
            ranks = [
                (arms[name]["settings"].get("neck") != own.get("neck"), name != baseline)
                for name in references
            ]
            pairs.append((arm, references[ranks.index(min(ranks))]))
    return pairs


def equal_loss(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Compare the heads of a run at equal loss, by the rule that the baseline's contenders are judged by.

    Args:
        summary: Of a run; its ``arms``, ``baseline`` and ``primary`` are read.

    Returns:
        dict: ``comparisons`` (pairs that get a p-value), ``holm`` (whether verdicts are adjusted for them),
        and ``pairs``: for each ``contender``, ``reference``, ``loss``, the paired differences ``best`` and
        ``last`` (as in a summary, or ``None``), ``outcome``, ``outcome_last`` and ``p_value``.
    """
    arms, score = summary["arms"], score_of_summary(summary)
    pairs = equal_loss_pairs(arms, summary["baseline"])
    best = [_paired(arms, *pair, score.primary) for pair in pairs]
    last = [_paired(arms, *pair, score.last) for pair in pairs]
    p_best, p_last = _adjusted(best), _adjusted(last)
    comparisons = sum(p_value is not None for p_value in p_best)
    return {
        "comparisons": comparisons,
        "holm": comparisons >= HOLM_FROM,
        "pairs": [
            {
                "contender": contender,
                "reference": reference,
                "loss": loss_name(arms[contender]["settings"]),
                "best": _stored(best[at]),
                "last": _stored(last[at]),
                "outcome": judge(best[at], p_best[at]),
                "outcome_last": judge(last[at], p_last[at]),
                "p_value": p_best[at],
            }
            for at, (contender, reference) in enumerate(pairs)
        ],
    }


def heads_at_equal_loss(summary: Mapping[str, Any]) -> list[Block]:
    """The section of a run's report; no blocks where every pair is one with the baseline anyway."""
    compared = summary["equal_loss"]
    if all(pair["reference"] == summary["baseline"] for pair in compared["pairs"]):
        return []
    header = ["contender", "reference", "loss", "verdict", "best epoch", "95 % interval", "above / below"]
    header += ["last epoch", "95 % interval", "above / below"]
    rows = [
        [
            pair["contender"],
            pair["reference"],
            pair["loss"],
            OUTCOMES[pair["outcome"]],
            *(cell for when in ("best", "last") for cell in _cells(pair[when])),
        ]
        for pair in compared["pairs"]
    ]
    text = (
        "Every fixed or following head minus the learnable head (head: linear) that is trained with the same "
        "loss, in percentage points of the test set, paired by seed; above / below counts seeds."
    )
    if compared["holm"]:
        text += f" Verdicts are adjusted for these {compared['comparisons']} comparisons (Holm's method)."
    return [Heading("Heads at equal loss"), Paragraph(text), Table(header, rows, frozenset(range(4)))]


def _cells(pair: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if pair is None:
        return fmt.MISSING, fmt.MISSING, fmt.MISSING
    return fmt.signed(pair["mean"]), fmt.interval(pair), f"{pair['above']} / {pair['below']}"


def _paired(arms: _Arms, contender: str, reference: str, key: str) -> Paired | None:
    ours, theirs = arms[contender]["figures"].get(key), arms[reference]["figures"].get(key)
    return None if ours is None or theirs is None else paired_difference(ours["values"], theirs["values"])


def _stored(pair: Paired | None) -> dict[str, Any] | None:
    return None if pair is None else asdict(pair)


def _adjusted(pairs: list[Paired | None]) -> list[float | None]:
    raw = [None if pair is None or pair.n < MIN_SEEDS else pair.p_value for pair in pairs]
    known = [p_value for p_value in raw if p_value is not None]
    if len(known) < HOLM_FROM:
        return raw
    adjusted = iter(holm(known))
    return [None if p_value is None else next(adjusted) for p_value in raw]
