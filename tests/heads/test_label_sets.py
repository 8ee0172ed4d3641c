import pytest
import torch

from etfhead.heads import label_lists, multi_hot


def test_lists_and_multi_hot_are_inverse():
    hot = torch.rand(50, 7, generator=torch.Generator().manual_seed(0)) < 0.3
    lists = label_lists(hot)
    assert lists == [[k for k in range(7) if row[k]] for row in hot]
    assert torch.equal(multi_hot(lists, 7), hot)
    assert label_lists(hot[:0]) == []
    assert multi_hot([], 7).shape == (0, 7)


def test_bool_targets_are_taken_as_they_are():
    hot = torch.tensor([[True, False]])
    assert multi_hot(hot, 2) is hot


def test_an_integer_tensor_of_k_columns_is_multi_hot_and_any_other_holds_classes():
    assert multi_hot(torch.tensor([[1, 0]]), 2).tolist() == [[True, False]]
    assert multi_hot(torch.tensor([[1, 0]]), 3).tolist() == [[True, True, False]]
    assert multi_hot(torch.full((2, 4), -1), 3).tolist() == [[False] * 3] * 2
    assert multi_hot(torch.tensor([[1, 0, -1, -1]]), 3).tolist() == [[True, True, False]]
    assert multi_hot(torch.tensor([[2, 0, 0, 2]]), 3).tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: label_lists(torch.ones(3)), r"hot: expected shape \(B, K\)"),
        (lambda: multi_hot(torch.ones(3), 3), r"target\[:, None\]"),
        (lambda: multi_hot(torch.ones(1, 2, 3), 3), "expected multi-hot"),
        (lambda: multi_hot([[0], [1, 3]], 3), "expected classes from 0 to 2"),
        (lambda: multi_hot([[0]], 3, batch_size=2), "expected 2 label sets"),
        (lambda: multi_hot(torch.eye(4).long(), 3), "4 columns of nothing but zeros and ones"),
        (lambda: multi_hot([[0, 1, 1], [1, 0, 0]], 3), "look like multi-hot rows"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
