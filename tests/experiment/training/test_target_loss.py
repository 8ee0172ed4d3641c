import pytest
import torch

from etfhead.experiment.training.target_loss import HalfSquaredError
from etfhead.frames.target_moments import inverse_root


def test_it_is_the_theorems_loss_and_not_mse_loss():
    outputs, target = torch.randn(7, 3), torch.randn(7, 3)
    naive = sum(0.5 * (o - t).square().sum() for o, t in zip(outputs, target, strict=True)) / 7
    value = HalfSquaredError()(outputs, target)
    assert torch.allclose(value, naive)
    assert torch.allclose(value, 3 / 2 * torch.nn.functional.mse_loss(outputs, target))


def test_whitened_errors_do_not_see_a_change_of_basis():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, 3, generator=generator, dtype=torch.float64)
    outputs = target + 0.1 * torch.randn(50, 3, generator=generator, dtype=torch.float64)
    losses = []
    for mixing in (torch.eye(3), torch.tensor([[1.0, 2, 0], [0, 3, 1], [0.5, 0, 7]])):
        mixed = target @ mixing.double()
        centred = mixed - mixed.mean(0)
        whitening = inverse_root(centred.T @ centred / len(centred))
        losses.append(HalfSquaredError(whitening)(outputs.double() @ mixing.double(), mixed))
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-4)


def test_whitening_moves_with_the_module_and_is_no_state():
    loss = HalfSquaredError(torch.eye(2, dtype=torch.float64))
    assert loss.whitening.dtype == torch.float32
    assert not loss.state_dict()
    assert loss.to(torch.float64).whitening.dtype == torch.float64


def test_half_precision_outputs_are_summed_in_float32():
    outputs = torch.full((4, 2), 300.0, dtype=torch.float16)
    assert HalfSquaredError()(outputs, torch.zeros(4, 2)).item() == pytest.approx(90000.0)
