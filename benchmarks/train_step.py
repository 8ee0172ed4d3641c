"""Time of a whole training step, fixed head against learnable head, on the same model and batch.

python -m benchmarks.train_step [--device cuda] [--rounds 60]
"""

from __future__ import annotations

import argparse
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.common import quartiles, ratio, take_turns, training_step, write
from etfhead import swap_head
from etfhead.surgery import find_classifiers

CASES = [  # model, image size, batch, classes; the first is what the quickstart and fashion_mnist train
    ("test_resnet", 32, 128, 10),
    ("resnet18", 64, 32, 100),
    ("mobilenetv3_small_050", 64, 64, 1000),
]


def measure(name: str, size: int, batch: int, classes: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Seconds per step of every head and its ratio to the learnable one."""
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(classes, (batch,), device=device)
    models: dict[str, nn.Module] = {}
    for basis in (None, "identity", "hadamard", "haar"):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=classes)
        if basis is not None:
            swap_head(model, basis=basis)
        models[basis or "learnable"] = model.to(device).train()
    width = next(iter(find_classifiers(models["learnable"]).values())).in_features
    sides = {
        arm: training_step(model, nn.functional.cross_entropy, images, labels)
        for arm, model in models.items()
    }
    seconds = take_turns(sides, rounds=rounds, device=device, label=name)
    return [
        {
            "model": name,
            "img_size": size,
            "batch_size": batch,
            "num_classes": classes,
            "in_features": width,
            "head": arm,
            "trainable_parameters": sum(p.numel() for p in models[arm].parameters() if p.requires_grad),
            "rounds": rounds,
            "seconds": quartiles(seconds[arm]),
            "ratio_to_learnable": ratio(seconds[arm], seconds["learnable"]),
        }
        for arm in sides
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=60)
    args = parser.parse_args()
    results = [row for case in CASES for row in measure(*case, args.rounds, args.device)]
    for row in results:
        quarter = row["ratio_to_learnable"]
        print(
            f"{row['model']:<24}K={row['num_classes']:<6}{row['head']:<10}"
            f"{1e3 * row['seconds']['median']:9.2f} ms"
            f"  x{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
        )
    write("train_step", results, args.device)


if __name__ == "__main__":
    main()
