import pytest
import torch

from etfhead.losses import SquaredErrorLoss, squared_error


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 4, generator=generator, dtype=torch.float64), torch.arange(7) % 4


def test_is_the_sum_over_classes_of_a_loop(batch):
    logits, target = batch
    by_hand = [
        sum((z.item() - (k == y)) ** 2 for k, z in enumerate(row)) / 2
        for row, y in zip(logits, target.tolist(), strict=True)
    ]
    each = squared_error(logits, target, reduction="none")
    torch.testing.assert_close(each, torch.tensor(by_hand, dtype=torch.float64))
    assert SquaredErrorLoss(reduction="sum")(logits, target).item() == pytest.approx(sum(by_hand))
    assert SquaredErrorLoss()(logits, target).item() == pytest.approx(sum(by_hand) / 7)


def test_is_half_the_classes_times_torchs(batch):
    logits, target = batch
    rows = torch.nn.functional.one_hot(target, 4).double()
    torch.testing.assert_close(squared_error(logits, target), 2 * torch.nn.functional.mse_loss(logits, rows))
    torch.testing.assert_close(squared_error(logits, target), squared_error(logits, rows))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_wide(dtype):
    loss = squared_error(torch.full((2, 3), 300.0, dtype=dtype), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize(
    ("logits", "target", "names"),
    [
        (torch.zeros(3), torch.zeros(3).long(), r"logits: expected floats of shape \(B, K\)"),
        (torch.zeros(2, 3), torch.zeros(3).long(), "target: expected integer classes"),
        (torch.zeros(2, 3), torch.zeros(2), "target: expected integer classes"),
    ],
)
def test_refuses_other_shapes(logits, target, names):
    with pytest.raises(ValueError, match=names):
        squared_error(logits, target)
    with pytest.raises(ValueError, match="reduction='max'"):
        squared_error(torch.zeros(1, 2), torch.zeros(1).long(), reduction="max")


@pytest.mark.parametrize("classes", [0, 3])
def test_an_empty_batch_has_no_losses(classes):
    logits, target = torch.zeros(0, classes), torch.zeros(0, dtype=torch.int64)
    assert squared_error(logits, target, reduction="none").shape == (0,)
    assert squared_error(logits, target, reduction="sum") == 0
