import pytest
import torch

from etfhead.frames.distinct_signs import distinct_signs, random_signs
from etfhead.frames.orthogonal_factors import orthogonal_factor


def generator():
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("antipodal", [False, True])
@pytest.mark.parametrize(("left", "right", "count"), [(2, 4, 12), (1, 5, 6), (3, 4, 20), (1, 7, 12)])
def test_no_two_rows_are_equal_nor_opposite_where_negatives_belong(left, right, count, antipodal):
    A, B = orthogonal_factor(left), orthogonal_factor(right)
    signs = distinct_signs(A, B, count, antipodal=antipodal, generator=generator())
    assert signs.shape == (count, left * right)
    rows = (signs[:, None] * torch.kron(A, B)).flatten(0, 1)
    rows = torch.cat([rows, -rows]) if antipodal else rows
    assert torch.cdist(rows, rows).fill_diagonal_(9).min() > 1e-6


@pytest.mark.parametrize(("left", "right"), [(4, 8), (8, 8)])
def test_signs_without_a_repetition_are_those_of_the_plain_draw(left, right):
    found = distinct_signs(
        orthogonal_factor(left), orthogonal_factor(right), 5, antipodal=True, generator=generator()
    )
    assert torch.equal(found, random_signs(5, left * right, generator()))


def test_all_that_exist_are_found_and_no_more():
    one, H = torch.ones(1, 1), orthogonal_factor(4)
    signs = distinct_signs(one, H, 4, antipodal=False, generator=generator())  # 16 vectors, 4 a basis
    assert len((signs[:, None] * H).flatten(0, 1).unique(dim=0)) == 16
    for count, antipodal in ((5, False), (3, True)):
        with pytest.raises(ValueError, match=rf'{count} bases at in_features=4, .*frame="code"'):
            distinct_signs(one, H, count, antipodal=antipodal, generator=generator())
