"""Whether a claimed difference is large against the luck of which images are in the test set.

The intervals of a comparison cover seeds. All seeds are scored on the same test images, so more seeds say
nothing about other images; few images can carry a verdict that others would not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from etfhead.experiment.report.formatting import signed
from etfhead.experiment.report.score import score_of_summary

__all__ = ["image_luck", "image_margin"]

_Z = 1.959964  # 97.5 % of a standard normal lie below
_SHARES = ("top1", "exact_match")  # the metrics that are shares of test images


def image_margin(contender: float, baseline: float, images: int) -> float:
    r"""How far, at 95 %, other test images alone could move a difference of two accuracies: a bound.

    With :math:`a_i` and :math:`b_i` the shares of seeds in which image :math:`i` is right under either arm,
    the difference is the mean of :math:`a_i - b_i`. Its variance over draws of :math:`n` images is

    .. math:: \frac{\operatorname{var} a + \operatorname{var} b - 2 \operatorname{cov}(a, b)}{n}
        \le \frac{p_a (1 - p_a) + p_b (1 - p_b)}{n},

    because a share between 0 and 1 with mean :math:`p` has at most the variance :math:`p (1 - p)`. The
    assumptions are that images are drawn independently and that the covariance is not negative: images that
    are hard for one arm are not easier for the other. Run folders keep no predictions of single images, from
    which the paired (McNemar) error would follow; that is smaller, the more the arms agree. It holds for
    shares of images, as accuracy and exact match are; mAP and R² are none.

    Args:
        contender: Its accuracy in percent, the mean over seeds.
        baseline: The baseline's.
        images: Number of test images.

    Returns:
        Percentage points, to either side.

    >>> round(image_margin(79.37, 77.43, 240), 1), round(image_margin(92.5, 92.0, 10_000), 2)
    (7.4, 0.74)
    """
    shares = (contender / 100, baseline / 100)
    return 100 * _Z * math.sqrt(sum(share * (1 - share) for share in shares) / images)


def image_luck(summary: Mapping[str, Any]) -> list[str]:
    """A note on the contenders that helped or hurt by less than other test images could move; else none.

    Args:
        summary: Of a run, with its verdicts. No note where the number of test images is unknown or the
            primary metric is no share of images.
    """
    images = summary["test_images"]
    if not images or score_of_summary(summary).key not in _SHARES:
        return []
    arms, primary = summary["arms"], summary["primary"]
    small: dict[str, tuple[float, float]] = {}
    for arm, entry in arms.items():
        if entry.get("verdict", {}).get("outcome") not in ("helped", "hurt"):
            continue
        pair = entry["differences"][primary]
        ours, theirs = (
            statistics.fmean(arms[name]["figures"][primary]["values"][seed] for seed in pair["values"])
            for name in (arm, summary["baseline"])
        )
        margin = image_margin(ours, theirs, images)
        if abs(pair["mean"]) < margin:
            small[arm] = (pair["mean"], margin)
    if not small:
        return []
    claims = [
        f"{arm} {signed(mean)} points {'' if at else 'are '}{abs(mean) * images / 100:,.1f}"
        + ("" if at else " of them")
        for at, (arm, (mean, _)) in enumerate(small.items())
    ]
    that, interval = ("that", "interval covers") if len(small) == 1 else ("these", "intervals cover")
    return [
        f"{images:,} test images: {', '.join(claims)}; other test images alone could move {that} by up to "
        f"±{max(margin for _, margin in small.values()):.1f} points (95 %), and the {interval} seeds, not "
        "which images are in the test set"
    ]
