import copy
import io
import pickle

import pytest
import torch
from torch import nn

from etfhead.heads import ClassMeanConvHead, ClassMeanHead, auto_scale, update_heads

D, K, B = 12, 7, 9


def batches(n=4, dtype=torch.float32, num_classes=K):
    generator = torch.Generator().manual_seed(1)
    for _ in range(n):
        h = torch.randn(B, D, generator=generator, dtype=torch.float64).to(dtype)
        yield h, torch.randint(0, num_classes - 2, (B,), generator=generator)  # two classes never come


class Reference:
    """The rule with two Python loops, on running means kept as they are."""

    def __init__(self, vectors, momentum, centre, repel):
        self.m = [row / row.norm() for row in vectors.double()]
        self.momentum, self.centre, self.repel = momentum, centre, repel

    def vectors(self):
        rows = torch.stack(self.m) - self.centre * torch.stack(self.m).mean(0)
        return rows / rows.norm(dim=1, keepdim=True)

    def update(self, h, weights):
        """One batch; weights (B, K) sum to one over classes."""
        x, w = h.double() / h.double().norm(dim=1, keepdim=True), self.vectors()
        mine, theirs = [[] for _ in self.m], [[] for _ in self.m]
        for i in range(len(x)):
            for k in range(len(self.m)):
                if weights[i][k] > 0:
                    mine[k].append((float(weights[i][k]), x[i]))
            wrong = {k: float(x[i] @ w[k]) for k in range(len(self.m)) if k != int(weights[i].argmax())}
            theirs[max(wrong, key=wrong.get)].append(x[i])
        for k, m in enumerate(self.m):
            step = torch.zeros_like(m)
            if mine[k]:
                total = sum(weight for weight, _ in mine[k])
                step += min(1.0, total) * (sum(weight * v for weight, v in mine[k]) / total - m)
            if theirs[k]:
                step -= self.repel * sum(theirs[k]) / len(theirs[k])
            self.m[k] = m + (1 - self.momentum) * step


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("centre", [False, True, 0.5])
@pytest.mark.parametrize("repel", [0.0, 0.3])
def test_class_vectors_are_those_of_the_rule_in_a_loop(centre, repel, fused):
    head = ClassMeanHead(
        D, K, neck=None, momentum=0.8, centre=centre, repel=repel, fused=fused, dtype=torch.float64
    )
    start = torch.randn(K, D, dtype=torch.float64)
    head.start_from(start)
    reference = Reference(start, 0.8, float(centre), repel)
    torch.testing.assert_close(head.class_vectors(), reference.vectors())
    for h, target in batches(dtype=torch.float64):
        head(h)
        head.update(target)
        reference.update(h, nn.functional.one_hot(target, K))
        torch.testing.assert_close(head.class_vectors(), reference.vectors())
        torch.testing.assert_close(head.running_means(), torch.stack(reference.m))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_targets_count_by_weight_and_label_smoothing_does_not(smoothing):
    head = ClassMeanHead(D, K, neck=None, momentum=0.8, repel=0.2, dtype=torch.float64)
    start = torch.randn(K, D, dtype=torch.float64)
    head.start_from(start)
    reference = Reference(start, 0.8, 1.0, 0.2)
    for h, target in batches(dtype=torch.float64):
        other = target.roll(1)
        weights = 0.7 * nn.functional.one_hot(target, K) + 0.3 * nn.functional.one_hot(other, K)
        head(h)
        head.update((1 - smoothing) * weights + smoothing / K)
        reference.update(h, (1 - smoothing) * weights)
        torch.testing.assert_close(head.class_vectors(), reference.vectors())


def test_one_hot_targets_are_integer_targets():
    a, b = (ClassMeanHead(D, K, repel=0.1) for _ in range(2))
    for h, target in batches():
        a(h), b(h)
        a.update(target)
        b.update(nn.functional.one_hot(target, K).float())
    torch.testing.assert_close(a.class_vectors(), b.class_vectors())


def test_logits_are_scaled_cosines():
    head = ClassMeanHead(D, K, neck=None)
    h = torch.randn(B, D)
    expected = auto_scale(K) * nn.functional.cosine_similarity(h[:, None], head.class_vectors()[None], dim=-1)
    torch.testing.assert_close(head(h), expected)
    assert [name for name, _ in head.named_parameters()] == ["scale"]
    fused = ClassMeanHead(D, K, neck=None, fused=True)
    torch.testing.assert_close(fused(h), nn.functional.normalize(h))
    torch.testing.assert_close(fused.eval()(h), expected)


def test_without_centring_absent_classes_stay_bit_for_bit():
    head = ClassMeanHead(D, K, centre=False)
    before = head.class_vectors().clone()
    for h, target in batches():
        head(h)
        head.update(target)
    seen = torch.cat([target for _, target in batches()]).unique()
    absent = [k for k in range(K) if k not in seen]
    assert absent
    assert torch.equal(head.class_vectors()[absent], before[absent])
    assert not torch.isclose(head.class_vectors()[seen], before[seen]).all(1).any()


def test_centred_class_vectors_are_unit_rows_around_the_mean_of_all():
    head = ClassMeanHead(D, K, centre=True, dtype=torch.float64)
    for h, target in batches():
        head(h.double())
        head.update(target)
    means = head.running_means()
    torch.testing.assert_close(head.class_vectors(), nn.functional.normalize(means - means.mean(0)))


def test_one_million_classes_move_only_where_the_batch_is():
    head = ClassMeanHead(2, 1_000_000, neck=None, centre=False, momentum=0.0)
    before = head.class_vectors().clone()
    target = torch.tensor([999_999, 5, 5])
    head(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 3.0]]))
    head.update(target)
    changed = (head.class_vectors() != before).any(1).nonzero().flatten()
    assert changed.tolist() == [5, 999_999]
    assert head.class_vectors()[[5, 999_999]].tolist() == [[0.0, 1.0], [1.0, 0.0]]


def test_ignored_and_non_finite_samples_are_left_out():
    a, b = (ClassMeanHead(D, K, neck=None, repel=0.1) for _ in range(2))
    h = torch.randn(4, D)
    a(h[:2])
    a.update(torch.tensor([1, 2]))
    h[2] = float("nan")
    b(h)
    b.update(torch.tensor([1, 2, 3, -100]))
    torch.testing.assert_close(b.class_vectors(), a.class_vectors())


def test_conv_head_counts_a_sample_by_the_mean_over_its_pixels():
    conv = ClassMeanConvHead(D, K, neck=None, momentum=0.0, centre=False)
    x, target = torch.randn(2, D, 3, 2), torch.tensor([4, 0])
    assert conv(x).shape == (2, K, 3, 2)
    conv.update(target)
    expected = nn.functional.normalize(nn.functional.normalize(x, dim=1).mean((2, 3)))
    torch.testing.assert_close(conv.class_vectors()[target], expected)


def test_a_forward_replaces_what_was_kept_and_evaluation_keeps_nothing():
    a, b = (ClassMeanHead(D, K, neck=None) for _ in range(2))
    (h1, target), (h2, _) = batches(2)
    a(h1), a(h2)
    a.eval()(h1)
    b(h2)
    a.update(target), b.update(target)
    assert torch.equal(a.class_vectors(), b.class_vectors())
    with pytest.raises(ValueError, match="no features are kept"):
        a.update(target)


def test_update_between_backward_and_step_changes_no_gradient():
    head, h = ClassMeanHead(D, K), torch.randn(B, D, requires_grad=True)
    nn.functional.cross_entropy(head(h), torch.arange(B) % K).backward()
    grad = h.grad.clone()
    head.update(torch.arange(B) % K)
    assert torch.equal(h.grad, grad)
    assert grad.abs().sum() > 0
    assert not head.class_vectors().requires_grad


def test_reloading_continues_to_the_same_bits():
    head = ClassMeanHead(D, K, repel=0.1)
    steps = list(batches(6))
    for h, target in steps[:3]:
        head(h)
        head.update(target)
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    twin = ClassMeanHead(D, K, repel=0.1, seed=9)
    twin.load_state_dict(torch.load(file, weights_only=True))
    for h, target in steps[3:]:
        for each in (head, twin):
            each(h)
            each.update(target)
    assert torch.equal(head.eval()(h), twin.eval()(h))


def test_copies_and_pickles_leave_the_kept_features_behind():
    head = ClassMeanHead(D, K)
    head(torch.randn(B, D))
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin.class_vectors(), head.class_vectors())
        with pytest.raises(ValueError, match="no features are kept"):
            twin.update(torch.zeros(B, dtype=torch.long))
    assert set(head.state_dict()) - {n for n in head.state_dict() if n.startswith("neck")} == {
        "weight", "length", "origin", "scale",
    }  # fmt: skip
    head.update(torch.zeros(B, dtype=torch.long))


def test_a_learnable_checkpoint_is_refused_also_without_strict():
    head = ClassMeanHead(D, K)
    with pytest.raises(RuntimeError, match=r"no length beside it.*start_from"):
        head.load_state_dict({"weight": torch.randn(K, D)}, strict=False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_update_is_float32_also_under_autocast(dtype):
    # Without a neck and with float32 features only the logits are rounded, and they are not used here.
    head, exact = ClassMeanHead(D, K, neck=None), ClassMeanHead(D, K, neck=None)
    for h, target in batches():
        target = nn.functional.one_hot(target, K).float()
        with torch.autocast("cpu", dtype):
            head(h)
            head.update(target)
        exact(h)
        exact.update(target)
    assert torch.equal(head.class_vectors(), exact.class_vectors())


def test_products_of_the_update_are_not_rounded_by_autocast(monkeypatch):
    head, h = ClassMeanHead(D, K, repel=0.1, fused=True), torch.randn(B, D)
    head(h)
    seen = []
    top = ClassMeanHead._top
    monkeypatch.setattr(
        ClassMeanHead, "_top", lambda *args: seen.append(torch.is_autocast_enabled("cpu")) or top(*args)
    )
    with torch.autocast("cpu", torch.bfloat16):
        head.update(torch.arange(B) % K)
    assert seen == [False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_features_reach_float32_means(dtype):
    head, exact = ClassMeanHead(D, K, neck=None), ClassMeanHead(D, K, neck=None)
    for h, target in batches():
        with torch.autocast("cpu", dtype):
            head(h.to(dtype))
        head.update(target)
        exact(h)
        exact.update(target)
    assert head.class_vectors().dtype == torch.float32
    assert (head.class_vectors() - exact.class_vectors()).abs().max() < 4 * torch.finfo(dtype).eps


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("repel", [0.0, 0.1])
def test_compiles_in_training_without_a_graph_break(repel, fused):
    torch.compiler.reset()
    head = ClassMeanHead(D, K, repel=repel, fused=fused)
    eager = copy.deepcopy(head)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for h, target in batches():
            torch.testing.assert_close(compiled(h), eager(h))
            head.update(target)
            eager.update(target)
    torch.testing.assert_close(head.class_vectors(), eager.class_vectors())
    torch.testing.assert_close(compiled.eval()(h), eager.eval()(h))


def test_exports_to_a_graph():
    head = ClassMeanHead(D, K).eval()
    program = torch.export.export(head, (torch.randn(4, D),))
    h = torch.randn(4, D)
    torch.testing.assert_close(program.module()(h), head(h))


def test_meta_then_to_empty_then_reset():
    head = ClassMeanHead(D, K, seed=3, device="meta")
    assert head(torch.empty(2, D, device="meta")).shape == (2, K)
    assert "scale=meta" in repr(head)
    head.to_empty(device="cpu").reset_parameters()
    h = torch.randn(4, D)
    assert torch.equal(head(h), ClassMeanHead(D, K, seed=3)(h))


def test_topk_is_that_of_the_logits():
    for head, h in (
        (ClassMeanHead(D, K), torch.randn(5, D)),
        (ClassMeanConvHead(D, K), torch.randn(2, D, 3, 3)),
    ):
        values, classes = head.eval().topk(h, 3)
        expected = head(h).topk(3, dim=1)
        torch.testing.assert_close(values, expected.values)
        assert torch.equal(classes, expected.indices)
    with pytest.raises(ValueError, match="k=8"):
        ClassMeanHead(D, K).topk(torch.randn(5, D), 8)


def test_update_heads_reaches_every_following_head():
    model = nn.ModuleList([ClassMeanHead(D, K), nn.Linear(D, K), ClassMeanHead(D, K, seed=1)])
    for module in model:
        module(torch.randn(B, D))
    assert update_heads(model, torch.zeros(B, dtype=torch.long)) == 2
    with pytest.raises(ValueError, match="no features are kept"):
        update_heads(model, torch.zeros(B, dtype=torch.long))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(B - 1, dtype=torch.long), r"expected 9 classes.*shape \(8,\)"),
        (torch.zeros(B), r"expected 9 classes.*torch.float32"),
        (torch.zeros(B, K + 1), r"weights of shape \(9, 7\).*got.*\(9, 8\)"),
        (torch.full((B,), K), "classes below 7, got 7"),
    ],
)
def test_targets_that_do_not_fit_are_refused_and_may_be_corrected(target, message):
    head = ClassMeanHead(D, K)
    head(torch.randn(B, D))
    with pytest.raises(ValueError, match=message):
        head.update(target)
    head.update(torch.zeros(B, dtype=torch.long))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0"),
        ({"momentum": float("nan")}, "momentum=nan"),
        ({"centre": 2}, "centre=2"),
        ({"repel": -0.1}, "repel=-0.1"),
        ({"fused": 1}, "fused=1"),
        ({"scale": 0.0}, "scale=0.0"),
    ],
)
def test_bad_options_name_the_argument(options, message):
    with pytest.raises(ValueError, match=message):
        ClassMeanHead(D, K, **options)


def test_bad_starts_are_refused():
    with pytest.raises(ValueError, match=r"expected finite numbers of shape \(7, 12\)"):
        ClassMeanHead(D, K).start_from(torch.randn(K, D + 1))
    with pytest.raises(ValueError, match="expected finite numbers"):
        ClassMeanHead(D, K).start_from(torch.full((K, D), float("inf")))


def test_fuse_is_refused():
    with pytest.raises(ValueError, match="class-mean head normalises"):
        ClassMeanHead(D, K).fuse()


def _train_a_share(rank, folder, num_classes, soft):
    """One of two processes: its share of every batch, the shares of unequal size."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    head = ClassMeanHead(D, num_classes, neck=None, repel=0.2)
    for h, target in batches(num_classes=num_classes):
        share = slice(0, 4) if rank == 0 else slice(4, None)
        head(h[share])
        weights = nn.functional.one_hot(target, num_classes).float()
        head.update(weights[share] if soft else target[share])
    torch.save(head.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("num_classes", "soft"), [(4, False), (K, False), (K, True)])
def test_two_processes_with_shares_of_a_batch_are_one_with_the_whole(tmp_path, num_classes, soft):
    """Four classes are summed by each process, seven have fewer samples than sums: those are exchanged."""
    import torch.multiprocessing as mp

    mp.start_processes(_train_a_share, args=(str(tmp_path), num_classes, soft), nprocs=2, start_method="fork")
    head = ClassMeanHead(D, num_classes, neck=None, repel=0.2)
    for h, target in batches(num_classes=num_classes):
        head(h)
        head.update(target)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, tensor in head.state_dict().items():
        assert torch.equal(a[name], b[name]), name
        torch.testing.assert_close(a[name], tensor, rtol=1e-6, atol=1e-6)
