"""The multi-label head: decoding from features, calibration that stays, and models around it."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

import etfhead
from etfhead.frames.tagwise import tagwise_gaps
from etfhead.frames.tagwise_strength import fixed_frame_kappa
from etfhead.heads import ETFHead, MultiLabelETFConvHead, MultiLabelETFHead, decode_labels, label_lists
from etfhead.losses import PickAllLabelLoss
from etfhead.surgery import fold_head, swap_head

K, D = 6, 16
CALIBRATION = ("calibration_size", "gaps", "offsets", "threshold", "class_thresholds", "count_weights")


def head(**options):
    return MultiLabelETFHead(D, K, **{"neck": None, **options}).eval()


def label_sets(N, seed=0, most=3):
    generator = torch.Generator().manual_seed(seed)
    m = torch.randint(1, most + 1, (N,), generator=generator)
    return torch.rand(N, K, generator=generator).argsort(1).argsort(1) < m[:, None]


def noisy_logits(hot, noise=0.7, seed=1, kappa=500.0):
    generator = torch.Generator().manual_seed(seed)
    gaps = tagwise_gaps(K, kappa, range(1, K)).float()
    spread = torch.randn(hot.shape, generator=generator)
    return gaps[hot.sum(1) - 1][:, None] * hot + noise * spread + 3.0 * spread.mean(1, keepdim=True)


def calibrated(**options):
    hot = label_sets(400)
    return head(**options).calibrate(noisy_logits(hot), hot)


# Training


def test_is_the_fixed_head_in_training():
    torch.manual_seed(0)
    features = torch.randn(8, D)
    ours, plain = MultiLabelETFHead(D, K, seed=3), ETFHead(D, K, seed=3)
    assert torch.equal(ours(features), plain(features))
    assert [name for name, _ in ours.named_parameters()] == ["scale"]
    assert etfhead.MultiLabelETFHead is MultiLabelETFHead
    assert ours.frame.name == "simplex"
    with pytest.raises(ValueError, match="a simplex ETF needs"):
        MultiLabelETFHead(4, 10)
    assert MultiLabelETFHead(4, 10, frame="auto").frame.name == "union"


def test_training_reaches_the_prototypes_and_decodes_every_set():
    # Free features and a fixed simplex: the problem of the closed forms, with no calibration at the end.
    torch.manual_seed(0)
    hot = torch.cat([label_sets(200, most=3), torch.eye(K).bool()])
    model = head(scale=4.0, learn_scale=False).double()
    features = torch.randn(len(hot), D, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([features], max_iter=300, line_search_fn="strong_wolfe")
    criterion = PickAllLabelLoss(reduction="sum")

    def closure():
        optimizer.zero_grad()
        loss = criterion(model(features), hot) + 0.02 * features.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    logits = model(features.detach())
    for method in ("nearest_cosine", "threshold"):
        assert torch.equal(model.decode(logits, method), hot)
    model.calibrate(logits, hot)
    for method in ("nearest", "nearest_cosine", "posterior", "threshold", "class_thresholds", "count"):
        assert torch.equal(model.decode(logits, method), hot)
        assert torch.equal(model.decode(features, method, from_features=True), hot)
    # The gaps follow the closed form, those of sets that never occurred included.
    kappa = fixed_frame_kappa(K, 1, feature_decay=0.02, scale=4.0)  # N = 1: the loss is a sum
    torch.testing.assert_close(model.label_gaps(), tagwise_gaps(K, kappa, range(1, K)), rtol=1e-3, atol=0)


# Decoding


@pytest.mark.parametrize("options", [{}, {"normalized_loss": True}, {"normalize": True}, {"scale": 5.0}])
def test_uncalibrated_gaps_are_the_assumed_ones(options):
    model = head(**options)
    gaps = model.label_gaps()
    assert gaps.shape == (K - 1,)
    # A single label's feature, of unit norm at its class vector.
    logits = model(model.class_vectors())
    expected = (logits.diagonal() - (logits.sum(1) - logits.diagonal()) / (K - 1)).mean()
    torch.testing.assert_close(gaps[0], expected.detach())
    m = torch.arange(1, K)
    if options.get("normalize"):
        for size in m.tolist():
            inside = torch.arange(K) < size
            z = model((model.class_vectors() * inside[:, None]).sum(0, keepdim=True))[0].detach()
            torch.testing.assert_close(gaps[size - 1], z[inside].mean() - z[~inside].mean())
    else:
        d = gaps.double()
        kappa = d * (m * d.exp() + K - m) * (m if options.get("normalized_loss") else 1.0)
        torch.testing.assert_close(
            kappa / kappa[0], torch.ones(K - 1, dtype=torch.float64), rtol=1e-5, atol=0
        )


def test_default_gaps_behind_the_neck_are_those_of_features_with_unit_variance():
    model = MultiLabelETFHead(D, K).eval()
    features = model.class_vectors() * D**0.5
    logits = model(features).detach()
    expected = logits[0, 0] - logits[0, 1]
    torch.testing.assert_close(model.label_gaps()[0], expected, rtol=1e-3, atol=0)


def test_normalised_features_decode_by_angle():
    model = head(normalize=True)
    features = torch.randn(500, D, generator=torch.Generator().manual_seed(0))
    near = model.decode(features, from_features=True)
    assert torch.equal(near, model.decode(features, "nearest_cosine", from_features=True))


def test_logits_and_features_are_told_apart_by_the_argument_alone():
    model = MultiLabelETFHead(K, K, seed=1).eval()  # d == K
    features = torch.randn(20, K)
    hot = model.decode(features, from_features=True)
    assert torch.equal(hot, model.decode(model(features)))
    assert not torch.equal(hot, model.decode(features))


def test_features_meet_the_running_statistics_and_leave_them_alone():
    model = MultiLabelETFHead(D, K).train()
    model(3 * torch.randn(64, D) + 1)
    before = copy.deepcopy(model.state_dict())
    features = torch.randn(4, D)
    hot = model.decode(features, from_features=True)
    assert model.neck.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(hot, model.eval().decode(model(features)))


def test_methods_are_the_pure_functions():
    model = calibrated()
    logits = noisy_logits(label_sets(50, seed=5), seed=6)
    for method, options in {
        "nearest": {"gaps": model.gaps, "offsets": torch.zeros(K - 1)},
        "nearest_cosine": {},
        "threshold": {"threshold": model.threshold.item()},
    }.items():
        assert torch.equal(model.decode(logits, method), decode_labels(logits, method, **options))
    assert torch.equal(model.decode(logits, "topk", k=2), decode_labels(logits, "topk", k=2))
    likely = decode_labels(logits, gaps=model.gaps, offsets=model.offsets)
    assert torch.equal(model.decode(logits, "posterior"), likely)
    by_class = decode_labels(logits, "threshold", threshold=model.class_thresholds)
    assert torch.equal(model.decode(logits, "class_thresholds"), by_class)
    counts = model.expected_counts(logits)
    assert torch.equal(model.decode(logits, "count").sum(1), counts.round().long())
    none = model.decode(logits, "threshold", threshold=1e6)
    assert not none.any()
    assert label_lists(none) == [[]] * 50


def test_max_labels_of_the_head_and_of_the_call():
    model, free = head(max_labels=1), head()
    logits = noisy_logits(label_sets(50))
    for method in ("nearest", "nearest_cosine", "threshold", "count"):
        assert model.decode(logits, method).sum(1).max() == 1
        assert free.decode(logits, method, max_labels=1).sum(1).max() == 1
        assert free.decode(logits, method).sum(1).max() > 1
    assert model.decode(logits, "topk", k=3).sum(1).max() == 3
    assert model.decode(logits, "nearest_cosine", max_labels=3).sum(1).max() > 1


def test_uncalibrated_threshold_separates_what_has_collapsed():
    for most in (1, 2, 3):
        model = head(max_labels=most)
        hot = label_sets(100, most=most)
        m = hot.sum(1)
        logits = model.label_gaps()[m - 1][:, None] * hot
        assert torch.equal(model.decode(logits, "threshold"), hot)
        # The middle of the interval: as far from the smallest right as from the largest wrong logit.
        centred = logits - logits.mean(1, keepdim=True)
        middle = (centred[hot].min() + centred[~hot].max()) / 2
        assert model.label_threshold() == pytest.approx(middle.item(), rel=1e-5)


# Scores


def test_sigmoid_scores_order_like_centred_logits_and_cross_half_at_the_threshold():
    model = calibrated()
    logits = noisy_logits(label_sets(50, seed=2), seed=3)
    scores = model.probabilities(logits)
    assert torch.equal(scores > 0.5, model.decode(logits, "threshold"))
    centred = logits - logits.mean(1, keepdim=True)
    assert torch.equal(scores.argsort(0), centred.argsort(0))
    assert torch.equal(model.probabilities(logits + 4.0).argsort(0), centred.argsort(0))


def test_marginals_are_the_labels_frequencies_where_the_loss_is_minimal():
    # softmax = P(k) / E[m] at the minimum, so E[m] softmax is P(k) again.
    model = calibrated()
    logits = noisy_logits(label_sets(50))
    marginals = model.probabilities(logits, "marginal")
    expected = (model.expected_counts(logits)[:, None] * logits.softmax(1)).clamp(max=1)
    torch.testing.assert_close(marginals, expected)
    assert marginals.max() <= 1
    collapsed = torch.tensor([[20.0, 20.0, 0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        head().probabilities(collapsed, "marginal"), torch.tensor([[1.0, 1, 0, 0, 0, 0]]), atol=1e-5, rtol=0
    )


def test_expected_counts_before_and_after_calibration():
    hot = label_sets(600, seed=8)
    logits = noisy_logits(hot, noise=0.3, seed=9)
    for model in (head(), calibrated()):
        error = (model.expected_counts(logits) - hot.sum(1)).square().mean()
        assert error < 0.5 * hot.sum(1).float().var()
    assert head().expected_counts(torch.zeros(2, K)).tolist() == pytest.approx([K, K])
    assert head(max_labels=2).expected_counts(torch.zeros(2, K)).tolist() == [2, 2]


# Calibration


def test_calibrating_makes_new_samples_come_out_better():
    hot, fresh = label_sets(1000, seed=0), label_sets(1000, seed=1)
    logits, new = noisy_logits(hot), noisy_logits(fresh, seed=7)
    model = head(scale=20.0)  # far from the size of these logits

    def exact(method):
        return (model.decode(new, method) == fresh).all(1).float().mean().item()

    before = {method: exact(method) for method in ("nearest", "threshold")}
    assert model.calibrate(logits, hot, objective="exact_match") is model
    for method, value in before.items():
        assert exact(method) > value
    assert model.calibration_size == 1000
    torch.testing.assert_close(model.gaps[:3], tagwise_gaps(K, 500.0, range(1, 4)).float(), rtol=0.05, atol=0)


def test_batches_features_and_forms_of_targets_give_the_same_calibration():
    hot = label_sets(300)
    model = MultiLabelETFHead(D, K, basis="haar").eval()
    features = noisy_logits(hot) @ model.class_vectors()
    logits = model(features)
    expected = copy.deepcopy(model).calibrate(logits, hot).state_dict()
    split = list(zip(logits.split(77), hot.split(77), strict=True))
    for inputs, targets, options in (
        (logits, label_lists(hot), {}),
        (logits, hot.float(), {}),
        (split, None, {}),
        (((z, label_lists(y)) for z, y in split), None, {}),
        (features, hot, {"from_features": True}),
    ):
        other = copy.deepcopy(model).calibrate(inputs, targets, **options).state_dict()
        for name in CALIBRATION:
            torch.testing.assert_close(other[name], expected[name])
    with torch.no_grad():
        assert all(not value.requires_grad for value in expected.values())


def test_calibration_travels():
    model = calibrated()
    logits = noisy_logits(label_sets(40, seed=3), seed=4)
    state = model.state_dict()
    fresh = head(seed=0)
    fresh.load_state_dict(state)
    for other in (fresh, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.calibrated
        for method in ("nearest", "posterior", "threshold", "class_thresholds", "count"):
            assert torch.equal(other.decode(logits, method), model.decode(logits, method))
    assert set(CALIBRATION) < set(state)
    on_meta = head(device="meta")
    assert "calibration=meta" in repr(on_meta)
    on_meta.to_empty(device="cpu").load_state_dict(state)
    assert torch.equal(on_meta.decode(logits), model.decode(logits))
    low = copy.deepcopy(model).bfloat16()
    assert low.decode(logits.bfloat16()).shape == logits.shape
    assert (low.decode(logits) == model.decode(logits)).all(1).float().mean() > 0.9


def test_compiled_and_averaged_heads_keep_the_calibration():
    model = calibrated(neck="batchnorm")
    features = torch.randn(40, D, generator=torch.Generator().manual_seed(6))
    expected = model(features).detach()
    compiled = torch.compile(copy.deepcopy(model), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(features), expected)
    averaged = timm.utils.ModelEmaV3(model, decay=0.9)
    averaged.update(model)
    for other in (compiled, averaged.module):
        assert torch.equal(other.decode(expected, "posterior"), model.decode(expected, "posterior"))


def test_calibration_is_forgotten_with_the_frame_it_belongs_to():
    model = calibrated()
    model.reset_parameters()
    assert not model.calibrated
    assert model.gaps.abs().sum() == 0
    model = calibrated()
    model.adopt_frame(etfhead.make_frame("simplex", num_classes=K, in_features=D, seed=5))
    assert not model.calibrated


def test_empty_and_full_sets_may_be_among_the_data():
    hot = torch.cat([label_sets(200), torch.zeros(20, K).bool(), torch.ones(5, K).bool()])
    logits = torch.cat([noisy_logits(hot[:200]), 0.1 * torch.randn(25, K)])
    model = head().calibrate(logits, hot)
    assert model.expected_counts(logits[200:]).min() >= 0
    assert model.gaps.isfinite().all()


def test_the_posterior_knows_how_often_sets_occur():
    # Half the samples have one label: the most probable set is right more often than the nearest.
    hot, fresh = (torch.cat([label_sets(1000, seed=s, most=1), label_sets(1000, seed=s)]) for s in (0, 1))
    logits, new = noisy_logits(hot, noise=1.5), noisy_logits(fresh, noise=1.5, seed=7)
    model = head().calibrate(logits, hot)
    nearest, likely = (
        (model.decode(new, m) == fresh).all(1).float().mean() for m in ("nearest", "posterior")
    )
    assert likely > nearest + 0.02


# Models


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("resnet18", {}, 32),
        ("test_resnet", {}, 32),
        ("test_vit", {"img_size": 32}, 32),
        ("vit_tiny_patch16_224", {"img_size": 32, "depth": 2}, 32),
    ],
)
def test_timm_models_train_decode_and_fold(name, options, size):
    torch.manual_seed(0)
    model = swap_head(timm.create_model(name, num_classes=K, **options), "multilabel_etf", max_labels=3)
    classifier = model.get_classifier()
    assert isinstance(classifier, MultiLabelETFHead)
    images, hot = torch.randn(8, 3, size, size), label_sets(8)
    PickAllLabelLoss()(model(images), hot).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.no_grad():
        logits = model(images)
        found = classifier.decode(logits)
        assert found.shape == (8, K)
        assert found.sum(1).min() >= 1
        assert found.sum(1).max() <= 3
        folded = fold_head(copy.deepcopy(model))
        assert type(folded.get_classifier()) is nn.Linear
        torch.testing.assert_close(folded(images), logits, rtol=1e-4, atol=1e-4)
    stock = timm.create_model(name, num_classes=K, **options)
    stock.load_state_dict(folded.state_dict())


def test_convolutional_twin():
    conv = swap_head(nn.Sequential(nn.Conv2d(D, K, 1)), "multilabel_etf", classifier="0")[0].eval()
    assert isinstance(conv, MultiLabelETFConvHead)
    maps = torch.randn(2, D, 3, 4)
    logits = conv(maps)
    for method in ("nearest", "nearest_cosine", "threshold", "count"):
        hot = conv.decode(logits, method)
        assert hot.shape == (2, K, 3, 4)
        assert torch.equal(hot, conv.decode(maps, method, from_features=True))
        assert torch.equal(hot[:, :, 1, 2], conv.decode(logits[:, :, 1, 2], method))
    assert conv.probabilities(logits, "marginal").shape == logits.shape
    assert conv.expected_counts(logits).shape == (2, 3, 4)
    pooled = noisy_logits(label_sets(100))
    assert conv.calibrate(pooled, label_sets(100)).calibrated


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiLabelETFHead(D, K, max_labels=K + 1), "max_labels=7"),
        (lambda: MultiLabelETFHead(D, K, max_labels=0), "max_labels=0"),
        (lambda: MultiLabelETFHead(D, K, normalized_loss=1), "normalized_loss=1"),
        (lambda: head().decode(torch.zeros(2, D)), "features need from_features=True"),
        (lambda: head().decode(torch.zeros(2, K), from_features=True), "expected 16 features"),
        (lambda: head().decode(torch.zeros(2, K), "best"), "method='best'"),
        (lambda: head().decode(torch.zeros(2, K), "class_thresholds"), "call calibrate"),
        (lambda: head().decode(torch.zeros(2, K), "posterior"), "call calibrate"),
        (lambda: head().decode(torch.zeros(2, K), "nearest", k=2), "k: method='nearest' does not use it"),
        (lambda: head().decode(torch.zeros(2, K), "count", k=2), "k: method='count' does not use it"),
        (lambda: head().decode(torch.zeros(2, K), threshold=0.5), "threshold: method='nearest' does not"),
        (lambda: head().decode(torch.zeros(2, K), "topk"), "k: method='topk' needs"),
        (lambda: head().decode(torch.full((2, K), torch.nan)), "NaN or infinity"),
        (lambda: head().probabilities(torch.zeros(2, K), "softmax"), "method='softmax'"),
        (lambda: head().calibrate(torch.zeros(2, K)), "a tensor of inputs with targets"),
        (lambda: head().calibrate([], torch.zeros(2, K)), "a tensor of inputs with targets"),
        (lambda: head().calibrate([]), "no samples"),
        (lambda: head().calibrate(torch.zeros(3, K), [[0]]), "expected 3 label sets"),
        (lambda: head().calibrate(torch.zeros(1, K), [[]]), "train the model first"),
        (lambda: head().calibrate(torch.zeros(2, 3, K), [[0], [1]]), "one row per sample"),
        (lambda: head().calibrate(torch.eye(2, K), [[0], [1]], objective="f2"), "objective='f2'"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
