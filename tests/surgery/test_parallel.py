"""Two processes: the weights of one, and fixed vectors that are not sent around."""

import copy
import io
import pickle

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from etfhead import ETFHead, align_head, fold_head, swap_head
from etfhead.frames.fitted import ClassMeansFrame
from etfhead.heads import update_heads
from etfhead.surgery import prepare_ddp
from etfhead.surgery.parallel import FixedBuffers, unmark_fixed_buffers

DDP = nn.parallel.DistributedDataParallel
dist = torch.distributed

pytestmark = pytest.mark.skipif(
    not dist.is_available() or not dist.is_gloo_available(), reason="torch was built without gloo"
)


def in_two_processes(work, tmp_path, *arguments):
    """Run ``work(rank, tmp_path, *arguments)`` twice, joined by gloo; what it returns, by rank."""
    mp.start_processes(_joined, args=(work, str(tmp_path), arguments), nprocs=2, start_method="fork")
    return [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _joined(rank, work, folder, arguments):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        torch.manual_seed(rank)  # global randomness differs, as it does in the field
        torch.save(work(rank, *arguments), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def net(**options):
    """A trunk without batch statistics, the same in every process."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        trunk = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 6))
    return swap_head(trunk, classifier="3", neck=None, **options)


def batches(share=slice(None)):
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        yield torch.randn(8, 12, generator=generator)[share], (torch.arange(8) % 6)[share]


def train(model, share=slice(None), *, following=False):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for images, target in batches(share):
        nn.functional.cross_entropy(model(images), target).backward()
        optimizer.step()
        optimizer.zero_grad()
        if following:
            update_heads(model, target)


def same(state, expected):
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


HEADS = {
    "scale": {},
    "no_parameter": {"learn_scale": False},
    "structured": {"basis": "identity"},
    "low_rank": {"low_rank": 2},
    "linear": {"head": "linear"},
    "delta": {"head": "delta"},
}


def _ddp(rank, kind):
    model = net(**HEADS[kind])
    train(DDP(model), slice(4 * rank, 4 * rank + 4), following=kind == "delta")
    return model.state_dict()


@pytest.mark.parametrize("kind", HEADS)
def test_ddp_gives_the_weights_of_one_process(tmp_path, kind):
    first, second = in_two_processes(_ddp, tmp_path, kind)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    whole = net(**HEADS[kind])
    train(whole, following=kind == "delta")
    same(first, whole.state_dict())


def _frames(rank):
    """Frames built after whatever randomness a process went through."""
    torch.randn(rank * 7 + 1)
    sizes = {"simplex": 10, "orthoplex": 20, "union": 50}
    models = [ETFHead(12, K, frame=frame, seed=3) for frame, K in sizes.items()]
    models += [ETFHead(12, 10, basis=basis) for basis in ("haar", "identity", "hadamard")]
    return [model.class_vectors().detach().clone() for model in models]


def test_frames_are_the_same_in_every_process(tmp_path):
    first, second = in_two_processes(_frames, tmp_path)
    assert len(first) == 6
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def _buffers_sent(rank, how):
    model = swap_head(nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Linear(16, 6)), classifier="2")
    if how == "aligned":
        align_head(model, list(batches(slice(4 * rank, 4 * rank + 4))))
    elif how == "folded":
        model = fold_head(model.eval()).train()
    elif how == "inside":
        model = nn.Sequential(model)
    if how in ("aligned", "inside"):
        prepare_ddp(model)
    wrapped = DDP(model)
    names = {id(buffer): name for name, buffer in model.named_buffers()}
    sent = sorted(names[id(buffer)] for buffer in wrapped.modules_buffers)
    train(wrapped, slice(4 * rank, 4 * rank + 4))
    return {"sent": sent, "state": model.state_dict()}


@pytest.mark.parametrize("how", ["swapped", "aligned", "inside", "folded"])
def test_only_what_changes_is_sent(tmp_path, how):
    found, other = in_two_processes(_buffers_sent, tmp_path, how)
    prefix = "0." if how == "inside" else ""
    statistics = ["num_batches_tracked", "running_mean", "running_var"]
    expected = [] if how == "folded" else [f"{prefix}2.neck.{name}" for name in statistics]
    assert found["sent"] == expected
    # Gradients are averaged, also of what a fold left under the name of a fixed buffer.
    for name, value in found["state"].items():
        if "neck" not in name:
            assert torch.equal(value, other["state"][name]), name


def _prepared_after_one_loaded(rank):
    model = net()
    if rank == 0:
        align_of = ETFHead(16, 6, neck=None, basis="haar", seed=9)
        model[3].adopt_frame(align_of.frame)
    else:
        model[3].adopt_frame(ETFHead(16, 6, neck=None, basis="haar", seed=8).frame)
    prepare_ddp(model)
    return {"weight": model[3].weight, "listed": list(DDP(model).parameters_to_ignore)}


def test_prepare_ddp_takes_the_first_processs_vectors(tmp_path):
    first, second = in_two_processes(_prepared_after_one_loaded, tmp_path)
    assert torch.equal(first["weight"], second["weight"])
    assert set(first["listed"]) == {"3.weight", "3.bias", "3.frame_id"}


def _bytes_sent(rank, K, d):
    def sent(model):
        return sum(b.numel() * b.element_size() for b in DDP(model).modules_buffers)

    model = nn.Sequential(nn.Linear(3, d), nn.Linear(d, K))
    stock = sent(model)
    swap_head(model, classifier="1", neck=None, basis="haar")
    marked = sent(model)
    unmark_fixed_buffers(model)
    return {"stock": stock, "marked": marked, "unmarked": sent(model)}


def test_the_bytes_that_the_card_names(tmp_path):
    (found, _) = in_two_processes(_bytes_sent, tmp_path, 40, 64)
    assert found == {"stock": 0, "marked": 0, "unmarked": 4 * (40 * 64 + 40 + 64)}


def marks(model):
    return sorted(model._ddp_params_and_buffers_to_ignore)


def test_marks_follow_the_model():
    model = net()
    assert marks(model) == ["3.bias", "3.frame_id", "3.weight"]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert marks(copied) == marks(model)
        assert copied._ddp_params_and_buffers_to_ignore._model() is copied
        copied[3] = nn.Linear(16, 6)  # as reset_classifier does, behind etfhead's back
        assert marks(copied) == []
    assert marks(model) == ["3.bias", "3.frame_id", "3.weight"]
    assert "3.weight" in model._ddp_params_and_buffers_to_ignore
    assert "1.weight" not in model._ddp_params_and_buffers_to_ignore
    fold_head(model)
    assert not hasattr(model, "_ddp_params_and_buffers_to_ignore")


def test_what_was_listed_before_stays():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    DDP._set_params_and_buffers_to_ignore_for_model(model, ["0.bias"])
    swap_head(model, classifier="1", basis="identity")
    prepare_ddp(prepare_ddp(model))
    assert marks(model) == ["0.bias", "1.frame_id"]
    fold_head(model)
    assert model._ddp_params_and_buffers_to_ignore == ["0.bias"]


def test_a_frame_from_data_is_left_to_ddp_until_prepared():
    model = net()
    align_head(model, list(batches()))
    assert marks(model) == []
    assert marks(prepare_ddp(model)) == ["3.bias", "3.frame_id", "3.weight"]
    vectors = nn.functional.normalize(torch.randn(6, 16, dtype=torch.float64))
    assert marks(net(frame=ClassMeansFrame(6, 16, vectors=vectors))) == []


def test_a_copy_of_the_marks_alone_is_a_list():
    assert copy.deepcopy(net()._ddp_params_and_buffers_to_ignore) == ["3.bias", "3.frame_id", "3.weight"]
    gone = FixedBuffers(net(), ["x"])
    assert list(gone) == ["x"]
    assert pickle.loads(pickle.dumps(gone)) == ["x"]


def test_a_model_that_was_left_unpickles_without_etfhead():
    model = nn.Sequential(nn.Linear(4, 3))
    swap_head(model, classifier="0")
    model[0] = nn.Linear(4, 3)
    file = io.BytesIO()
    pickle.dump(model, file)
    assert b"etfhead" not in file.getvalue()


def test_prepare_ddp_says_what_is_wrong():
    with pytest.raises(ValueError, match="no etfhead head; call it after swap_head"):
        prepare_ddp(nn.Linear(3, 3))
    with pytest.raises(TypeError, match="DataParallel: change the head first"):
        prepare_ddp(nn.DataParallel(net()))


def _fsdp(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = net(low_rank=2)
    mesh = init_device_mesh("cpu", (2,))
    fully_shard(model[1], mesh=mesh)
    fully_shard(model, mesh=mesh)
    for change in (swap_head, fold_head, prepare_ddp):
        with pytest.raises(TypeError, match="FSDPModule: change the head first"):
            change(model)
    train(model, slice(4 * rank, 4 * rank + 4))
    state = model.state_dict()
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t for n, t in state.items()}


def test_fsdp2_gives_the_weights_of_one_process_and_folds_afterwards(tmp_path):
    first, second = in_two_processes(_fsdp, tmp_path)
    whole = net(low_rank=2)
    train(whole)
    for state in (first, second):
        same(state, whole.state_dict())
    left = net(low_rank=2)
    left.load_state_dict(first, strict=True)
    images = torch.randn(5, 12)
    torch.testing.assert_close(fold_head(left)(images), whole(images))


def _printed(rank):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh, printed = init_device_mesh("cpu", (2,)), {}
    for head in ("etf", "class_mean", "multilabel_etf"):
        model = net(head=head)
        before = repr(model[3])
        fully_shard(model, mesh=mesh)
        printed[head] = [before, repr(model)]
    return printed


def test_a_sharded_model_prints_without_reading_its_scale(tmp_path):
    """No process has the whole scale, and reading it would make them wait for each other."""
    for printed in in_two_processes(_printed, tmp_path):
        for head, (before, sharded) in printed.items():
            assert "scale=sharded (learnable)" in sharded, head
            assert "scale=" in before, head
            assert "sharded" not in before, head
