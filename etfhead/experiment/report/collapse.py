"""Neural collapse of a training as the run recorded it: after every measuring, and after the last one.

The rows of ``metrics.jsonl`` hold these figures only for the epochs where the training loop measured them,
and ``result.json`` under ``initial`` for the untrained model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etfhead.experiment.report.records import SeedRecord
from etfhead.experiment.report.stats import spread_by_seed

__all__ = [
    "COLLAPSE",
    "COLLAPSE_COLUMNS",
    "COLLAPSE_COUNTS",
    "CollapseFigure",
    "collapse_by_epoch",
    "last_collapse",
]


@dataclass(frozen=True)
class CollapseFigure:
    """One measure of collapse: its key in the run's files, its name, and its formula in one line."""

    key: str
    name: str
    formula: str
    percent: bool = False


COLLAPSE = (
    CollapseFigure(
        "collapse_nc1", "NC1", "tr(S_W S_B⁺) / K: spread within classes against spread between them"
    ),
    CollapseFigure(
        "collapse_cdnv",
        "CDNV",
        "mean over pairs of classes of (v_j + v_k) / (2 |μ_j − μ_k|²): spread within two classes against the "
        "distance between them",
    ),
    CollapseFigure(
        "collapse_nc2_equinorm",
        "NC2 equinorm",
        "std(|m_k|) / mean(|m_k|): class means at unequal distances from their centre",
    ),
    CollapseFigure(
        "collapse_nc2_equiangular",
        "NC2 equiangular",
        "mean over pairs of |cos(m_j, m_k) + 1/(K − 1)|: angles between class means that are not those of a "
        "simplex",
    ),
    CollapseFigure(
        "collapse_nc2_etf",
        "NC2 ETF",
        "‖G/‖G‖ − (I − 11ᵀ/K)/√(K − 1)‖ with G = M Mᵀ: norms and angles in one, distance from the Gram "
        "matrix of a simplex",
    ),
    CollapseFigure(
        "collapse_nc3",
        "NC3",
        "‖W/‖W‖ − M/‖M‖‖²: class vectors that do not point to their class means (0 parallel, 2 unrelated, "
        "4 opposite)",
    ),
    CollapseFigure(
        "collapse_nc4",
        "NC4",
        "share of images for which the classifier and the nearest class mean name different classes",
        percent=True,
    ),
)

COLLAPSE_COUNTS = ("collapse_images", "collapse_missing")

# Of the last measuring; collapse_time is the whole training's and stands with the other times.
COLLAPSE_COLUMNS = ("collapse_epoch", *(figure.key for figure in COLLAPSE), *COLLAPSE_COUNTS)


def last_collapse(
    run: SeedRecord, shown: Sequence[CollapseFigure] = COLLAPSE
) -> dict[str, float | int | None]:
    """The figures of a finished training's last measuring, all of one epoch; ``None`` where there is none.

    Args:
        run: One arm trained with one seed.
        shown: Figures that count.

    Returns:
        dict: ``collapse_epoch``, a value for each figure, and the counts of :data:`COLLAPSE_COLUMNS`.
    """
    figures = {figure.key: run.measured(figure.key, initial=True) for figure in shown}
    epoch = max((epoch for values in figures.values() for epoch in values), default=None)
    if epoch is None or not run.finished:
        return dict.fromkeys(("collapse_epoch", *figures, *COLLAPSE_COUNTS))
    counts = {key: run.measured(key, initial=True).get(epoch) for key in COLLAPSE_COUNTS}
    return {
        "collapse_epoch": epoch,
        **{key: values.get(epoch) for key, values in figures.items()},
        **{key: None if value is None else int(value) for key, value in counts.items()},
    }


def collapse_by_epoch(
    seeds: Mapping[int, SeedRecord], shown: Sequence[CollapseFigure] = COLLAPSE
) -> list[dict[str, Any]]:
    """Collapse of one arm over its finished seeds, one entry for each epoch measured, ascending.

    Args:
        seeds: Records by seed.
        shown: Figures that count.

    Returns:
        list: ``epoch`` (0 = untrained) and under each figure's key ``n``, ``mean``, ``std`` and ``values`` by
        seed, ``None`` where no seed has it.
    """
    found: dict[int, dict[str, dict[int, float]]] = {}
    for seed, run in seeds.items():
        for figure in shown if run.finished else ():
            for epoch, value in run.measured(figure.key, initial=True).items():
                found.setdefault(epoch, {}).setdefault(figure.key, {})[seed] = value
    return [
        {"epoch": epoch, **{f.key: spread_by_seed(figures.get(f.key, {})) for f in shown}}
        for epoch, figures in sorted(found.items())
    ]
