"""The fused loss over the size of its blocks: time and memory of a step of a union of bases.

python -m benchmarks.frame_loss_blocks [--device cuda] [--rounds 9]
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence

import torch

from benchmarks.common import Row, built, case_by_case, keep_in, quartiles, take_turns
from benchmarks.head_sides import Inputs, Size, inputs, whole_step
from etfhead.frames import UnionFrame
from etfhead.heads import ETFHead
from etfhead.losses import FrameCrossEntropyLoss

BLOCKS = {
    "cpu": (1024, 4096, 16_384),
    "cuda": (4096, 8192, 16_384, 32_768, 65_536, 131_072),
}
_BF16, _FP32 = torch.bfloat16, torch.float32
CASES = {
    "cpu": [(Size(128, 1024, 100_000), _FP32)],
    "cuda": [
        (Size(1024, 1024, 100_000), _BF16),
        (Size(1024, 1024, 1_000_000), _BF16),
        (Size(128, 1024, 100_000), _BF16),
        (Size(4096, 768, 21_841), _BF16),
        (Size(1024, 1024, 100_000), _FP32),
        (Size(128, 1024, 100_000), _FP32),
    ],
}


def _step(given: Inputs, block: int) -> Callable[[], object]:
    width, classes = given.sizes
    frame = UnionFrame(classes, width)
    head = ETFHead(width, classes, frame=frame, neck=None, normalize=True, fused=True, **given.like)
    loss = FrameCrossEntropyLoss(head, block=block)
    return whole_step(given, lambda: loss(head(given.features), given.target), head)


def measure(size: Size, dtype: torch.dtype, rounds: int, device: str) -> list[Row]:
    """Head, loss, backward to the features and update of the scale, with each size of a block."""
    given = inputs(size, device, dtype)
    blocks = [block for block in BLOCKS[device] if block < 2 * size.num_classes]
    sides, memory = built({str(block): functools.partial(_step, given, block) for block in blocks}, device)
    seconds = take_turns(sides, rounds=rounds, warmup=2, device=device, label=str(size))
    kind = str(dtype).removeprefix("torch.")
    return [
        {**size._asdict(), "dtype": kind, "block": block, "rounds": rounds}
        | {"seconds": quartiles(seconds[str(block)]), **memory[str(block)]}
        for block in blocks
    ]


def show(rows: Sequence[Row]) -> str:
    """A line for each size of a block."""
    return "\n".join(
        f"B={row['batch_size']:<6}d={row['in_features']:<6}K={row['num_classes']:<9,}{row['dtype']:<10}"
        f"block {row['block']:<9,}{1e3 * row['seconds']['median']:9.3f} ms"
        f"  {row.get('peak_bytes', 0) / 1e6:8,.0f} MB"
        for row in rows
    )


def main() -> None:
    """Measure and write ``results/frame_loss_blocks_<device>.json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    cases = {
        f"{size}, {dtype}": functools.partial(measure, size, dtype, args.rounds, args.device)
        for size, dtype in CASES[args.device]
    }
    case_by_case(cases, show=show, keep=keep_in("frame_loss_blocks", args.device))


if __name__ == "__main__":
    main()
