"""A comparison that trains in a second: 40 noise images, 100,000 parameters, 2 epochs of 5 steps."""

import dataclasses
import os

import pytest
import torch
from torch.utils.data import Dataset

from etfhead.experiment import runner
from etfhead.experiment.data import Splits
from etfhead.experiment.recipe import Arm, Recipe


class TinyData(Dataset):
    """Noise images with a faint class pattern; ``before`` is called with the number of items read so far."""

    def __init__(self, n, classes, *, keyed, seed):
        generator = torch.Generator().manual_seed(seed)
        self.labels = torch.arange(n) % classes
        patterns = torch.randn(classes, 1, 32, 32, generator=torch.Generator().manual_seed(99))
        self.images = torch.randn(n, 1, 32, 32, generator=generator) + 0.5 * patterns[self.labels]
        self.keyed = keyed
        self.read = []
        self.before = lambda count: None

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, item):
        self.before(len(self.read))
        self.read.append(item)
        index, key = item if self.keyed else (item, 0)
        image = self.images[index].clone()
        if self.keyed:  # augmentation: the key decides
            image += 0.1 * torch.randn(image.shape, generator=torch.Generator().manual_seed(key))
        return image, int(self.labels[index])


@pytest.fixture
def splits():
    classes = 4
    return Splits(
        train=TinyData(40, classes, keyed=True, seed=0),
        plain=TinyData(40, classes, keyed=False, seed=0),
        val=TinyData(12, classes, keyed=False, seed=1),
        test=TinyData(12, classes, keyed=False, seed=2),
        num_classes=classes,
        class_names=("a", "b", "c", "d"),
        class_counts=(10, 10, 10, 10),
        info={"digest": "tiny", "sizes": {"train": 40, "val": 12, "test": 12}},
    )


ARMS = {
    "learnable": Arm(head="linear"),
    "cosine": Arm(head="cosine"),
    "etf": Arm(head="etf", basis="haar"),
}


@pytest.fixture
def recipe():
    """Everything random is on: dropout, stochastic depth, mixup and cutmix; a moving average too."""
    return Recipe(
        name="tiny",
        model="test_efficientnet",
        img_size=32,
        in_chans=1,
        drop=0.2,
        drop_path=0.2,
        dataset="synthetic",
        batch_size=8,
        mixup=0.4,
        cutmix=0.4,
        epochs=2,
        lr=2e-3,
        warmup_epochs=1,
        clip_grad=1.0,
        smoothing=0.1,
        model_ema=True,
        model_ema_decay=0.9,
        cpu=True,
        seeds=(0,),
        arms={"etf": ARMS["etf"]},
        baseline="etf",
    )


@pytest.fixture
def three_arms(recipe):
    return dataclasses.replace(recipe, arms=ARMS, baseline="learnable")


class Loaded:
    """Stands for what was read: the same splits for every seed."""

    how_split = ""

    def __init__(self, splits):
        self.given = splits

    def splits(self, seed=None):
        return self.given

    def info(self):
        names = {"class_names": list(self.given.class_names), "class_counts": list(self.given.class_counts)}
        return {**self.given.info, **names}


@pytest.fixture
def run(monkeypatch, splits):
    """``runner.run`` on the tiny splits, without writing a report."""
    monkeypatch.setattr(runner, "read_data", lambda recipe: Loaded(splits))
    monkeypatch.setattr("etfhead.experiment.report.write_report", lambda out: out)
    return runner.run


@pytest.fixture
def kill_at():
    """Send a signal to this process when a data set is asked for its n-th item."""

    def arm(dataset, count, signum):
        start = len(dataset.read)

        def before(read):
            if read - start == count:
                os.kill(os.getpid(), signum)

        dataset.before = before

    return arm
