import pytest
import torch

from etfhead.frames.union_products import union_adjoint, union_products


def parts(left, right, bases, dtype=torch.float64):
    """Factors that are no orthogonal matrices, so that a transpose is not its own inverse."""
    generator = torch.Generator().manual_seed(left * 100 + right)
    a, b = (torch.randn(n, n, dtype=dtype, generator=generator) for n in (left, right))
    a = a if left > 1 else torch.ones_like(a)
    signs = torch.randint(0, 2, (bases, left * right), generator=generator, dtype=torch.int8) * 2 - 1
    return a, b, signs


def vectors(a, b, signs, antipodal):
    """Every vector by its definition, one after the other."""
    rows = []
    for s in signs.double():
        basis = [torch.outer(u, v).flatten() * s for u in a for v in b]
        rows += basis + [-row for row in basis] if antipodal else basis
    return torch.stack(rows)


@pytest.mark.parametrize("antipodal", [False, True])
@pytest.mark.parametrize(("left", "right", "bases"), [(3, 4, 5), (1, 6, 2), (2, 2, 1), (1, 1, 3)])
@pytest.mark.parametrize("batch", [(), (7,), (2, 3), (0,)])
def test_products_and_their_transpose_are_those_of_the_written_vectors(left, right, bases, antipodal, batch):
    a, b, signs = parts(left, right, bases)
    M = vectors(a, b, signs, antipodal)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*batch, left * right, dtype=torch.float64, generator=generator)
    upstream = torch.randn(*batch, len(M), dtype=torch.float64, generator=generator)
    products = union_products(x, a, b, signs, antipodal=antipodal)
    torch.testing.assert_close(products, x @ M.T, rtol=0, atol=1e-12)
    adjoint = union_adjoint(upstream, a, b, signs, antipodal=antipodal)
    torch.testing.assert_close(adjoint, upstream @ M, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_many_bases_in_half_precision_are_rounded_once(dtype):
    # 400 products of one row: added one by one, they would stop growing where the type's steps exceed them.
    one, signs = torch.ones(1, 1, dtype=dtype), torch.ones(400, 1, dtype=torch.int8)
    total = union_adjoint(torch.full((400,), 1.5, dtype=dtype), one, one, signs, antipodal=False)
    assert total.dtype == dtype
    assert abs(total.item() - 600) <= 600 * torch.finfo(dtype).eps
