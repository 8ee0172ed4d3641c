"""The tables of label sets: every multi-label figure, by frequency of the label, by decoding, by set size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etfhead.experiment.report import formatting as fmt
from etfhead.experiment.report.document import Block, Heading, Paragraph, Table
from etfhead.experiment.report.score import DECODINGS, GROUPS, MULTILABEL, SETS_OF, score_of_summary

__all__ = ["label_sets"]

_Columns = Sequence[tuple[str, str]]  # key of the test split, heading


def label_sets(summary: Mapping[str, Any]) -> list[Block]:
    """Test figures at the best epoch; no blocks with one class an image, no column without a figure."""
    if not score_of_summary(summary).multilabel:
        return []
    groups = [(f"{k}_{g}", f"{n}, {g}") for k, n in (("map", "mAP"), ("f1", "F1")) for g in GROUPS]
    sizes = [(f"exact_match_m{m}", f"{m} label{'' if m == 1 else 's'}") for m in SETS_OF]
    ways = [(f"exact_match_by_{key}", name) for key, name in DECODINGS.items()]
    parts = (
        (
            "All at the best validation epoch, in percent, by each arm's own decision. CF1 is the harmonic "
            "mean of CP and CR, the means over labels of precision and recall; the mean of the labels' F1 is "
            "another convention. OP, OR and OF1 are over all pairs of image and label. Jaccard is the mean "
            "over images of intersection over union; Hamming, the share of wrong decisions, is better small. "
            "mAP ranks by logits, centred under pick_all_label; the marginals are E[number of labels] times "
            "the softmax.",
            list(MULTILABEL.items()),
        ),
        (
            "The third of the labels with the most training images (head), the third with the fewest (tail) "
            "and those between; F1 is the mean over labels.",
            groups,
        ),
        ("Exact match in percent of the images with so many labels.", sizes),
        (
            "Exact match in percent if the same logits are decided otherwise: by one tuned threshold for all "
            "labels; by one a label, each tuned for its F1; by the nearest prototype of all label sets, by "
            "distance or by angle; or by the most probable set, which also weighs how often so many labels "
            "occur. All of it is fitted to validation.",
            ways,
        ),
    )
    blocks: list[Block] = [Heading("Label sets")]
    for text, columns in parts:
        if (table := _table(summary, columns)) is not None:
            blocks += [Paragraph(text), table]
    return blocks


def _table(summary: Mapping[str, Any], columns: _Columns) -> Table | None:
    arms = summary["arms"]
    keyed = [(f"test_{key}_best", name) for key, name in columns]
    shown = [(key, name) for key, name in keyed if any(entry["figures"].get(key) for entry in arms.values())]
    if not shown:
        return None
    rows = [
        [
            fmt.arm_name(arm, summary["baseline"]),
            *(fmt.mean_std(entry["figures"].get(key)) for key, _ in shown),
        ]
        for arm, entry in arms.items()
    ]
    return Table(["arm", *(name for _, name in shown)], rows)
