"""Many-, medium- and few-shot classes by their training images, and accuracy within each of the three."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["FREQUENCIES", "ClassFrequency", "frequency_groups", "is_long_tailed"]

FREQUENCIES = ("many", "medium", "few")
FIELD_LIMITS = (20, 100)  # few-shot below, many-shot above: Liu et al. 2019, arXiv 1904.05160
_LEAST_RATIO = 2  # of the largest class to the smallest, below which frequency is no topic
_LEAST_SHARE = 10  # each of the field's groups needs one in so many classes, or thirds say more


def is_long_tailed(class_counts: Sequence[int]) -> bool:
    """Whether there are three classes or more, and the largest has twice the images of the smallest.

    >>> is_long_tailed([90, 60, 45]), is_long_tailed([90, 60, 50])
    (True, False)
    """
    counts = list(class_counts)
    return len(counts) > 2 and min(counts) > 0 and max(counts) >= _LEAST_RATIO * min(counts)


def frequency_groups(class_counts: Sequence[int]) -> tuple[dict[str, tuple[int, ...]], str]:
    """Classes of each group, and by which rule: the field's limits where they divide, else thirds.

    The field calls classes with more than 100 training images many-shot and with fewer than 20 few-shot (Liu
    et al. 2019, arXiv 1904.05160). Where a group would then have fewer than a tenth of the classes, the third
    with most images is many-shot and the third with fewest few-shot. Classes with equally many images stay
    together: with two counts, as after ``step`` subsampling, nothing is medium-shot.

    Args:
        class_counts: Training images of each class, (K,), not all equal.

    Returns:
        The groups that have a class, as class numbers; and ``"limits"`` or ``"thirds"``.

    >>> groups, rule = frequency_groups([500, 200, 90, 30, 12, 5])
    >>> groups, rule
    ({'many': (0, 1), 'medium': (2, 3), 'few': (4, 5)}, 'limits')
    >>> frequency_groups([5000, 700, 900, 50])
    ({'many': (0,), 'medium': (1, 2), 'few': (3,)}, 'thirds')
    """
    counts = [int(count) for count in class_counts]
    low, high = FIELD_LIMITS
    groups = _split(counts, [count > high for count in counts], [count < low for count in counts])
    if len(groups) == len(FREQUENCIES) and all(
        _LEAST_SHARE * len(members) >= len(counts) for members in groups.values()
    ):
        return groups, "limits"
    falling = sorted(counts, reverse=True)
    third = max(1, len(counts) // 3)
    most, fewest = falling[third - 1], falling[-third]
    if most > fewest:
        return _split(counts, [c >= most for c in counts], [c <= fewest for c in counts]), "thirds"
    # One count reaches from the first third into the last: only what lies beyond it stands out.
    return _split(counts, [c > most for c in counts], [c < fewest for c in counts]), "thirds"


def _split(counts: list[int], many: list[bool], few: list[bool]) -> dict[str, tuple[int, ...]]:
    medium = [not (a or b) for a, b in zip(many, few, strict=True)]
    parts = zip(FREQUENCIES, (many, medium, few), strict=True)
    found = {name: tuple(k for k, inside in enumerate(mask) if inside) for name, mask in parts}
    return {name: members for name, members in found.items() if members}


class ClassFrequency:
    """Sums of one pass over a split, from which accuracy by frequency of the class comes.

    Args:
        class_counts: Training images of each class, (K,).
        device: Of the sums.
        dtype: Of the sums.

    >>> import torch
    >>> frequency = ClassFrequency([500, 50, 5], torch.device("cpu"), torch.float64)
    >>> frequency.update(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 2]))
    >>> frequency.figures(frequency.sums)
    {'top1_many': 50.0, 'top1_medium': 100.0, 'top1_few': 0.0}
    >>> frequency.by_rank(frequency.sums)
    [50.0, 100.0, 0.0]
    """

    def __init__(self, class_counts: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        import torch  # here, since reports read the groups and do not load it

        self.groups, self.rule = frequency_groups(class_counts)
        counts = torch.tensor(list(class_counts))
        self._ranked = counts.argsort(descending=True, stable=True).tolist()
        self.sums = torch.zeros(2, len(counts), dtype=dtype, device=device)  # right, seen

    def update(self, predicted: Tensor, target: Tensor) -> None:
        """Count a batch of classes (B,)."""
        hits = (predicted == target).to(self.sums.dtype)
        self.sums[0].index_add_(0, target, hits)
        self.sums[1].index_add_(0, target, hits.new_ones(len(hits)))

    def figures(self, sums: Tensor) -> dict[str, float]:
        """Mean over a group's classes of their accuracies, in percent, of the sums of all processes.

        A class without an image in the split is left out; a group of such classes has no figure.
        """
        right, seen = sums.cpu().double()
        found = {}
        for name, members in self.groups.items():
            known = [k for k in members if seen[k] > 0]
            if known:
                found[f"top1_{name}"] = (100.0 * right[known] / seen[known]).mean().item()
        return found

    def by_rank(self, sums: Tensor) -> list[float | None]:
        """Accuracy of each class in percent, the most frequent class first; None without an image."""
        right, seen = sums.cpu().double()
        return [100.0 * (right[k] / seen[k]).item() if seen[k] > 0 else None for k in self._ranked]
