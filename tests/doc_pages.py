"""Every fenced block of every page, and what its reader is assumed to have."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

import etfhead

ROOT = Path(__file__).parent.parent
# The changelog may name what is gone.
PAGES = [page for page in sorted(ROOT.glob("*.md")) if page.name != "CHANGELOG.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it begins, its language, and what is in it."""

    page: str
    line: int
    kind: str
    code: str


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = (ROOT / page).read_text()
    found = [
        Block(page, text[: match.start()].count("\n") + 2, match[2].strip(), match[3])
        for match in _FENCE.finditer(text)
    ]
    fences = len(re.findall(r"^ *```", text, re.MULTILINE))
    assert fences == 2 * len(found), f"{page}: {fences} fences, {len(found)} blocks"
    return found


def smaller(page: str, kind: str) -> list[Block]:
    """The blocks of one kind as tests run them. What is replaced must be there."""
    found = [block for block in blocks(page) if block.kind == kind]
    words = SMALLER.get(page, {})
    everything = "".join(block.code for block in blocks(page))
    assert all(word in everything for word in words), f"{page} has not all of {list(words)}"
    for word, small in words.items():
        found = [replace(block, code=block.code.replace(word, small)) for block in found]
    return found


def prose(page: str) -> str:
    """A page without its blocks."""
    return _FENCE.sub("", (ROOT / page).read_text())


# A word of a block and what a test puts in its place. Each must occur.
SMALLER: dict[str, dict[str, str]] = {
    "README.md": {"range(0, 1000, 50)": "range(0, 100, 50)", "num_classes=1000)": "num_classes=100)"},
    "docs/large_k.md": {"1_000_000, 1024": "20_000, 256", "nn.Linear(256, 1024)": "nn.Linear(256, 256)"}
    | {"nn.Linear(1024, d)": "nn.Linear(256, d)"},
    "docs/multilabel_head.md": {"resnet18": "test_resnet"},
    "docs/union.md": {
        "frame.matrix()": "etfhead.make_frame('union', num_classes=5_000, in_features=1024).matrix()"
    }
    | {"(64, 96, 128, 192, 256, 320, 512, 768, 1024, 1280, 2048)": "(64, 96)", "(2000, 5000)": "(200, 500)"},
}


def start(page: str) -> dict[str, Any]:
    """What the first block of a page finds: the three imports of the README, and a reader's own things."""
    names = {"timm": timm, "torch": torch, "etfhead": etfhead}
    return names | (GIVEN[page]() if page in GIVEN else {})


def _loader(classes: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(2 * classes, 3, 32, 32), torch.arange(2 * classes) % classes) for _ in range(2)]


def _training(classes: int = 10) -> dict[str, Any]:
    images, target = _loader(classes)[0]
    model = timm.create_model("test_resnet", num_classes=classes)
    given = {"model": model, "loader": _loader(classes), "images": images, "target": target, "K": classes}
    return given | {"labels": target, "logits": torch.randn(2 * classes, classes, requires_grad=True)}


def _features(d: int = 16, classes: int = 10) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(4 * classes, d), torch.arange(4 * classes) % classes) for _ in range(2)]


def _trunk(d: int = 16) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, d))


def _collapse() -> dict[str, Any]:
    given = _training()
    width = given["model"].fc.in_features
    return given | {"batches": _features(width), "epochs": 5, "W": torch.randn(10, width)}


def _frame_cross_entropy() -> dict[str, Any]:
    frame = etfhead.make_frame("union", num_classes=100, in_features=16)
    return _training() | {"frame": frame, "x": torch.randn(8, 16), "y": torch.arange(8)}


def _frame_distance() -> dict[str, Any]:
    head = nn.Linear(16, 10, bias=False)
    return {"class_counts": list(range(50, 0, -5)), "head": head, "trunk": _trunk(), "loader": _loader()}


def _memory() -> dict[str, Any]:
    return _training() | {"train_set": range(20), "index": torch.arange(20)}


def _memorization() -> dict[str, Any]:
    trunk = _trunk()
    train = [(images, true, (true + (torch.arange(20) % 5 == 0)) % 10) for images, true in _loader()]
    given = {"features": trunk, "logits": nn.Sequential(trunk, nn.Linear(16, 10)), "K": 10}
    return given | {"train_loader": train, "test_loader": _loader()}


def _label_sets() -> dict[str, Any]:
    sets = torch.eye(10) + torch.eye(10).roll(1, 1)
    loader = [(torch.randn(30, 3, 32, 32), torch.cat([torch.eye(10), torch.eye(10), sets]))]
    return _training() | {"loader": loader}


def _label_scores() -> dict[str, Any]:
    target = torch.rand(40, 5) < 0.4
    scores = torch.rand(40, 5)
    images, labels = np.zeros((40, 8, 8), dtype=np.uint8), target.numpy()
    given = {"images": images, "labels": labels, "names": list("abcde"), "split": ["train"] * 40}
    splits = SimpleNamespace(class_counts=target.sum(0).tolist())
    return (
        given
        | {"K": 5, "splits": splits, "probabilities": scores, "predictions": scores > 0.5}
        | {"target": target}
    )


def _unknown_inputs() -> dict[str, Any]:
    head = etfhead.ETFHead(16, 10).eval()
    known = torch.arange(20) % 2
    return {"K": 10, "head": head, "trunk": _trunk(), "train_loader": _loader()} | {
        "images": torch.randn(20, 3, 32, 32),
        "is_known": known,
    }


def _regression() -> dict[str, Any]:
    model = timm.create_model("test_resnet", num_classes=3)
    width = model.fc.in_features
    targets = torch.randn(50, 3)
    batches = [(torch.randn(50, width), targets)]
    return {"model": model, "train_targets": targets, "batches": batches, "n": 3} | {
        "x": torch.randn(8, 3, 32, 32),
        "y": torch.randn(8, 3),
    }


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/class_mean_head.md": _training,
    "docs/collapse.md": _collapse,
    "docs/delta_rule.md": _training,
    "docs/dot_regression.md": _training,
    "docs/etf_head.md": _training,
    "docs/frame_cross_entropy.md": _frame_cross_entropy,
    "docs/frame_distance.md": _frame_distance,
    "docs/label_noise_losses.md": _memory,
    "docs/long_tail_losses.md": lambda: _training() | {"class_counts": list(range(50, 0, -5))},
    "docs/memorization_dilation.md": _memorization,
    "docs/migration.md": lambda: {"loader": _loader()},
    "docs/multilabel_collapse.md": _label_sets,
    "docs/multilabel_data.md": _label_scores,
    "docs/ood_scores.md": _unknown_inputs,
    "docs/orientation.md": lambda: {"K": 10, "d": 16, "trunk": _trunk(), "loader": _loader()},
    "docs/orthogonal_frames.md": lambda: _training(4),
    "docs/orthoplex.md": lambda: {"h": torch.randn(2, 512)},
    "docs/regression.md": _regression,
    "docs/simplex.md": lambda: {"h": torch.randn(2, 512)},
    "docs/union.md": lambda: {"h": torch.randn(2, 1024)},
}
