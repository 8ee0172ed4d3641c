import json

import pytest
import timm
import torch
from torch import nn

from etfhead import swap_head
from etfhead.metrics import CollapseMonitor, neural_collapse


def batches(num_classes=4, samples=24, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(samples, 3, size, size, generator=generator)
    labels = torch.arange(samples) % num_classes
    return list(zip(images.split(10), labels.split(10), strict=True))


def tiny(num_classes=4, **options):
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=num_classes, **options)


def aside():
    """A model that reads its classifier's weight, past the module."""
    model = tiny()
    model.forward = lambda x: model.forward_features(x).mean((2, 3)) @ model.fc.weight.T
    return model


def by_hand(model, loader, vectors, num_classes):
    """Penultimate features by timm's own call, in evaluation mode."""
    model.eval()
    with torch.no_grad():
        # In the same batches: another batch size is another order of float32 sums.
        features = torch.cat(
            [model.forward_head(model.forward_features(x), pre_logits=True) for x, _ in loader]
        )
        predictions = torch.cat([model(x).argmax(1) for x, _ in loader])
    labels = torch.cat([y for _, y in loader])
    return neural_collapse(features, labels, num_classes, weight=vectors, predictions=predictions)


def assert_same(found, expected):
    for key in ("nc1", "cdnv", "nc2_equinorm", "nc2_equiangular", "nc2_etf", "nc3", "nc4", "nc2w_etf"):
        assert found[f"collapse_{key}"] == pytest.approx(float(expected[key]), rel=1e-6, abs=1e-9), key


def test_a_stock_classifier_is_measured_at_its_input():
    model, loader = tiny(), batches()
    monitor = CollapseMonitor(model, loader)
    assert monitor.classifier == "fc"
    found = monitor.measure()
    assert_same(found, by_hand(model, loader, model.fc.weight, 4))
    assert found["collapse_images"] == 24
    assert found["collapse_missing"] == 0
    assert found["collapse_time"] > 0
    assert monitor.seconds == pytest.approx(found["collapse_time"])
    assert monitor.problem == ""


def test_a_head_is_measured_behind_its_neck():
    model, loader = swap_head(tiny()), batches()
    model.train()
    for images, _ in loader:  # statistics of the neck
        model(images)
    found = CollapseMonitor(model, loader).measure()
    model.eval()
    with torch.no_grad():
        features = torch.cat(
            [model.forward_head(model.forward_features(x), pre_logits=True) for x, _ in loader]
        )
        neck = model.fc.neck
        features = (features - neck.running_mean) / (neck.running_var + neck.eps).sqrt()
        predictions = torch.cat([model(x).argmax(1) for x, _ in loader])
    labels = torch.cat([y for _, y in loader])
    expected = neural_collapse(features, labels, 4, weight=model.fc.class_vectors(), predictions=predictions)
    assert_same(found, expected)
    assert found["collapse_nc2w_etf"] < 1e-6


@pytest.mark.parametrize("head", ["cosine", "class_mean", "delta", "linear"])
def test_every_kind_of_head_is_found(head):
    options = {"neck": "batchnorm"} if head == "linear" else {}
    found = CollapseMonitor(swap_head(tiny(), head, **options), batches()).measure()
    assert {"collapse_nc1", "collapse_nc3", "collapse_nc4"} <= found.keys()


def test_a_fused_head_gives_scores_while_it_is_measured():
    found = CollapseMonitor(swap_head(tiny(), fused=True).train(), batches()).measure()
    assert 0 <= found["collapse_nc4"] <= 1


def test_a_1x1_convolution_is_averaged_over_pixels():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.score = nn.Conv2d(3, 8, 5, stride=5), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.score(self.stem(x).relu()).mean((2, 3))

    torch.manual_seed(0)
    model, loader = Conv(), batches()
    found = CollapseMonitor(model, loader, classifier="score").measure()
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    with torch.no_grad():
        features, predictions = model.stem(images).relu().mean((2, 3)), model(images).argmax(1)
    weight = model.score.weight.flatten(1)
    assert_same(found, neural_collapse(features, labels, 4, weight=weight, predictions=predictions))
    swap_head(model, classifier="score")
    assert CollapseMonitor(model, loader).measure()["collapse_nc2w_etf"] < 1e-6


def test_nothing_of_the_model_or_the_random_state_changes():
    model = swap_head(tiny(drop_rate=0.5))
    model.train()
    model.layer1.eval()  # frozen by hand
    modes = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_hooks) for module in model.modules()]
    random = torch.get_rng_state()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*map(torch.cat, zip(*batches(), strict=True)))
    )
    CollapseMonitor(model, loader).measure()
    assert modes == [module.training for module in model.modules()]
    assert hooks == [len(module._forward_hooks) for module in model.modules()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_wrappers_are_looked_through():
    model, loader = tiny().eval(), batches()
    plain = CollapseMonitor(model, loader).measure()
    for wrapped in (nn.DataParallel(model), torch.compile(model, backend="eager")):
        assert_same(
            CollapseMonitor(wrapped, loader).measure(),
            {k.removeprefix("collapse_"): v for k, v in plain.items()},
        )
    monitor = CollapseMonitor(model, loader)
    model.compile(backend="eager")
    with torch.no_grad():
        model(loader[0][0])  # compiled before the hook is there
        assert_same(monitor.measure(), {k.removeprefix("collapse_"): v for k, v in plain.items()})
        outer = nn.Sequential(torch.compile(tiny().eval(), backend="eager"))
        outer(loader[0][0])
    found = CollapseMonitor(outer, loader, classifier="0._orig_mod.fc").measure()
    assert_same(found, {k.removeprefix("collapse_"): v for k, v in plain.items()})


def test_a_model_that_is_the_layer_or_calls_it_by_keyword():
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = layer

        def forward(self, x):
            return self.fc(input=x)

    layer = nn.Linear(12, 4)
    loader = [(x.flatten(1)[:, :12], y) for x, y in batches()]
    features, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    expected = neural_collapse(features, labels, 4, weight=layer.weight, bias=layer.bias)
    for model, name in ((layer, ""), (Keyword(), "fc")):
        assert_same(CollapseMonitor(model, loader, classifier=name).measure(), expected)


def test_a_layer_that_is_not_the_classifier_has_no_nc4():
    found = CollapseMonitor(tiny(), batches(), classifier="global_pool", num_classes=4).measure()
    assert found["collapse_nc1"] > 0
    assert "collapse_nc4" not in found


def test_no_batch_is_said():
    monitor = CollapseMonitor(tiny(), [])
    assert monitor.measure()["collapse_images"] == 0
    assert "0 of 4 classes have a sample" in monitor.problem


def test_epochs_that_are_due_are_written_to_a_file(tmp_path):
    path = tmp_path / "a folder" / "metrics.jsonl"
    monitor = CollapseMonitor(tiny(), batches(), every=3, path=path)
    measured = [epoch for epoch in range(7) if monitor.after_epoch(epoch)]
    assert measured == [2, 5]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [2, 5]
    assert all(row["collapse_nc1"] > 0 for row in rows)


def test_a_dead_network_and_bad_samples_do_not_stop_training():
    model, loader = tiny(), batches()
    monitor = CollapseMonitor(model, loader)
    for parameter in model.layer4.parameters():
        nn.init.zeros_(parameter)
    found = monitor.measure()
    assert "collapse_nc1" not in found
    assert "all class means coincide" in monitor.problem
    assert found["collapse_images"] == 24

    model = tiny()
    loader[1][0][0] = torch.nan
    found = CollapseMonitor(model, loader).measure()
    assert (found["collapse_images"], found["collapse_not_finite"]) == (23, 1)
    assert found["collapse_nc1"] > 0
    json.dumps(found, allow_nan=False)


def test_an_untrained_zero_layer_has_no_figures_of_its_vectors():
    model = tiny()
    nn.init.zeros_(model.fc.weight)
    found = CollapseMonitor(model, batches()).measure()
    assert "collapse_nc3" not in found
    assert found["collapse_nc1"] > 0


def test_stopping_in_the_middle_leaves_no_hook():
    model = tiny().train()

    def tick(images):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CollapseMonitor(model, batches()).measure(tick=tick)
    assert not model.fc._forward_hooks
    assert model.training


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CollapseMonitor(tiny(), [], every=0), "every=0: expected an integer >= 1"),
        (
            lambda: CollapseMonitor(tiny(), [], classifier="head"),
            "classifier='head': the model has no such module",
        ),
        (lambda: CollapseMonitor(tiny(0), []), "no classifier found in ResNet: name the layer"),
        (lambda: CollapseMonitor(tiny(), [], classifier="act1"), "num_classes: 'act1' does not tell"),
        (
            lambda: CollapseMonitor(tiny(), [torch.ones(3)]).measure(),
            r"loader: expected batches \(images, labels\)",
        ),
        (
            lambda: CollapseMonitor(tiny(), [(x, y.numpy()) for x, y in batches()]).measure(),
            "tensors both, got tuple of Tensor, ndarray",
        ),
        (
            lambda: CollapseMonitor(tiny(), [(x, y[:3]) for x, y in batches()]).measure(),
            r"loader: expected labels of shape \(10,\), one integer class a sample, got \(3,\)",
        ),
        (
            lambda: CollapseMonitor(tiny(), [(x, torch.eye(4)[y]) for x, y in batches()]).measure(),
            r"loader: expected labels of shape \(10,\), one integer class a sample, got \(10, 4\)",
        ),
        (
            lambda: CollapseMonitor(tiny(10), [], num_classes=4),
            "num_classes=4: 'fc' has 10 class vectors",
        ),
        (
            lambda: CollapseMonitor(tiny(), [], num_classes=0),
            "num_classes=0: expected an integer >= 2",
        ),
        (
            lambda: CollapseMonitor(aside(), batches()).measure(),
            "classifier='fc': the model ran without calling this layer",
        ),
    ],
)
def test_what_cannot_be_watched_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()
