from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.images import ArrayImages
from etfhead.experiment.data.multilabel_canvas import balanced_targets, compose
from etfhead.experiment.data.multilabel_generated import read_multilabel_digits, read_multilabel_fashion


def tagged(each, classes=4, side=3):
    """Images whose every pixel is the image's own number, from 1."""
    labels = np.repeat(np.arange(classes), each)
    numbers = np.arange(1, len(labels) + 1, dtype=np.uint8)
    return ArrayImages(np.broadcast_to(numbers[:, None, None], (len(labels), side, side)).copy(), labels)


def numbers_in(canvas):
    return sorted(set(canvas.ravel().tolist()) - {0})


@pytest.mark.parametrize("counts", [(2,), (3, 2), (1, 0, 4), (0, 0, 0, 2)])
def test_each_set_is_equally_frequent(counts):
    rows = balanced_targets(5, counts)
    seen = {}
    for row in rows:
        key = tuple(np.flatnonzero(row))
        seen[key] = seen.get(key, 0) + 1
    expected = {
        members: each
        for size, each in enumerate(counts, start=1)
        for members in combinations(range(5), size)
        if each
    }
    assert seen == expected


@pytest.mark.parametrize("counts", [(), (0, 0), (-1, 2), (1, 1, 1, 1, 1)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="images_per_set: expected 1 to 4 counts"):
        balanced_targets(6, counts)
    with pytest.raises(DataError, match="eval_images_per_set"):
        read_multilabel_digits(eval_images_per_set=counts)


def test_a_canvas_holds_one_whole_image_of_each_label_in_its_own_cell():
    source, cell = tagged(5), 5
    targets = balanced_targets(4, (6, 4, 3, 7))
    made = compose(source, targets, cell=cell, seed=1)
    assert made.pixels.shape == (len(targets), 10, 10)
    assert made.labels is targets
    places = set()
    for canvas, target in zip(made.pixels, targets, strict=True):
        numbers = numbers_in(canvas)
        labels = [source.labels[number - 1] for number in numbers]
        assert sorted(labels) == np.flatnonzero(target).tolist()
        for number in numbers:
            rows, columns = np.nonzero(canvas == number)
            assert len(rows) == 9  # nothing covered
            assert np.ptp(rows) == np.ptp(columns) == 2
            assert rows.min() // cell == rows.max() // cell  # within one cell
            assert columns.min() // cell == columns.max() // cell
            places.add((int(rows.min()), int(columns.min())))
    assert len(places) == 36  # four cells, three by three offsets


def test_the_images_of_a_class_take_turns_and_change_partners():
    source = tagged(4)
    targets = balanced_targets(4, (3, 2))  # 3 + 6 images of each class: two rounds and one
    made = compose(source, targets, cell=4, seed=0)
    singles = compose(tagged(7), balanced_targets(4, (21,)), cell=4, seed=0)
    order = np.array([numbers_in(canvas)[0] for canvas in singles.pixels]).reshape(4, 3, 7)
    for rounds in order:
        assert len({tuple(sorted(turn)) for turn in rounds}) == 1  # all seven in each round
        assert len({tuple(turn) for turn in rounds}) == 3  # in another order
    used = np.bincount([n for canvas in made.pixels for n in numbers_in(canvas)], minlength=17)[1:]
    assert used.reshape(4, 4).sum(1).tolist() == [9] * 4
    assert set(used.tolist()) <= {2, 3}
    pairs = [tuple(numbers_in(canvas)) for canvas in made.pixels if len(numbers_in(canvas)) == 2]
    assert len(set(pairs)) == len(pairs)


def test_composition_depends_on_the_seed_alone():
    source, targets = tagged(4), balanced_targets(4, (3, 2))
    first, again, other = (compose(source, targets, cell=4, seed=seed).pixels for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_cannot_be_composed():
    with pytest.raises(ValueError, match="at most 2x2"):
        compose(tagged(2), balanced_targets(4, (1,)), cell=2, seed=0)
    with pytest.raises(ValueError, match="at most 4 labels a row, got 5"):
        compose(tagged(2, classes=5), np.ones((1, 5), dtype=np.int64), cell=4, seed=0)
    with pytest.raises(ValueError, match="class 3 has no image"):
        compose(tagged(2, classes=3), balanced_targets(4, (1,)), cell=4, seed=0)


def digits_in(canvas):
    """The four cells of a canvas."""
    return [canvas[y : y + 16, x : x + 16] for y in (0, 16) for x in (0, 16)]


def test_no_digit_is_seen_in_two_splits():
    parts = read_multilabel_digits(
        train_images_per_set=(130,), eval_images_per_set=(20,), val_fraction=0.1, split_seed=5
    )

    def shapes(images):
        found = set()
        for canvas in images.pixels:
            for cell in digits_in(canvas):
                if cell.any():
                    rows, columns = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
                    found.add(cell[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].tobytes())
        return found

    train, val, test = shapes(parts.train), shapes(parts.val), shapes(parts.test)
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) > 1200  # nearly all training digits are used
    assert len(val) > 130
    assert len(test) > 190


def test_split_seed_moves_training_and_validation_but_not_the_test_part():
    few = {"train_images_per_set": (4, 1), "eval_images_per_set": (2, 1)}
    first, again, other = (read_multilabel_digits(split_seed=seed, **few) for seed in (0, 0, 1))
    assert first.digest() == again.digest() != other.digest()
    assert np.array_equal(first.test.pixels, other.test.pixels)
    assert not np.array_equal(first.val.pixels, other.val.pixels)
    assert first.class_names == read_digits().class_names
    assert first.label_counts == (4 + 9,) * 10
    assert first.set_sizes == (0, 40, 45)
    assert "training [4, 1], others [2, 1]" in first.notes[-1]
    assert set(first.duplicates) == {
        "source_train_part_images_removed_as_in_test",
        "source_val_images_removed_as_in_train",
        "source_images_with_conflicting_labels",
    }


def test_limit_keeps_the_balance():
    parts = read_multilabel_digits(train_images_per_set=(20, 4), eval_images_per_set=(1,))
    fewer = parts.limited(190, seed=0)
    assert len(fewer.train) == 190
    sizes = np.bincount([int("".join(map(str, row)), 2) for row in fewer.train.labels])
    assert set(sizes[sizes > 0].tolist()) == {2, 10}
    assert parts.limited(None, 0) is parts
    assert fewer.digest() != parts.digest()


def test_garments_fill_cells_of_their_size(tmp_path, write_idx):
    parts = read_multilabel_fashion(
        str(write_idx(tmp_path)),
        False,
        train_images_per_set=(2, 1),
        eval_images_per_set=(1, 0, 1),
    )
    assert parts.train.pixels.shape == (20 + 45, 64, 64)
    assert parts.val.pixels.shape == parts.test.pixels.shape == (10 + 120, 64, 64)
    covered = (parts.test.pixels > 0).sum((1, 2)) / 28**2  # noise images: nearly no black pixel
    np.testing.assert_allclose(covered, parts.test.labels.sum(1), rtol=0.02)
    assert parts.class_names[0] == "T-shirt/top"
