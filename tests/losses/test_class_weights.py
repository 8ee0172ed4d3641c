import pytest
import torch

from etfhead.losses import effective_number_weights

COUNTS = [5000, 300, 12, 1]


@pytest.mark.parametrize("beta", [0.5, 0.9, 0.999, 0.9999])
def test_equals_the_sum_of_a_geometric_series(beta):
    # The effective number is 1 + beta + ... + beta^(n - 1).
    effective = torch.tensor([sum(beta**i for i in range(n)) for n in COUNTS], dtype=torch.float64)
    expected = (1 / effective) * 4 / (1 / effective).sum()
    torch.testing.assert_close(
        effective_number_weights(COUNTS, beta=beta).double(), expected, rtol=1e-6, atol=0
    )


def test_limits():
    assert effective_number_weights(COUNTS, beta=0.0).tolist() == [1.0] * 4
    inverse = effective_number_weights(COUNTS, beta=1.0)
    torch.testing.assert_close(inverse * torch.tensor(COUNTS), inverse[3].expand(4))
    nearly = effective_number_weights(COUNTS, beta=1 - 1e-12)
    torch.testing.assert_close(nearly, inverse)
    torch.testing.assert_close(effective_number_weights([7] * 5), torch.ones(5))


def test_rare_classes_weigh_more_and_the_mean_weight_is_one():
    weights = effective_number_weights(COUNTS)
    assert weights.tolist() == sorted(weights.tolist())
    assert weights.mean().item() == pytest.approx(1.0)
    loss = torch.nn.functional.cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]), weight=weights)
    assert loss.item() == pytest.approx(torch.tensor(4.0).log().item())


@pytest.mark.parametrize(
    ("counts", "options", "message"),
    [
        ([3, 0], {}, "class_counts=.*positive integers"),
        ([3], {}, "class_counts=.*at least two"),
        (COUNTS, {"beta": 1.5}, r"beta=1\.5: expected a number in \[0, 1\]"),
        (COUNTS, {"beta": -0.1}, "beta=-0.1"),
        (COUNTS, {"beta": True}, "beta=True"),
        (COUNTS, {"beta": "0.9"}, "beta='0.9'"),
    ],
)
def test_bad_input(counts, options, message):
    with pytest.raises(ValueError, match=message):
        effective_number_weights(counts, **options)
