"""Every metric on the CPU and on a GPU: the same figures, the same states, float64 sums."""

import pytest
import torch
from torch import nn

from etfhead import metrics as M
from etfhead.frames import SimplexFrame, make_frame
from etfhead.frames.last_layer import simplex_geometry
from etfhead.heads import ETFHead
from tests.devices import devices, on_gpu

K, D, N = 5, 12, 150


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS = numbers(K, D, seed=1), numbers(K, seed=2)
LABELS = whole(K, N)
FEATURES = (WEIGHT[LABELS] + 0.7 * numbers(N, D, seed=3) + 2.0).float()
OBSERVED = torch.where(numbers(N, seed=4) > 0.6, (LABELS + 1 + whole(K - 1, N, seed=5)) % K, LABELS)
NAMED = whole(K, N, seed=6)
HOT = numbers(N, K, seed=7) > 0.5
HOT[: 2 * K] = torch.eye(K).bool().repeat(2, 1)
TAGGED = (HOT.double() @ WEIGHT + 0.5 * numbers(N, D, seed=8)).float()
PROBABILITIES = torch.sigmoid(numbers(N, K, seed=9)).float()
TARGETS = (FEATURES.double() @ numbers(D, 3, seed=10) + numbers(N, 3, seed=11)).float()
GRAM = make_frame("simplex", num_classes=K, in_features=D).matrix() @ WEIGHT.T @ WEIGHT @ make_frame(
    "simplex", num_classes=K, in_features=D
).matrix().T + torch.eye(K)
PROJECTION = numbers(D, 4, seed=12)
SEEN = LABELS.clamp(max=K - 2)

METRICS = {
    "collapse": (lambda: M.NeuralCollapse(K, weight=WEIGHT, bias=BIAS), (FEATURES, LABELS)),
    "collapse_running": (lambda: M.NeuralCollapse(K, weight=WEIGHT, nc4="running"), (FEATURES, LABELS)),
    "collapse_named": (lambda: M.NeuralCollapse(K), (FEATURES, LABELS, NAMED)),
    "collapse_projected": (
        lambda: M.NeuralCollapse(K, weight=WEIGHT, projection=PROJECTION),
        (FEATURES, SEEN),
    ),
    "distance_frame": (lambda: M.FrameDistance(SimplexFrame(K, D), weight=WEIGHT), (FEATURES, LABELS)),
    "distance_gram": (lambda: M.FrameDistance(GRAM), (FEATURES, SEEN)),
    "distance_layer": (
        lambda: M.FrameDistance(simplex_geometry(K), weight=WEIGHT.float()),
        (FEATURES, SEEN),
    ),
    "memorization": (lambda: M.MemorizationDilation(K), (FEATURES, LABELS, OBSERVED)),
    "memorization_named": (lambda: M.MemorizationDilation(K), (FEATURES, LABELS, OBSERVED, NAMED)),
    "dilation": (lambda: M.MemorizationDilation(K), (FEATURES, LABELS)),
    "label_sets": (lambda: M.MultiLabelCollapse(K, WEIGHT, min_samples=2), (TAGGED, HOT)),
    "label_scores": (
        lambda: M.MultiLabelScores(K, class_counts=[90, 2, 30, 7, 50]),
        (PROBABILITIES, PROBABILITIES > 0.5, HOT),
    ),
    "regression": (lambda: M.RegressionCollapse(3, weight=numbers(3, D, seed=13)), (FEATURES, TARGETS)),
}
every_metric = pytest.mark.parametrize("name", METRICS)


def measured(metric, tensors, device, step=64):
    for parts in zip(*(tensor.to(device).split(step) for tensor in tensors), strict=True):
        metric.update(*parts)
    return metric.compute()


def assert_same(found, expected, device, tolerance=1e-7):
    assert found.keys() == expected.keys()
    for key, value in found.items():
        assert value.device.type == device, key
        torch.testing.assert_close(
            value.double().cpu(), expected[key].double().cpu(), rtol=tolerance, atol=tolerance, msg=key
        )


def states(metric):
    for name in metric._defaults:
        value = getattr(metric, name)
        yield from value if isinstance(value, list) else [value]


@devices
@every_metric
def test_figures_on_a_device_are_those_on_the_cpu(name, device):
    make, tensors = METRICS[name]
    expected = measured(make(), tensors, "cpu")
    metric = make().to(device)
    assert_same(measured(metric, tensors, device), expected, device)
    assert {state.device.type for state in states(metric)} == {device}
    assert any(state.dtype == torch.float64 for state in states(metric)) or name == "label_scores"
    metric.reset()
    assert {state.device.type for state in states(metric)} <= {device}
    with torch.inference_mode():
        assert_same(measured(metric, tensors, device, step=1000), expected, device)


# The rest hold counts or a projection that move with the metric alone.
UNMOVED = METRICS.keys() - {"label_scores", "collapse_running", "collapse_projected"}


@devices
@pytest.mark.parametrize("name", sorted(UNMOVED))
def test_sums_lie_where_the_first_batch_does(name, device):
    make, tensors = METRICS[name]
    metric = make()
    for _ in range(2):
        assert_same(measured(metric, tensors, device), measured(make(), tensors, "cpu"), device)
        metric.reset()


@devices
@every_metric
def test_states_move_in_the_middle_and_merge(name, device):
    make, tensors = METRICS[name]
    expected = measured(make(), tensors, "cpu")
    first, second = ([tensor[part] for tensor in tensors] for part in (slice(0, 80), slice(80, None)))
    metric = make().to(device)
    metric.update(*(tensor.to(device) for tensor in first))
    dtypes = [state.dtype for state in states(metric)]
    metric = metric.to("cpu")
    assert [state.dtype for state in states(metric)] == dtypes
    metric.update(*second)
    figures = metric.compute()
    if name == "collapse_running":  # NC4 against the means so far depends on the batches
        figures.pop("nc4"), expected.pop("nc4")
    assert_same(figures, expected, "cpu")
    one, two = make().to(device), make().to(device)
    one.update(*(tensor.to(device) for tensor in first))
    two.update(*(tensor.to(device) for tensor in second))
    if name != "label_scores" and not name.startswith("distance"):  # torchmetrics merges theirs
        one.merge_state(two)
        figures = one.compute()
        figures.pop("nc4", None), expected.pop("nc4", None)
        assert_same(figures, expected, device)


@devices
@every_metric
def test_forward_gives_the_batch_and_keeps_the_rest(name, device):
    make, tensors = METRICS[name]
    metric, on_device = make().to(device), [tensor.to(device) for tensor in tensors]
    expected = measured(make(), [tensor[:100] for tensor in tensors], "cpu", step=1000)
    assert_same(metric(*(tensor[:100] for tensor in on_device)), expected, device)
    metric(*(tensor[100:] for tensor in on_device))
    everything = measured(make(), tensors, "cpu", step=100)
    assert_same(metric.compute(), everything, device)


@devices
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["collapse", "distance_frame", "memorization", "label_sets", "regression"])
def test_half_features_are_widened(name, dtype, device):
    make, tensors = METRICS[name]
    narrow = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    expected = measured(make(), narrow, "cpu")
    assert_same(measured(make().to(device), narrow, device), expected, device)
    with torch.autocast(device, dtype=dtype):
        assert_same(measured(make().to(device), narrow, device), expected, device)


@devices
@pytest.mark.parametrize("name", ["collapse", "distance_frame", "memorization", "label_sets"])
def test_bad_batches_are_refused_on_any_device(name, device):
    make, tensors = METRICS[name]
    metric = make().to(device)
    features, labels = (tensor.to(device) for tensor in tensors[:2])
    rest = [tensor.to(device) for tensor in tensors[2:]]
    broken = features.clone()
    broken[3, 0] = torch.nan
    with pytest.raises(ValueError, match=f"features: 1 of {N} samples hold NaN"):
        metric.update(broken, labels, *rest)
    wrong = labels.clone().int()
    wrong[3] = K
    message = (
        "target: expected 0 and 1" if name == "label_sets" else f"labels: expected classes from 0 to {K - 1}"
    )
    with pytest.raises(ValueError, match=message):
        metric.update(features, wrong, *rest)
    with pytest.raises(ValueError, match=r"labels?: |no sample|target: |features: "):
        make().to(device).compute()


def directions_of(features, n, **options):
    return M.principal_directions(features, n, **options)


FUNCTIONS = {
    "neural_collapse": (
        lambda x, y, w, b: M.neural_collapse(x, y, K, weight=w, bias=b),
        (FEATURES, LABELS, WEIGHT, BIAS),
    ),
    "simplex_distance": (lambda w: M.simplex_distance(w)._asdict(), (WEIGHT,)),
    "self_duality": (lambda w, m: {"": M.self_duality(w, m)}, (WEIGHT, numbers(K, D))),
    "product_distance": (lambda w, m: {"": M.product_distance(w, m)}, (WEIGHT, numbers(K, D))),
    "class_distance_variance": (
        lambda m, v: {"": M.class_distance_variance(m, v)},
        # More classes than are compared at once, and two that almost coincide.
        (torch.cat([numbers(1100, 6), numbers(1100, 6)[:1] + 1e-9]), numbers(1101).abs()),
    ),
    "within_over_between": (
        lambda s, m: {"": M.within_over_between(s, 40, m)},
        (numbers(D, D) @ numbers(D, D).T, numbers(K, D)),
    ),
    "frame_distance": (
        lambda m, w: M.frame_distance(m, SimplexFrame(K, D), w),
        (numbers(K, D), WEIGHT.float()),
    ),
    "frame_distance_gram": (lambda m, g: M.frame_distance(m, g), (numbers(K, D), GRAM)),
    "memorization_figures": (
        lambda x, y, o, p, t, s: M.memorization_figures(
            x, y, o, K, predictions=p, test_features=t, test_labels=s
        ),
        (FEATURES, LABELS, OBSERVED, NAMED, FEATURES + 0.1, LABELS),
    ),
    "multilabel_collapse": (
        lambda x, t, w: M.multilabel_collapse(x, t, K, weight=w),
        (TAGGED, HOT.float(), WEIGHT),
    ),
    "multilabel_scores": (
        lambda p, d, t: M.multilabel_scores(p, d, t, class_counts=[90, 2, 30, 7, 50]),
        (PROBABILITIES, PROBABILITIES > 0.5, HOT),
    ),
    "regression_collapse": (
        lambda x, t, w: M.regression_collapse(x, t, 3, weight=w),
        (FEATURES, TARGETS, numbers(3, D, seed=13)),
    ),
    "neco_score": (
        lambda x, z: {str(n): M.neco_score(x, M.principal_directions(x, n), z) for n in (3, 0.5, 0.9)},
        (FEATURES, NAMED[:, None] + numbers(N, K).float()),
    ),
    "principal_directions": (
        lambda x: {
            "explained": (found := M.principal_directions(x, 4)).explained,
            "mean": found.mean,
            "scale": found.scale,
            "projector": found.components.T @ found.components,
        },
        (FEATURES,),
    ),
    "nci_score": (
        lambda x, w, b, p: {
            "bias": M.nci_score(x, w, x.mean(0), bias=b),
            "named": M.nci_score(x, w, x.double().mean(0), predictions=p, alpha=0.1),
        },
        (FEATURES, WEIGHT.float(), BIAS.float(), NAMED),
    ),
}


@devices
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_on_a_device_are_those_on_the_cpu(name, device):
    function, tensors = FUNCTIONS[name]
    found = function(*(tensor.to(device) for tensor in tensors))
    assert_same(found, function(*tensors), device, 1e-6)


@devices
def test_what_stays_on_the_cpu_is_brought_over(device):
    """Class vectors, targets and decisions of another device than the features, as loaders and files give."""
    x = FEATURES.to(device)
    found = M.neural_collapse(x, LABELS, K, weight=WEIGHT, bias=BIAS)
    assert_same(found, M.neural_collapse(FEATURES, LABELS, K, weight=WEIGHT, bias=BIAS), device)
    found = M.frame_distance(numbers(K, D).to(device), GRAM, WEIGHT)
    assert_same(found, M.frame_distance(numbers(K, D), GRAM, WEIGHT), device)
    found = M.multilabel_scores(PROBABILITIES.to(device), PROBABILITIES > 0.5, HOT)
    assert_same(found, M.multilabel_scores(PROBABILITIES, PROBABILITIES > 0.5, HOT), device)
    found = M.multilabel_collapse(TAGGED.to(device), HOT, K, weight=WEIGHT)
    assert_same(found, M.multilabel_collapse(TAGGED, HOT, K, weight=WEIGHT), device)
    directions = M.principal_directions(FEATURES, 3)
    scores = M.neco_score(x, directions)
    torch.testing.assert_close(scores.cpu(), M.neco_score(FEATURES, directions))
    scores = M.nci_score(x, WEIGHT, FEATURES.double().mean(0), bias=BIAS)
    torch.testing.assert_close(
        scores.cpu(), M.nci_score(FEATURES, WEIGHT, FEATURES.double().mean(0), bias=BIAS)
    )
    groups = M.label_groups(torch.tensor([90, 2, 30, 7, 50], device=device))
    assert groups["head"].tolist() == [0]


@devices
def test_a_default_device_elsewhere_leaves_the_figures(device):
    squares = numbers(K).square()
    expected = M.class_distance_variance(WEIGHT, squares)
    metric = measured(M.NeuralCollapse(K, weight=WEIGHT), (FEATURES, LABELS), "cpu")
    with torch.device(device):
        assert torch.equal(M.class_distance_variance(WEIGHT, squares), expected)
        found = measured(M.NeuralCollapse(K, weight=WEIGHT), (FEATURES, LABELS), "cpu")
    assert_same({k: v.cpu() for k, v in found.items()}, metric, "cpu")


def model_of(last):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(24, D), nn.ReLU(), last())


@devices
@pytest.mark.parametrize(
    "last", [lambda: nn.Linear(D, K), lambda: ETFHead(D, K)], ids=["linear layer", "head"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_the_monitor_measures_a_model_where_it_is(last, dtype, device, tmp_path):
    images = numbers(N, 2, 3, 4).float()
    loader = list(zip(images.split(40), LABELS.split(40), strict=True))
    found = []
    for place in ("cpu", device):
        model = model_of(last).to(place)
        monitor = M.CollapseMonitor(model, loader, classifier="3", path=tmp_path / f"{place}.jsonl")
        state = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
        with torch.autocast(place, dtype=dtype, enabled=dtype != torch.float32):
            found.append(monitor.after_epoch(0))
        after = torch.cuda.get_rng_state() if device == "cuda" else torch.get_rng_state()
        assert torch.equal(after, state)
        assert monitor.problem == ""
        assert model.training
    expected, figures = found
    assert figures.keys() == expected.keys()
    assert figures["collapse_images"] == N
    for key in figures.keys() - {"collapse_time", "collapse_nc4"}:
        assert figures[key] == pytest.approx(expected[key], rel=1e-4 if dtype == torch.float32 else 0.05), key
    assert figures["collapse_nc4"] == pytest.approx(expected["collapse_nc4"], abs=0.03)


@devices
def test_figures_of_a_device_are_drawn(device):
    metric = M.NeuralCollapse(K, weight=WEIGHT).to(device)
    measured(metric, (FEATURES, LABELS), device)
    figure, axis = metric.plot()
    assert axis.get_figure() is figure
    shown = metric.class_values()
    assert {value.device.type for value in shown.values()} == {device}
    vectors = metric.mean_directions()
    torch.testing.assert_close((vectors.T @ vectors).cpu(), torch.eye(vectors.shape[1], dtype=torch.float64))


@on_gpu
def test_exact_disagreement_keeps_no_more_than_the_features(device):
    features = torch.randn(20_000, 256, device=device)
    labels = torch.arange(20_000, device=device) % 1000
    metric = M.NeuralCollapse(1000, weight=torch.randn(1000, 256, device=device)).to(device)
    metric.update(features[:2000], labels[:2000])
    metric.compute()
    metric.reset()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    for part, names in zip(features.split(2000), labels.split(2000), strict=True):
        metric.update(part, names)
    assert torch.cuda.memory_allocated() - before < 1.5 * features.numel() * 4
    metric.compute()
    # All samples' distances to all classes in float64 would be 160 MB, and their wide features 41 MB.
    assert torch.cuda.max_memory_allocated() - before < 160e6
