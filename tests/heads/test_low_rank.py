import copy

import pytest
import torch
from torch import nn

from etfhead import ETFHead, swap_head
from etfhead.heads import ETFConvHead, LowRank

D, K, R = 24, 40, 3


def moved(head, seed=0):
    """The head with a correction that is not zero, and statistics that are not the first."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.correction.left.copy_(torch.randn(K, R, generator=generator))
    head.train()(5 + 2 * torch.randn(64, D, generator=generator).to(head.scale))
    return head.eval()


def test_it_starts_as_the_fixed_head_with_r_times_k_plus_d_more_parameters():
    head, fixed = ETFHead(D, K, low_rank=R).eval(), ETFHead(D, K).eval()
    h = torch.randn(5, D)
    assert torch.equal(head(h), fixed(h))
    assert sum(p.numel() for p in head.parameters()) == R * (K + D) + 1
    assert f"rank={R}, parameters={R * (K + D)}" in repr(head)
    right = head.correction.right
    torch.testing.assert_close(right @ right.T, torch.eye(R))
    assert "correction.left" not in fixed.state_dict()


@pytest.mark.parametrize("cls", [ETFHead, ETFConvHead])
def test_logits_fold_and_class_vectors_are_those_of_the_sum(cls):
    head = moved(ETFHead(D, K, low_rank=R, dtype=torch.float64))
    h = torch.randn(6, D, dtype=torch.float64)
    if cls is ETFConvHead:
        conv = ETFConvHead(D, K, low_rank=R, dtype=torch.float64).eval()
        conv.load_state_dict(head.state_dict())
        head, h = conv, h[:, :, None, None]
    left, right = head.correction.left, head.correction.right
    total = head.frame.matrix() + sum(left[:, r, None] * right[r] for r in range(R))
    x = (h.flatten(1) - head.neck.running_mean) / (head.neck.running_var + head.neck.eps).sqrt()
    expected = head.scale * D**-0.5 * x @ total.T
    torch.testing.assert_close(head(h).flatten(1), expected)
    torch.testing.assert_close(head.class_vectors(), total)
    torch.testing.assert_close(head.fuse()(h).flatten(1), expected)
    best = head.topk(h, 4)
    assert torch.equal(best.indices.flatten(1), expected.topk(4).indices)


def test_both_factors_learn():
    head = ETFHead(D, K, low_rank=R)
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0)
    before = copy.deepcopy(head.correction)
    h, target = torch.randn(32, D), torch.randint(K, (32,))
    losses = []
    for _ in range(20):
        loss = nn.functional.cross_entropy(head(h), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert not torch.equal(head.correction.left, before.left)
    assert not torch.equal(head.correction.right, before.right)


def test_checkpoints_carry_it_and_reset_draws_it_again():
    head = moved(ETFHead(D, K, low_rank=R, seed=4))
    twin = ETFHead(D, K, low_rank=R, seed=4).eval()
    start = copy.deepcopy(twin)
    twin.load_state_dict(head.state_dict())
    h = torch.randn(5, D)
    assert torch.equal(twin(h), head(h))
    twin.reset_parameters()
    assert torch.equal(twin(h), start(h))
    assert torch.equal(twin.correction.right, start.correction.right)
    with pytest.raises(RuntimeError, match=r"correction\.left"):
        ETFHead(D, K, seed=4).load_state_dict(head.state_dict())


def test_on_meta_and_through_swap_head():
    model = swap_head(nn.Sequential(nn.Flatten(), nn.Linear(D, K)), classifier="1", low_rank=R)
    assert isinstance(model[1].correction, LowRank)
    head = ETFHead(D, K, low_rank=R, device="meta")
    head.to_empty(device="cpu").reset_parameters()
    h = torch.randn(5, D)
    assert torch.equal(head(h), ETFHead(D, K, low_rank=R)(h))


def test_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    LowRank(R, D, K)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_rank": -1}, "low_rank=-1"),
        ({"low_rank": 25}, "low_rank=25: expected at most 24"),
        ({"low_rank": 1.5}, "low_rank=1.5"),
        ({"low_rank": 2, "fused": True}, "fused=True with low_rank=2"),
    ],
)
def test_bad_ranks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ETFHead(D, K, **options)
