"""Bytes that should be labels or images: read, or refused as data errors."""

import io

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from etfhead.errors import DataError
from etfhead.experiment.data.label_files import read_label_file
from etfhead.experiment.data.multilabel_npz import read_multilabel_npz
from etfhead.experiment.data.npz import count_npz_classes, read_npz
from etfhead.experiment.data.regression_npz import count_npz_targets, read_regression_npz
from tests.fuzz.exploring import attempt, explore, sizes


def saved(write):
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def archive(**arrays):
    return saved(lambda file: np.savez_compressed(file, **arrays))


LABELS = np.arange(12) % 3
LABEL_FILES = {
    "npy": saved(lambda file: np.save(file, LABELS)),
    "pt": saved(lambda file: torch.save({"a": torch.tensor(LABELS), "b": LABELS.tolist()}, file)),
    "csv": b"a,b\n" + b"".join(b"%d,%d\n" % (k, 2 - k) for k in LABELS),
}
PIXELS = np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4)
ARCHIVES = [
    archive(x_train=PIXELS, y_train=LABELS, x_test=PIXELS, y_test=LABELS),
    archive(x=np.eye(12), y=np.eye(12)[:, :2], split=np.array(["train", "test", "val"] * 4)),
    archive(
        x_train=PIXELS,
        y_train=np.eye(3, dtype=np.int64)[LABELS],
        x_test=PIXELS,
        y_test=np.eye(3, dtype=np.int64)[LABELS],
    ),
]


def damaged(whole):
    """The bytes with some of them changed, cut off or doubled."""
    places = st.integers(0, len(whole) - 1)
    change = st.tuples(places, st.binary(max_size=4), st.integers(0, 8))

    def apply(changes):
        found = whole
        for at, new, gone in changes:
            found = found[:at] + new + found[at + gone :]
        return found

    return st.one_of(
        st.lists(change, min_size=1, max_size=4).map(apply),
        places.map(lambda end: whole[:end]),
        st.binary(max_size=60),
    )


def refused_or_read(read):
    found, error = attempt(read, DataError)
    assert error is None or str(error).strip()
    return found


@sizes(60, 1000)
@pytest.mark.parametrize("kind", LABEL_FILES)
def test_label_files(size, kind, tmp_path):
    path = tmp_path / f"labels.{kind}"
    keys = st.sampled_from(["", ":a", ":b", ":c", ":"])

    def check(case):
        content, key = case
        path.write_bytes(content)
        found = refused_or_read(lambda: read_label_file(f"{path}{key}", images=12, num_classes=3))
        if found is not None:
            assert found.dtype == np.int64
            assert found.shape == (12,)
            assert 0 <= found.min() <= found.max() < 3

    explore(size // 3, st.tuples(damaged(LABEL_FILES[kind]), keys), check)


@sizes(60, 1000)
def test_archives(size, tmp_path):
    path = tmp_path / "set.npz"

    def check(content):
        path.write_bytes(content)
        found = refused_or_read(lambda: read_npz(str(path)))
        if found is not None:
            assert len(found.train) == len(found.train.pixels)
            assert found.train.labels.max() < len(found.class_names)
        refused_or_read(lambda: count_npz_classes(str(path)))
        refused_or_read(lambda: read_multilabel_npz(str(path)))
        refused_or_read(lambda: read_regression_npz(str(path)))
        refused_or_read(lambda: count_npz_targets(str(path)))

    explore(size, st.one_of(*map(damaged, ARCHIVES)), check)


VALUES = st.one_of(st.integers(), st.floats(), st.text(max_size=3), st.booleans())
KINDS = ["u1", "i8", "i2", "f8", "f2", "?", "U2", "S2", "c8", "M8[s]", "O"]
ARRAYS = st.tuples(
    st.sampled_from(KINDS), st.lists(st.sampled_from([0, 1, 2, 3, 12]), max_size=4), st.integers(-2, 300)
)


def built(kind, shape, value):
    with np.errstate(all="ignore"):
        return np.full(shape, value).astype(kind)


@sizes(60, 1000)
def test_whole_archives_of_the_wrong_arrays(size, tmp_path):
    path = tmp_path / "set.npz"
    names = ("x_train", "y_train", "x_test", "y_test", "x", "y", "split", "class_names", "target_names")

    def check(case):
        arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}
        arrays |= {"x": np.eye(12), "y": np.eye(12)[:, :2]}
        arrays |= {name: built(*each) for name, each in case.items()}
        path.write_bytes(archive(**arrays))
        for read in (
            read_npz,
            count_npz_classes,
            read_multilabel_npz,
            read_regression_npz,
            count_npz_targets,
        ):
            refused_or_read(lambda read=read: read(str(path)))

    explore(size, st.dictionaries(st.sampled_from(names), ARRAYS, min_size=1, max_size=2), check)
