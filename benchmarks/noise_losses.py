"""What a loss for wrong labels costs beside cross-entropy: forward and backward with hard labels.

Every side takes the same logits and labels, and gives a gradient of the logits. Each takes turns with
cross-entropy alone, and on a CPU the time is the thread's own: other work on the machine lengthens both sides
alike, and only by sharing their caches. Sides that also move a row for each sample (ELR, SOP) are listed
apart: they do more than a loss. Memory that was freed stays with the process, as it does once a network's
activations have come and gone. On a GPU a second, larger size shows what they cost where kernels take longer
than their launch.

python -m benchmarks.noise_losses [--device cuda] [--rounds 200]
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from benchmarks.common import Row, case_by_case, keep_in, quartiles, ratio
from etfhead import losses as L

SIZES = {"cpu": [(1024, 1000)], "cuda": [(1024, 1000), (32_768, 1000)]}
_SAMPLES = 50_000
_WARMUP = 5


def stateless(K: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses by name, cross-entropy first."""
    rate = 0.4
    noise = torch.rand(K, K, generator=torch.Generator().manual_seed(1)).fill_diagonal_(0)
    transition = rate * noise / noise.sum(1, keepdim=True)
    transition = transition.fill_diagonal_(1 - rate).to(device)
    clip = L.LogitClipLoss(nn.CrossEntropyLoss())
    members = {
        "cross_entropy": cross_entropy,
        "label_smoothing": L.LabelSmoothingCrossEntropyLoss(),
        "label_smoothing_negative": L.LabelSmoothingCrossEntropyLoss(label_smoothing=-1.0),
        "label_relaxation": L.LabelRelaxationLoss(),
        "generalized": L.GeneralizedCrossEntropyLoss(),
        "generalized_truncated": L.GeneralizedCrossEntropyLoss(truncation=0.5),
        "mean_absolute_error": L.MeanAbsoluteErrorLoss(),
        "reverse": L.ReverseCrossEntropyLoss(),
        "symmetric": L.SymmetricCrossEntropyLoss(),
        "normalized": L.NormalizedCrossEntropyLoss(),
        "normalized_focal": L.NormalizedCrossEntropyLoss(gamma=0.5),
        "normalized_negative": L.NormalizedNegativeLoss(),
        "active_passive": L.ActivePassiveLoss(),
        "active_negative": L.ActiveNegativeLoss(),
        "agce": L.AsymmetricGeneralizedCrossEntropyLoss(),
        "aul": L.AsymmetricUnhingedLoss(),
        "ael": L.AsymmetricExponentialLoss(),
        "asymmetric_mean_square": L.AsymmetricMeanSquareLoss(),
        "joint_asymmetric": L.JointAsymmetricLoss(),
        "bootstrapping_soft": L.BootstrappingLoss(mode="soft"),
        "bootstrapping_hard": L.BootstrappingLoss(mode="hard"),
        "forward_correction": L.ForwardCorrectionLoss(transition),
        "backward_correction": L.BackwardCorrectionLoss(transition),
        "taylor": L.TaylorCrossEntropyLoss(),
        "huberized": L.HuberizedCrossEntropyLoss(),
        "poly": L.PolyCrossEntropyLoss(),
        "bi_tempered": L.BiTemperedLoss(),
        "jensen_shannon": L.JensenShannonLoss(),
        "logit_clip": lambda z, y: clip(z, y),
        "etf_dot": L.ETFDotLoss(),
    }
    return {name: m.to(device) if isinstance(m, nn.Module) else m for name, m in members.items()}


def stateful(B: int, K: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses that remember each sample, called with one index."""
    index = torch.arange(B, device=device) * (_SAMPLES // B)
    elr = L.EarlyLearningRegularizationLoss(_SAMPLES, K).to(device)
    sop = L.SparseOverparametrizationLoss(_SAMPLES, K).to(device)
    return {
        "early_learning": lambda z, y: elr(z, y, index),
        "sparse_overparametrization": lambda z, y: sop(z, y, index),
    }


def measure(B: int, K: int, rounds: int, device: str = "cpu") -> list[Row]:
    """Forward and backward of every loss on the same batch, each in turn with cross-entropy."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(B, K, generator=generator)).to(device).requires_grad_()
    target = torch.randint(K, (B,), generator=generator).to(device)
    clock = time.perf_counter if device == "cuda" else time.thread_time

    def seconds(loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        logits.grad = None
        start = clock()
        loss(logits, target).backward()
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    rows = []
    for group, members in (("stateless", stateless(K, device)), ("stateful", stateful(B, K, device))):
        if device == "cuda":
            torch.cuda.synchronize()
        for name, loss in tqdm(members.items(), desc=f"B={B}, K={K}", leave=False, disable=None):
            pairs = [(seconds(loss), seconds(cross_entropy)) for _ in range(_WARMUP + rounds)][_WARMUP:]
            own, reference = zip(*pairs, strict=True)
            rows.append(
                {
                    "group": group,
                    "loss": name,
                    "batch_size": B,
                    "num_classes": K,
                    "threads": torch.get_num_threads(),
                    "rounds": rounds,
                    "seconds": quartiles(own),
                    "cross_entropy_seconds": quartiles(reference),
                    "ratio_to_cross_entropy": ratio(own, reference),
                    "ratio_of_fastest": min(own) / min(reference),
                }
            )
    return rows


def show(rows: Sequence[Row]) -> str:
    """A line for each loss."""
    lines = []
    for row in rows:
        time, cost = row["seconds"], row["ratio_to_cross_entropy"]
        lines.append(
            f"{row['loss']:<28}{1e3 * time['median']:8.2f} ms  x{cost['median']:.2f} "
            f"[{cost['q1']:.2f}, {cost['q3']:.2f}]  fastest x{row['ratio_of_fastest']:.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # glibc keeps up to twice the largest piece it saw freed
    cases = {
        f"B={B}, K={K}": functools.partial(measure, B, K, args.rounds, args.device)
        for B, K in SIZES[args.device]
    }
    case_by_case(cases, show=show, keep=keep_in("noise_losses", args.device))


if __name__ == "__main__":
    main()
