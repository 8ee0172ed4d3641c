"""The tables of a study: a row an arm, a column a setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Table
from etfhead.experiment.report.score import score_of_summary

__all__ = [
    "SHORT",
    "changes",
    "counted",
    "difference_table",
    "equal_loss_table",
    "score_name",
    "score_table",
    "settings_table",
    "verdict_table",
    "with_interval",
]

# What stands in the cell of a verdict; everything else is "no verdict".
SHORT = {"helped": "helped", "hurt": "hurt", "no_measurable_difference": "no difference"}
_OPEN = "no verdict"

_Summary = Mapping[str, Any]


def score_name(summary: _Summary) -> str:
    """The primary metric in a sentence."""
    return "primary metric" if summary["primary"] is None else score_of_summary(summary).name


def changes(setting: Mapping[str, Any]) -> str:
    """What a setting changes, in words.

    >>> changes({"changes": {"noise_rate": 0.2, "epochs": 5}}), changes({"changes": {}})
    ('noise_rate 0.2, epochs 5', 'as the recipe')
    """
    return ", ".join(f"{key} {value}" for key, value in setting["changes"].items()) or "as the recipe"


def settings_table(summary: _Summary) -> Table:
    """What each setting is, how far it came, and its baseline."""
    rows = []
    for name, one in summary["settings"].items():
        inner = one["summary"]
        figure = None if inner is None else inner["arms"][inner["baseline"]]["figures"][inner["primary"]]
        rows.append([name, changes(one), one["state"], fmt.mean_std(figure)])
    header = ["setting", "changes", "state", f"test {score_name(summary)} of the baseline, best epoch"]
    return Table(header, rows, frozenset(range(3)))


def score_table(summary: _Summary, when: str) -> Table:
    """The primary test figure of every arm in every setting.

    Args:
        summary: Of a study.
        when: ``best`` or ``last``: the epoch.
    """

    def cell(inner: _Summary, arm: str) -> str:
        score = score_of_summary(inner)
        entry = inner["arms"].get(arm)
        key = score.primary if when == "best" else score.last
        return fmt.mean_std(None if entry is None else entry["figures"][key])

    baseline = summary["baseline"]
    names = {arm: fmt.arm_name(arm, baseline) for arm in summary["arms"]}
    return _by_setting(summary, "arm", names, cell)


def difference_table(summary: _Summary, when: str) -> Table:
    """Every contender minus the baseline of the same setting, paired by seed, with 95 % intervals."""

    def cell(inner: _Summary, arm: str) -> str:
        score = score_of_summary(inner)
        pairs = inner["arms"].get(arm, {}).get("differences", {})
        return with_interval(pairs.get(score.primary if when == "best" else score.last))

    return _by_setting(summary, "arm", {arm: arm for arm in _contenders(summary)}, cell)


def verdict_table(summary: _Summary, when: str) -> Table:
    """The verdict on every contender in every setting, and how often each was found."""

    def cell(inner: _Summary, arm: str) -> str:
        verdict = inner["arms"].get(arm, {}).get("verdict")
        if verdict is None:
            return fmt.MISSING
        return SHORT.get(verdict["outcome" if when == "best" else "outcome_last"], _OPEN)

    arms = _contenders(summary)
    table = _by_setting(summary, "arm", {arm: arm for arm in arms}, cell)
    rows = [
        [*row, *counted(summary["arms"][arm]["counts"][when])]
        for arm, row in zip(arms, table.rows, strict=True)
    ]
    words = frozenset(range(len(table.header)))
    return Table([*table.header, *SHORT.values(), _OPEN], rows, words)


def equal_loss_table(summary: _Summary, when: str) -> Table | None:
    """Heads at equal loss: differences by setting, outcomes counted; ``None`` without a pair."""
    pairs: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for setting, one in summary["settings"].items():
        for pair in [] if one["summary"] is None else one["summary"]["equal_loss"]["pairs"]:
            pairs.setdefault((pair["contender"], pair["reference"]), {})[setting] = pair
    if not pairs:
        return None
    outcome = "outcome" if when == "best" else "outcome_last"
    rows = []
    for names, found in pairs.items():
        cells = [with_interval((found.get(setting) or {}).get(when)) for setting in summary["settings"]]
        differences = [pair[when] for pair in found.values() if pair[when] is not None]
        above, below = (sum(one[key] for one in differences) for key in ("above", "below"))
        outcomes = [pair[outcome] for pair in found.values()]
        counts = {name: outcomes.count(name) for name in outcomes}
        rows.append([*names, f"{above} / {below}", " / ".join(counted(counts)[:3]), *cells])
    header = ["contender", "reference", "seeds above / below", " / ".join(SHORT.values())]
    return Table([*header, *summary["settings"]], rows, frozenset({0, 1}))


def with_interval(pair: Mapping[str, Any] | None) -> str:
    """A paired difference and its interval.

    >>> with_interval({"mean": 0.456, "low": -0.123, "high": 0.987})
    '+0.46 (−0.12 to +0.99)'
    """
    if pair is None:
        return fmt.MISSING
    bounds = fmt.interval(pair)
    return fmt.signed(pair["mean"]) + ("" if bounds == fmt.MISSING else f" ({bounds})")


def counted(counts: Mapping[str, int]) -> list[str]:
    """How often helped, hurt, no difference and no verdict were found."""
    known = [counts.get(outcome, 0) for outcome in SHORT]
    return [str(count) for count in (*known, sum(counts.values()) - sum(known))]


def _contenders(summary: _Summary) -> list[str]:
    return [arm for arm in summary["arms"] if arm != summary["baseline"]]


def _by_setting(
    summary: _Summary, first: str, names: Mapping[str, str], cell: Callable[[_Summary, str], str]
) -> Table:
    settings: Sequence[Mapping[str, Any]] = list(summary["settings"].values())
    rows = [
        [
            name,
            *(fmt.MISSING if one["summary"] is None else cell(one["summary"], arm) for one in settings),
        ]
        for arm, name in names.items()
    ]
    return Table([first, *summary["settings"]], rows)
