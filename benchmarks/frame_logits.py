"""Time and memory of the head alone: structured frames against the dense product of a linear layer.

python -m benchmarks.frame_logits [--device cuda] [--rounds 100]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

import torch

from benchmarks.common import Row, case_by_case, keep_in, quartiles, ratio, take_turns
from etfhead import ETFHead

CASES = {
    "cpu": [
        (256, 512, 10),
        (256, 512, 100),
        (256, 768, 100),
        (256, 2048, 1000),
        (256, 1536, 1500),
        (256, 1009, 100),
    ],
    # Below thousands of rows (tokens, pixels) a GPU takes longer to be told than to multiply.
    "cuda": [
        (256, 512, 100),
        (256, 2048, 1000),
        (16_384, 768, 100),
        (16_384, 2048, 1000),
    ],
}


def measure(batch: int, width: int, classes: int, rounds: int, device: str) -> list[Row]:
    """Forward and backward to the features, each head against nn.Linear."""
    features = torch.randn(batch, width, device=device, requires_grad=True)
    heads: dict[str, torch.nn.Module] = {"linear": torch.nn.Linear(width, classes).to(device)}
    for basis in ("identity", "hadamard", "haar"):
        heads[basis] = ETFHead(width, classes, basis=basis, neck=None).to(device)
    sides = {name: lambda head=head: head(features).sum().backward() for name, head in heads.items()}
    seconds = take_turns(sides, rounds=rounds, device=device, label=f"d={width} K={classes}")
    return [
        {
            "batch_size": batch,
            "in_features": width,
            "num_classes": classes,
            "head": name,
            "rounds": rounds,
            "trainable_parameters": sum(p.numel() for p in head.parameters()),
            "stored_bytes": sum(t.nbytes for t in [*head.parameters(), *head.buffers()]),
            "seconds": quartiles(seconds[name]),
            "ratio_to_linear": ratio(seconds[name], seconds["linear"]),
        }
        for name, head in heads.items()
    ]


def show(rows: Sequence[Row]) -> str:
    """A line for each head."""
    return "\n".join(
        f"B={row['batch_size']:<6}d={row['in_features']:<6}K={row['num_classes']:<6}{row['head']:<10}"
        f"{1e3 * row['seconds']['median']:8.3f} ms  x{row['ratio_to_linear']['median']:.2f}"
        f"  {row['stored_bytes']:>10,} bytes"
        for row in rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    cases = {
        f"B={case[0]}, d={case[1]}, K={case[2]}": functools.partial(measure, *case, args.rounds, args.device)
        for case in CASES[args.device]
    }
    case_by_case(cases, show=show, keep=keep_in("frame_logits", args.device))


if __name__ == "__main__":
    main()
