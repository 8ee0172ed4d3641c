import pytest
import torch

from etfhead.experiment.data.label_noise import CLASS_FLIPS, add_label_noise, flip_matrix


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def balanced(K, n):
    return torch.arange(K * n) % K


def empirical(true, observed, K):
    counts = torch.zeros(K, K, dtype=torch.float64).index_put_(
        (true, observed), torch.ones(len(true), dtype=torch.float64), accumulate=True
    )
    return counts / counts.sum(1, keepdim=True)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("symmetric", {}),
        ("symmetric", {"include_true": True}),
        ("pairflip", {}),
        ("asymmetric", {"transition": flip_matrix({0: 1, 1: 0, 3: 2}, 5)}),
        ("asymmetric", {"transition": torch.softmax(torch.randn(5, 5, generator=gen(3)), 1)}),
    ],
)
@pytest.mark.parametrize("exact", [False, True])
def test_labels_follow_the_transition_matrix(kind, options, exact):
    y = balanced(5, 8000)
    before = y.clone()
    noise = add_label_noise(y, 0.4, kind, exact=exact, generator=gen(), **options)
    assert torch.equal(y, before)
    assert noise.labels.dtype == torch.int64
    torch.testing.assert_close(noise.transition.sum(1), torch.ones(5, dtype=torch.float64))
    seen = empirical(y, noise.labels, 5)
    # Five standard deviations of a share of 8000, or one sample.
    torch.testing.assert_close(
        seen, noise.transition, rtol=0, atol=1.1 / 8000 if exact else 5 * 0.5 / 8000**0.5
    )
    assert noise.rate == pytest.approx((noise.labels != y).double().mean().item())
    asked = 1 - noise.transition.diagonal().mean().item()
    assert noise.rate == pytest.approx(asked, abs=2e-4 if exact else 0.02)


@pytest.mark.parametrize("K", [2, 10])
@pytest.mark.parametrize("rate", [0.0, 0.2, 0.45])
def test_symmetric_rates_with_and_without_the_true_class(K, rate):
    y = balanced(K, 900)
    without = add_label_noise(y, rate, exact=True, generator=gen())
    included = add_label_noise(y, rate, include_true=True, exact=True, generator=gen())
    assert without.rate == pytest.approx(rate, abs=1 / 900)
    assert included.rate == pytest.approx(rate * (K - 1) / K, abs=1 / 900)  # half of it for two classes
    torch.testing.assert_close(without.transition[0, 1].item(), rate / (K - 1))


def test_pairs_go_to_the_next_class():
    y = balanced(4, 50)
    noise = add_label_noise(y, 0.3, "pairflip", generator=gen())
    changed = noise.labels != y
    assert changed.any()
    assert torch.equal(noise.labels[changed], (y[changed] + 1) % 4)


def test_classes_flipped_into_each_other_both_lose_what_was_asked():
    # A loop that flips in place turns some dogs into cats and back.
    y = balanced(10, 1000)
    noise = add_label_noise(
        y, 0.4, "asymmetric", transition=flip_matrix(CLASS_FLIPS["cifar10"], 10), exact=True, generator=gen()
    )
    for old, new in CLASS_FLIPS["cifar10"].items():
        counts = noise.labels[y == old].bincount(minlength=10)
        assert counts[new] == 400
        assert counts[old] == 600
    assert noise.rate == pytest.approx(0.2)
    untouched = sorted(set(range(10)) - set(CLASS_FLIPS["cifar10"]))
    for label in untouched:
        assert (noise.labels[y == label] == label).all()


def test_cifar100_flips_stay_within_superclasses_of_five():
    flips = CLASS_FLIPS["cifar100"]
    assert sorted(flips) == sorted(flips.values()) == list(range(100))
    for label in range(100):
        path = [label]
        while flips[path[-1]] != label:
            path.append(flips[path[-1]])
        assert len(path) == 5
    # Beaver, dolphin, otter, seal and whale are aquatic mammals.
    assert [flips[4], flips[30], flips[55], flips[72], flips[95]] == [30, 55, 72, 95, 4]


def test_instance_noise_is_alike_for_like_samples_and_keeps_its_rate():
    K, d = 6, 20
    y = balanced(K, 3000)
    # Each sample occurs a hundred times: its wrong labels must agree far more than chance.
    x = torch.randn(180, d, generator=gen(1)).repeat_interleave(100, 0)
    y = y[: len(x)].view(100, 180).T.reshape(-1)
    noise = add_label_noise(y, 0.4, "instance", features=x, generator=gen())
    assert noise.rate == pytest.approx(0.4, abs=0.02)
    torch.testing.assert_close(noise.transition.sum(1), torch.ones(K, dtype=torch.float64))
    torch.testing.assert_close(
        empirical(y, noise.labels, K), noise.transition, rtol=0, atol=5 * 0.5 / 3000**0.5
    )
    groups = [(noise.labels[y == k][noise.labels[y == k] != k]) for k in range(K)]
    spread = torch.stack([group.bincount(minlength=K).double() / len(group) for group in groups])
    assert spread.max() < 0.6  # no class has one wrong label only
    agreement = []
    for i in range(180):
        rows = slice(100 * i, 100 * i + 100)
        for k in range(K):
            wrong = noise.labels[rows][(y[rows] == k) & (noise.labels[rows] != k)]
            if len(wrong) > 2:
                agreement.append(wrong.bincount(minlength=K).max().item() / len(wrong))
    assert sum(agreement) / len(agreement) > 0.7


@pytest.mark.parametrize("rate", [0.02, 0.5, 0.97])
def test_instance_rates_are_a_truncated_normal(rate):
    from scipy.stats import truncnorm

    y = balanced(3, 4000)
    noise = add_label_noise(
        y, rate, "instance", features=torch.randn(len(y), 2, generator=gen(2)), generator=gen()
    )
    mean = truncnorm((0 - rate) / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1).mean()
    assert noise.rate == pytest.approx(mean, abs=5 * 0.5 / len(y) ** 0.5)
    assert 1 - noise.transition.diagonal().mean().item() == pytest.approx(mean, abs=5 * 0.1 / len(y) ** 0.5)


@pytest.mark.parametrize("kind", ["symmetric", "pairflip", "instance"])
def test_a_seed_names_the_noise_and_rate_zero_is_none(kind):
    y = balanced(4, 100)
    options = {"features": torch.randn(400, 1, 3, generator=gen(5))} if kind == "instance" else {}
    first = add_label_noise(y, 0.5, kind, generator=gen(1), **options)
    assert torch.equal(first.labels, add_label_noise(y, 0.5, kind, generator=gen(1), **options).labels)
    assert not torch.equal(first.labels, add_label_noise(y, 0.5, kind, generator=gen(2), **options).labels)
    none = add_label_noise(y, 0.0, kind, **options)
    assert torch.equal(none.labels, y)
    assert none.rate == 0.0
    assert torch.equal(none.transition, torch.eye(4, dtype=torch.float64))
    state = torch.get_rng_state()
    add_label_noise(y, 0.5, kind, generator=gen(1), **options)
    assert torch.equal(torch.get_rng_state(), state)


def test_exact_shares_of_small_and_unequal_classes():
    y = torch.tensor([0] * 3 + [1] * 7 + [3] * 2)  # class 2 has no sample
    noise = add_label_noise(y, 0.5, num_classes=4, exact=True, generator=gen())
    kept = [(noise.labels[y == k] == k).sum().item() for k in (0, 1, 3)]
    assert [abs(n - half) <= 0.5 for n, half in zip(kept, (1.5, 3.5, 1.0), strict=True)] == [True] * 3
    assert add_label_noise(y[:0], 0.5, num_classes=4).labels.shape == (0,)


Y = torch.tensor([0, 1, 2])
BAD_ROWS = torch.tensor([[0.5, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("targets", "rate", "kind", "options", "message"),
    [
        (Y, 1.0, "symmetric", {}, r"rate=1.0: expected a number in \[0, 1\)"),
        (Y, -0.1, "symmetric", {}, "rate=-0.1"),
        (Y, float("nan"), "symmetric", {}, "rate=nan"),
        (Y, 0.1, "uniform", {}, "kind='uniform'"),
        (Y.float(), 0.1, "symmetric", {}, "targets: expected integers"),
        (Y[:, None], 0.1, "symmetric", {}, "targets: expected integers"),
        (Y, 0.1, "symmetric", {"num_classes": 2}, "expected classes from 0 to 1, got 0 to 2"),
        (Y - 1, 0.1, "symmetric", {}, "got -1 to 1"),
        (torch.zeros(3, dtype=torch.long), 0.1, "symmetric", {}, "at least 2 classes"),
        (Y, 0.1, "asymmetric", {}, "transition: missing"),
        (Y, 0.1, "asymmetric", {"transition": BAD_ROWS}, "row 0 sums to 0.9"),
        (Y, 0.1, "asymmetric", {"transition": 2 * torch.eye(3) - 1 / 3}, "smallest number is -0.3"),
        (Y, 0.1, "asymmetric", {"transition": torch.eye(3) * torch.nan}, "sums to nan"),
        (Y, 0.1, "asymmetric", {"transition": torch.eye(2)}, r"expected shape \(3, 3\)"),
        (Y, 0.1, "symmetric", {"transition": torch.eye(3)}, "transition: only for kind='asymmetric'"),
        (Y, 0.1, "pairflip", {"include_true": True}, "include_true: only for kind='symmetric'"),
        (Y, 0.1, "symmetric", {"features": torch.zeros(3, 2)}, "features: only for kind='instance'"),
        (Y, 0.1, "instance", {}, "features: expected floats"),
        (Y, 0.1, "instance", {"features": torch.zeros(2, 2)}, "features: expected floats"),
        (Y, 0.1, "instance", {"features": torch.zeros(3, 2), "exact": True}, "exact"),
    ],
)
def test_bad_input(targets, rate, kind, options, message):
    with pytest.raises(ValueError, match=message):
        add_label_noise(targets, rate, kind, **options)


def test_flips_out_of_range():
    with pytest.raises(ValueError, match="3 -> 5 is not within 5 classes"):
        flip_matrix({3: 5}, 5)
