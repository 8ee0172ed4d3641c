from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.idx import read_idx


def _head(*shape: int, magic: int | None = None) -> bytes:
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape)


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_row_major_bytes(tmp_path, zipped):
    data = _head(2, 3, 4) + bytes(range(24))
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if zipped else data)
    array = read_idx(path, ndim=3)
    assert array.tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    assert array.flags.writeable


@pytest.mark.parametrize(("data", "message"), [
    (b"", "magic number expected 0x00000803, got 0x;"),
    (_head(2, magic=0x0801) + b"ab", "magic number expected 0x00000803, got 0x00000801"),
    (_head(1, 1, 1, magic=0x0D03) + b"abcd", "got 0x00000d03"),
    (_head(2, 2, 2)[:10], "truncated inside its header"),
    (_head(2, 2, 2) + bytes(7), r"states \(2, 2, 2\) = 8 bytes of data, got 7"),
    (_head(2, 2, 2) + bytes(9), r"= 8 bytes of data, got more"),
    (gzip.compress(_head(2, 2, 2) + bytes(8), mtime=0)[:-9], "cannot read .*images: "),
    (b"\x1f\x8bnot gzip at all", "cannot read .*images: "),
])  # fmt: skip
def test_damaged_files_are_named(tmp_path, data, message):
    path = tmp_path / "images"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, ndim=3)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*absent"):
        read_idx(tmp_path / "absent", ndim=1)
