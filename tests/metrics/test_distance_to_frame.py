import copy
import math
import pickle

import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import MetricCollection

from etfhead.frames import make_frame
from etfhead.frames.imbalanced import imbalanced_ce_geometry, orthogonal_geometry, seli_geometry
from etfhead.frames.last_layer import LastLayer, frame_geometry, simplex_geometry
from etfhead.metrics import _blocks
from etfhead.metrics.distance_to_frame import FrameDistance, frame_distance

EXACT = {"dtype": torch.float64}
FRAMES = [
    make_frame("simplex", num_classes=6, in_features=8),
    make_frame("simplex", num_classes=9, in_features=8, basis="haar", seed=3),
    make_frame("orthoplex", num_classes=8, in_features=4),
    make_frame("orthoplex", num_classes=7, in_features=4),
    make_frame("union", num_classes=40, in_features=8),
    make_frame("code", num_classes=11, in_features=4),
]
COUNTS = [9, 5, 3, 2]
DECAYS = {"weight_decay": 2e-3, "feature_decay": 1e-3}
OPTIMA = {
    "simplex": simplex_geometry(4),
    "orthogonal": orthogonal_geometry(COUNTS, **DECAYS),
    "orthogonal, one collapsed": orthogonal_geometry(COUNTS, weight_decay=0.08, feature_decay=0.08),
    "orthogonal with bias": orthogonal_geometry(COUNTS, **DECAYS, bias=True),
    "cross-entropy": imbalanced_ce_geometry(COUNTS, **DECAYS),
    "seli": seli_geometry(COUNTS),
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **EXACT)


def realised(geometry, d=7, seed=0):
    """Class vectors and means, (K, d) each, with these inner products: a square root turned into R^d."""
    joint = torch.cat(
        [
            torch.cat([geometry.weight_gram, geometry.product], 1),
            torch.cat([geometry.product.T, geometry.mean_gram], 1),
        ]
    )
    values, vectors = torch.linalg.eigh(joint)
    assert values[:-d].abs().max() < 1e-9 * values[-1], (
        "a geometry of class vectors and means in d dimensions"
    )
    turn = torch.linalg.qr(drawn(d, d, seed=seed)).Q
    return ((vectors[:, -d:] * values[-d:].clamp(min=0).sqrt()) @ turn).split(len(geometry.product))


def naive(ours, goal):
    """Double loop over entries, in Python floats."""
    size = range(len(ours))
    ours, goal = ours.tolist(), goal.tolist()
    one = math.sqrt(sum(ours[i][j] ** 2 for i in size for j in size))
    other = math.sqrt(sum(goal[i][j] ** 2 for i in size for j in size))
    return math.sqrt(sum((ours[i][j] / one - goal[i][j] / other) ** 2 for i in size for j in size))


def centring(size):
    return torch.eye(size, **EXACT) - 1 / size


@pytest.mark.parametrize("frame", FRAMES, ids=repr)
@pytest.mark.parametrize("kind", ["frame", "geometry", "gram"])
def test_zero_at_every_frame_turned_scaled_and_widened(frame, kind):
    vectors = frame.matrix()
    target = {"frame": frame, "geometry": frame_geometry(frame), "gram": vectors @ vectors.T}[kind]
    turn = torch.linalg.qr(drawn(frame.in_features + 3, frame.in_features)).Q.T
    distance = frame_distance(1e-3 * vectors @ turn, target, weight=50 * vectors @ turn)
    assert distance.keys() == {"means", "weights", "product"}
    assert all(value.dtype == torch.float64 and 0 <= value < 1e-14 for value in distance.values())
    other = frame_distance(drawn(frame.num_classes, 5), target, weight=drawn(frame.num_classes, 5, seed=1))
    assert all(0.1 < value <= 2 for value in other.values())


@pytest.mark.parametrize("name", OPTIMA)
def test_zero_at_the_optimum_and_only_there(name):
    geometry = OPTIMA[name]
    weight, means = realised(geometry)
    distance = frame_distance(means, geometry, weight=weight)
    assert all(
        value < 1e-7 for value in distance.values()
    )  # the square root of a singular matrix has no more
    for other in OPTIMA:
        if other != name:
            assert max(frame_distance(means, OPTIMA[other], weight=weight).values()) > 1e-2


def test_a_common_shift_of_the_means_counts_only_where_they_are_not_centred():
    weight, means = realised(seli_geometry(COUNTS))
    shifted = means + drawn(7)
    assert max(frame_distance(shifted, seli_geometry(COUNTS), weight=weight).values()) < 1e-7
    geometry = OPTIMA["orthogonal with bias"]
    weight, means = realised(geometry)
    shifted = means + drawn(7)
    assert frame_distance(shifted, geometry)["means"] > 0.1
    up_to_a_shift = frame_distance(shifted, geometry._replace(centred=True), weight=weight)
    assert max(up_to_a_shift.values()) < 1e-7


@pytest.mark.parametrize("block", [1, 30, 2**22])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("missing", [[], [0, 5]])
@pytest.mark.parametrize("kind", ["geometry", "gram", "frame"])
def test_a_double_loop_finds_the_same(monkeypatch, kind, missing, centred, block):
    monkeypatch.setattr(_blocks, "_NUMBERS", block)
    K, d = 10, 6
    if kind == "geometry":
        a, b, c = drawn(K, K, seed=2), drawn(K, K, seed=3), drawn(K, K, seed=4)
        target = LastLayer(a @ a.T, b @ b.T, c, centred)
    else:
        frame = make_frame("orthoplex", num_classes=K, in_features=5)
        if not centred:
            vectors = torch.nn.functional.normalize(drawn(K, 5, seed=5), dim=1)
            frame = make_frame("class_means", num_classes=K, in_features=5, vectors=vectors)
        gram = frame.matrix() @ frame.matrix().T
        target = frame if kind == "frame" else gram
    grams = target[:3] if kind == "geometry" else (gram, gram, gram)
    seen = [k for k in range(K) if k not in missing]
    means, weight = drawn(K, d) + 2, drawn(K, d, seed=1)
    metric = FrameDistance(target, weight=weight)
    metric.update(means[seen], torch.tensor(seen))
    found = metric.compute()

    means, weight = means[seen], weight[seen]
    centre = centring(len(seen)) if centred else torch.eye(len(seen), **EXACT)
    weights, mean_gram, product = (matrix[seen][:, seen] for matrix in grams)
    means = centre @ means
    assert found["means"].item() == pytest.approx(
        naive(means @ means.T, centre @ mean_gram @ centre), rel=1e-12
    )
    assert found["weights"].item() == pytest.approx(naive(weight @ weight.T, weights), rel=1e-12)
    assert found["product"].item() == pytest.approx(naive(weight @ means.T, product @ centre), rel=1e-12)
    assert found["missing_classes"].item() == len(missing)


def test_limits():
    """Disjoint supports are sqrt(2) apart, opposite products 2."""
    target = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))
    distance = frame_distance(torch.diag(torch.tensor([0.0, 0.0, 3.0, 1.0])), target)
    assert distance["means"].item() == pytest.approx(math.sqrt(2), rel=1e-15)
    frame = FRAMES[0]
    opposite = frame_distance(frame.matrix(), frame, weight=-frame.matrix())
    assert opposite["product"].item() == pytest.approx(2, rel=1e-15)
    assert opposite["weights"] < 1e-14


@pytest.mark.parametrize("step", [1e-5, 1e-9, 1e-12])
def test_a_distance_near_zero_keeps_its_digits(step):
    """First order in the step, where sqrt(2 - 2 cos) sees nothing below 1e-8."""
    frame = FRAMES[0]
    vectors, change = frame.matrix(), drawn(6, 8)
    change = change - change.mean(0)
    gram = vectors @ vectors.T
    slope = vectors @ change.T + change @ vectors.T
    slope = (slope - gram * (slope * gram).sum() / gram.square().sum()) / gram.norm()
    distance = frame_distance(vectors + step * change, frame)["means"]
    assert distance.item() == pytest.approx(step * slope.norm().item(), rel=1e-3)


@pytest.mark.parametrize("size", [1e-150, 1e-30, 1e30, 1e150])
def test_any_scale(size):
    frame, means, weight = FRAMES[0], drawn(6, 8), drawn(6, 8, seed=1)
    one, other = frame_distance(means, frame, weight), frame_distance(size * means, frame, weight / size)
    geometry = frame_geometry(frame)
    scaled = LastLayer(*(size * matrix for matrix in geometry[:3]), centred=True)
    third = frame_distance(means, scaled, weight)
    for name, value in one.items():
        assert other[name].item() == pytest.approx(value.item(), rel=1e-12)
        assert third[name].item() == pytest.approx(value.item(), rel=1e-12)


def samples(count=60, classes=6, d=5, dtype=torch.float64):
    labels = torch.arange(count) % classes
    return (drawn(count, d) + labels[:, None]).to(dtype), labels


def test_splitting_into_batches_changes_nothing_and_the_state_is_sums_alone():
    features, labels = samples()
    frame, weight = FRAMES[0], drawn(6, 5, seed=1)
    whole, parts = FrameDistance(frame, weight=weight), FrameDistance(frame, weight=weight)
    whole.update(features, labels)
    for part in (slice(0, 1), slice(1, 1), slice(1, 47), slice(47, 60)):
        parts.update(features[part], labels[part])
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value, rtol=1e-13, atol=0)
    means = torch.stack([features[labels == k].mean(0) for k in range(6)])
    for name, value in frame_distance(means, frame, weight).items():
        torch.testing.assert_close(whole.compute()[name], value, rtol=1e-13, atol=0)
    assert set(whole._defaults) == {"counts", "class_sums"}
    assert whole.class_sums.shape == (6, 5)
    assert whole.class_sums.dtype == torch.float64


def test_forward_gives_the_batch_and_keeps_the_sum():
    features, labels = samples()
    metric, whole = FrameDistance(FRAMES[0]), FrameDistance(FRAMES[0])
    batch = FrameDistance(FRAMES[0])
    batch.update(features[30:], labels[30:])
    whole.update(features, labels)
    with pytest.raises(ValueError, match="1 of 6 classes"):
        metric(features[:1], labels[:1])  # no figures of its own, but added
    metric(features[1:30], labels[1:30])
    assert metric(features[30:], labels[30:])["means"] == batch.compute()["means"]
    both = FrameDistance(FRAMES[0])
    both.update(features[:30], labels[:30])
    both.merge_state(batch)
    torch.testing.assert_close(both.compute()["means"], whole.compute()["means"], rtol=1e-13, atol=0)
    torch.testing.assert_close(metric.compute()["means"], whole.compute()["means"], rtol=1e-13, atol=0)


def test_reset_forgets_the_width_and_keeps_target_and_class_vectors():
    features, labels = samples()
    metric = FrameDistance(FRAMES[0], weight=drawn(6, 5))
    metric.update(features, labels)
    first = metric.compute()
    metric.reset()
    with (
        pytest.raises(ValueError, match="0 of 6 classes have a sample"),
        pytest.warns(UserWarning, match="before"),
    ):
        metric.compute()
    metric.update(features, labels)
    assert metric.compute() == first
    metric.reset()
    metric.update(drawn(12, 3), torch.arange(12) % 6)
    with pytest.raises(ValueError, match=r"weight: expected shape \(6, 3\)"):
        metric.compute()


def test_new_class_vectors_are_seen_and_are_a_copy():
    features, labels = samples()
    weight = torch.nn.Parameter(drawn(6, 5))
    metric = FrameDistance(FRAMES[0])
    metric.update(features, labels)
    assert metric.compute().keys() == {"means", "missing_classes"}
    metric.set_class_vectors(weight)
    first = metric.compute()
    with torch.no_grad():
        weight.mul_(drawn(6, 1, seed=9))
    metric._computed = None
    assert metric.compute() == first
    metric.set_class_vectors(weight)
    assert metric.compute()["weights"] != first["weights"]
    assert not metric.compute()["weights"].requires_grad


@pytest.mark.parametrize(
    "target", [FRAMES[4], OPTIMA["seli"], OPTIMA["seli"].mean_gram], ids=["frame", "optimum", "gram"]
)
def test_copies_and_pickles_go_on_as_the_original(target):
    classes = 40 if target is FRAMES[4] else 4
    features, labels = samples(80, classes)
    metric = FrameDistance(target, weight=drawn(classes, 5))
    metric.update(features[:50], labels[:50])
    twins = [pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric), metric.clone()]
    for one in (metric, *twins):
        one.update(features[50:], labels[50:])
    assert all(twin.compute() == metric.compute() for twin in twins)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_summed_in_float64(dtype):
    features, labels = samples(600, dtype=dtype)
    metric, exact = FrameDistance(FRAMES[0], weight=drawn(6, 5).to(dtype)), FrameDistance(FRAMES[0])
    exact.set_class_vectors(drawn(6, 5).to(dtype).double())
    metric.update(features, labels)
    exact.update(features.double(), labels)
    assert metric.compute() == exact.compute()
    expected = metric.compute()
    for cast in (metric.half(), metric.to(torch.bfloat16)):
        assert cast.class_sums.dtype == torch.float64
        assert cast.compute() == expected


def test_batches_in_and_out_of_inference_mode_with_integers_of_any_width():
    features, labels = samples()
    metric, whole = FrameDistance(FRAMES[0]), FrameDistance(FRAMES[0])
    with torch.inference_mode():
        metric.reset()
        metric.update(features[:30], labels[:30].to(torch.uint8))
    metric.update(features[30:].requires_grad_(), labels[30:].to(torch.int32))
    whole.update(features.detach(), labels)
    torch.testing.assert_close(metric.compute()["means"], whole.compute()["means"], rtol=1e-13, atol=0)


def test_a_collection_takes_it():
    features, labels = samples()
    both = MetricCollection(
        {"simplex": FrameDistance(FRAMES[0]), "seli": FrameDistance(seli_geometry([9] * 6))}
    )
    both.update(features, labels)
    figures = both.compute()
    assert len(figures) == 4
    alone = FrameDistance(FRAMES[0])
    alone.update(features, labels)
    assert any(value == alone.compute()["means"] for value in figures.values())


def test_plots_distances_but_not_the_count():
    features, labels = samples()
    metric = FrameDistance(FRAMES[0], weight=drawn(6, 5))
    metric.update(features, labels)
    _, axis = metric.plot()
    assert [line.get_label() for line in axis.get_lines()] == ["means", "weights", "product"]
    _, axis = metric.plot([metric.compute(), metric.compute()])
    assert [len(line.get_xdata()) for line in axis.get_lines()] == [2, 2, 2]


def _process(rank, folder, parts, seen_width):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    features, labels = samples()
    metric = FrameDistance(OPTIMA_OF_SIX, weight=drawn(6, 5))
    part = slice(*parts[rank])
    if part.stop > part.start or seen_width:
        metric.update(features[part], labels[part])
    before = metric.class_sums.shape
    results = [metric.compute()]
    assert metric.class_sums.shape == before, "what was summed is this process's again"
    metric.update(features[:6], labels[:6])  # and more may follow
    results.append(metric.compute())
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


OPTIMA_OF_SIX = imbalanced_ce_geometry([9, 8, 7, 6, 5, 4], **DECAYS)


@pytest.mark.filterwarnings("ignore:The ``compute``")
@pytest.mark.parametrize("parts", [((0, 20), (20, 60)), ((0, 60), (0, 0)), ((0, 0), (0, 3))])
@pytest.mark.parametrize("seen_width", [False, True])
def test_two_processes_are_one_also_where_one_saw_nothing(tmp_path, parts, seen_width):
    mp.start_processes(_process, (str(tmp_path), parts, seen_width), nprocs=2, start_method="fork")
    features, labels = samples()
    metric = FrameDistance(OPTIMA_OF_SIX, weight=drawn(6, 5))
    for part in parts:
        metric.update(features[slice(*part)], labels[slice(*part)])
    expected = [metric.compute()]
    for _ in range(2):
        metric.update(features[:6], labels[:6])
    expected.append(metric.compute())
    for rank in range(2):
        saved = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for found, whole in zip(saved, expected, strict=True):
            assert found.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)


def _process_without_samples(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    metric = FrameDistance(FRAMES[0])
    with (
        pytest.raises(ValueError, match="0 of 6 classes have a sample"),
        pytest.warns(UserWarning, match="before"),
    ):
        metric.compute()
    torch.distributed.destroy_process_group()


def test_no_process_saw_anything(tmp_path):
    mp.start_processes(_process_without_samples, (str(tmp_path),), nprocs=2, start_method="fork")


def test_fewer_than_two_classes():
    metric = FrameDistance(FRAMES[0])
    metric.update(drawn(4, 3), torch.full((4,), 2))
    with pytest.raises(ValueError, match=r"1 of 6 classes have a sample.*update\(\) with more classes"):
        metric.compute()


def test_what_has_no_shape_is_an_error_and_never_nan():
    frame = FRAMES[0]
    with pytest.raises(ValueError, match="features: all class means coincide"):
        frame_distance(torch.full((6, 3), 0.1), frame)
    metric = FrameDistance(frame)  # one point up to what thousands of sums leave of rounding
    for count in (1, 2999, 7000):
        labels = torch.arange(count) % 6
        metric.update(torch.full((count, 3), 0.1, **EXACT), labels)
    with pytest.raises(ValueError, match="features: all class means coincide"):
        metric.compute()
    assert frame_distance(torch.full((4, 3), 0.1), OPTIMA["orthogonal"])["means"].isfinite()
    with pytest.raises(ValueError, match="features: all class means are zero"):
        frame_distance(torch.zeros(4, 3), OPTIMA["orthogonal"])
    with pytest.raises(ValueError, match="weight: all class vectors are zero"):
        frame_distance(drawn(6, 3), frame, weight=torch.zeros(6, 3))
    apart = torch.cat([torch.zeros(6, 2), drawn(6, 2)], 1)
    with pytest.raises(ValueError, match="weight: the class vectors are at right angles"):
        frame_distance(apart.flip(1), frame, weight=apart)
    with pytest.raises(ValueError, match=r"target\.weight_gram: all zero: every class collapses"):
        FrameDistance(orthogonal_geometry(COUNTS, weight_decay=1.0, feature_decay=1.0))
    metric = FrameDistance(orthogonal_geometry([500, 2, 1], weight_decay=0.01, feature_decay=0.01))
    metric.update(drawn(2, 3), torch.tensor([1, 2]))
    with pytest.raises(
        ValueError, match=r"target: its means of the 2 classes seen are all zero.*smaller decays"
    ):
        metric.compute()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("simplex", "expected a Frame, a LastLayer or a .* got str"),
        (torch.eye(3)[:2], r"target: expected shape \(K, K\) with K >= 2, got \(2, 3\)"),
        (torch.ones(1, 1), r"K >= 2, got \(1, 1\)"),
        (torch.tensor(1.0), r"K >= 2, got \(\)"),
        (torch.eye(3, dtype=torch.int64), "expected floats, got torch.int64"),
        (torch.full((3, 3), float("nan")), "target: holds NaN or infinity"),
        (torch.eye(3) * float("inf"), "target: holds NaN or infinity"),
        (torch.zeros(3, 3), "target: all zero"),
        (torch.eye(3).roll(1, 0), "expected a Gram matrix, symmetric"),
        (-torch.eye(3), "non-negative diagonal"),
        (OPTIMA["seli"]._replace(product=torch.eye(3)), r"target\.product: expected shape"),
        (OPTIMA["seli"]._replace(mean_gram=None), r"target\.mean_gram: expected shape .* got NoneType"),
    ],
)
def test_bad_targets(target, message):
    with pytest.raises(ValueError, match=message):
        FrameDistance(target)
    with pytest.raises(ValueError, match=message):
        frame_distance(drawn(3, 3), target)


def test_bad_sizes_and_batches():
    with pytest.raises(ValueError, match="num_classes=5: the target has 6 classes"):
        FrameDistance(FRAMES[0], num_classes=5)
    assert FrameDistance(FRAMES[0], num_classes=6).num_classes == 6
    with pytest.raises(ValueError, match=r"class_means: expected shape \(6, d\)"):
        frame_distance(drawn(5, 3), FRAMES[0])
    with pytest.raises(ValueError, match=r"weight: expected shape \(6, 3\)"):
        frame_distance(drawn(6, 3), FRAMES[0], weight=drawn(6, 4))
    metric = FrameDistance(FRAMES[0])
    features, labels = samples()
    metric.update(features, labels)
    before = metric.compute()
    for bad, classes, message in [
        (features[:, :3], labels, "expected 5 features, as in the batches before, got 3"),
        (features, labels + 1, "expected classes from 0 to 5, got 1 to 6"),
        (features / 0.0, labels, "NaN or infinity; nothing was added"),
        (features, labels.double(), "integer classes"),
        (features[None], labels, r"shape \(B, d\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            metric.update(bad, classes)
    assert metric.compute() == before


def test_a_bad_first_batch_leaves_the_width_open():
    metric = FrameDistance(FRAMES[0])
    with pytest.raises(ValueError, match="NaN"):
        metric.update(torch.full((2, 3), float("nan")), torch.tensor([0, 1]))
    metric.update(*samples())
    assert metric.compute()["missing_classes"] == 0
