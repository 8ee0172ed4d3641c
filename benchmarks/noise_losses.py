"""What a loss for wrong labels costs beside cross-entropy: forward and backward with hard labels.

Every side takes the same logits and labels, and gives a gradient of the logits. Sides that also move a row
for each sample (ELR, SOP) are listed apart: they do more than a loss. Memory that was freed stays with the
process, as it does once a network's activations have come and gone.

python -m benchmarks.noise_losses [--device cuda] [--rounds 100]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import quartiles, ratio, take_turns, write
from etfhead import losses as L

SIZE = (1024, 1000)
_SAMPLES = 50_000


def stateless(K: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses by name, cross-entropy first."""
    rate = 0.4
    transition = torch.full((K, K), rate / (K - 1), device=device)
    transition.fill_diagonal_(1 - rate)
    clip = L.LogitClipLoss(nn.CrossEntropyLoss())
    return {
        "cross_entropy": nn.functional.cross_entropy,
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


def stateful(B: int, K: int, device: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses that remember each sample, called with one index."""
    index = torch.arange(B, device=device) * (_SAMPLES // B)
    elr = L.EarlyLearningRegularizationLoss(_SAMPLES, K).to(device)
    sop = L.SparseOverparametrizationLoss(_SAMPLES, K).to(device)
    return {
        "early_learning": lambda z, y: elr(z, y, index),
        "sparse_overparametrization": lambda z, y: sop(z, y, index),
    }


def measure(B: int, K: int, rounds: int, device: str = "cpu") -> list[dict[str, Any]]:
    """Forward and backward of every loss on the same batch."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(B, K, generator=generator)).to(device).requires_grad_()
    target = torch.randint(K, (B,), generator=generator).to(device)

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        def run() -> None:
            logits.grad = None
            loss(logits, target).backward()

        return run

    groups = {"stateless": stateless(K, device), "stateful": stateful(B, K, device)}
    sides = {name: step(loss) for group in groups.values() for name, loss in group.items()}
    seconds = take_turns(sides, rounds=rounds, device=device, label=f"B={B}, K={K}")
    return [
        {
            "group": group,
            "loss": name,
            "batch_size": B,
            "num_classes": K,
            "threads": torch.get_num_threads(),
            "rounds": rounds,
            "seconds": quartiles(seconds[name]),
            "ratio_to_cross_entropy": ratio(seconds[name], seconds["cross_entropy"]),
            # What other work on a shared machine cannot lengthen.
            "ratio_of_fastest": min(seconds[name]) / min(seconds["cross_entropy"]),
        }
        for group, members in groups.items()
        for name in members
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.empty(31 * 2**20, dtype=torch.uint8)  # glibc keeps up to twice the largest piece it saw freed
    rows = measure(*SIZE, args.rounds, args.device)
    for row in rows:
        time, cost = row["seconds"], row["ratio_to_cross_entropy"]
        print(
            f"{row['loss']:<28}{1e3 * time['median']:8.2f} ms  x{cost['median']:.2f} "
            f"[{cost['q1']:.2f}, {cost['q3']:.2f}]  fastest x{row['ratio_of_fastest']:.2f}"
        )
    write("noise_losses", rows, args.device)


if __name__ == "__main__":
    main()
