import subprocess
import sys

import numpy as np
import pytest
import torch

from etfhead.frames import class_sums
from etfhead.frames.class_sums import ClassSums

K, M = 7, 5


def samples(count=400, offset=0.0):
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(0, K, (count,), generator=generator)
    features = torch.randn(count, M, generator=generator, dtype=torch.float64) + target[:, None] + offset
    return features, target


def accumulated(features, target, sizes, **options):
    sums = ClassSums(K, M)
    for start, stop in zip(np.cumsum([0, *sizes[:-1]]), np.cumsum(sizes), strict=True):
        sums.update(features[start:stop], target[start:stop], **options)
    return sums


def test_uneven_batches_give_numpys_means_counts_and_variance():
    features, target = samples()
    sums = accumulated(features, target, [1, 0, 99, 250, 3, 47])
    x, y = features.numpy(), target.numpy()
    expected = np.stack([x[y == k].mean(0) for k in range(K)])
    np.testing.assert_allclose(sums.means().numpy(), expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(sums.counts.numpy(), np.bincount(y, minlength=K))
    np.testing.assert_allclose(sums.total_mean.numpy(), x.mean(0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(sums.total_variance.numpy(), x.var(0), rtol=1e-12)
    assert sums.means().dtype == torch.float64


def test_the_order_of_samples_does_not_matter():
    features, target = samples()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    one, other = (
        accumulated(features, target, [400]),
        accumulated(features[order], target[order], [13, 380, 7]),
    )
    torch.testing.assert_close(one.means(), other.means(), rtol=0, atol=1e-13)
    torch.testing.assert_close(one.total_variance, other.total_variance, rtol=1e-13, atol=0)


def test_a_large_common_offset_costs_the_variance_no_digits():
    features, target = samples(offset=2.0**30)  # naive E[x^2] - E[x]^2 would lose all of them
    sums = accumulated(features, target, [100, 200, 100])
    exact = (features - 2.0**30).numpy().var(0)
    np.testing.assert_allclose(sums.total_variance.numpy(), exact, rtol=1e-6)
    naive = features.square().mean(0) - features.mean(0).square()
    assert (naive - torch.from_numpy(exact)).abs().max() > 1


def test_half_precision_features_are_summed_in_float64():
    sums = ClassSums(1, 1)
    for _ in range(50):
        sums.update(
            torch.full((100, 1), 1.0009765625, dtype=torch.float16), torch.zeros(100, dtype=torch.long)
        )
    assert sums.means().item() == 1.0009765625  # float16 sums stop growing at 2,048


def test_soft_targets_weigh_and_hard_ones_are_their_special_case():
    features, target = samples(60)
    hard = accumulated(features, target, [60])
    one_hot = accumulated(features, torch.nn.functional.one_hot(target, K).float(), [20, 40])
    torch.testing.assert_close(one_hot.means(), hard.means(), rtol=0, atol=1e-13)
    torch.testing.assert_close(one_hot.total_variance, hard.total_variance, rtol=1e-12, atol=0)

    weights = torch.rand(60, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mixed = accumulated(features, weights, [9, 51])
    for k in range(K):
        expected = np.average(features.numpy(), axis=0, weights=weights[:, k].numpy())
        np.testing.assert_allclose(mixed.means()[k].numpy(), expected, rtol=1e-12)
    w = weights.sum(1).numpy()
    mean = np.average(features.numpy(), axis=0, weights=w)
    variance = np.average((features.numpy() - mean) ** 2, axis=0, weights=w)
    np.testing.assert_allclose(mixed.total_variance.numpy(), variance, rtol=1e-12)


def test_ignored_samples_leave_no_trace_even_when_they_are_not_finite():
    features, target = samples(50)
    broken, labels = features.clone(), target.clone()
    broken[::5], labels[::5] = float("nan"), -100
    keep = torch.arange(50) % 5 != 0
    with_ignored, without = ClassSums(K, M), ClassSums(K, M)
    with_ignored.update(broken, labels)
    without.update(features[keep], target[keep])
    assert torch.equal(with_ignored.means(), without.means())
    assert torch.equal(with_ignored.total_variance, without.total_variance)


def test_features_that_need_gradients_leave_no_graph():
    sums = ClassSums(2, 1)
    sums.update(torch.ones(2, 1, requires_grad=True), torch.tensor([0, 1]))
    assert not sums.means().requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_features_name_their_batch_and_change_nothing(value):
    features, target = samples(30)
    sums = accumulated(features, target, [10, 20])
    before = sums.means(), sums.total_variance
    features[4, 2] = value
    with pytest.raises(ValueError, match="features: 1 of 150 numbers of batch 2 are NaN or infinite"):
        sums.update(features, target)
    assert torch.equal(sums.means(), before[0])
    assert torch.equal(sums.total_variance, before[1])


def test_empty_classes_are_named_or_get_the_mean_of_the_others():
    sums = ClassSums(9, 1)
    with pytest.raises(ValueError, match="no sample of any of the 9 classes"):
        sums.means(empty="mean")
    sums.update(torch.tensor([[1.0], [5.0], [5.0]]), torch.tensor([1, 3, 3]))
    with pytest.raises(
        ValueError, match=r"7 of 9 classes .*\(0, 2, 4, 5, 6, \.\.\.\); use more .*empty='mean'"
    ):
        sums.means()
    filled = sums.means(empty="mean").flatten().tolist()
    assert filled == [3, 1, 3, 5, 3, 3, 3, 3, 3]  # of the class means, not of the samples


@pytest.mark.parametrize(
    ("features", "target", "message"),
    [
        (
            torch.zeros(2, 4),
            torch.zeros(2, dtype=torch.long),
            r"features: expected shape \(B, 5\), got \(2, 4\)",
        ),
        (torch.zeros(2, 5, 1), torch.zeros(2, dtype=torch.long), "flatten or pool"),
        (torch.zeros(2, 5), torch.zeros(3, dtype=torch.long), r"target: expected shape \(2,\), got \(3,\)"),
        (torch.zeros(2, 5), torch.zeros(2, 3), r"target: expected shape \(2, 7\), got \(2, 3\)"),
        (torch.zeros(2, 5), torch.tensor([0, 7]), "expected classes from 0 to 6, got 0 to 7"),
        (torch.zeros(2, 5), torch.tensor([-1, 0]), "expected classes from 0 to 6, got -1 to 0"),
        (torch.zeros(1, 5), torch.full((1, 7), -0.5), "expected weights >= 0, got -0.5"),
        (torch.zeros(1, 5), torch.full((1, 7), float("nan")), "target: 7 of 7 numbers of batch 0"),
    ],
)
def test_bad_input_names_the_argument(features, target, message):
    with pytest.raises(ValueError, match=message):
        ClassSums(K, M).update(features, target)


def test_bad_options():
    with pytest.raises(ValueError, match="num_classes=0"):
        ClassSums(0, 3)
    with pytest.raises(ValueError, match="empty='drop': expected 'error' or 'mean'"):
        ClassSums(2, 3).means(empty="drop")


def test_all_reduce_without_a_process_group_is_nothing():
    features, target = samples()
    sums = accumulated(features, target, [400])
    before = sums.means()
    assert sums.all_reduce() is sums
    assert torch.equal(sums.means(), before)
    sums.update(features, target)  # and more may follow


_RANK = """
import sys, torch
from etfhead.frames.class_sums import ClassSums
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
g = torch.Generator().manual_seed(0)
x, y = torch.randn(90, 4, generator=g) + 1e4, torch.randint(0, 6, (90,), generator=g)
sums = ClassSums(6, 4)
part = slice(0, 20) if rank == 0 else slice(20, 90) if rank == 1 else slice(0, 0)  # rank 2 has no data
sums.update(x[part], y[part])
sums.all_reduce().all_reduce()
try:
    sums.update(x, y)
except ValueError as error:
    assert "after all_reduce" in str(error)
else:
    raise SystemExit("update after all_reduce went through")
torch.save([sums.means(), sums.counts, sums.total_mean, sums.total_variance], f"{out}{rank}")
torch.distributed.barrier()  # a process that leaves early can take gloo's others with it
torch.distributed.destroy_process_group()
"""


def test_processes_with_uneven_shares_all_get_the_whole(tmp_path):
    command = [sys.executable, "-c", _RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), str(tmp_path / "out")])
        for rank in range(3)
    ]
    assert [rank.wait(timeout=300) for rank in ranks] == [0, 0, 0]
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(90, 4, generator=generator) + 1e4, torch.randint(0, 6, (90,), generator=generator)
    whole = ClassSums(6, 4)
    whole.update(x, y)
    for rank in range(3):
        means, counts, mean, variance = torch.load(tmp_path / f"out{rank}", weights_only=True)
        torch.testing.assert_close(means, whole.means(), rtol=1e-14, atol=0)
        torch.testing.assert_close(counts, whole.counts, rtol=0, atol=0)
        torch.testing.assert_close(mean, whole.total_mean, rtol=1e-14, atol=0)
        torch.testing.assert_close(variance, whole.total_variance, rtol=1e-9, atol=0)


def test_sums_on_the_cpu_meet_on_the_gpu_where_the_group_is_nccls(monkeypatch):
    seen = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: seen.append(tensor.device.type))
    assert class_sums._shared_device(torch.device("cpu"), "nccl").type == "cuda"
    assert class_sums._shared_device(torch.device("cpu"), "gloo").type == "cpu"
    assert class_sums._shared_device(torch.device("cuda", 1), "nccl") == torch.device("cuda", 1)
    asked = []
    monkeypatch.setattr(
        class_sums, "_shared_device", lambda device, backend: asked.append((device.type, backend)) or device
    )
    features, target = samples()
    sums = accumulated(features, target, [400])
    before = sums.means()
    assert torch.equal(sums.all_reduce().means(), before)  # the sum over one process
    assert asked == [("cpu", "nccl")]
    assert seen == ["cpu"] * 5
