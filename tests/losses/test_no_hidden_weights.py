"""What is documented as plain gives every sample the same weight, whatever its class and the counts."""

import pytest
import torch

from etfhead.heads import ETFHead
from etfhead.losses import (
    DotRegressionLoss,
    FrameCrossEntropyLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    NONLLoss,
    NTCELoss,
    PickAllLabelLoss,
    SquaredErrorLoss,
    effective_number_weights,
)

COUNTS = [900, 60, 1]
HEAD = ETFHead(6, 3, neck=None, fused=True, dtype=torch.float64)
LABELS = torch.tensor([0] * 12 + [1] * 3 + [2])  # as unequal as a long-tailed batch

PLAIN = {
    "cross-entropy": lambda **o: torch.nn.CrossEntropyLoss(**o),
    "dot-regression": lambda **o: DotRegressionLoss(**o),
    "streamed cross-entropy": lambda **o: FrameCrossEntropyLoss(HEAD, **o),
    "logit adjustment": lambda **o: LogitAdjustedLoss(COUNTS, **o),
    "LDAM": lambda **o: LDAMLoss(COUNTS, **o),
    "pick-all-label": lambda **o: PickAllLabelLoss(**o),
    "squared error": lambda **o: SquaredErrorLoss(**o),
}
OVER_THE_BATCH = {  # each term depends on the other samples, but has the same weight
    "NTCE": lambda **o: NTCELoss(**o),
    "NONL": lambda **o: NONLLoss(**o),
}
WEIGHTED = {  # what says so; the test must notice it
    "class-balanced dot-regression": lambda **o: DotRegressionLoss(class_balanced=True, **o),
    "LDAM with weights": lambda **o: LDAMLoss(COUNTS, weight=effective_number_weights(COUNTS), **o),
    "cross-entropy with weights": lambda **o: torch.nn.CrossEntropyLoss(
        weight=effective_number_weights(COUNTS).double(), **o
    ),
}


def outputs(name):
    width = 6 if name == "streamed cross-entropy" else 3
    return torch.randn(16, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def targets(name, labels=LABELS):
    return labels[:, None] if name == "pick-all-label" else labels


def mean_of_samples_alone(name, make):
    x, criterion = outputs(name), make(reduction="none")
    alone = [criterion(x[i : i + 1], targets(name, LABELS[i : i + 1])) for i in range(16)]
    return torch.cat(alone).mean()


@pytest.mark.parametrize("name", PLAIN)
def test_the_loss_of_a_batch_is_the_mean_of_its_samples_alone(name):
    make = PLAIN[name]
    torch.testing.assert_close(make()(outputs(name), targets(name)), mean_of_samples_alone(name, make))


@pytest.mark.parametrize("name", [*PLAIN, *OVER_THE_BATCH])
def test_the_mean_weighs_every_term_alike(name):
    make = (PLAIN | OVER_THE_BATCH)[name]
    x = outputs(name)
    terms = make(reduction="none")(x, targets(name))
    assert terms.shape == (16,)
    torch.testing.assert_close(make()(x, targets(name)), terms.sum() / 16)


@pytest.mark.parametrize("name", PLAIN)
def test_a_sample_pulls_as_hard_among_few_of_its_class_as_among_many(name):
    x = outputs(name).requires_grad_()
    criterion = PLAIN[name]()
    (among_few,) = torch.autograd.grad(criterion(x, targets(name)), x)
    (among_many,) = torch.autograd.grad(
        criterion(x[-1:].expand(16, -1), targets(name, LABELS[-1:].expand(16))), x
    )
    torch.testing.assert_close(among_many[-1] / 16, among_few[-1])


@pytest.mark.parametrize("name", WEIGHTED)
def test_re_weighting_is_noticed(name):
    make = WEIGHTED[name]
    batch = make()(outputs(name), targets(name))
    assert (batch - mean_of_samples_alone(name, make)).abs() > 1e-3 * batch
