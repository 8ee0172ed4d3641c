"""Decoding of label sets: time of every method on one CPU thread, and how often each is right on digits.

The digits are scikit-learn's, one to three of them in the cells of a canvas, split into training, validation
and test digits before canvases are made. A small network learns them with the fixed head and the
pick-all-label loss, with a learnable layer and the same loss, and with a learnable layer and binary
cross-entropy; gaps, thresholds and counts are fitted on validation canvases.

python -m benchmarks.label_decoding [--rounds 50] [--seeds 3] [--epochs 12]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.common import quartiles, ratio, take_turns, write
from etfhead.frames.tagwise import tagwise_gaps
from etfhead.heads import MultiLabelETFHead, decode_labels
from etfhead.heads.label_calibration import best_class_thresholds, best_threshold
from etfhead.losses import PickAllLabelLoss

CASES = [(1024, 12), (1024, 80), (1024, 1000), (1024, 10_000)]
_KAPPA = 1e4
_MOST_LABELS = 5  # of the samples; every set is an answer
_ENUMERABLE = 12  # classes whose 2^K - 2 sets are searched one by one


def sample(batch: int, classes: int) -> Tensor:
    """Logits around the prototypes of random sets, with noise that moves some of them to another."""
    generator = torch.Generator().manual_seed(0)
    m = torch.randint(1, min(_MOST_LABELS, classes - 1) + 1, (batch,), generator=generator)
    hot = torch.rand(batch, classes, generator=generator).argsort(1).argsort(1) < m[:, None]
    gaps = tagwise_gaps(classes, _KAPPA, range(1, classes)).float()
    return gaps[m - 1][:, None] * hot + torch.randn(batch, classes, generator=generator)


def enumerated(logits: Tensor, gaps: Tensor) -> Callable[[], Tensor]:
    """The nearest prototype by a search of all sets, whose prototypes are ready."""
    K = logits.shape[1]
    hot = ((torch.arange(1, 2**K - 1)[:, None] >> torch.arange(K)) & 1).bool()
    m = hot.sum(1)
    prototypes = (gaps[m - 1][:, None] * (hot.double() - m[:, None] / K)).to(logits)
    norms = prototypes.square().sum(1)
    return lambda: hot[(norms - 2 * logits @ prototypes.T).argmin(1)]


def measure(batch: int, classes: int, rounds: int) -> list[dict[str, Any]]:
    """Each method on the same logits."""
    logits = sample(batch, classes)
    gaps = tagwise_gaps(classes, _KAPPA, range(1, classes))
    by_class = torch.zeros(classes)
    sides: dict[str, Callable[[], Tensor]] = {
        "nearest": lambda: decode_labels(logits, gaps=gaps),
        "nearest_max_labels": lambda: decode_labels(logits, gaps=gaps, max_labels=min(20, classes)),
        "nearest_cosine": lambda: decode_labels(logits, "nearest_cosine"),
        "threshold": lambda: decode_labels(logits, "threshold"),
        "class_thresholds": lambda: decode_labels(logits, "threshold", threshold=by_class),
        "topk": lambda: decode_labels(logits, "topk", k=3),
        "argmax": lambda: logits.argmax(1),
    }
    if classes <= _ENUMERABLE:
        sides["enumerated"] = enumerated(logits, gaps)
        same = (sides["enumerated"]() == sides["nearest"]()).all(1).double().mean().item()
        assert same > 0.99, same  # float32 may break near ties the other way
    seconds = take_turns(sides, rounds=rounds, label=f"K={classes}")
    return [
        {
            "group": "time",
            "batch_size": batch,
            "num_classes": classes,
            "method": name,
            "threads": torch.get_num_threads(),
            "rounds": rounds,
            "seconds": quartiles(seconds[name]),
            "ratio_to_nearest": ratio(seconds[name], seconds["nearest"]),
        }
        for name in sides
    ]


ARMS = ("etf", "etf_normalized_loss", "linear_pal", "linear_bce")
_MIX = torch.tensor([0.5, 0.3, 0.2])  # canvases of one, two and three digits
_WIDTH = 64


def canvases(
    images: Tensor, labels: Tensor, number: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Canvases (N, 1, 16, 16) of one to three different digits in random cells, and their label sets."""
    m = torch.multinomial(_MIX, number, replacement=True, generator=generator) + 1
    order = torch.rand(number, 10, generator=generator).argsort(1)
    cells = torch.rand(number, 4, generator=generator).argsort(1)
    pages = torch.zeros(number, 2, 8, 2, 8)
    by_class = [images[labels == digit] for digit in range(10)]
    for row in range(number):
        for digit, cell in zip(order[row, : m[row]].tolist(), cells[row].tolist(), strict=False):
            pick = torch.randint(len(by_class[digit]), (), generator=generator)
            pages[row, cell // 2, :, cell % 2] = by_class[digit][pick]
    hot = torch.zeros(number, 10, dtype=torch.bool).scatter_(1, order, torch.arange(10) < m[:, None])
    return pages.reshape(number, 1, 16, 16), hot


def digit_canvases(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Training, validation and test canvases of different digits."""
    generator = torch.Generator().manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=generator)
    parts = order.tensor_split([int(0.6 * len(order)), int(0.8 * len(order))])
    sizes = {"train": 6000, "val": 2000, "test": 2000}
    return {
        name: canvases(images[part], labels[part], size, generator)
        for (name, size), part in zip(sizes.items(), parts, strict=True)
    }


def train(
    arm: str, data: tuple[Tensor, Tensor], epochs: int, seed: int
) -> tuple[nn.Module, MultiLabelETFHead]:
    """A small network, and the head that decodes its logits (its own, or one that only decodes)."""
    torch.manual_seed(seed)
    normalized = arm == "etf_normalized_loss"
    reader = MultiLabelETFHead(_WIDTH, 10, normalized_loss=normalized, seed=seed)
    trunk = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, _WIDTH, 3, padding=1), nn.BatchNorm2d(_WIDTH), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.BatchNorm2d(_WIDTH), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    model = nn.Sequential(trunk, reader if arm.startswith("etf") else nn.Linear(_WIDTH, 10))
    loss: nn.Module = PickAllLabelLoss(normalize=normalized)
    if arm == "linear_bce":
        loss = nn.BCEWithLogitsLoss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    images, hot = data
    steps = epochs * (len(hot) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(hot), generator=generator).split(128)[: len(hot) // 128]:
            optimizer.zero_grad()
            loss(model(images[batch]), hot[batch].float()).backward()
            optimizer.step()
            schedule.step()
    return model.eval(), reader.eval()


@torch.no_grad()
def decoded(arm: str, seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """Exact-match accuracy, micro-F1 and macro mAP (percent) of each way to read an arm's test logits."""
    data = digit_canvases(seed)
    with torch.enable_grad():
        model, reader = train(arm, data["train"], epochs, seed)
    (images, hot), (val_images, val_hot) = data["test"], data["val"]
    logits, val = model(images), model(val_images)
    answers: dict[str, Tensor] = {}
    scores = logits
    if arm == "linear_bce":
        answers["threshold_0"] = logits > 0
        bound = best_threshold(val, val_hot)
        answers["threshold"] = logits > bound
        answers["threshold_exact_match"] = logits > best_threshold(val, val_hot, "exact_match")
        answers["class_thresholds"] = logits > best_class_thresholds(val, val_hot, bound)
    else:
        if arm.startswith("etf"):
            for method in ("nearest", "threshold", "count"):
                answers[f"{method}_uncalibrated"] = reader.decode(logits, method)
        answers["threshold_0"] = decode_labels(logits, "threshold")
        reader.calibrate(val, val_hot)
        for method in ("nearest", "nearest_cosine", "posterior", "threshold", "class_thresholds", "count"):
            answers[method] = reader.decode(logits, method)
        answers["nearest_max_3"] = reader.decode(logits, max_labels=3)
        scores = reader.probabilities(logits)
        marginals = reader.probabilities(logits, "marginal")
        reader.calibrate(val, val_hot, objective="exact_match")
        answers["threshold_exact_match"] = reader.decode(logits, "threshold")
    rows = {
        name: {
            "exact_match": 100 * (answer == hot).all(1).double().mean().item(),
            "micro_f1": 100 * f1_score(hot, answer, average="micro"),
            **{
                f"exact_match_{m}": 100 * (answer == hot).all(1)[hot.sum(1) == m].double().mean().item()
                for m in (1, 2, 3)
            },
        }
        for name, answer in answers.items()
    }
    rows["scores"] = {"mean_ap": 100 * average_precision_score(hot, scores, average="macro")}
    rows["softmax"] = {"mean_ap": 100 * average_precision_score(hot, logits.softmax(1), average="macro")}
    if arm != "linear_bce":
        rows["marginals"] = {"mean_ap": 100 * average_precision_score(hot, marginals, average="macro")}
    return rows


def accuracy(seeds: int, epochs: int) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every arm and method."""
    results = []
    for arm in tqdm(ARMS, desc="digits", leave=False, disable=None):
        runs = [decoded(arm, seed, epochs) for seed in range(seeds)]
        for method, figures in runs[0].items():
            row: dict[str, Any] = {"group": "digits", "arm": arm, "method": method, "seeds": seeds}
            for figure in figures:
                values = [run[method][figure] for run in runs]
                spread = statistics.stdev(values) if seeds > 1 else 0.0
                row[figure] = {"mean": statistics.mean(values), "std": spread}
            results.append(row)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    times = [row for case in CASES for row in measure(*case, args.rounds)]
    for row in times:
        time = row["seconds"]
        print(
            f"B={row['batch_size']:<6}K={row['num_classes']:<7}{row['method']:<20}"
            f"{1e3 * time['median']:8.2f} ms  [{1e3 * time['q1']:.2f}, {1e3 * time['q3']:.2f}]"
            f"  x{row['ratio_to_nearest']['median']:.2f}"
        )
    rates = accuracy(args.seeds, args.epochs)
    for row in rates:
        figures = {name: value for name, value in row.items() if isinstance(value, dict)}
        told = "  ".join(f"{name} {v['mean']:.1f} ± {v['std']:.1f}" for name, v in figures.items())
        print(f"{row['arm']:<20}{row['method']:<24}{told}")
    write("label_decoding", [*times, *rates], "cpu")


if __name__ == "__main__":
    main()
