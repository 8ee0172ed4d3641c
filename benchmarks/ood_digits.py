"""Out-of-distribution scores on digits: a perceptron trained on 0 to 7, with 8 and 9 as the unknown.

python -m benchmarks.ood_digits [--seeds 5] [--epochs 5 20 100 300]

AUROC (%) of telling the held-out digits 0 to 7 from all 8 and 9, by the scores of etfhead.metrics and by the
two that need logits alone. Nothing is tuned: every number of epochs, option and alpha tried is in the file.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torchmetrics.functional import auroc

from benchmarks.common import quartiles, write
from etfhead import ETFHead
from etfhead.metrics import NeuralCollapse
from etfhead.metrics.ood import nci_score, neco_score, principal_directions

KNOWN, WIDTH = 8, 64
ALPHAS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training images and classes, held-out images and classes of 0 to 7, and all images of 8 and 9."""
    images, classes = load_digits(return_X_y=True)
    known = classes < KNOWN
    parts = train_test_split(
        images[known], classes[known], test_size=0.3, stratify=classes[known], random_state=seed
    )
    train, test, unknown = (torch.tensor(part / 16.0).float() for part in (*parts[:2], images[~known]))
    return train, torch.tensor(parts[2]), test, torch.tensor(parts[3]), unknown


def fitted(train: Tensor, classes: Tensor, head: nn.Module, epochs: int, seed: int) -> nn.Sequential:
    """A perceptron of two hidden layers and the head, trained with AdamW and a cosine schedule."""
    trunk = nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    model = nn.Sequential(trunk, head)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(train) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(train), generator=generator).split(64)[: len(train) // 64]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(train[batch]), classes[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def last_layer(model: nn.Sequential, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the class vectors multiply, and the logits."""
    trunk, head = model
    features = trunk(images)
    behind = head.features_behind_neck(features) if isinstance(head, ETFHead) else features
    return behind, head(features)


@torch.no_grad()
def measure(model: nn.Sequential, data: tuple[Tensor, ...]) -> dict[str, float]:
    """Accuracy (%), NC1 of the training features, and the AUROC (%) of every score."""
    train, train_classes, test, test_classes, unknown = data
    head = model[1]
    weight = head.class_vectors() if isinstance(head, ETFHead) else head.weight
    bias = None if isinstance(head, ETFHead) else head.bias
    collapse = NeuralCollapse(KNOWN, weight=weight, bias=bias)
    features, logits = last_layer(model, train)
    collapse.update(features, train_classes)
    found = {
        "train_accuracy": 100.0 * (logits.argmax(1) == train_classes).float().mean().item(),
        "accuracy": 100.0 * (last_layer(model, test)[1].argmax(1) == test_classes).float().mean().item(),
        "nc1": collapse.compute()["nc1"].item(),
    }
    sides = [last_layer(model, images) for images in (test, unknown)]
    is_known = torch.cat([torch.ones(len(test)), torch.zeros(len(unknown))]).long()

    def judge(name: str, scores: list[Tensor]) -> None:
        # torchmetrics puts scores outside [0, 1] through a sigmoid, which ties large ones; ranks stay apart.
        order = torch.cat([s.double() for s in scores]).unique(return_inverse=True)[1]
        found[name] = 100.0 * auroc(order / order.max().clamp(min=1), is_known, task="binary").item()

    judge("msp", [z.double().softmax(1).amax(1) for _, z in sides])
    judge("max_logit", [z.amax(1) for _, z in sides])
    for scaled in (True, False):
        for share in (0.9, KNOWN - 1):
            directions = principal_directions(collapse.moments, share, standardize=scaled)
            name = f"neco{'' if scaled else '_unscaled'}_{'90%' if share == 0.9 else 'K-1'}"
            found[f"{name}_components"] = float(len(directions.components))
            judge(name, [neco_score(h, directions) for h, _ in sides])
            judge(f"{name}_x_logit", [neco_score(h, directions, z) for h, z in sides])
            if not scaled:
                judge(f"{name}_as_printed", [neco_score(h, directions, center=False) for h, _ in sides])
    for alpha in ALPHAS:
        scores = [
            nci_score(h, weight, directions.mean, predictions=z.argmax(1), alpha=alpha) for h, z in sides
        ]
        judge(f"nci_{alpha:g}", scores)
    judge("l1_norm", [h.abs().sum(1) for h, _ in sides])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, nargs="+", default=[5, 20, 100, 300])
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    for name in ("linear", "etf"):
        for epochs in args.epochs:
            runs = []
            for seed in range(args.seeds):
                torch.manual_seed(seed)
                data = digits(seed)
                head = nn.Linear(WIDTH, KNOWN) if name == "linear" else ETFHead(WIDTH, KNOWN, seed=seed)
                runs.append(measure(fitted(*data[:2], head, epochs, seed), data))
            each = {key: [run[key] for run in runs] for key in runs[0]}
            results.append(
                {
                    "head": name,
                    "epochs": epochs,
                    "seeds": args.seeds,
                    "train_samples": len(data[0]),
                    "test_samples": len(data[2]),
                    "unknown_samples": len(data[4]),
                    "over_seeds": {key: quartiles(values) for key, values in each.items()},
                    "runs": runs,
                }
            )
            print(f"{name}, {epochs} epochs")
            for key, values in each.items():
                print(f"  {key:34}{sum(values) / len(values):9.3f}  {[round(v, 3) for v in values]}")
    write("ood_digits", results, "cpu")


if __name__ == "__main__":
    main()
