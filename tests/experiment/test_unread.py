import os
import pickle

import pytest
import torch
from torch import nn

from etfhead.experiment.unread import why_unread


class Harm:
    def __reduce__(self):
        return os.getpid, ()


def refusal(path):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of whatever type
        torch.load(path, weights_only=True)
    return caught.value


@pytest.mark.parametrize("value", [Harm(), nn.Linear(1, 1)], ids=["function", "module"])
@pytest.mark.parametrize("write", [torch.save, lambda value, file: pickle.dump(value, file, protocol=2)])
def test_torchs_advice_to_open_it_all_the_same_is_left_out(tmp_path, value, write):
    with (tmp_path / "a.pt").open("wb") as file:
        write({"weight": value}, file)
    error = refusal(tmp_path / "a.pt")
    assert "will likely succeed" in str(error)
    assert why_unread(error) == "it holds a pickle of more than tensors, which is not opened"


@pytest.mark.parametrize("data", [b"", b"abc" * 100, b"x" * 9])
def test_other_reasons_are_one_line(tmp_path, data):
    (tmp_path / "a.pt").write_bytes(data)
    reason = why_unread(refusal(tmp_path / "a.pt"))
    assert reason
    assert len(reason.splitlines()) == 1
    assert len(why_unread(ValueError("long" * 100))) == 200
