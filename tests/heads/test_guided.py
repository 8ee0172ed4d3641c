import copy
import io
import pickle

import pytest
import torch
from torch import nn

from etfhead import ETFHead, GuidedETFHead, make_frame
from etfhead.frames import ClassMeansFrame
from etfhead.heads import GuidedETFConvHead, update_heads

D, K, B = 12, 5, 20


def batches(n, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    centres = 3 * torch.randn(K, D, generator=generator, dtype=torch.float64)
    for _ in range(n):
        target = torch.randint(0, K, (B,), generator=generator)
        h = centres[target] + torch.randn(B, D, generator=generator, dtype=torch.float64)
        yield h.to(dtype), target


def run(head, steps):
    for h, target in steps:
        head(h)
        head.update(target)
    return head


def nearest_simplex(means):
    """By an optimiser-free route of its own: the polar factor from an eigendecomposition."""
    centring = torch.eye(K, dtype=torch.float64) - 1.0 / K
    A = centring @ means.double()
    values, vectors = torch.linalg.eigh(A @ A.T)
    inverse_root = vectors[:, 1:] @ torch.diag(values[1:].rsqrt()) @ vectors[:, 1:].T
    return (K / (K - 1)) ** 0.5 * inverse_root @ A


def test_class_vectors_are_the_simplex_nearest_to_the_running_means():
    head = GuidedETFHead(D, K, neck=None, momentum=0.7, every=3, dtype=torch.float64)
    start = head.class_vectors().clone()
    torch.testing.assert_close(start, ETFHead(D, K, dtype=torch.float64).class_vectors())
    means = torch.zeros(K, D, dtype=torch.float64)
    for step, (h, target) in enumerate(batches(7, torch.float64), 1):
        head(h)
        head.update(target)
        for k in target.unique():
            means[k] = 0.7 * means[k] + 0.3 * h[target == k].mean(0)
        torch.testing.assert_close(head.class_means, means)
        if step % 3 == 0:
            expected = nearest_simplex(means)
        torch.testing.assert_close(head.class_vectors(), start if step < 3 else expected)
        gram = head.class_vectors() @ head.class_vectors().T
        torch.testing.assert_close(gram, K / (K - 1) * (torch.eye(K).double() - 1 / K))


def test_the_means_are_of_the_features_behind_the_neck():
    head = GuidedETFHead(D, K, momentum=0.0, every=1)
    h, target = next(batches(1))
    head(h)
    head.update(target)
    normed = nn.functional.batch_norm(h, None, None, training=True)
    expected = torch.stack([normed[target == k].mean(0) for k in range(K)])
    torch.testing.assert_close(head.class_means, expected)


def test_it_turns_no_more_after_until():
    head = run(GuidedETFHead(D, K, every=2, until=4), batches(4))
    before = head.class_vectors().clone()
    run(head, batches(4))
    assert torch.equal(head.class_vectors(), before)
    assert int(head.updates) == 8
    never = GuidedETFHead(D, K, every=1, until=0)
    assert torch.equal(run(never, batches(2)).class_vectors(), GuidedETFHead(D, K).class_vectors())


def test_turns_follow_the_buffer_that_counts_updates_whoever_writes_it():
    reads = []
    head = GuidedETFHead(D, K, every=5)

    def turns(steps):
        for h, target in batches(steps):
            before = head.frame
            head(h)
            head.update(target)
            reads.append((int(head.updates), head.frame is not before))
        return [step for step, turned in reads[-steps:] if turned]

    assert turns(6) == [5]
    head.updates.fill_(18)
    assert turns(4) == [20]
    head.load_state_dict({**head.state_dict(), "updates": torch.tensor(8)})
    assert turns(3) == [10]
    other = copy.deepcopy(head)
    head.updates = torch.tensor(23)
    assert turns(3) == [25]
    head = other
    assert turns(5) == [15]
    head.updates.data.fill_(52)  # behind the tensor's back: seen before the next turn
    assert turns(10) == [60]


def test_follows_data_in_inference_mode():
    expected = run(GuidedETFHead(D, K, every=3), batches(7))
    with torch.inference_mode():
        head = run(GuidedETFHead(D, K, every=3), batches(7))
        assert int(head.updates) == 7
        assert torch.equal(head.class_vectors(), expected.class_vectors())


def test_only_the_scale_trains_and_the_gradient_is_that_of_a_fixed_head():
    head, fixed = run(GuidedETFHead(D, K, every=1), batches(3)), ETFHead(D, K)
    fixed.adopt_frame(head.frame)
    assert [name for name, _ in head.named_parameters()] == ["scale"]
    grads = []
    for each in (head, fixed):
        h = torch.randn(B, D, generator=torch.Generator().manual_seed(0)).requires_grad_()
        nn.functional.cross_entropy(each(h), torch.arange(B) % K).backward()
        grads.append(h.grad)
    torch.testing.assert_close(*grads)


def test_reloading_continues_to_the_same_bits():
    steps = list(batches(10))
    head = run(GuidedETFHead(D, K, every=2), steps[:5])
    file = io.BytesIO()
    torch.save(head.state_dict(), file)
    file.seek(0)
    twin = GuidedETFHead(D, K, every=2, seed=7)
    twin.load_state_dict(torch.load(file, weights_only=True))
    h = steps[0][0]
    assert torch.equal(copy.deepcopy(twin).eval()(h), copy.deepcopy(head).eval()(h))
    assert torch.equal(run(twin, steps[5:]).eval()(h), run(head, steps[5:]).eval()(h))


def test_copies_pickles_and_a_round_trip_through_half_keep_every_bit():
    head = run(GuidedETFHead(D, K, every=2), batches(4)).eval()
    h = torch.randn(4, D)
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert torch.equal(twin(h), head(h))
    before = head.class_vectors().clone()
    assert torch.equal(head.half().float().class_vectors(), before)


def test_an_averaged_checkpoint_becomes_the_nearest_simplex():
    a = run(GuidedETFHead(D, K, every=1), batches(3))
    b = copy.deepcopy(a)
    b.start_from(b.class_means + 0.3 * torch.randn(K, D, generator=torch.Generator().manual_seed(0)))
    mean = {k: (v + b.state_dict()[k]) / 2 for k, v in a.state_dict().items() if v.is_floating_point()}
    head = GuidedETFHead(D, K)
    head.load_state_dict({**a.state_dict(), **mean})
    torch.testing.assert_close(
        head.class_vectors().double(), nearest_simplex(mean["weight"]), rtol=1e-5, atol=1e-6
    )


def test_what_is_no_simplex_is_refused():
    head = GuidedETFHead(D, K)
    with pytest.raises(RuntimeError, match="weight: numbers up to"):
        head.load_state_dict({**head.state_dict(), "weight": 3 * head.weight})
    with pytest.raises(RuntimeError, match="is not the head's fixed frame"):
        head.load_state_dict({"weight": torch.randn(K, D)}, strict=False)


def test_start_from_turns_at_once_and_reset_goes_back():
    head = GuidedETFHead(D, K, neck=None).eval()
    means = torch.randn(K, D)
    head.start_from(means)
    torch.testing.assert_close(head.class_vectors().double(), nearest_simplex(means), rtol=1e-5, atol=1e-5)
    assert torch.equal(head.class_means, means)
    head.reset_parameters()
    assert torch.equal(head.class_vectors(), GuidedETFHead(D, K).class_vectors())
    assert not head.class_means.any()


def test_a_closed_form_simplex_may_be_adopted_and_nothing_else():
    head = GuidedETFHead(D, K)
    head.adopt_frame(make_frame("simplex", num_classes=K, in_features=D, seed=5))
    torch.testing.assert_close(head.class_vectors(), ETFHead(D, K, seed=5).class_vectors())
    vectors = nn.functional.normalize(torch.randn(K, D).double())
    with pytest.raises(ValueError, match="a guided head's is a simplex"):
        head.adopt_frame(ClassMeansFrame(K, D, vectors=vectors))


def test_conv_fused_and_folded():
    conv = GuidedETFConvHead(D, K, every=1, fused=True, neck=None)
    x = torch.randn(B, D, 2, 2)
    assert torch.equal(conv(x), x)
    assert update_heads(conv, torch.arange(B) % K) == 1
    expected = torch.stack([x[k::K].mean((0, 2, 3)) for k in range(K)])
    torch.testing.assert_close(conv.class_means, 0.1 * expected)
    conv.eval()
    torch.testing.assert_close(conv.fuse()(x), conv(x), rtol=1e-5, atol=1e-5)


def test_compiles_once_for_all_turns():
    torch.compiler.reset()
    head = GuidedETFHead(D, K, every=1)
    eager = copy.deepcopy(head)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for h, target in batches(4):
            torch.testing.assert_close(compiled(h), eager(h))
            head.update(target)
            eager.update(target)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((D, D + 2), {}, r"num_classes <= in_features \+ 1 = 13"),
        ((D, K), {"momentum": 1.0}, "momentum=1.0"),
        ((D, K), {"every": 0}, "every=0"),
        ((D, K), {"until": -1}, "until=-1"),
    ],
)
def test_bad_options_name_the_argument(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        GuidedETFHead(*arguments, **options)


def test_checkpoints_of_vectors_that_are_no_simplex_are_refused_among_the_other_errors():
    other, head = ETFHead(D, K), GuidedETFHead(D, K)
    vectors = nn.functional.normalize(torch.randn(K, D, dtype=torch.float64), dim=1)
    other.adopt_frame(ClassMeansFrame(K, D, vectors=vectors))
    before = head.class_vectors().clone()
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading .*\n.*a guided head's is a simplex"):
        head.load_state_dict(other.state_dict(), strict=False)
    assert torch.equal(head.class_vectors(), before)


def test_starts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"vectors: expected shape \(5, 12\)"):
        GuidedETFHead(D, K).start_from(torch.randn(K, D + 1))
