"""A target that is no class is refused by every loss in the same words, not by an index error inside it."""

import pytest
import torch

from etfhead.losses import dot_regression, ldam, nonl, ntce, squared_error

LOSSES = {
    "dot_regression": dot_regression,
    "squared_error": squared_error,
    "ntce": ntce,
    "nonl": nonl,
    "ldam": lambda logits, target: ldam(logits, target, [3, 2, 1]),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("wrong", "got"), [(3, "1 to 3"), (-1, "-1 to 1"), (-100, "-100 to 1")])
def test_a_class_out_of_range_is_a_value_error(name, wrong, got):
    with pytest.raises(ValueError, match=f"target: expected classes from 0 to 2, got {got}"):
        LOSSES[name](torch.zeros(2, 3), torch.tensor([1, wrong]))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_every_integer_type_is_taken(name, dtype):
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    found = LOSSES[name](logits, torch.tensor([0, 2, 1], dtype=dtype))
    assert torch.equal(found, LOSSES[name](logits, torch.tensor([0, 2, 1])))
