"""Time of a multi-label training step: fixed simplex head and pick-all-label loss against the usual ones.

On a GPU under autocast to bfloat16, channels last.

python -m benchmarks.multilabel_step [--device cuda] [--rounds 60]
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence

import timm
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from benchmarks.common import Row, built, model_steps, quartiles, ratio, take_turns, training_step
from etfhead import swap_head
from etfhead.losses import PickAllLabelLoss

CASES = {
    "cpu": [  # model, image size, batch, labels; the first is what multilabel_digits trains
        ("test_resnet", 32, 64, 10),
        ("resnet18", 64, 32, 80),
        ("mobilenetv3_small_050", 64, 64, 1000),
    ],
    "cuda": [("resnet50", 224, 128, 80), ("resnet50", 224, 128, 1000)],
}
ROUNDS = {"cpu": 60, "cuda": 25}
SIDES: dict[str, tuple[str | None, Callable[[], nn.Module]]] = {
    "learnable_bce": (None, nn.BCEWithLogitsLoss),
    "learnable_asl": (None, AsymmetricLossMultiLabel),
    "learnable_pal": (None, PickAllLabelLoss),
    "etf_pal": ("multilabel_etf", PickAllLabelLoss),
}


def measure(
    name: str,
    size: int,
    batch: int,
    labels: int,
    rounds: int,
    device: str,
    *,
    autocast: torch.dtype | None = None,
) -> list[Row]:
    """Seconds per step of every side and its ratio to a learnable layer with binary cross-entropy."""
    images = torch.randn(batch, 3, size, size, device=device)
    if autocast is not None:
        images = images.contiguous(memory_format=torch.channels_last)
    target = (torch.rand(batch, labels, device=device) < 3 / labels).float()
    torch.manual_seed(0)
    stock = timm.create_model(name, num_classes=labels)

    def build(head: str | None, loss: Callable[[], nn.Module]) -> Callable[[], object]:
        model = copy.deepcopy(stock)
        if head is not None:
            swap_head(model, head)
        model = model.to(device).train()
        if autocast is not None:
            model = model.to(memory_format=torch.channels_last)
        return training_step(model, loss(), images, target, autocast=autocast)

    sides = {side: functools.partial(build, *how) for side, how in SIDES.items()}
    steps, memory = built(sides, device)
    seconds = take_turns(steps, rounds=rounds, device=device, label=name)
    return [
        {
            "model": name,
            "img_size": size,
            "batch_size": batch,
            "num_labels": labels,
            "side": side,
            "autocast": None if autocast is None else str(autocast).removeprefix("torch."),
            "rounds": rounds,
            "seconds": quartiles(times),
            "ratio_to_bce": ratio(times, seconds["learnable_bce"]),
            **memory[side],
        }
        for side, times in seconds.items()
    ]


def show(rows: Sequence[Row]) -> str:
    """A line for each side."""
    lines = []
    for row in rows:
        quarter = row["ratio_to_bce"]
        lines.append(
            f"{row['model']:<24}K={row['num_labels']:<6}{row['side']:<16}"
            f"{1e3 * row['seconds']['median']:9.2f} ms"
            f"  x{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
        )
    return "\n".join(lines)


def main() -> None:
    model_steps("multilabel_step", measure, show, CASES, ROUNDS, description=__doc__)


if __name__ == "__main__":
    main()
