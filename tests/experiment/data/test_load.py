from __future__ import annotations

import json
import random
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from etfhead.errors import DataError
from etfhead.experiment.data import KeyedBatchSampler, load_data, make_eval_loader, make_train_loader

AUGMENTED = {"no_aug": False, "aa": "rand-m9-mstd0.5", "reprob": 0.5, "color_jitter": 0.4}
CROPPED = {"no_aug": False, "crop_padding": 2}


def _items(dataset, indices):
    return [dataset[i] for i in indices]


def _same(a, b) -> bool:
    return all(
        x.equal(y) and torch.equal(torch.as_tensor(k), torch.as_tensor(j))
        for (x, k), (y, j) in zip(a, b, strict=True)
    )


def test_digits_split_is_a_partition_of_all_images(make_recipe):
    splits = load_data(make_recipe(dataset="digits", in_chans=1))
    sizes = splits.info["sizes"]
    assert sum(sizes.values()) == 1797
    assert splits.num_classes == 10
    assert sum(splits.class_counts) == sizes["train"]
    rows = [splits.train[i, 0][0] for i in range(sizes["train"])]
    rows += _items([x for x, _ in splits.val], range(sizes["val"]))
    rows += _items([x for x, _ in splits.test], range(sizes["test"]))
    # The 1,797 images are all different, so a partition shows 1,797 different tensors.
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 1797
    assert max(splits.class_counts) - min(splits.class_counts) <= 7


def test_digits_keep_their_sixteen_levels(make_recipe):
    from sklearn.datasets import load_digits

    splits = load_data(make_recipe(dataset="digits", in_chans=1, mean=(0.0,), std=(1.0,)))
    levels = (torch.stack([x for x, _ in splits.test]) * 16).round()
    known = {(*image.flatten().tolist(), label) for image, label in zip(*_bunch(load_digits()), strict=True)}
    assert all((*x.flatten().tolist(), y) in known for x, (_, y) in zip(levels, splits.test, strict=True))


def _bunch(bunch):
    return bunch.images, bunch.target


def test_test_split_is_fixed_and_val_depends_on_the_split_seed(make_recipe):
    base = load_data(make_recipe(dataset="digits"))
    other = load_data(make_recipe(dataset="digits", split_seed=1, train_limit=100, val_fraction=0.2))
    assert base.test.labels == other.test.labels
    assert _same(_items(base.test, range(20)), _items(other.test, range(20)))
    assert len(other.train) == sum(other.class_counts) == 100
    assert base.info["digest"] != other.info["digest"]
    assert base.info["mean"] == other.info["mean"]
    again = load_data(make_recipe(dataset="digits", split_seed=1, train_limit=100, val_fraction=0.2))
    assert again.info == other.info


def test_info_is_json(make_recipe):
    info = load_data(make_recipe()).info
    assert json.loads(json.dumps(info)) == info
    assert len(info["digest"]) == 64


@pytest.mark.parametrize("in_chans", [1, 3])
def test_synthetic_classes_can_be_learned(make_recipe, in_chans):
    """The nearest class mean of the training split names most validation and test images."""
    splits = load_data(make_recipe(img_size=16, in_chans=in_chans))
    loader = make_train_loader(splits.train, KeyedBatchSampler(len(splits.train), 999, 0))
    images, labels = next(iter(loader))
    means = torch.stack([images[labels == k].mean(0) for k in range(10)]).flatten(1)
    for dataset in (splits.val, splits.test):
        held, truth = next(iter(make_eval_loader(dataset, 100)))
        assert (torch.cdist(held.flatten(1), means).argmin(1) == truth).float().mean() > 0.6


def test_training_images_are_normalised(make_recipe):
    splits = load_data(make_recipe(img_size=16))
    images, _ = next(iter(make_train_loader(splits.train, KeyedBatchSampler(len(splits.train), 999, 0))))
    assert images.dtype == torch.float32
    assert images.mean((0, 2, 3)).abs().max() < 0.02
    assert (images.std((0, 2, 3)) - 1).abs().max() < 0.02


@pytest.mark.parametrize("options", [AUGMENTED, CROPPED, {}])
def test_plain_items_are_the_training_images_without_augmentation(make_recipe, options):
    splits = load_data(make_recipe(img_size=16, **options))
    still = load_data(make_recipe(img_size=16))
    assert splits.plain.labels == splits.train.labels
    indices = range(0, len(still.train), 17)
    assert _same(_items(splits.plain, indices), [still.train[i, 5] for i in indices])
    if "aa" not in options:
        assert splits.plain.fetch.prepared is splits.train.fetch.prepared, "no second copy of the images"


@pytest.mark.parametrize("options", [AUGMENTED, CROPPED])
def test_an_item_depends_on_its_index_and_key_alone(make_recipe, options):
    train = load_data(make_recipe(img_size=16, **options)).train
    alone = [train[3, key] for key in range(6)]
    batch = train.__getitems__([(9, 77), *((3, key) for key in reversed(range(6)))])
    assert _same(alone, batch[:0:-1])
    assert len({tuple(x.flatten().tolist()) for x, _ in alone}) > 1


@pytest.mark.parametrize("options", [AUGMENTED, CROPPED, {}])
def test_drawing_items_leaves_the_global_generators_alone(make_recipe, options):
    splits = load_data(make_recipe(img_size=16, **options))

    def after(draw) -> tuple[float, float, float]:
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        draw()
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def draw_all() -> None:
        splits.train[0, 5]
        for _ in make_train_loader(splits.train, KeyedBatchSampler(len(splits.train), 64, 0)):
            pass
        for _ in make_eval_loader(splits.val, 16):
            pass

    assert after(draw_all) == after(lambda: None)


@pytest.mark.parametrize("options", [AUGMENTED, CROPPED])
def test_items_are_the_same_from_workers_and_after_a_resume(make_recipe, options):
    splits = load_data(make_recipe(img_size=16, **options))
    sampler = KeyedBatchSampler(len(splits.train), 48, seed=3)
    by_workers = make_train_loader(splits.train, sampler, workers=2)
    for epoch, start in ((2, 0), (3, 2)):
        sampler.set_epoch(epoch)
        whole = list(make_train_loader(splits.train, sampler))
        sampler.set_epoch(epoch, start_step=start)
        resumed = list(by_workers)
        assert len(resumed) == len(whole) - start
        assert _same(resumed, whole[start:])


class _Signals(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[int, int]:
        handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        return int(handlers[0] is signal.SIG_IGN), int(handlers[1] is signal.SIG_IGN)


def test_workers_leave_ctrl_c_and_sigterm_to_the_main_process():
    assert [tuple(map(int, pair)) for pair in make_eval_loader(_Signals(), 1, workers=1)] == [(1, 1)]


def test_any_other_loader_works_too(make_recipe):
    splits = load_data(make_recipe(img_size=16))
    ours = list(make_eval_loader(splits.test, 30))
    assert [len(y) for _, y in ours] == [30, 30, 20]
    assert _same(ours, list(DataLoader(splits.test, batch_size=30)))
    half = list(make_eval_loader(Subset(splits.test, range(0, 80, 2)), 40))
    assert half[0][1].tolist() == splits.test.labels[::2]


@pytest.mark.parametrize("options", [{}, AUGMENTED])
def test_positions_outside_a_split_are_index_errors(make_recipe, options):
    splits = load_data(make_recipe(**options))
    with pytest.raises(IndexError):
        splits.test[80]
    with pytest.raises(IndexError):
        splits.train[len(splits.train), 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_stops_the_loader_with_one_line(tmp_path, image_tree, make_recipe, workers):
    root = image_tree(tmp_path)
    splits = load_data(make_recipe(dataset="image_folder", data_root=str(root), val_fraction=0.2))
    (root / "test/dog/1.png").write_bytes(b"\x89PNG broken")  # it breaks after it was checked
    with pytest.raises(DataError, match=r"^cannot decode image .*test/dog/1\.png") as caught:
        list(make_eval_loader(splits.test, 4, workers=workers))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"train_limit": 9}, r"train_limit must be at least the number of classes \(10\), got 9"),
    ({"val_fraction": 0.99}, "val_fraction=0.99 leaves class 'pattern 0'"),
    ({"aa": "nonsense", "no_aug": False}, "aa='nonsense'"),
])  # fmt: skip
def test_bad_options(make_recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        load_data(make_recipe(**changes))


def test_image_folder_with_augmentation_by_workers(tmp_path, image_tree, make_recipe):
    root = image_tree(tmp_path, side=20)
    recipe = make_recipe(
        dataset="image_folder", data_root=str(root), val_fraction=0.2, img_size=16, in_chans=1, **AUGMENTED
    )
    splits = load_data(recipe)
    sampler = KeyedBatchSampler(len(splits.train), 4, seed=0)
    here, there = (list(make_train_loader(splits.train, sampler, workers=n)) for n in (0, 2))
    assert here[0][0].shape == (4, 1, 16, 16)
    assert _same(here, there)


def test_importing_the_data_package_loads_no_heavy_library():
    import subprocess
    import sys

    code = (
        "import sys, etfhead.experiment.data\n"
        "print({'timm', 'torchvision', 'sklearn', 'matplotlib', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
