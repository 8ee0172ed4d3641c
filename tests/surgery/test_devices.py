"""Models on other devices: swapped, aligned, folded and wrapped where they are, in the type they have."""

import copy
import io
from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn

from etfhead import align_head, fold_head, swap_head
from etfhead.frames.class_sums import ClassSums
from etfhead.heads import FeatureHead, batch_sums, delta_rule, update_heads
from etfhead.surgery import find_heads, layer_decay_groups, prepare_ddp
from tests.devices import cuda, devices

dist = torch.distributed
DDP = nn.parallel.DistributedDataParallel

TARGETS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) + 3

HEADS = {
    "etf": {},
    "etf low rank": {"low_rank": 2},
    "etf identity": {"basis": "identity"},
    "etf union": {"frame": "union"},
    "multilabel_etf": {},
    "class_mean": {},
    "delta": {},
    "guided": {"every": 2},
    "cosine": {},
    "linear": {},
    "linear behind a neck": {"neck": "batchnorm"},
    "regression": {"targets": TARGETS},
}
heads = pytest.mark.parametrize("name", HEADS)


@pytest.fixture(autouse=True)
def exact_products():
    """Without TF32, also where the environment asks for it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def kind_of(name):
    return name.split()[0]


def trunk():
    """Linear layers, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        layers = {"flat": nn.Flatten(), "fc1": nn.Linear(12, 16), "act": nn.Tanh(), "head": nn.Linear(16, 6)}
        return nn.Sequential(OrderedDict(layers))


def net(name="etf", device="cpu", **options):
    """The trunk with a head."""
    return swap_head(trunk().to(device), kind_of(name), **{**HEADS[name], **options})


def batches(count=4, samples=24):
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        target = torch.randperm(samples, generator=generator) % 6
        yield torch.randn(samples, 3, 4, generator=generator) + target[:, None, None] / 3, target


def vectors_of(model):
    head = model.head
    return (head.class_vectors() if isinstance(head, FeatureHead) else head.weight).detach()


def everywhere(module, device, dtype=torch.float32):
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert tensor.device.type == device, name
        assert not tensor.is_floating_point() or tensor.dtype == dtype, name
    return True


def train(model, device, steps=4):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for images, target in batches(steps):
        nn.functional.cross_entropy(model(images.to(device)), target.to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
        update_heads(model, target.to(device))
    return model


def same(found, expected, tolerance=1e-4):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name].cpu().double(), tensor.cpu().double(), rtol=tolerance, atol=tolerance, msg=name
        )


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@heads
def test_a_head_takes_device_and_type_from_the_layer_it_replaces(name, dtype, device):
    model = swap_head(trunk().to(device, dtype), kind_of(name), **HEADS[name])
    assert everywhere(model, device, dtype)
    features = torch.randn(24, 12, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    outputs = model(features.requires_grad_())
    assert outputs.dtype == dtype
    assert outputs.device.type == device
    outputs.float().square().mean().backward()
    for tensor in (outputs, features.grad):
        assert tensor.isfinite().all()
    update_heads(model, (torch.arange(24) % 6).to(device))
    assert everywhere(model, device, dtype)
    assert all(buffer.isfinite().all() for buffer in model.buffers())


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
def test_timm_models_that_are_on_the_device(name, dtype, device):
    model = timm.create_model(name, num_classes=7).to(device, dtype)
    model = swap_head(model, "etf", num_classes=10).train()
    assert everywhere(model, device, dtype)
    seen = []
    (head,) = find_heads(model).values()
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    size = model.pretrained_cfg["input_size"]
    images = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    images = images.to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    outputs = model(images)
    assert outputs.shape == (3, 10)
    assert outputs.dtype == dtype
    nn.functional.cross_entropy(outputs.float(), torch.arange(3, device=device)).backward()
    assert head.scale.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    groups = layer_decay_groups(model)
    assert {p.device.type for group in groups for p in group["params"]} == {device}
    if dtype == torch.float32:
        model.eval()
        before = model(images)
        # The features as the device has them: its convolutions may round more.
        exact = copy.deepcopy(head).cpu().double()(seen[-1].cpu().double())
        torch.testing.assert_close(before.cpu().double(), exact, rtol=1e-4, atol=1e-4)
        fold_head(model)
        assert everywhere(model, device, dtype)
        torch.testing.assert_close(model(images), before, rtol=1e-3, atol=1e-3)


@devices
def test_a_classifier_that_the_model_lacks_is_grown_where_the_model_is(device):
    model = timm.create_model("test_vit", num_classes=0).to(device, torch.bfloat16).eval()
    swap_head(model, "class_mean", num_classes=5)
    assert everywhere(model, device, torch.bfloat16)


@pytest.mark.parametrize("default", ["meta", cuda])
@pytest.mark.parametrize("source", ["features", "inputs"])
@heads
def test_the_default_device_is_not_asked(name, source, default):
    expected, trunk_of_cpu = net(name), trunk()
    loader = list(batches())
    with torch.device(default):
        model = swap_head(trunk_of_cpu, kind_of(name), **HEADS[name])
        assert everywhere(model, "cpu")
        if name == "regression":
            return
        align_head(model, loader, source=source)
    assert everywhere(model, "cpu")
    align_head(expected, loader, source=source)
    same({"vectors": vectors_of(model)}, {"vectors": vectors_of(expected)}, 1e-6)


@devices
def test_convolutional_heads_behind_channels_last_trunks(device):
    convolutions = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    convolutions = convolutions.to(device, memory_format=torch.channels_last)
    images = torch.randn(8, 3, 9, 9, generator=torch.Generator().manual_seed(0)).to(device)
    images = images.to(memory_format=torch.channels_last)
    target = (torch.arange(8) % 5).to(device)
    for kind in ("etf", "class_mean", "delta", "guided", "cosine", "multilabel_etf"):
        model = swap_head(copy.deepcopy(convolutions), kind, classifier="2").train()
        assert everywhere(model, device)
        head = model[2]
        features = model[:2](images).detach()
        exact = copy.deepcopy(head).cpu().double()(features.cpu().double())
        found = head(features)
        torch.testing.assert_close(found.detach().cpu().double(), exact.detach(), rtol=1e-4, atol=1e-4)
        nn.functional.cross_entropy(model(images), target).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        update_heads(model, target)
        align_head(model, [(images, target)])
        assert everywhere(model, device)
        assert model(images).isfinite().all()


ALIGNED = [
    *[("etf", frame) for frame in ("simplex", "class_means", "assigned")],
    ("etf union", "auto"),
    ("class_mean", "auto"),
    ("delta", "auto"),
    ("guided", "auto"),
    ("cosine", "auto"),
    ("linear", "auto"),
    ("linear behind a neck", "auto"),
]


@devices
@pytest.mark.parametrize("source", ["features", "inputs"])
@pytest.mark.parametrize(("name", "frame"), ALIGNED)
def test_aligned_heads_are_those_of_the_cpu_in_float64(name, frame, source, device):
    model, twin = net(name), net(name).double()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.data.copy_(one.data)
    model.to(device)
    loader = [
        (images.to(device), target) for images, target in batches()
    ]  # labels where the loader left them
    report = align_head(model, loader, source=source, frame=frame)
    wide = [(images.double(), target) for images, target in batches()]
    expected = align_head(twin, wide, source=source, frame=frame)
    assert everywhere(model, device)
    assert {**report, "seconds": 0} == {**expected, "seconds": 0}
    head, exact = model.head, twin.head
    if isinstance(head, FeatureHead):
        same({"vectors": head.class_vectors().detach()}, {"vectors": exact.class_vectors().detach()}, 2e-3)
    else:
        same(head.state_dict(), exact.state_dict(), 2e-3)
    images = next(batches())[0]
    outputs, reference = model.eval()(images.to(device)), twin.eval()(images.double())
    torch.testing.assert_close(outputs.detach().cpu().double(), reference.detach(), rtol=5e-3, atol=5e-3)


@devices
def test_soft_targets_and_half_models_are_aligned(device):
    soft = [
        (images.to(device, torch.bfloat16), nn.functional.one_hot(y, 6).float()) for images, y in batches()
    ]
    for name in ("etf", "class_mean", "guided", "linear"):
        model = net(name).to(device, torch.bfloat16)
        align_head(model, soft)
        assert everywhere(model, device, torch.bfloat16)
        assert model(soft[0][0]).isfinite().all()


@devices
@heads
def test_training_gives_what_the_cpu_gives(name, device):
    if name == "regression":
        model, twin = net(name, device), net(name)
        for each, where in ((model, device), (twin, "cpu")):
            images = next(batches())[0].to(where)
            (each(images) - TARGETS[:24].to(where)).square().mean().backward()
        same(
            {k: p.grad for k, p in model.named_parameters()}, {k: p.grad for k, p in twin.named_parameters()}
        )
        return
    if kind_of(name) in ("cosine", "linear"):
        model = net(name)
        twin = copy.deepcopy(model)
        model.to(device)
    else:
        model, twin = net(name, device), net(name)
    same(train(model, device).state_dict(), train(twin, "cpu").state_dict(), 1e-3)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    left = copy.deepcopy(twin)
    left.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    same(left.state_dict(), model.state_dict(), 1e-6)


@pytest.fixture(scope="module")
def group(request, tmp_path_factory):
    """A process group of this one process: NCCL's for a GPU, gloo's for the CPU."""
    device = request.param
    if device == "cuda" and not dist.is_nccl_available():
        pytest.skip("torch was built without NCCL")
    if device == "cpu" and not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    options = {}
    if device == "cuda":
        torch.cuda.set_device(0)
        options["device_id"] = torch.device("cuda", 0)
    dist.init_process_group(
        "nccl" if device == "cuda" else "gloo",
        init_method=f"file://{tmp_path_factory.mktemp('group') / 'store'}",
        rank=0,
        world_size=1,
        **options,
    )
    yield device
    if device == "cuda":
        torch.cuda.synchronize()
    dist.destroy_process_group()


groups = pytest.mark.parametrize("group", ["cpu", cuda], indirect=True)
TRAINED = [name for name in HEADS if name != "regression"]


def wrapped(model, device):
    return DDP(model, device_ids=[0] if device == "cuda" else None)


def pair(name, device):
    model = net(name, device)
    return model, copy.deepcopy(model)


@groups
@pytest.mark.parametrize("name", TRAINED)
def test_ddp_trains_as_one_process(group, name):
    model, twin = pair(name, group)
    same(train(wrapped(model, group), group).module.state_dict(), train(twin, group).state_dict())


@groups
def test_ddp_leaves_out_the_marked_vectors_and_class_sums_are_shared(group, monkeypatch):
    model, twin = net(device=group), net(device=group)
    report = align_head(model, batches())  # class sums go through the group
    assert report["samples"] == 96
    align_head(twin, batches())
    same(model.state_dict(), twin.state_dict(), 1e-6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with monkeypatch.context() as several:
        several.setattr(dist, "get_world_size", lambda *_: 2)  # so that it sends what it has
        prepare_ddp(model)
    same(model.state_dict(), before, 0)
    ddp = wrapped(model, group)
    ignored = set(ddp.parameters_to_ignore)
    assert ignored == {"head.weight", "head.bias", "head.frame_id"}
    assert "head.neck.running_mean" not in ignored
    same(train(ddp, group).module.state_dict(), train(twin, group).state_dict())
    torch.testing.assert_close(model.head.weight, before["head.weight"], rtol=0, atol=0)
    fold_head(ddp.module)


@groups
def test_class_sums_on_the_cpu_go_through_any_group(group):
    for where in {"cpu", group}:
        sums = ClassSums(3, 2, device=where)
        sums.update(torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 7.0]]), torch.tensor([0, 0, 2]))
        before = (sums.means(empty="mean"), sums.total_mean, sums.total_variance)
        sums.all_reduce()
        for found, expected in zip(
            (sums.means(empty="mean"), sums.total_mean, sums.total_variance), before, strict=True
        ):
            assert found.device.type == where
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@groups
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("classes", [6, 500])  # sums are sent, or samples
@pytest.mark.parametrize("name", ["class_mean", "delta", "guided"])
def test_updates_that_a_group_shares_are_those_of_one_process(group, name, classes, soft, monkeypatch):
    options = {"repel": 0.2} if name == "class_mean" else {}

    def following():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            layers = nn.Sequential(nn.Linear(12, 512), nn.Linear(512, classes)).to(group)
        return swap_head(layers, name, classifier="1", **options)

    model, twin = following(), following()
    for step, shared in enumerate((True, True, True)):
        generator = torch.Generator().manual_seed(step)
        features = torch.randn(20, 12, generator=generator).to(group)
        target = torch.randint(0, classes, (20,), generator=generator)
        target[3] = 0 if soft else -100
        target = nn.functional.one_hot(target, classes).float() if soft else target
        for each, together in ((model, shared), (twin, False)):
            with monkeypatch.context() as several:
                for module in (batch_sums, delta_rule):
                    several.setattr(module, "is_shared", lambda together=together: together)
                each.train()(features)
                update_heads(each, target.to(group))
    same(model.state_dict(), twin.state_dict(), 1e-5)


def mesh_of(device):
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device, (1,))


@groups
@pytest.mark.parametrize("name", ["etf", "etf low rank", "class_mean", "delta", "guided", "cosine"])
def test_fsdp2_trains_as_one_process(group, name):
    from torch.distributed.fsdp import fully_shard

    model, twin = pair(name, group)
    mesh = mesh_of(group)
    fully_shard(model.fc1, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert "scale=sharded" in repr(model) or name == "cosine"
    with pytest.raises(TypeError, match="FSDPModule: change the head first"):
        fold_head(model)
    state = train(model, group).state_dict()
    state = {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}
    same(state, train(twin, group).state_dict())
    if name in ("etf", "class_mean"):
        features = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).to(group)
        best = model.eval().head.topk(features, 2)
        torch.testing.assert_close(
            best.values, twin.eval().head.topk(features, 2).values, rtol=1e-4, atol=1e-4
        )
    whole = net(name)
    whole.load_state_dict({n: t.cpu() for n, t in state.items()})
    same(whole.state_dict(), state, 1e-6)


@groups
@pytest.mark.parametrize("name", [name for name in HEADS if name != "linear"])
def test_fsdp2_in_bfloat16_around_heads_in_float32(group, name):
    """Class vectors are buffers, which FSDP2 does not cast: a head has a policy of its own."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model, twin = pair(name, group)
    mesh = mesh_of(group)
    fully_shard(model.head, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.float32))
    fully_shard(model, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    for step, (images, target) in enumerate(batches(2)):
        outputs, exact = model(images.to(group)), twin(images.to(group))
        assert outputs.dtype == torch.float32
        off = (outputs - exact).detach().abs().max()
        assert off <= 0.05 * exact.detach().abs().max(), step
        outputs.logsumexp(1).mean().backward()
        for each in (model, twin):
            update_heads(each, target.to(group))
    assert all(p.grad.full_tensor().isfinite().all() for p in model.parameters())
