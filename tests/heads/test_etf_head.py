import copy
import io
import itertools
import math
import pickle

import pytest
import torch
from torch import nn

from etfhead import ETFHead, make_frame
from etfhead.frames import SimplexFrame
from etfhead.heads import ETFConvHead, LinearHead, auto_scale

BASES = ["identity", "hadamard", "haar"]
SIZES = [(64, 10), (9, 10), (97, 5), (512, 160)]  # dense, K = d + 1, prime width, structured
D, K = 512, 160  # structured with basis="hadamard"


def trained(head, steps=3):
    """The head after a few training batches, so that the neck's statistics are not their initial ones."""
    generator = torch.Generator().manual_seed(5)
    head.train()
    for _ in range(steps):
        head(3 + 2 * torch.randn(32, head.in_features, generator=generator).to(head.scale))
    return head


def fixed_tensors(head):
    return {k: v.clone() for k, v in head.named_buffers() if not k.startswith("neck") and k != "scale"}


def assert_frame_exact(head, reference):
    for name, tensor in fixed_tensors(head).items():
        assert torch.equal(tensor, reference[name]), name


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("d", "K"), SIZES)
def test_logits_are_scale_times_frame_of_the_batchnormed_features(d, K, basis):
    head = trained(ETFHead(d, K, basis=basis, seed=2, dtype=torch.float64))
    h = torch.randn(7, d, dtype=torch.float64)
    head.eval()
    normed = (
        (h - head.neck.running_mean)
        / (head.neck.running_var + head.neck.eps).sqrt()
        / math.sqrt(head.frame.active_features)
    )
    expected = (
        auto_scale(K)
        * normed
        @ make_frame("simplex", num_classes=K, in_features=d, basis=basis, seed=2).matrix().T
    )
    torch.testing.assert_close(head(h), expected)


@pytest.mark.parametrize("basis", BASES)
def test_behind_the_neck_logits_are_those_of_unit_features_on_average(basis):
    head = ETFHead(64, 10, basis=basis, scale=1.0).train()
    h = 5 * torch.randn(4096, 64) - 3
    reached = head.frame.matrix().abs().sum(0) > 0
    assert reached.sum() == head.frame.active_features == (10 if basis == "identity" else 64)
    normed = nn.functional.batch_norm(h, None, None, training=True)[:, reached]
    unit = normed / normed.square().sum(1).mean().sqrt()
    torch.testing.assert_close(head(h), unit @ head.class_vectors()[:, reached].T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shape", [(D,), (5, D), (2, 7, D), (2, 3, 4, D)])
def test_any_leading_shape(shape):
    head = ETFHead(D, K).eval()
    h = torch.randn(shape)
    out = head(h)
    assert out.shape == (*shape[:-1], K)
    torch.testing.assert_close(out.reshape(-1, K), head(h.reshape(-1, D)))


@pytest.mark.parametrize("basis", BASES)
def test_conv_head_equals_the_linear_head_on_every_pixel(basis):
    linear, conv = ETFHead(12, 5, basis=basis), ETFConvHead(12, 5, basis=basis)
    x = torch.randn(4, 12, 3, 2)
    torch.testing.assert_close(conv(x).movedim(1, -1), linear(x.movedim(1, -1)))
    torch.testing.assert_close(conv.neck.running_var, linear.neck.running_var)


@pytest.mark.parametrize("cls", [ETFHead, ETFConvHead])
@pytest.mark.parametrize("neck", ["batchnorm", None])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("d", "K"), SIZES)
def test_fuse_gives_the_stock_layer_with_the_same_logits(cls, d, K, basis, neck):
    head = trained(ETFHead(d, K, basis=basis, neck=neck)).eval()
    x = 2 + torch.randn(16, d)
    if cls is ETFConvHead:
        conv = ETFConvHead(d, K, basis=basis, neck=neck).eval()
        conv.load_state_dict(head.state_dict())
        head, x = conv, x[:, :, None, None].expand(-1, -1, 2, 3)
    fused = head.fuse()
    assert type(fused) is (nn.Conv2d if cls is ETFConvHead else nn.Linear)
    expected = head(x)
    assert (fused(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert fused.weight.requires_grad
    assert not fused.training


def test_fuse_leaves_the_global_generator_alone():
    head = ETFHead(D, K)
    before = torch.get_rng_state()
    head.fuse()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("learn_scale", [True, False])
@pytest.mark.parametrize("basis", BASES)
def test_one_trainable_number_or_none(basis, learn_scale):
    head = ETFHead(512, 100, basis=basis, learn_scale=learn_scale)
    assert sum(p.numel() for p in head.parameters()) == int(learn_scale)
    h = torch.randn(8, 512, requires_grad=True)
    nn.functional.cross_entropy(head(h), torch.arange(8)).backward()
    assert h.grad.abs().sum() > 0
    if learn_scale:
        optimizer = torch.optim.AdamW(head.parameters())
        optimizer.step()
        state = optimizer.state[head.scale]
        assert sum(t.numel() for name, t in state.items() if name != "step") == 2


def test_cross_entropy_with_smoothing_is_minimal_at_the_auto_scale():
    for K, a in ((10, 0.1), (100, 0.1), (3, 0.3)):
        head = ETFHead(128, K, neck=None, normalize=True, label_smoothing=a, dtype=torch.float64)
        h = head.frame.matrix()
        nn.functional.cross_entropy(head(h), torch.arange(K), label_smoothing=a).backward()
        assert head.scale.grad.abs().item() < 1e-12


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, auto_scale(K)),
        ({"label_smoothing": 0.1}, math.log(1 + K * 9) * (K - 1) / K),
        ({"neck": None}, 1.0),
        ({"neck": None, "normalize": True, "label_smoothing": 0.2}, math.log(1 + K * 4) * (K - 1) / K),
        ({"scale": 7}, 7.0),
    ],
)
def test_initial_scale(options, expected):
    assert ETFHead(D, K, **options).scale.item() == pytest.approx(expected)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("d", "K"), SIZES)
def test_state_dict_loads_strictly_into_the_same_head(d, K, basis):
    head = trained(ETFHead(d, K, basis=basis, seed=4)).eval()
    with torch.no_grad():
        head.scale.mul_(1.5)
    twin = ETFHead(d, K, basis=basis, seed=4).eval()
    twin.load_state_dict(head.state_dict(), strict=True)
    h = torch.randn(3, d)
    assert torch.equal(twin(h), head(h))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("basis", BASES)
def test_learnable_checkpoint_is_refused(basis, strict):
    model = nn.ModuleDict({"fc": ETFHead(D, K, basis=basis)})
    reference = fixed_tensors(model["fc"])
    learnable = {"fc.weight": torch.randn(K, D), "fc.bias": torch.zeros(K)}
    with pytest.raises(RuntimeError, match=r"fc\.weight .* is not the head's fixed frame.*before swap_head"):
        model.load_state_dict(learnable, strict=strict)
    assert_frame_exact(model["fc"], reference)


FRAMES = [{"basis": b, "seed": s} for b in BASES for s in (0, 1) if (b, s) != ("identity", 1)]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("own", "other"), list(itertools.permutations(FRAMES, 2)))
def test_another_frame_is_refused(own, other, strict):
    head, state = ETFHead(D, K, **own), ETFHead(D, K, **other).state_dict()
    with pytest.raises(RuntimeError, match=r"is not (that of )?the head's fixed frame"):
        head.load_state_dict(state, strict=strict)
    torch.testing.assert_close(head.class_vectors(), head.frame.matrix().float())


def test_another_size_is_refused():
    with pytest.raises(RuntimeError, match=r"weight \(10x32\) is not the head's fixed frame"):
        ETFHead(D, K).load_state_dict(ETFHead(32, 10, basis="haar").state_dict(), strict=False)


@pytest.mark.parametrize("basis", BASES)
def test_rounded_checkpoints_load_and_become_exact_again(basis):
    head = ETFHead(D, K, basis=basis)
    reference = fixed_tensors(head)
    for dtype in (torch.bfloat16, torch.float16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in head.state_dict().items()}
        twin = ETFHead(D, K, basis=basis)
        twin.load_state_dict(state)
        assert_frame_exact(twin, reference)


@pytest.mark.parametrize("basis", BASES)
def test_deepcopy_pickle_and_torch_save_keep_every_bit(basis):
    head = trained(ETFHead(D, K, basis=basis, seed=9)).eval()
    h = torch.randn(4, D)
    buffer = io.BytesIO()
    torch.save(head.state_dict(), buffer)
    buffer.seek(0)
    loaded = ETFHead(D, K, basis=basis, seed=9).eval()
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    for twin in (copy.deepcopy(head), pickle.loads(pickle.dumps(head)), loaded):
        assert torch.equal(twin(h), head(h))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_timm_ema_leaves_the_frame_exact(basis, dtype):
    from timm.utils import ModelEmaV2, ModelEmaV3

    model = nn.Sequential(nn.Linear(8, D), ETFHead(D, K, basis=basis)).to(dtype)
    reference = fixed_tensors(model[1])
    for ema in (ModelEmaV3(model, decay=0.9), ModelEmaV2(model, decay=0.9)):
        for _ in range(20):
            model(torch.randn(16, 8, dtype=dtype))
            ema.update(model)
        twin = ETFHead(D, K, basis=basis).to(dtype)
        twin.load_state_dict(ema.module[1].state_dict())
        if dtype == torch.float32 and isinstance(ema, ModelEmaV3):
            assert_frame_exact(ema.module[1], reference)
        # timm averages bf16 with stochastic rounding, also equal numbers; loading makes them exact again.
        assert_frame_exact(twin, reference)


@pytest.mark.parametrize("basis", BASES)
def test_meta_init_then_to_empty_and_reset(basis):
    with torch.device("meta"):
        head = ETFHead(D, K, basis=basis, seed=3)
    assert all(t.is_meta for t in [*head.parameters(), *head.buffers()])
    assert "scale=meta" in repr(head)
    assert head(torch.empty(2, D, device="meta")).shape == (2, K)
    expected = ETFHead(D, K, basis=basis, seed=3)
    head.to_empty(device="cpu").reset_parameters()
    h = torch.randn(4, D)
    assert torch.equal(head(h), expected(h))


@pytest.mark.parametrize("basis", BASES)
def test_meta_init_then_assign(basis):
    donor = trained(ETFHead(D, K, basis=basis)).eval()
    head = ETFHead(D, K, basis=basis, device="meta").eval()
    head.load_state_dict(donor.state_dict(), assign=True)
    h = torch.randn(4, D)
    assert torch.equal(head(h), donor(h))


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_round_trip_through_half_precision_is_exact(basis, dtype):
    head = ETFHead(D, K, basis=basis, neck=None, seed=1)
    h, reference = torch.randn(8, D), fixed_tensors(head)
    assert head.scale.item() == 1.0  # survives the rounding, so the logits must too
    expected = head(h)
    head.to(dtype).float()
    assert_frame_exact(head, reference)
    assert torch.equal(head(h), expected)
    torch.testing.assert_close(head.eval().fuse()(h), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("basis", BASES)
def test_a_half_checkpoint_cast_up_is_the_same_frame(basis):
    head = ETFHead(D, K, basis=basis, seed=2)
    state = {k: v.bfloat16().float() if v.is_floating_point() else v for k, v in head.state_dict().items()}
    twin = ETFHead(D, K, basis=basis, seed=2)
    twin.load_state_dict(state)
    assert_frame_exact(twin, fixed_tensors(head))


@pytest.mark.parametrize("basis", BASES)
def test_meta_then_to_empty_then_load_needs_no_reset(basis):
    donor = trained(ETFHead(D, K, basis=basis)).eval()
    head = ETFHead(D, K, basis=basis, device="meta").eval().to_empty(device="cpu")
    for tensor in (*head.parameters(), *head.buffers()):
        tensor.detach().fill_(7)  # what to_empty leaves is arbitrary
    head.load_state_dict(donor.state_dict())
    h = torch.randn(4, D)
    assert torch.equal(head(h), donor(h))


def test_a_bias_or_another_normalisation_is_refused():
    state = ETFHead(64, 10).state_dict()
    with pytest.raises(RuntimeError, match="bias is not zero"):
        ETFHead(64, 10).load_state_dict({**state, "bias": torch.ones(10)})
    with pytest.raises(RuntimeError, match="normalize=True"):
        ETFHead(64, 10, normalize=True).load_state_dict(state)


def test_quantised_weights_are_refused_with_a_message():
    state = ETFHead(64, 10).state_dict()
    with pytest.raises(RuntimeError, match="is not the head's fixed frame"):
        ETFHead(64, 10).load_state_dict({**state, "weight": state["weight"].mul(100).to(torch.int8)})


def test_identity_has_no_seed_to_disagree_about():
    ETFHead(64, 10, basis="identity", seed=1).load_state_dict(ETFHead(64, 10, basis="identity").state_dict())


def test_numpy_sizes_are_sizes():
    numpy = pytest.importorskip("numpy")
    assert ETFHead(numpy.int64(64), numpy.int64(10)).fuse().weight.shape == (10, 64)


def test_a_structured_head_never_builds_its_matrix_to_train_or_load(monkeypatch):
    state = ETFHead(D, K, basis="hadamard").state_dict()
    monkeypatch.setattr(SimplexFrame, "matrix", lambda self: pytest.fail("the matrix was built"))
    head = ETFHead(D, K, basis="hadamard")
    head.load_state_dict(state)
    head(torch.randn(4, D)).sum().backward()


def test_reset_parameters_derives_everything_again():
    head = trained(ETFHead(D, K, basis="haar", seed=3))
    expected = ETFHead(D, K, basis="haar", seed=3).state_dict()
    with torch.no_grad():
        head.weight.fill_(float("nan"))
        head.scale.zero_()
    head.reset_parameters()
    assert all(torch.equal(v, expected[k]) for k, v in head.state_dict().items())


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_and_autocast_stay_close_and_leave_the_frame_exact(basis, dtype):
    h, reference = torch.randn(32, D), ETFHead(D, K, basis=basis).eval()
    head = ETFHead(D, K, basis=basis).eval()
    before = fixed_tensors(head)
    with torch.autocast("cpu", dtype):
        mixed = head(h)
    assert torch.isfinite(mixed).all()
    assert (mixed.float() - reference(h)).abs().max() < 20 * torch.finfo(dtype).eps * auto_scale(K)
    assert_frame_exact(head, before)
    low = head.to(dtype)(h.to(dtype))
    assert low.dtype == dtype
    assert (low.float() - reference(h)).abs().max() < 20 * torch.finfo(dtype).eps * auto_scale(K)


def test_zero_and_huge_features_stay_finite_when_normalised():
    head = ETFHead(D, K, neck=None, normalize=True, dtype=torch.float16)
    for h in (torch.zeros(2, D), torch.full((2, D), 6e4)):
        assert torch.isfinite(head(h.half())).all()


@pytest.mark.parametrize("cls", [ETFHead, ETFConvHead])
@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("normalize", [False, True])
def test_compiles_without_a_graph_break(cls, basis, normalize):
    torch.compiler.reset()
    head = cls(D, K, basis=basis, normalize=normalize)
    eager = copy.deepcopy(head)
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    h = torch.randn(8, D) if cls is ETFHead else torch.randn(8, D, 2, 2)
    torch.testing.assert_close(compiled(h), eager(h))
    torch.testing.assert_close(compiled.eval()(h), eager.eval()(h))


@pytest.mark.parametrize("basis", BASES)
def test_exports_to_a_graph(basis):
    head = trained(ETFHead(D, K, basis=basis)).eval()
    program = torch.export.export(head, (torch.randn(4, D),))
    h = torch.randn(4, D)
    torch.testing.assert_close(program.module()(h), head(h))


def test_gradient_to_the_features_equals_the_dense_product():
    for basis in BASES:
        head = ETFHead(24, 7, basis=basis, neck=None, dtype=torch.float64)
        h = torch.randn(5, 24, dtype=torch.float64, requires_grad=True)
        out = torch.randn(5, 7, dtype=torch.float64)
        (head(h) * out).sum().backward()
        torch.testing.assert_close(h.grad, out @ head.frame.matrix() * head.scale.item())


def test_class_vectors_are_the_frame():
    for basis in BASES:
        head = ETFHead(D, K, basis=basis)
        torch.testing.assert_close(head.class_vectors(), head.frame.matrix().float())


def test_seed_makes_the_frame_and_the_global_generator_is_untouched():
    before = torch.get_rng_state()
    a, b = ETFHead(D, K, seed=1), ETFHead(D, K, seed=1)
    assert torch.equal(a.class_vectors(), b.class_vectors())
    assert torch.equal(before, torch.get_rng_state())


def test_a_given_frame_is_used_and_checked():
    frame = make_frame("simplex", num_classes=K, in_features=D, seed=5)
    assert ETFHead(D, K, frame=frame).frame is frame
    with pytest.raises(ValueError, match="expected num_classes=161, in_features=512"):
        ETFHead(D, K + 1, frame=frame)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((512, 1000), {"frame": "simplex"}, r"num_classes <= in_features \+ 1 = 513"),
        ((64, 1), {}, "num_classes=1"),
        ((0, 10), {}, "in_features=0"),
        ((D, K), {"neck": "layernorm"}, "neck='layernorm'"),
        ((D, K), {"scale": -1.0}, "scale=-1.0"),
        ((D, K), {"scale": float("nan")}, "scale=nan"),
        ((D, K), {"scale": "big"}, "scale='big'"),
        ((D, K), {"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ((D, K), {"basis": "dct"}, "basis='dct'"),
        ((D, K), {"frame": "orthoplx"}, "frame='orthoplx'"),
        ((D, K), {"normalize": "no"}, "normalize='no'.*True or False"),
        ((D, K), {"learn_scale": 1}, "learn_scale=1.*True or False"),
        ((D, K), {"scale": 2.0, "label_smoothing": 2.0}, "label_smoothing=2.0"),
    ],
)
def test_bad_options_name_the_argument(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        ETFHead(*arguments, **options)


@pytest.mark.parametrize("cls", [ETFHead, ETFConvHead])
def test_wrong_feature_width_is_refused_also_where_slicing_would_hide_it(cls):
    with pytest.raises(
        ValueError, match=r"expected 64 features in dimension -?1, got shape \(2, 65, 1, 1\)|got shape"
    ):
        cls(D, K, basis="identity", neck=None)(torch.randn(2, 65, 1, 1))


def test_normalised_head_refuses_to_fuse():
    with pytest.raises(ValueError, match="normalize=True is not linear"):
        ETFHead(D, K, normalize=True).fuse()


def test_head_is_no_linear_layer():
    # nn.Linear subclasses are re-initialised by timm's and Hugging Face's init hooks.
    assert not isinstance(ETFHead(8, 3), nn.Linear)
    assert not isinstance(LinearHead(8, 3), nn.Linear)


def test_repr_tells_frame_coherence_and_scale():
    text = repr(ETFHead(D, K, basis="hadamard", learn_scale=False, scale=2.5))
    for part in ("basis=hadamard", "max_cosine=-0.006289", "scale=2.5 (fixed)"):
        assert part in text
