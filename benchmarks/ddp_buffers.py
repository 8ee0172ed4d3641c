"""What it costs that DDP sends fixed class vectors before every training step, and what is left without.

Two processes on this machine, joined by gloo (NCCL on two GPUs): a small trunk and a head of K classes, the
same step with etfhead's marks and without them. Processes take turns within one run, as in common.py.

python -m benchmarks.ddp_buffers
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from benchmarks.common import quartiles, ratio, take_turns, training_step, write
from etfhead import swap_head
from etfhead.frames.fitted import ClassMeansFrame
from etfhead.surgery.parallel import prepare_ddp, unmark_fixed_buffers

SIZES = ((1_000, 512), (10_000, 512), (50_000, 512))
WORLD = 2


def _side(K: int, d: int, device: str, *, marked: bool) -> tuple[Callable[[], None], int]:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=0).to(device)
    model = nn.Sequential(model, nn.Linear(96, d, device=device), nn.Linear(d, K, device=device))
    swap_head(model, classifier="2", frame=_dense_frame(K, d))
    if marked:
        prepare_ddp(model)
    else:
        unmark_fixed_buffers(model)
    wrapped = nn.parallel.DistributedDataParallel(model)
    sent = sum(buffer.numel() * buffer.element_size() for buffer in wrapped.modules_buffers)
    images, target = torch.randn(8, 3, 32, 32, device=device), torch.randint(K, (8,), device=device)
    return training_step(wrapped, nn.functional.cross_entropy, images, target), sent


def _dense_frame(K: int, d: int) -> ClassMeansFrame:
    """Stored vectors, the same in every process; what they are does not matter here."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(K, d, generator=generator, dtype=torch.float64)
    return ClassMeansFrame(K, d, vectors=nn.functional.normalize(vectors))


def _measure(rank: int, store: str, rounds: int, device: str) -> None:
    backend = "gloo" if device == "cpu" else "nccl"
    if device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{store}/store", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    results = []
    for K, d in SIZES:
        sides = {name: _side(K, d, device, marked=name == "marked") for name in ("as DDP does", "marked")}
        seconds = take_turns(
            {name: step for name, (step, _) in sides.items()}, rounds=rounds, device=device, label=f"K={K}"
        )
        results.append(
            {
                "num_classes": K,
                "in_features": d,
                "processes": WORLD,
                "bytes_sent_a_step": {name: sent for name, (_, sent) in sides.items()},
                "milliseconds": {
                    name: quartiles([1e3 * value for value in values]) for name, values in seconds.items()
                },
                "ratio_marked": ratio(seconds["marked"], seconds["as DDP does"]),
            }
        )
    if rank == 0:
        (Path(store) / "results.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    if options.device == "cuda" and torch.cuda.device_count() < WORLD:
        parser.error(
            f"--device cuda: needs {WORLD} GPUs, one a process; there are {torch.cuda.device_count()}"
        )
    with tempfile.TemporaryDirectory() as store:
        mp.start_processes(
            _measure, args=(store, options.rounds, options.device), nprocs=WORLD, start_method="spawn"
        )
        write("ddp_buffers", json.loads((Path(store) / "results.json").read_text()), options.device)


if __name__ == "__main__":
    main()
