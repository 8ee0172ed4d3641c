import pytest
import torch

from etfhead.losses._complement import complement


def points(dtype):
    # From certain to impossible, and all that float32 tells apart on the way.
    return -torch.cat([torch.zeros(1), torch.logspace(-30, 1.9, 400, dtype=torch.float64)]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_have_all_digits(dtype):
    x = points(dtype).requires_grad_()
    value = complement(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    exact = x.detach().double()
    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 0}
    torch.testing.assert_close(value.double(), -torch.expm1(exact), **tolerance)
    torch.testing.assert_close(gradient.double(), -exact.exp(), **tolerance)


def test_ends():
    x = torch.tensor([0.0, -float("inf"), float("nan")], requires_grad=True)
    value = complement(x)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert value[:2].tolist() == [0.0, 1.0]
    assert gradient[:2].tolist() == [-1.0, 0.0]
    assert value[2].isnan()


def test_derivatives_of_every_kind():
    x = torch.tensor([-0.1, -1.0, -3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(complement, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda z: complement(z) ** 2, x)
    z = x.detach()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(complement))(z), -z.exp())
    torch.testing.assert_close(torch.func.jvp(complement, (z,), (torch.ones_like(z),))[1], -z.exp())


def test_compiles_without_a_break():
    torch.compiler.reset()
    x = points(torch.float32).requires_grad_()
    compiled = torch.compile(complement, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), complement(x), rtol=4e-7, atol=0)
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    torch.testing.assert_close(gradient, -x.detach().exp(), rtol=4e-7, atol=0)
