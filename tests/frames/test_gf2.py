import pytest
import torch

from etfhead.frames.gf2 import PRIMITIVE, binary_field


def carryless_product(a, b, polynomial, degree):
    """Schoolbook multiplication of polynomials over GF(2), then long division."""
    product = 0
    for bit in range(degree):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(2 * degree - 2, degree - 1, -1):
        if product >> bit & 1:
            product ^= polynomial << (bit - degree)
    return product


@pytest.mark.parametrize("degree", [n for n in PRIMITIVE if n <= 15])
def test_the_generator_reaches_every_element_once(degree):
    field = binary_field(degree)
    assert torch.equal(field.exp.sort().values, torch.arange(1, 2**degree))
    assert torch.equal(field.exp[field.log[1:]], torch.arange(1, 2**degree))


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_products_are_those_of_polynomials(degree):
    field, x = binary_field(degree), torch.arange(2**degree)
    table = field.times(x[:, None], x)
    for a in range(2**degree):
        for b in range(2**degree):
            assert table[a, b] == carryless_product(a, b, PRIMITIVE[degree], degree)


@pytest.mark.parametrize("degree", [3, 5, 9])
def test_powers_are_repeated_products_and_the_trace_is_a_balanced_linear_form(degree):
    field, x = binary_field(degree), torch.arange(2**degree)
    cube = field.times(x, field.times(x, x))
    assert torch.equal(field.power(x, 3), cube)
    trace = field.trace(x)
    assert trace.unique().tolist() == [0, 1]
    assert trace.sum() == 2 ** (degree - 1)
    assert torch.equal(field.trace(x[:, None] ^ x), trace[:, None] ^ trace)
    assert torch.equal(field.trace(field.power(x, 2)), trace)
