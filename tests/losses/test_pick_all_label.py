import pytest
import torch
from torch.nn.functional import cross_entropy

from etfhead.losses import PickAllLabelLoss, pick_all_label


def sample(B, K, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(B, K, generator=generator, dtype=dtype)
    hot = torch.rand(B, K, generator=generator) < 0.4
    hot[0], hot[-1] = False, True  # an empty and a full set are always among them
    return logits, hot


def naive(logits, hot, *, normalize=False, a=0.0, weight=None):
    """Written from the definition: one cross-entropy per label."""
    losses = []
    for z, labels in zip(logits, hot, strict=True):
        loss = torch.zeros((), dtype=logits.dtype)
        for k in labels.nonzero()[:, 0].tolist():
            target = torch.full_like(z, a / len(z))
            target[k] += 1 - a
            term = -(target * (z - z.logsumexp(0))).sum()
            loss = loss + term * (1.0 if weight is None else weight[k])
        losses.append(loss / max(1, int(labels.sum())) if normalize else loss)
    return torch.stack(losses)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("a", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("B", "K"), [(1, 2), (5, 2), (7, 3), (32, 11)])
def test_equals_the_naive_loop(B, K, a, normalize, weighted):
    logits, hot = sample(B, K, seed=K)
    weight = torch.linspace(0.0, 2.0, K, dtype=torch.float64) if weighted else None
    options = {"normalize": normalize, "label_smoothing": a, "weight": weight}
    expected = naive(logits, hot, normalize=normalize, a=a, weight=weight)
    torch.testing.assert_close(pick_all_label(logits, hot, reduction="none", **options), expected)
    torch.testing.assert_close(pick_all_label(logits, hot, reduction="sum", **options), expected.sum())
    torch.testing.assert_close(PickAllLabelLoss(**options)(logits, hot), expected.mean())


def test_is_torchs_cross_entropy_on_multi_hot_floats():
    logits, hot = sample(16, 6)
    torch.testing.assert_close(pick_all_label(logits, hot), cross_entropy(logits, hot.double()))
    shares = hot.double() / hot.sum(1, keepdim=True).clamp(min=1)
    torch.testing.assert_close(pick_all_label(logits, hot, normalize=True), cross_entropy(logits, shares))
    weight = torch.rand(6, dtype=torch.float64)
    torch.testing.assert_close(
        pick_all_label(logits, hot, weight=weight), cross_entropy(logits, hot.double(), weight=weight)
    )


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("a", [0.0, 0.2])
def test_is_torchs_cross_entropy_on_single_labels(a, normalize):
    logits, _ = sample(16, 6)
    labels = torch.arange(16) % 6
    loss = pick_all_label(logits, labels[:, None], label_smoothing=a, normalize=normalize, reduction="none")
    torch.testing.assert_close(loss, cross_entropy(logits, labels, label_smoothing=a, reduction="none"))


def test_forms_of_a_label_set_agree():
    logits, hot = sample(9, 5)
    expected = pick_all_label(logits, hot, reduction="none")
    lists = [row.nonzero()[:, 0] for row in hot]
    padded = torch.full((9, 7), -1)
    for row, labels in zip(padded, lists, strict=True):
        row[1 : 1 + len(labels)] = labels.flip(0)  # neither order nor where the padding is matters
    repeated = [[*labels.tolist(), *labels.tolist()] for labels in lists]
    for target in (hot.int(), hot.half(), hot.long(), lists, padded, padded.int(), repeated):
        torch.testing.assert_close(pick_all_label(logits, target, reduction="none"), expected)
    torch.testing.assert_close(
        pick_all_label(logits[:0], []), pick_all_label(logits[:0], hot[:0]), equal_nan=True
    )
    assert pick_all_label(logits[:1], [[]]).item() == 0.0


@pytest.mark.parametrize("a", [0.0, 0.1])
@pytest.mark.parametrize("normalize", [False, True])
def test_empty_and_full_sets(a, normalize):
    logits, hot = sample(2, 4)
    logits.requires_grad_()
    options = {"label_smoothing": a, "normalize": normalize, "reduction": "none"}
    loss = pick_all_label(logits, hot, **options)
    assert loss[0].item() == 0.0
    loss.sum().backward()
    assert (logits.grad[0] == 0).all()
    # A full set pulls to uniform: m softmax - 1, divided by m where normalised.
    times = 1 if normalize else 4
    torch.testing.assert_close(logits.grad[1], times * (logits.detach()[1].softmax(0) - 0.25))
    flat = pick_all_label(torch.ones(1, 4, dtype=torch.float64), hot[1:], **options)
    torch.testing.assert_close(flat, times * torch.tensor([4.0], dtype=torch.float64).log())


def test_gradient_is_labels_times_softmax_less_the_labels():
    logits, hot = sample(6, 5)
    logits.requires_grad_()
    pick_all_label(logits, hot, reduction="sum").backward()
    expected = hot.sum(1, keepdim=True) * logits.detach().softmax(1) - hot.double()
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("K", [2, 4])
def test_gradcheck(K, normalize):
    logits, hot = sample(5, K)
    weight = torch.rand(K, dtype=torch.float64)
    options = {"normalize": normalize, "label_smoothing": 0.1, "weight": weight}
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: pick_all_label(z, hot, **options), (logits,))
    assert torch.autograd.gradgradcheck(lambda z: pick_all_label(z, hot, **options), (logits,))


def test_shift_does_not_matter():
    logits, hot = sample(8, 5)
    torch.testing.assert_close(pick_all_label(logits + 50.0, hot), pick_all_label(logits, hot))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_finite_for_huge_logits(dtype, size):
    logits = (
        (size * torch.tensor([[1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 0.0]])).to(dtype).requires_grad_()
    )
    hot = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    loss = pick_all_label(logits, hot, label_smoothing=0.1, reduction="none")
    assert loss.dtype == torch.float32
    expected = naive(logits.detach().double(), hot.bool(), a=0.1)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-5)
    loss.sum().backward()
    assert logits.grad.isfinite().all()


def test_float32_inside_autocast():
    logits, hot = sample(4, 3, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = pick_all_label(logits.bfloat16(), hot)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, pick_all_label(logits.bfloat16().float(), hot))


def test_minus_infinity_switches_a_class_off():
    logits, hot = sample(4, 4)
    hot[:, 3] = False
    wide = logits.clone()
    wide[:, 3] = -torch.inf
    wide.requires_grad_()
    loss = pick_all_label(wide, hot)
    torch.testing.assert_close(loss, pick_all_label(logits[:, :3], hot[:, :3]))
    loss.backward()
    assert wide.grad.isfinite().all()


def test_minimum_is_the_labels_share_of_the_softmax():
    # Population minimiser: P(label k) / E[number of labels], or E[(label k) / (number of labels)].
    hot = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 0, 0]], dtype=torch.float64)
    # The loss is convex: no gradient, no better softmax.
    for normalize in (False, True):
        m = hot.sum(1, keepdim=True)
        softmax = (hot / m).mean(0) if normalize else hot.mean(0) / m.mean()
        shared = softmax.log().requires_grad_()
        pick_all_label(shared.expand(5, 3), hot, normalize=normalize).backward()
        torch.testing.assert_close(shared.grad, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-15)


def test_bool_targets_compile_without_a_break():
    logits, hot = sample(4, 3)
    compiled = torch.compile(PickAllLabelLoss(label_smoothing=0.1), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, hot), pick_all_label(logits, hot, label_smoothing=0.1))


def test_class_weights_move_with_the_module_and_stay_out_of_the_state_dict():
    loss = PickAllLabelLoss(weight=torch.rand(3)).double()
    assert loss.weight.dtype == torch.float64
    assert loss.state_dict() == {}
    assert "normalize=False" in repr(loss)


ZEROS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("logits", "target", "options", "message"),
    [
        (torch.zeros(2, 3, 4), ZEROS, {}, r"logits: expected floats of shape \(B, K\)"),
        (torch.zeros(2, 3, dtype=torch.long), ZEROS, {}, "logits"),
        (ZEROS, torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]), {}, "normalize=True with zeros and ones"),
        (ZEROS, torch.tensor([[0.0, torch.nan, 0.0], [1.0, 0.0, 0.0]]), {}, "zeros and ones"),
        (
            ZEROS,
            torch.tensor([[0, 2, -1], [1, -1, -1]]),
            {},
            "as many columns as classes is read as multi-hot",
        ),
        (ZEROS, torch.zeros(2, 4), {}, "expected 3 columns"),
        (ZEROS, torch.zeros(2, 4, dtype=torch.bool), {}, "expected 3 columns"),
        (ZEROS, torch.zeros(3, 3), {}, "expected 2 label sets, one per sample, got 3"),
        (ZEROS, [[0]], {}, "expected 2 label sets, one per sample, got 1"),
        (ZEROS, torch.tensor([0, 1]), {}, r"target\[:, None\]"),
        (ZEROS, torch.tensor([[3, -1], [0, -1]]), {}, "expected classes from 0 to 2"),
        (ZEROS, torch.tensor([[-2, -1], [0, -1]]), {}, "expected classes from 0 to 2"),
        (ZEROS, [[0], [3]], {}, "expected classes from 0 to 2"),
        (ZEROS, [[0], [-1]], {}, r"target\[1\]: class -1"),
        (ZEROS, [[0], [0.5]], {}, r"target\[1\]: expected a list of integer classes"),
        (ZEROS, [[0], ["cat"]], {}, r"target\[1\]"),
        (ZEROS, [0, 1], {}, r"target\[0\]: expected a list of integer classes"),
        (ZEROS, ZEROS, {"reduction": "avg"}, "reduction='avg'"),
        (ZEROS, ZEROS, {"label_smoothing": 1.5}, "label_smoothing=1.5"),
        (ZEROS, ZEROS, {"weight": torch.ones(4)}, "weight: expected 3 floats"),
    ],
)
def test_bad_input(logits, target, options, message):
    with pytest.raises(ValueError, match=message):
        pick_all_label(logits, target, **options)
