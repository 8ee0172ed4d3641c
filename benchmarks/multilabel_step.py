"""Time of a multi-label training step: fixed simplex head and pick-all-label loss against the usual ones.

python -m benchmarks.multilabel_step [--device cuda] [--rounds 60]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import nn

from benchmarks.common import quartiles, ratio, take_turns, training_step, write
from etfhead import swap_head
from etfhead.losses import PickAllLabelLoss

CASES = [  # model, image size, batch, labels; the first is what multilabel_digits trains
    ("test_resnet", 32, 64, 10),
    ("resnet18", 64, 32, 80),
    ("mobilenetv3_small_050", 64, 64, 1000),
]
SIDES: dict[str, tuple[str | None, Callable[[], nn.Module]]] = {
    "learnable_bce": (None, nn.BCEWithLogitsLoss),
    "learnable_asl": (None, AsymmetricLossMultiLabel),
    "learnable_pal": (None, PickAllLabelLoss),
    "etf_pal": ("multilabel_etf", PickAllLabelLoss),
}


def measure(name: str, size: int, batch: int, labels: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Seconds per step of every side and its ratio to a learnable layer with binary cross-entropy."""
    images = torch.randn(batch, 3, size, size, device=device)
    target = (torch.rand(batch, labels, device=device) < 3 / labels).float()
    sides = {}
    for side, (head, loss) in SIDES.items():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=labels)
        if head is not None:
            swap_head(model, head)
        sides[side] = training_step(model.to(device).train(), loss(), images, target)
    seconds = take_turns(sides, rounds=rounds, device=device, label=name)
    return [
        {
            "model": name,
            "img_size": size,
            "batch_size": batch,
            "num_labels": labels,
            "side": side,
            "rounds": rounds,
            "seconds": quartiles(times),
            "ratio_to_bce": ratio(times, seconds["learnable_bce"]),
        }
        for side, times in seconds.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    results = [row for case in CASES for row in measure(*case, args.rounds, args.device)]
    for row in results:
        quarter = row["ratio_to_bce"]
        print(
            f"{row['model']:<24}K={row['num_labels']:<6}{row['side']:<16}"
            f"{1e3 * row['seconds']['median']:9.2f} ms"
            f"  x{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
        )
    write("multilabel_step", results, args.device)


if __name__ == "__main__":
    main()
