import copy
import pickle

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy, normalize

from etfhead.heads.delta_rule import DeltaRuleConvHead, DeltaRuleHead, delta_update
from etfhead.heads.following import update_heads


def _batch(B=7, d=6, K=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, d, generator=g), torch.randint(K, (B,), generator=g)


def _loop(w, x, errors, rate):
    moved = w.clone()
    for k in range(len(w)):
        for i in range(len(x)):
            moved[k] += rate * errors[i, k] * x[i]
        moved[k] /= moved[k].norm()
    return moved


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_update_is_the_loop(dtype):
    h, _ = _batch()
    w, x = normalize(torch.randn(5, 6, dtype=dtype), dim=1), normalize(h.to(dtype), dim=1)
    errors = torch.randn(7, 5, dtype=dtype)
    expected = _loop(w, x, errors, 0.3)
    before = w.clone()
    torch.testing.assert_close(delta_update(w, x, errors, rate=0.3), expected)
    assert torch.equal(w, before)
    assert delta_update(w, x, errors, rate=0.3, out=w) is w
    torch.testing.assert_close(w, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_vectors_are_taken_in_float32(dtype):
    w, x = (torch.randn(40, 600, generator=torch.Generator().manual_seed(i)).to(dtype) for i in range(2))
    moved = (300 * w).float()
    found = delta_update(300 * w, x, torch.zeros(40, 40, dtype=dtype), rate=1.0)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), normalize(moved, dim=1), rtol=torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("fused", [False, True])
def test_one_update_is_one_step_of_gradient_descent(smoothing, fused):
    head = DeltaRuleHead(6, 5, neck=None, rate=0.2, scale=3.0, label_smoothing=smoothing, fused=fused)
    h, y = _batch()
    w = head.weight.clone().requires_grad_()
    logits = 3.0 * normalize(h, dim=1) @ w.T
    (gradient,) = torch.autograd.grad(cross_entropy(logits, y, label_smoothing=smoothing, reduction="sum"), w)
    expected = normalize(w.detach() - 0.2 / 3.0 * gradient, dim=1)
    head(h)
    head.update(y)
    torch.testing.assert_close(head.weight, expected)


def test_blocks_of_classes_give_the_same_vectors(monkeypatch):
    h, y = _batch(K=5)
    heads = [DeltaRuleHead(6, 5, neck=None, fused=True) for _ in range(2)]
    for head, numbers in zip(heads, (2**22, 14), strict=True):  # 14 / 7 samples: two classes at once
        monkeypatch.setattr("etfhead.heads.delta_rule._NUMBERS", numbers)
        head(h)
        head.update(y)
    torch.testing.assert_close(heads[0].weight, heads[1].weight)


def test_soft_targets_and_ignored_samples():
    h, y = _batch()
    hard, soft, short = (DeltaRuleHead(6, 5, neck=None) for _ in range(3))
    y[2] = -100
    keep = y >= 0
    for head, features, target in (
        (hard, h, y),
        (soft, h[keep], torch.nn.functional.one_hot(y[keep], 5).float()),
        (short, h[keep], y[keep]),
    ):
        head(features)
        head.update(target)
    torch.testing.assert_close(soft.weight, hard.weight)
    torch.testing.assert_close(short.weight, hard.weight)


def test_learns_separable_classes_that_random_vectors_do_not_separate():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 8, generator=generator)
    y = torch.arange(20).repeat(10)
    h = centres[y] + 0.1 * torch.randn(200, 8, generator=generator)
    head = DeltaRuleHead(8, 20, neck=None, rate=0.1, seed=1)
    before = (head(h).argmax(1) == y).float().mean()
    for _ in range(60):
        head(h)
        assert update_heads(torch.nn.Sequential(head), y) == 1
    head.eval()
    assert before < 0.3
    assert (head(h).argmax(1) == y).float().mean() > 0.98
    torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(20))


def test_only_the_scale_trains_and_the_state_returns_exactly():
    head = DeltaRuleHead(6, 5)
    assert [name for name, _ in head.named_parameters()] == ["scale"]
    h, y = _batch()
    head(h).sum().backward()
    head.update(y)
    other = DeltaRuleHead(6, 5, seed=9)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.weight, head.weight)
    assert torch.equal(copy.deepcopy(head).weight, head.weight)


def _train_a_share(rank, folder, kind):
    """One of two processes: three or six samples of every batch, and one of them broken."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    head = _follow_shares(kind, slice(0, 3) if rank == 0 else slice(3, None))
    torch.save(head.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def _follow_shares(kind, share):
    head = DeltaRuleHead(6, 11, neck=None, rate=0.3, scale=4.0, label_smoothing=0.1, fused=kind == "fused")
    for seed in range(3):
        h, y = _batch(B=9, K=11, seed=seed)
        h[seed], y[5] = float("nan"), -100
        target = torch.nn.functional.one_hot(y.clamp(min=0), 11).float() if kind == "soft" else y
        head(h[share])
        head.update(target[share])
    return head


@pytest.mark.parametrize("numbers", [2**22, 18])  # 18 / 5 and 18 / 2 samples: blocks differ unless agreed on
@pytest.mark.parametrize("kind", ["stored", "fused", "soft"])
def test_two_processes_with_shares_of_a_batch_are_one_with_the_whole(tmp_path, monkeypatch, kind, numbers):
    monkeypatch.setattr("etfhead.heads.delta_rule._NUMBERS", numbers)
    mp.start_processes(_train_a_share, args=(str(tmp_path), kind), nprocs=2, start_method="fork")
    whole = _follow_shares(kind, slice(None)).state_dict()
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in whole.items():
        assert torch.equal(a[name], b[name]), name
        torch.testing.assert_close(a[name], tensor, rtol=1e-6, atol=1e-6)


def test_copies_and_pickles_of_a_compiled_head_compute_with_their_own_vectors():
    torch.compiler.reset()
    head = DeltaRuleHead(6, 5, neck=None).eval()
    head.compile(backend="eager")
    h, _ = _batch()
    before = head(h)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        twin.start_from(torch.eye(5, 6))
        assert torch.equal(head(h), before)
        torch.testing.assert_close(twin(h), head.scale * normalize(h, dim=1)[:, :5])


def test_refusals():
    with pytest.raises(ValueError, match="rate=0"):
        DeltaRuleHead(6, 5, rate=0)
    head = DeltaRuleHead(6, 5)
    with pytest.raises(ValueError, match="no features are kept"):
        head.update(torch.zeros(3, dtype=torch.long))
    with pytest.raises(ValueError, match="vectors"):
        head.start_from(torch.zeros(5, 7))
    with pytest.raises(RuntimeError, match="not that of a delta-rule head"):
        head.load_state_dict({"weight": torch.zeros(5, 6)}, strict=False)
    with pytest.raises(ValueError, match="no plain-layer"):
        head.fuse()


def test_convolutional_twin_and_autocast():
    head = DeltaRuleConvHead(6, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(torch.randn(4, 6, 2, 2)).shape == (4, 5, 2, 2)
    before = head.weight.clone()
    head.update(torch.tensor([0, 1, 2, 3]))
    assert head.weight.isfinite().all()
    assert not torch.equal(head.weight, before)
