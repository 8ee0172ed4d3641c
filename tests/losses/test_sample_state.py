"""Losses that remember every training sample: their memory, their checkpoints, and several processes."""

import copy
import warnings

import pytest
import torch
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy, one_hot

from etfhead.losses import (
    EarlyLearningRegularizationLoss,
    SparseOverparametrizationLoss,
    early_learning_regularization,
    sparse_overparametrization,
)

N, K = 30, 4
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def sample(B=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(B, K, generator=generator, dtype=torch.float64)
    return logits, torch.randint(K, (B,), generator=generator), torch.randperm(N, generator=generator)[:B]


def make(kind):
    return {"elr": EarlyLearningRegularizationLoss, "sop": SparseOverparametrizationLoss}[kind](N, K).double()


both = pytest.mark.parametrize("kind", ["elr", "sop"])


def naive_elr(logits, target, t, strength):
    rows = []
    for z, y, row in zip(logits, target, t, strict=True):
        p = z.exp() / z.exp().sum()
        inner = (p.clamp(1e-4, 1 - 1e-4) * row).sum()
        rows.append(-p[y].log() + strength * torch.log(1 - inner))
    return torch.stack(rows)


def naive_sop(logits, target, u, v):
    rows = []
    for z, y, a, b in zip(logits, target, u, v, strict=True):
        p = z.exp() / z.exp().sum()
        e = one_hot(y, K).double()
        up, down = (a**2 * e).clamp(0, 1 - 1e-4), (b**2 * (1 - e)).clamp(0, 1 - 1e-4)
        q = (p + up - down.detach()).clamp(min=1e-4)
        q = (q / q.sum()).clamp(1e-4, 1.0)
        hard = one_hot(p.argmax(), K).double()
        rows.append(-q[y].log() + ((hard + up.detach() - down - e) ** 2).sum())
    return torch.stack(rows)


def test_early_learning_is_its_definition():
    logits, target, _ = sample()
    t = torch.softmax(torch.randn(6, K, dtype=torch.float64, generator=torch.Generator().manual_seed(5)), 1)
    given, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value = early_learning_regularization(given, target, t, strength=3.0, reduction="none")
    reference = naive_elr(expected, target, t, 3.0)
    torch.testing.assert_close(value, reference, **EXACT)
    value.sum().backward()
    reference.sum().backward()
    torch.testing.assert_close(given.grad, expected.grad, **EXACT)
    assert torch.autograd.gradcheck(
        lambda z: early_learning_regularization(z, target, t), (logits.requires_grad_(),)
    )
    torch.testing.assert_close(
        early_learning_regularization(logits, target, t, strength=0.0), cross_entropy(logits, target)
    )


def test_overparametrization_is_its_definition():
    logits, target, _ = sample()
    generator = torch.Generator().manual_seed(5)
    u, v = (torch.rand(shape, generator=generator, dtype=torch.float64) for shape in ((6,), (6, K)))
    given = [x.clone().requires_grad_() for x in (logits, u, v)]
    expected = [x.clone().requires_grad_() for x in (logits, u, v)]
    value = sparse_overparametrization(given[0], target, given[1], given[2], reduction="none")
    reference = naive_sop(expected[0], target, expected[1], expected[2])
    torch.testing.assert_close(value, reference, **EXACT)
    value.sum().backward()
    reference.sum().backward()
    for a, b in zip(given, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad, **EXACT)
    assert torch.autograd.gradcheck(
        lambda z: sparse_overparametrization(z, target, u, v), (logits.requires_grad_(),)
    )


def test_early_learning_remembers_a_running_mean_before_the_loss():
    loss, t = make("elr"), torch.zeros(N, K, dtype=torch.float64)
    for step in range(3):
        logits, target, index = sample(seed=step)
        p = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        t[index] = 0.7 * t[index] + 0.3 * p / p.sum(1, keepdim=True)
        torch.testing.assert_close(
            loss(logits, target, index), naive_elr(logits, target, t[index], 3.0).mean()
        )
        torch.testing.assert_close(loss.memory, t)


@pytest.mark.parametrize("std", [0.3, 1.5])  # large ones are clamped
def test_overparametrization_steps_as_sgd_beside_the_network_would(std):
    loss = SparseOverparametrizationLoss(N, K, lr_u=0.5, lr_v=2.0, std=std).double()
    u, v = loss.u.clone().requires_grad_(), loss.v.clone().requires_grad_()
    optimizer = torch.optim.SGD([{"params": [u], "lr": 0.5}, {"params": [v], "lr": 2.0}])
    for step in range(4):
        logits, target, index = sample(seed=step)
        optimizer.zero_grad()
        expected = naive_sop(logits, target, u[index], v[index]).mean()
        torch.testing.assert_close(loss(logits, target, index), expected)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(loss.u, u.detach())
        torch.testing.assert_close(loss.v, v.detach())
    # A number that starts at zero would stay there.
    assert SparseOverparametrizationLoss(N, K).u.abs().min() > 0


def test_overparametrization_moves_a_wrong_label_and_leaves_a_right_one():
    loss = SparseOverparametrizationLoss(2, K, std=1e-4)
    logits = torch.tensor([[8.0, 0, 0, 0], [8.0, 0, 0, 0]])  # sure of class 0
    target = torch.tensor([0, 2])
    for _ in range(200):
        value = loss(logits, target, torch.tensor([0, 1]))
    right, wrong = loss.u.square()
    assert right < 1e-4
    assert wrong > 0.5
    assert loss.v[1, 0].square() > 0.5
    assert value < cross_entropy(logits, target)


@both
def test_the_gradient_is_exact_and_the_state_has_none(kind):
    logits, target, index = sample()
    loss = make(kind)
    for name in loss._rows:
        getattr(loss, name).uniform_(0, 0.2, generator=torch.Generator().manual_seed(0))
    twin = copy.deepcopy(loss).eval()
    given, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss(given, target, index).backward()
    if kind == "elr":  # its memory is updated first
        twin.memory.copy_(loss.memory)
    twin(expected, target, index).backward()
    torch.testing.assert_close(given.grad, expected.grad, **EXACT)
    assert not any(buffer.requires_grad for buffer in loss.buffers())
    assert list(loss.parameters()) == []


@both
def test_only_rows_that_were_drawn_change_and_only_in_training(kind):
    logits, target, index = sample()
    loss = make(kind)
    before = copy.deepcopy(loss.state_dict())
    loss.eval()
    loss(logits, target, index)
    torch.testing.assert_close(loss(logits, target), cross_entropy(logits, target))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())
    loss.train()
    loss(logits, target, index)
    drawn = torch.zeros(N, dtype=torch.bool)
    drawn[index] = True
    assert torch.equal(loss.touched, drawn)
    for name in loss._rows:
        changed = (getattr(loss, name) != before[name]).view(N, -1).any(1)
        assert torch.equal(changed, drawn)


@both
def test_state_dicts_carry_the_memory(kind):
    loss, other = make(kind), make(kind)
    for step in range(2):
        logits, target, index = sample(seed=step)
        loss(logits, target, index)
    other.load_state_dict(loss.state_dict())
    logits, target, index = sample(seed=1)
    torch.testing.assert_close(other(logits, target, index), loss(logits, target, index), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(loss.buffers(), other.buffers(), strict=True))


@both
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_reduction_leaves_the_memory(kind, reduction):
    logits, target, index = sample()
    loss, plain = make(kind), make(kind)
    loss.reduction = reduction
    value, mean = loss(logits, target, index), plain(logits, target, index)
    torch.testing.assert_close(value.sum() / (1 if reduction == "mean" else 6), mean)
    assert all(torch.equal(a, b) for a, b in zip(loss.buffers(), plain.buffers(), strict=True))


def test_no_samples_change_nothing():
    for kind in ("elr", "sop"):
        loss = make(kind)
        before = copy.deepcopy(loss.state_dict())
        nothing = torch.zeros(0, dtype=torch.long)
        assert loss(torch.zeros(0, K, dtype=torch.float64), nothing, nothing).isnan()
        assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


def test_a_sample_drawn_twice_counts_once_for_its_running_mean():
    logits, target, index = sample(B=3)
    twice, once = make("elr"), make("elr")
    twice(logits[[0, 0, 1, 2]], target[[0, 0, 1, 2]], index[[0, 0, 1, 2]])
    once(logits, target, index)
    torch.testing.assert_close(twice.memory, once.memory)


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_for_huge_logits_in_autocast(kind, dtype):
    loss = make(kind).float()
    logits = torch.tensor([[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 1e4, 0.0]]).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            value = loss(logits, torch.tensor([1, 1]), torch.tensor([3, 9]))
    assert value.dtype == torch.float32
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    assert all(buffer.isfinite().all() for buffer in loss.buffers())


def test_soft_labels_are_for_early_learning_only():
    logits, target, index = sample()
    soft = one_hot(target, K).double()
    torch.testing.assert_close(make("elr")(logits, soft, index), make("elr")(logits, target, index))
    with pytest.raises(ValueError, match="this loss takes integer classes"):
        make("sop")(logits, soft, index)


def _worker(rank, path, states):
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    losses = {kind: make(kind) for kind in ("elr", "sop")}
    logits, target, index = sample(B=10)
    own = slice(0, 6) if rank == 0 else slice(5, 10)  # the sample at 5 is drawn by both
    for loss in losses.values():
        loss(logits[own], target[own], index[own])
        loss.synchronize()
        assert not loss.touched.any()
    states[rank] = {kind: loss.state_dict() for kind, loss in losses.items()}
    torch.distributed.destroy_process_group()


def test_processes_merge_the_rows_each_has_drawn(tmp_path):
    with mp.Manager() as manager:
        states = manager.dict()
        mp.spawn(_worker, (tmp_path / "store", states), nprocs=2)
        first, second = states[0], states[1]
    logits, target, index = sample(B=10)
    for kind in ("elr", "sop"):
        for name, rows in first[kind].items():
            assert torch.equal(rows, second[kind][name])
        alone = [make(kind), make(kind)]
        alone[0](logits[:6], target[:6], index[:6])
        alone[1](logits[5:], target[5:], index[5:])
        for name in alone[0]._rows:
            one, two = (getattr(loss, name) for loss in alone)
            merged = first[kind][name]
            assert torch.equal(merged[index[:5]], one[index[:5]])
            assert torch.equal(merged[index[6:]], two[index[6:]])
            torch.testing.assert_close(merged[index[5]], (one[index[5]] + two[index[5]]) / 2)
            untouched = torch.ones(N, dtype=torch.bool)
            untouched[index] = False
            assert torch.equal(merged[untouched], getattr(make(kind), name)[untouched])


def test_without_processes_synchronize_changes_no_row():
    loss = make("elr")
    loss(*sample())
    memory = loss.memory.clone()
    loss.synchronize()
    assert torch.equal(loss.memory, memory)
    assert not loss.touched.any()


@both
@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"index: missing; .* call it with loss\(logits, target, index\)"),
        (torch.tensor([0, N]), f"expected 0 to {N - 1}, got 0 to {N}"),
        (torch.tensor([-1, 0]), "got -1 to 0"),
        (torch.tensor([0.0, 1.0]), r"index: expected integers \(2,\)"),
        (torch.tensor([0, 1, 2]), r"index: expected integers \(2,\)"),
        (torch.tensor([True, False]), r"index: expected integers"),
    ],
)
def test_bad_indices(kind, index, message):
    loss = make(kind)
    before = copy.deepcopy(loss.state_dict())
    with pytest.raises(ValueError, match=message):
        loss(torch.zeros(2, K), torch.tensor([0, 1]), index)
    with pytest.raises(ValueError, match="target: expected classes"):
        loss(torch.zeros(2, K), torch.tensor([0, K]), torch.tensor([0, 1]))
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: EarlyLearningRegularizationLoss(0, 2), "num_samples=0"),
        (lambda: EarlyLearningRegularizationLoss(2, 1), "num_classes=1"),
        (lambda: EarlyLearningRegularizationLoss(2, 2, momentum=1.0), "momentum=1.0"),
        (lambda: EarlyLearningRegularizationLoss(2, 2, strength=-1.0), "strength=-1.0"),
        (lambda: EarlyLearningRegularizationLoss(2, 2, reduction="avg"), "reduction='avg'"),
        (lambda: SparseOverparametrizationLoss(2.0, 2), "num_samples=2.0"),
        (lambda: SparseOverparametrizationLoss(2, 1), "num_classes=1"),
        (lambda: SparseOverparametrizationLoss(2, 2, lr_u=0.0), "lr_u=0.0"),
        (lambda: SparseOverparametrizationLoss(2, 2, std=0.0), "std=0.0"),
        (
            lambda: make("elr")(torch.zeros(1, K + 1), torch.tensor([0]), torch.tensor([0])),
            "logits: expected",
        ),
        (
            lambda: make("sop")(torch.zeros(1, K + 1), torch.tensor([0]), torch.tensor([0])),
            "logits: expected",
        ),
        (
            lambda: early_learning_regularization(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(2)),
            "memory",
        ),
        (
            lambda: sparse_overparametrization(
                torch.zeros(1, 2), torch.tensor([0]), torch.zeros(2), torch.zeros(1, 2)
            ),
            "u, v: expected shapes",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_index_may_be_a_column_of_a_table():
    table = torch.tensor([[7, 0], [3, 0], [7, 1]])
    strided, plain = (EarlyLearningRegularizationLoss(9, 2) for _ in range(2))
    z, y = torch.tensor([[1.0, 0.0], [0.5, 2.0], [-1.0, 1.0]]), torch.tensor([0, 1, 1])
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            strided(z, y, table[:, 0])
    finally:
        torch.set_warn_always(always)
    plain(z, y, table[:, 0].clone())
    assert torch.equal(strided.memory, plain.memory)
