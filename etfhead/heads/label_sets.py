"""Label sets in the forms that data comes in, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["LabelSets", "label_lists", "multi_hot"]

LabelSets = Tensor | Sequence[Sequence[int] | Tensor]


def multi_hot(
    target: LabelSets,
    num_classes: int,
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Label sets in any of the usual forms as a bool tensor (B, K).

    Args:
        target: Multi-hot (B, K) of zeros and ones in any type (bool is read without a check); a list of B
            lists or 1-D tensors of classes; or these padded with -1 to an integer tensor (B, M), M other than
            K. The order of labels and repetitions do not matter; three columns or more of nothing but 0 and
            1 are refused there, as multi-hot rows of another K.
        num_classes: K.
        batch_size: B to insist on.
        device: Where the answer lies; None for the target's device.

    Raises:
        ValueError: If a shape, type or value does not fit.

    >>> multi_hot([[0, 2], []], 3).int().tolist()
    [[1, 0, 1], [0, 0, 0]]
    >>> multi_hot(torch.tensor([[2, 0], [1, -1]]), 3).int().tolist()
    [[1, 0, 1], [0, 1, 0]]
    """
    if not isinstance(target, Tensor):
        target = _padded(target)
        hot = _from_indices(target, num_classes)
    elif target.ndim != 2:
        hint = "; one label a sample goes as target[:, None]" if target.ndim == 1 else ""
        raise ValueError(
            f"target: expected multi-hot (B, {num_classes}) or classes padded with -1 (B, M), got "
            f"{target.dtype} {tuple(target.shape)}{hint}"
        )
    elif target.shape[1] == num_classes:
        hot = _from_dense(target)
    elif target.is_floating_point() or target.dtype == torch.bool:
        raise ValueError(
            f"target: expected {num_classes} columns, one per class, got {target.dtype} {tuple(target.shape)}"
        )
    else:
        hot = _from_indices(target, num_classes)
    if batch_size is not None and len(hot) != batch_size:
        raise ValueError(f"target: expected {batch_size} label sets, one per sample, got {len(hot)}")
    return hot if device is None else hot.to(device)


def label_lists(hot: Tensor) -> list[list[int]]:
    """The classes of each multi-hot row, in increasing order.

    Args:
        hot: (B, K), zeros and ones in any type.

    >>> label_lists(torch.tensor([[True, False, True], [False, False, False]]))
    [[0, 2], []]
    """
    if hot.ndim != 2:
        raise ValueError(f"hot: expected shape (B, K), got {tuple(hot.shape)}")
    hot = hot.bool().cpu()
    classes = hot.nonzero()[:, 1].split(hot.sum(1).tolist())
    return [row.tolist() for row in classes]


def _from_dense(target: Tensor) -> Tensor:
    if target.dtype == torch.bool:
        return target
    hot = target == 1
    if not (hot | (target == 0)).all():
        if target.is_floating_point():
            advice = (
                "label sets are hard; for shares of labels (mixup, 1/m targets) take torch's cross_entropy, "
                "for 1/m of each label normalize=True with zeros and ones, and for uncertain ones a threshold"
            )
        else:
            advice = (
                "an integer tensor with as many columns as classes is read as multi-hot; pass padded classes "
                "as a list of lists, or with another width"
            )
        raise ValueError(f"target: expected zeros and ones in a multi-hot tensor of {target.dtype}; {advice}")
    return hot


def _from_indices(target: Tensor, num_classes: int) -> Tensor:
    target = target.long()
    low, high = (int(target.min()), int(target.max())) if target.numel() else (0, 0)
    if not -1 <= low <= high < num_classes:
        raise ValueError(
            f"target: expected classes from 0 to {num_classes - 1}, or -1 for padding, got {low} to {high}"
        )
    if len(target) and target.shape[1] > 2 and low >= 0 and high <= 1:
        # As classes every row would repeat 0 or 1.
        raise ValueError(
            f"target: {target.shape[1]} columns of nothing but zeros and ones look like multi-hot rows of as "
            f"many classes, expected a tensor with {num_classes} columns for that; for the classes 0 and 1 "
            "leave repetitions out"
        )
    # The padding falls into a column of its own, which goes.
    hot = target.new_zeros(len(target), num_classes + 1, dtype=torch.bool)
    return hot.scatter_(1, target.where(target >= 0, num_classes), True)[:, :-1]


def _padded(lists: Sequence[Sequence[int] | Tensor]) -> Tensor:
    rows: list[Tensor] = []
    for position, labels in enumerate(lists):
        try:
            row = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"target[{position}]={labels!r}: expected a list of classes") from error
        if row.ndim != 1 or (len(row) and (row.is_floating_point() or row.dtype == torch.bool)):
            raise ValueError(
                f"target[{position}]: expected a list of integer classes, got {row.dtype} {tuple(row.shape)}"
            )
        if len(row) and int(row.min()) < 0:
            raise ValueError(f"target[{position}]: class {int(row.min())}; expected 0 or more")
        rows.append(row.long())
    if not rows:
        return torch.empty(0, 0, dtype=torch.long)
    return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)
