"""What measuring neural collapse costs, and how many digits NC1 keeps.

python -m benchmarks.collapse [--device cuda] [--rounds 40]

One update of the metric against the forward pass that makes its features (a stock ResNet-18 on 32 x 32
images, on a GPU also a ResNet-50 on 224 x 224); memory and time at K = 10,000 and d = 2048; the relative
error of NC1 against two passes in float64, for float32 features whose mean is three times their spread.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Sequence

import numpy as np
import timm
import torch
from torch import Tensor

from benchmarks.common import Row, case_by_case, keep_in, quartiles, ratio, take_turns
from etfhead.metrics import NeuralCollapse

BATCH = 256
FORWARDS = {  # model, image size, features, classes
    "cpu": [("resnet18", 32, 512, 100)],
    "cuda": [("resnet18", 32, 512, 100), ("resnet50", 224, 2048, 1000)],
}
LARGE_WIDTH, LARGE_CLASSES = 2048, 10_000


def update_cost(name: str, size: int, width: int, classes: int, rounds: int, device: str) -> list[Row]:
    """Seconds of an update, with and without class vectors, over those of a forward pass."""
    model = timm.create_model(name, num_classes=classes).to(device).eval()
    images = torch.randn(BATCH, 3, size, size, device=device)
    features = torch.randn(BATCH, width, device=device)
    labels = torch.randint(classes, (BATCH,), device=device)
    plain = NeuralCollapse(classes).to(device)
    running = NeuralCollapse(classes, weight=torch.randn(classes, width), nc4="running").to(device)

    @torch.no_grad()
    def forward() -> Tensor:
        return model(images)

    sides = {
        "forward": forward,
        "update": lambda: plain.update(features, labels),
        "update_with_nc4": lambda: running.update(features, labels),
    }
    seconds = take_turns(sides, rounds=rounds, device=device, label=name)
    return [
        {
            "measured": "update",
            "side": f"{name}_forward" if side == "forward" else side,
            "img_size": size,
            "batch_size": BATCH,
            "in_features": width,
            "num_classes": classes,
            "rounds": rounds,
            "seconds": quartiles(times),
            "ratio_to_forward": ratio(times, seconds["forward"]),
        }
        for side, times in seconds.items()
    ]


def large(device: str) -> Row:
    """Bytes of the states, seconds of an update and of the result, at a size where both are felt."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(LARGE_CLASSES, LARGE_WIDTH, generator=generator).to(device)
    metric = NeuralCollapse(LARGE_CLASSES, weight=weight, nc4=None).to(device)
    if device == "cuda":  # a GPU's first decomposition loads its libraries
        torch.linalg.svd(weight[:64, :64].double())
        torch.linalg.eigh(torch.eye(64, dtype=torch.float64, device=device))
    labels = torch.arange(2 * LARGE_CLASSES, device=device) % LARGE_CLASSES
    updates = []
    for batch in labels.split(BATCH):
        features = weight[batch] + 0.1 * torch.randn(len(batch), LARGE_WIDTH, device=device)
        began = _now(device)
        metric.update(features, batch)
        updates.append(_now(device) - began)
    began = _now(device)
    figures = metric.compute()
    return {
        "measured": "large",
        "in_features": LARGE_WIDTH,
        "num_classes": LARGE_CLASSES,
        "samples": len(labels),
        "state_bytes": sum(state.numel() * state.element_size() for state in metric.moments),
        "update_seconds": quartiles(updates),
        "compute_seconds": _now(device) - began,
        "nc1": float(figures["nc1"]),
    }


def digits(device: str = "cpu") -> list[Row]:
    """Relative error of NC1 by four ways to add up, at ever smaller NC1; two passes are NumPy's."""
    classes, width, samples = 10, 128, 6000
    rows = []
    for exponent in range(2, 13, 2):
        generator = torch.Generator().manual_seed(exponent)
        centres = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator), dim=1)
        spread = (10.0**-exponent / width) ** 0.5
        labels = torch.arange(samples) % classes
        noise = torch.randn(samples, width, generator=generator, dtype=torch.float64)
        features = (centres[labels].double() + 3.0 / width**0.5 + spread * noise).float()
        truth = _two_passes(features.double().numpy(), labels.numpy(), classes)
        features, labels = features.to(device), labels.to(device)
        metric = NeuralCollapse(classes).to(device)
        for part in torch.randperm(samples, generator=generator).split(BATCH):
            here = part.to(device)
            metric.update(features[here], labels[here])
        found = {
            "etfhead": float(metric.compute()["nc1"]),
            "one_pass_float32": _one_pass(features, labels, classes, torch.float32),
            "one_pass_float64_sums": _one_pass(features, labels, classes, torch.float64),
        }
        errors = {name: value / truth - 1 for name, value in found.items()}
        rows.append({"measured": "digits", "nc1": truth, "relative_error": errors})
    return rows


def _two_passes(h: np.ndarray, y: np.ndarray, classes: int) -> float:
    means = np.stack([h[y == k].mean(0) for k in range(classes)])
    within = (h - means[y]).T @ (h - means[y]) / len(h)
    _, values, directions = np.linalg.svd(means - means.mean(0), full_matrices=False)
    kept = classes - 1
    along = np.einsum("ij,jk,ik->i", directions[:kept], within, directions[:kept])
    return float((along / values[:kept] ** 2).sum())


def _one_pass(features: Tensor, labels: Tensor, classes: int, sums: torch.dtype) -> float:
    """The usual second moment minus that of the means; products in float32, added up in ``sums``."""
    width = features.shape[1]
    moment = torch.zeros(width, width, dtype=sums, device=features.device)
    totals = torch.zeros(classes, width, dtype=sums, device=features.device)
    for part, own in zip(features.split(BATCH), labels.split(BATCH), strict=True):
        moment += (part.T @ part).to(sums)
        totals.index_add_(0, own, part.to(sums))
    counts = labels.bincount(minlength=classes).to(sums)
    means = totals / counts[:, None]
    within = (moment - (means.T * counts) @ means) / len(labels)
    _, values, directions = torch.linalg.svd((means - means.mean(0)).double(), full_matrices=False)
    v = directions[: classes - 1]
    along = ((v @ within.double()) * v).sum(1)
    return float((along / values[: classes - 1].square()).sum())


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def show(rows: Sequence[Row]) -> str:
    """A line for each row."""
    return "\n".join(
        {"update": _update_line, "large": _large_line}.get(r["measured"], _digits_line)(r) for r in rows
    )


def _update_line(row: Row) -> str:
    quarter = row["ratio_to_forward"]
    line = f"{row['side']:<20}{1e3 * row['seconds']['median']:9.2f} ms"
    return line + f"  x{quarter['median']:.3f} [{quarter['q1']:.3f}, {quarter['q3']:.3f}]"


def _large_line(row: Row) -> str:
    line = f"K={row['num_classes']:,} d={row['in_features']:,}: {row['state_bytes'] / 1e6:.0f} MB, "
    line += f"update {1e3 * row['update_seconds']['median']:.1f} ms"
    return line + f", result {row['compute_seconds']:.1f} s"


def _digits_line(row: Row) -> str:
    errors = ", ".join(f"{name} {error:+.1e}" for name, error in row["relative_error"].items())
    return f"NC1 = {row['nc1']:.1e}: {errors}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    cases = {
        f"update, {model[0]}": functools.partial(update_cost, *model, args.rounds, args.device)
        for model in FORWARDS[args.device]
    }
    cases["digits"] = functools.partial(digits, args.device)
    cases["large"] = lambda: [large(args.device)]
    case_by_case(cases, show=show, keep=keep_in("collapse", args.device))


if __name__ == "__main__":
    main()
