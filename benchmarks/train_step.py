"""Time of a whole training step, fixed head against learnable head, on the same model and batch.

On a GPU under autocast to bfloat16, channels last, with each side's peak memory; where there are more classes
than features the fixed head is a union, with its logits and with the fused loss.

python -m benchmarks.train_step [--device cuda] [--rounds 60]
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch
from torch import nn

from benchmarks.common import Row, built, model_steps, quartiles, ratio, take_turns, training_step
from etfhead import swap_head
from etfhead.losses import FrameCrossEntropyLoss
from etfhead.surgery import find_classifiers, find_heads

CASES = {
    "cpu": [  # model, image size, batch, classes; the first is what the quickstart and fashion_mnist train
        ("test_resnet", 32, 128, 10),
        ("resnet18", 64, 32, 100),
        ("mobilenetv3_small_050", 64, 64, 1000),
    ],
    "cuda": [
        ("resnet50", 224, 128, 1000),
        ("resnet50", 224, 128, 21_841),
        ("vit_small_patch16_224", 224, 128, 21_841),
        ("vit_small_patch16_224", 224, 128, 1000),
    ],
}
ROUNDS = {"cpu": 60, "cuda": 25}

_SIMPLEX: dict[str, dict[str, Any]] = {
    "identity": {"basis": "identity"},
    "hadamard": {"basis": "hadamard"},
    "haar": {"basis": "haar"},
}
_UNION: dict[str, dict[str, Any]] = {
    "union": {"frame": "union", "normalize": True},
    "union_fused": {"frame": "union", "normalize": True, "fused": True},
}


def measure(
    name: str,
    size: int,
    batch: int,
    classes: int,
    rounds: int,
    device: str,
    *,
    autocast: torch.dtype | None = None,
) -> list[Row]:
    """Seconds per step of every head and its ratio to the learnable one."""
    images = torch.randn(batch, 3, size, size, device=device)
    if autocast is not None:
        images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(classes, (batch,), device=device)
    torch.manual_seed(0)
    stock = timm.create_model(name, num_classes=classes)
    width = next(iter(find_classifiers(stock).values())).in_features
    arms = {"learnable": None, **(_SIMPLEX if classes <= width else _UNION)}
    models: dict[str, nn.Module] = {}

    def build(arm: str, options: dict[str, Any] | None) -> Callable[[], object]:
        model = copy.deepcopy(stock)
        if options is not None:
            swap_head(model, **options)
        model = model.to(device).train()
        if autocast is not None:
            model = model.to(memory_format=torch.channels_last)
        models[arm] = model
        loss: Callable[..., torch.Tensor] = nn.functional.cross_entropy
        if options is not None and options.get("fused"):
            (head,) = find_heads(model).values()
            loss = FrameCrossEntropyLoss(head)
        return training_step(model, loss, images, labels, autocast=autocast)

    sides = {arm: functools.partial(build, arm, options) for arm, options in arms.items()}
    steps, memory = built(sides, device)
    seconds = take_turns(steps, rounds=rounds, device=device, label=name)
    return [
        {
            "model": name,
            "img_size": size,
            "batch_size": batch,
            "num_classes": classes,
            "in_features": width,
            "head": arm,
            "autocast": None if autocast is None else str(autocast).removeprefix("torch."),
            "trainable_parameters": sum(p.numel() for p in models[arm].parameters() if p.requires_grad),
            "rounds": rounds,
            "seconds": quartiles(seconds[arm]),
            "ratio_to_learnable": ratio(seconds[arm], seconds["learnable"]),
            **memory[arm],
        }
        for arm in steps
    ]


def show(rows: Sequence[Row]) -> str:
    """A line for each side."""
    lines = []
    for row in rows:
        quarter = row["ratio_to_learnable"]
        line = f"{row['model']:<24}K={row['num_classes']:<7}{row['head']:<12}"
        line += f"{1e3 * row['seconds']['median']:9.2f} ms"
        line += f"  x{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"
        lines.append(line + (f"{row['peak_bytes'] / 1e6:12,.0f} MB" if "peak_bytes" in row else ""))
    return "\n".join(lines)


def main() -> None:
    model_steps("train_step", measure, show, CASES, ROUNDS, description=__doc__)


if __name__ == "__main__":
    main()
