"""Decoding against a search of all label sets."""

import pytest
import torch

from etfhead.frames.simplex import SimplexFrame
from etfhead.frames.tagwise import tagwise_gaps
from etfhead.heads import decode_labels
from etfhead.heads.label_search import best_counts, centred_logits, top_labels


def all_sets(K):
    """Every label set of 1 to K - 1 labels, (2^K - 2, K)."""
    return ((torch.arange(1, 2**K - 1)[:, None] >> torch.arange(K)) & 1).bool()


def noisy_samples(prototypes, number, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(prototypes), (number,), generator=generator)
    spread = torch.randn(number, prototypes.shape[1], generator=generator, dtype=torch.float64)
    return prototypes[picks] + noise * spread


@pytest.mark.parametrize(("K", "number"), [(2, 1000), (3, 10_000), (7, 10_000), (12, 10_000)])
@pytest.mark.parametrize("shrinking", [False, True])
def test_nearest_equals_brute_force_in_feature_space(K, number, shrinking):
    # Features, prototypes and distances in R^d; the head's scale and the prototypes' size are arbitrary.
    scale, reach = 3.7, 0.6
    frame = SimplexFrame(K, K + 2).matrix()
    hot = all_sets(K)
    m = hot.sum(1)
    C = tagwise_gaps(K, 50.0, range(1, K), normalize=True)
    C = C / C[0] if shrinking else torch.linspace(1.0, 2.0, K - 1, dtype=torch.float64)
    prototypes = C[m - 1][:, None] * reach * (hot.double() @ frame)
    features = noisy_samples(prototypes, number, 0.5, seed=K)
    features[::3] *= 0.1
    distances = prototypes.square().sum(1) - 2 * features @ prototypes.T
    expected = hot[distances.argmin(1)]
    assert len(expected.sum(1).unique()) > min(K - 2, 3)  # sets of many sizes are among the answers

    logits = scale * features @ frame.T
    gaps = scale * reach * C * K / (K - 1)  # of the prototypes' logits
    assert torch.equal(decode_labels(logits, gaps=gaps), expected)
    offset = torch.randn(number, 1, dtype=torch.float64)
    assert torch.equal(decode_labels(logits + offset, gaps=gaps), expected)


@pytest.mark.parametrize(("K", "number"), [(2, 1000), (3, 10_000), (7, 10_000), (12, 10_000)])
def test_nearest_cosine_equals_brute_force_in_feature_space(K, number):
    frame = SimplexFrame(K, K + 2).matrix()
    hot = all_sets(K)
    prototypes = torch.nn.functional.normalize(hot.double() @ frame)
    features = noisy_samples(prototypes, number, 0.2, seed=K)
    expected = hot[(features @ prototypes.T).argmax(1)]
    assert torch.equal(decode_labels(2.5 * features @ frame.T, "nearest_cosine"), expected)


@pytest.mark.parametrize("max_labels", [1, 2, 4])
def test_max_labels_is_brute_force_over_the_smaller_sets(max_labels):
    K = 6
    hot = all_sets(K)
    hot = hot[hot.sum(1) <= max_labels]
    m = hot.sum(1)
    gaps = tagwise_gaps(K, 50.0, range(1, K))
    prototypes = gaps[m - 1][:, None] * (hot.double() - m[:, None] / K)
    logits = 3 * torch.randn(2000, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = centred_logits(logits)
    near = hot[(prototypes.square().sum(1) - 2 * centred @ prototypes.T).argmin(1)]
    assert torch.equal(decode_labels(logits, gaps=gaps, max_labels=max_labels), near)
    assert torch.equal(decode_labels(logits, gaps=gaps[:max_labels]), near)
    cosine = hot[(centred @ torch.nn.functional.normalize(prototypes).T).argmax(1)]
    assert torch.equal(decode_labels(logits, "nearest_cosine", max_labels=max_labels), cosine)


@pytest.mark.parametrize("method", ["nearest", "nearest_cosine", "threshold"])
def test_every_prototype_decodes_to_its_own_set(method):
    K = 8
    hot = all_sets(K)
    m = hot.sum(1)
    gaps = tagwise_gaps(K, 1e3, range(1, K))
    logits = gaps[m - 1][:, None] * hot.double() + torch.randn(len(hot), 1, dtype=torch.float64)
    options = {"gaps": gaps} if method == "nearest" else {}
    assert torch.equal(decode_labels(logits, method, **options), hot)


def test_offsets_make_it_the_most_probable_set():
    K, variance = 6, 1.7
    hot = all_sets(K)
    m = hot.sum(1)
    gaps = tagwise_gaps(K, 50.0, range(1, K))
    prototypes = gaps[m - 1][:, None] * (hot.double() - m[:, None] / K)
    prior = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.05], dtype=torch.float64) / torch.bincount(m)[1:]
    logits = 2 * torch.randn(3000, K, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = logits - logits.mean(1, keepdim=True)
    log_posterior = prior[m - 1].log() - torch.cdist(centred, prototypes).square() / (2 * variance)
    expected = hot[log_posterior.argmax(1)]
    assert torch.equal(decode_labels(logits, gaps=gaps, offsets=2 * variance * prior.log()), expected)
    assert not torch.equal(decode_labels(logits, gaps=gaps), expected)


def test_threshold_and_topk_against_loops():
    logits = torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    rows = (logits - logits.mean(1, keepdim=True)).tolist()
    limits = [-0.5, 0.0, 0.5, 1.0, 2.0]
    for threshold, expected in (
        (None, [[z > 0 for z in row] for row in rows]),
        (0.7, [[z > 0.7 for z in row] for row in rows]),
        (torch.tensor(limits), [[z > t for z, t in zip(row, limits, strict=True)] for row in rows]),
    ):
        assert decode_labels(logits, "threshold", threshold=threshold).tolist() == expected
    for k in (0, 1, 3, 5):
        best = [sorted(range(5), key=lambda c: -row[c])[:k] for row in rows]
        assert decode_labels(logits, "topk", k=k).tolist() == [[c in b for c in range(5)] for b in best]
    counts = torch.arange(200) % 6
    hot = decode_labels(logits, "topk", k=counts)
    assert torch.equal(hot.sum(1), counts)
    assert all(z[h].min() >= z[~h].max() for z, h in zip(logits, hot, strict=True) if 0 < h.sum() < 5)


def test_max_labels_keeps_those_farthest_above_the_threshold():
    logits = torch.tensor([[3.0, 2.0, 1.0, -6.0]])
    assert decode_labels(logits, "threshold", max_labels=2).int().tolist() == [[1, 1, 0, 0]]
    by_class = torch.tensor([2.9, 1.9, 0.0, 0.0])
    hot = decode_labels(logits, "threshold", threshold=by_class, max_labels=1)
    assert hot.int().tolist() == [[0, 0, 1, 0]]


def test_ties_go_to_the_lower_class_and_keep_the_count():
    logits = torch.zeros(3, 4)
    assert decode_labels(logits, "topk", k=2).int().tolist() == [[1, 1, 0, 0]] * 3
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0], [5.0, 1.0, 0.0, 0.0]])
    assert top_labels(values, torch.tensor([2, 3])).int().tolist() == [[0, 1, 1, 0], [1, 1, 1, 0]]
    hot = decode_labels(logits, "nearest_cosine")
    assert (hot.sum(1) >= 1).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_and_shapes(dtype):
    logits = torch.randn(2, 3, 4, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    gaps = tagwise_gaps(9, 20.0, range(1, 9))
    for method, options in (
        ("nearest", {"gaps": gaps}),
        ("nearest_cosine", {}),
        ("threshold", {}),
        ("topk", {"k": 2}),
    ):
        hot = decode_labels(logits, method, **options)
        assert hot.shape == logits.shape
        assert hot.dtype == torch.bool
        flat = decode_labels(logits.reshape(-1, 9), method, **options)
        assert torch.equal(hot.reshape(-1, 9), flat)
        assert torch.equal(decode_labels(logits[0, 0, 0], method, **options), hot[0, 0, 0])
        assert torch.equal(decode_labels(logits.double(), method, **options), hot)
        assert decode_labels(logits[:0], method, **options).shape == (0, 3, 4, 9)


def test_input_is_left_alone_and_no_gradient_is_asked_for():
    logits = torch.randn(5, 4, requires_grad=True)
    before = logits.detach().clone()
    hot = decode_labels(logits, "nearest_cosine")
    assert torch.equal(logits.detach(), before)
    assert not hot.requires_grad


def test_many_classes_keep_their_digits_in_float32():
    logits = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0))
    gaps = tagwise_gaps(5000, 1e4, range(1, 5000))
    for method, options in (("nearest", {"gaps": gaps}), ("nearest_cosine", {})):
        hot = decode_labels(logits, method, **options)
        assert torch.equal(hot, decode_labels(logits.double(), method, **options))


def test_best_counts_of_a_collapsed_sample():
    ordered = torch.tensor([2.0, 2.0, -1.0, -1.0, -1.0, -1.0])
    assert best_counts(ordered, torch.full((5,), 3.0), 6).item() == 2
    assert best_counts(ordered, None, 6).item() == 2
    assert best_counts(ordered[:1], None, 6).item() == 1


def test_few_of_many_classes_are_selected_as_they_are_sorted():
    logits = torch.randn(32, 600, generator=torch.Generator().manual_seed(0)).round(decimals=1)  # with ties
    gaps = tagwise_gaps(600, 1e4, range(1, 600))
    for k in (1, 3, 37, 38):
        every = logits.sort(dim=1, descending=True, stable=True).indices[:, :k]
        hot = torch.zeros(32, 600, dtype=torch.bool).scatter_(1, every, True)
        assert torch.equal(decode_labels(logits, "topk", k=k), hot)
        few = decode_labels(logits, gaps=gaps[:k])  # sorts all
        assert torch.equal(decode_labels(logits, gaps=gaps, max_labels=k), few)


LOGITS = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("logits", "method", "options", "message"),
    [
        (LOGITS, "argmax", {}, "method='argmax'"),
        (LOGITS, "nearest", {}, "gaps: method='nearest' needs"),
        (LOGITS, "nearest", {"gaps": torch.ones(3)}, "gaps: expected a tensor of 1 to 2"),
        (LOGITS, "nearest", {"gaps": torch.tensor([1.0, 0.0])}, "gaps: expected positive numbers"),
        (LOGITS, "nearest", {"gaps": torch.tensor([1.0, torch.nan])}, "gaps: expected positive numbers"),
        (LOGITS, "nearest", {"gaps": torch.ones(2), "offsets": torch.ones(1)}, "offsets: expected 2 finite"),
        (LOGITS, "threshold", {"offsets": torch.ones(2)}, "offsets: method='threshold' does not use it"),
        (LOGITS, "nearest_cosine", {"gaps": torch.ones(2)}, "gaps: method='nearest_cosine' does not use it"),
        (LOGITS, "nearest_cosine", {"threshold": 0.0}, "threshold: method='nearest_cosine' does not"),
        (LOGITS, "threshold", {"threshold": torch.zeros(2)}, "threshold: expected one number, or 3"),
        (LOGITS, "threshold", {"k": 1}, "k: method='threshold' does not use it"),
        (LOGITS, "threshold", {"max_labels": 0}, "max_labels=0"),
        (LOGITS, "threshold", {"max_labels": 4}, "max_labels=4"),
        (LOGITS, "topk", {}, "k: method='topk' needs"),
        (LOGITS, "topk", {"k": 4}, "k=4"),
        (LOGITS, "topk", {"k": True}, "k=True"),
        (LOGITS, "topk", {"k": torch.tensor([1, 4])}, "k="),
        (LOGITS, "topk", {"k": torch.tensor([1.0, 2.0])}, "k="),
        (LOGITS, "topk", {"k": 1, "max_labels": 2}, "max_labels: method='topk' does not use it"),
        (LOGITS.long(), "threshold", {}, "logits: expected floats"),
        (LOGITS[:, :1], "threshold", {}, "logits: expected floats"),
        (LOGITS / 0, "threshold", {}, "NaN or infinity"),
    ],
)
def test_bad_input(logits, method, options, message):
    with pytest.raises(ValueError, match=message):
        decode_labels(logits, method, **options)
