"""Labels from files: every format reads the same, and everything else is refused with a reason."""

import pickle

import numpy as np
import pytest
import torch

from etfhead.errors import DataError
from etfhead.experiment.data.label_files import read_label_file

LABELS = np.array([0, 2, 1, 1, 0, 2, 2])


def read(path, images=7, num_classes=3):
    return read_label_file(str(path), images=images, num_classes=num_classes)


@pytest.fixture
def put(tmp_path):
    def write(name, content):
        path = tmp_path / name
        if path.suffix == ".npy":
            np.save(path, content)
        elif path.suffix == ".csv":
            path.write_text(content)
        else:
            torch.save(content, path)
        return path

    return write


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", LABELS),
        ("a.npy", LABELS.astype(np.uint8)),
        ("a.npy", LABELS.astype(np.float32)),
        ("a.pt", torch.from_numpy(LABELS)),
        ("a.pth", LABELS),
        ("a.pt", LABELS.astype(np.float64)),
        ("a.pt", torch.nn.Parameter(torch.from_numpy(LABELS).bfloat16())),
        ("a.pt", LABELS.tolist()),
        ("a.csv", "\n".join(map(str, LABELS)) + "\n"),
        ("a.csv", "label\n" + "\n".join(f"{k}.0" for k in LABELS) + "\n\n"),
        ("a.CSV", "\n".join(map(str, LABELS))),
    ],
)
def test_every_format_gives_the_same_labels(put, name, content):
    if name.endswith("CSV"):
        path = put("a.csv", content)
        path = path.rename(path.with_suffix(".CSV"))
    else:
        path = put(name, content)
    labels = read(path)
    assert labels.dtype == np.int64
    assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
def test_a_dict_of_arrays_is_read_by_its_key(put, dtype):
    path = put("human.pt", {"clean_label": np.zeros(7, dtype), "worse_label": LABELS.astype(dtype)})
    assert read(f"{path}:worse_label").tolist() == LABELS.tolist()
    assert read(f"{path}:clean_label").tolist() == [0] * 7
    with pytest.raises(DataError, match=r"say which, as in human.pt:KEY, of clean_label, worse_label"):
        read(path)
    with pytest.raises(DataError, match="has no 'worst'; it holds clean_label, worse_label"):
        read(f"{path}:worst")
    assert read(f"{put('numbered.pt', {1: LABELS.astype(dtype)})}:1").tolist() == LABELS.tolist()


def test_the_pickles_that_older_numpy_wrote_are_read(put, monkeypatch, tmp_path):
    # torch.save pickles with protocol 2, and NumPy 1 called the maker numpy.core.multiarray._reconstruct.
    path = tmp_path / "old.pt"
    torch.save({"noisy_label": LABELS}, path, _use_new_zipfile_serialization=False)
    raw = path.read_bytes()
    assert b"numpy._core.multiarray" in raw
    path.write_bytes(raw.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    assert read(f"{path}:noisy_label").tolist() == LABELS.tolist()


class Trap:
    def __reduce__(self):
        return (print, ("code of the file ran",))


def test_code_in_a_file_never_runs(put, tmp_path, capsys):
    with pytest.raises(DataError, match="nothing else is loaded: it could run code; save the labels alone"):
        read(f"{put('a.pt', {'x': LABELS, 'y': Trap()})}:x")
    with pytest.raises(DataError, match="nothing else is loaded"):
        read(put("o.pt", np.array([Trap()] * 7, dtype=object)))
    path = tmp_path / "a.npy"
    np.save(path, np.array([Trap()] * 7, dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged or not a file of labels"):
        read(path)
    plain = tmp_path / "b.pt"
    plain.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="nothing else is loaded"):
        read(plain)
    assert "ran" not in capsys.readouterr().out


def test_one_of_several_columns(put):
    path = put("a.csv", "image,clean,worst\n" + "".join(f"i{i},0,{k}\n" for i, k in enumerate(LABELS)))
    assert read(f"{path}:worst").tolist() == LABELS.tolist()
    with pytest.raises(DataError, match=r"several columns; say which, as in a.csv:COLUMN, of image, clean"):
        read(path)
    with pytest.raises(DataError, match="no column 'best'; its columns are image, clean, worst"):
        read(f"{path}:best")
    with pytest.raises(DataError, match="line 2 holds 'i0', expected a whole number"):
        read(f"{path}:image")
    twice = put("b.csv", "label,label\n" + "0,1\n" * 7)
    with pytest.raises(DataError, match="several columns 'label'; its columns are label, label"):
        read(f"{twice}:label")
    with pytest.raises(DataError, match="line 6 holds 'x'"):  # as an editor counts, blank lines too
        read(put("c.csv", "label\n0\n\n2\n1\nx\n0\n2\n2\n"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (LABELS[:-1], r"holds 6 labels, expected 7: one for each image of the data set's training part"),
        (LABELS + 1, r"label 3 at position 1, expected whole numbers from 0 to 2"),
        (LABELS - 1, r"label -1 at position 0"),
        (LABELS + 0.5, r"label 0.5 at position 0"),
        (np.full(7, np.nan), r"label nan at position 0"),
        (np.eye(7), r"expected labels \(N,\), whole numbers, got float64 of shape \(7, 7\)"),
        (np.array(["0"] * 7), r"expected labels \(N,\)"),
    ],
)
def test_wrong_labels_are_refused(put, content, match):
    with pytest.raises(DataError, match=match):
        read(put("a.npy", content))


def test_wrong_files_are_refused(put, tmp_path):
    with pytest.raises(DataError, match=r"ends in .npy, .pt or .csv, or FILE:KEY"):
        read(tmp_path / "labels.txt")
    with pytest.raises(DataError, match=r"no such file of labels"):
        read(tmp_path / "none.npy")
    with pytest.raises(DataError, match=r"a .npy file holds one array; leave the key out"):
        read(f"{put('a.npy', LABELS)}:key")
    with pytest.raises(DataError, match=r"holds one set of labels; leave the key out"):
        read(f"{put('a.pt', torch.from_numpy(LABELS))}:key")
    with pytest.raises(DataError, match=r"no header with names of columns"):
        read(f"{put('a.csv', '0')}:key")
    with pytest.raises(DataError, match=r"the file is empty"):
        read(put("b.csv", "\n"))
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match=r"bad.pt: damaged, or holds more than"):
        read(bad)
