import pytest
import torch
import torch.multiprocessing as mp

from etfhead.heads.batch_sums import batch_sums
from etfhead.heads.class_mean_update import class_mean_update

K, D = 6, 4


def naive(features, target, rivals):
    """Sums with their weights in the last column, {class: [pull, push]}."""
    sums = {k: [torch.zeros(D + 1), torch.zeros(D + 1)] for k in range(K)}
    for i, x in enumerate(features):
        one = torch.cat([x, torch.ones(1)])
        sums[int(target[i])][0] += one
        if rivals is not None:
            sums[int(rivals[i])][1] += one
    return sums


@pytest.fixture(params=["known", "not asked"])
def asked(request, monkeypatch):
    """Whether the CPU's numbers are looked at, or as a GPU's are not."""
    if request.param == "not asked":
        monkeypatch.setattr("etfhead.heads.batch_sums._KNOWN", ())
    return request.param == "known"


def by_class(sums, classes=K):
    """Sums with their weights in the last column, {class: [pull, push]}, of the classes touched.

    Every name of a class must say the same, and one be the first.
    """
    rows = torch.arange(classes) if isinstance(sums.rows, slice) else sums.rows
    first = torch.ones(len(rows), dtype=torch.bool) if sums.first is None else sums.first
    assert sorted(rows[first].tolist()) == rows.unique().tolist()
    touched = sums.touched()
    found = {}
    for i, k in enumerate(rows.tolist()):
        pull = torch.cat([sums.pull[i], sums.pull_weight[i, None]])
        push = torch.zeros_like(pull)
        if sums.push is not None:
            push = torch.cat([sums.push[i], sums.push_weight[i, None]])
        assert bool(pull[-1] > 0 or push[-1] > 0) == (touched is None or bool(touched[i]))
        if k in found:
            assert torch.equal(found[k][0], pull)
            assert torch.equal(found[k][1], push)
        if pull[-1] > 0 or push[-1] > 0:
            found[k] = [pull, push]
        else:
            assert not pull.any()
            assert not push.any()
    return found


@pytest.mark.parametrize("classes", [K, 30])
@pytest.mark.parametrize("with_rivals", [False, True])
def test_sums_are_those_of_a_loop(with_rivals, classes, asked):
    """Six classes, fewer than samples, have a row each; of thirty those that the batch names."""
    features = torch.randn(9, D)
    target = torch.tensor([5, 1, 1, 3, 5, 1, 3, 3, 3])
    rivals = (target + 2) % K if with_rivals else None
    result, expected = batch_sums(features, target, classes, rivals), naive(features, target, rivals)
    assert isinstance(result.rows, slice) == (classes == K)
    found = by_class(result, classes)
    assert found.keys() == {*target.tolist(), *(rivals.tolist() if with_rivals else [])}
    if classes != K:
        assert len(result.rows) == (len(found) if asked else 18 if with_rivals else 9)
    for k, (pull, push) in found.items():
        torch.testing.assert_close(pull, expected[k][0])
        torch.testing.assert_close(push, expected[k][1])


@pytest.mark.parametrize("classes", [K, 30])
@pytest.mark.parametrize("soft", [False, True])
def test_samples_that_are_left_out_count_for_nothing(soft, classes, asked):
    features = torch.randn(9, D)
    target, rivals = torch.randint(1, K, (2, 9))
    features[0, 1], features[1, 2], features[8, 0] = float("nan"), float("inf"), -float("inf")
    broken, kept = target.clone(), slice(4, 8)
    broken[2], broken[3] = -100, -1
    if soft:
        target = broken = torch.nn.functional.one_hot(target, classes).float()
        broken[0], kept = float("nan"), slice(2, 8)
    found = by_class(batch_sums(features, broken, classes, rivals), classes)
    expected = by_class(batch_sums(features[kept], target[kept], classes, rivals[kept]), classes)
    assert found.keys() == expected.keys()
    for k, parts in found.items():
        for part, other in zip(parts, expected[k], strict=True):
            torch.testing.assert_close(part, other)


def test_weights_that_all_classes_share_are_left_out_of_soft_targets():
    features = torch.randn(3, D)
    hard = torch.nn.functional.one_hot(torch.tensor([0, 2, 2]), K)
    result = batch_sums(features, 0.9 * hard + 0.1 / K, K)
    assert result.rows.tolist() == [0, 2]
    torch.testing.assert_close(result.pull_weight, torch.tensor([0.9, 1.8]))
    torch.testing.assert_close(result.pull, 0.9 * torch.stack([features[0], features[1:].sum(0)]))


def test_an_empty_batch_touches_nothing(asked):
    result = batch_sums(torch.empty(0, D), torch.empty(0, dtype=torch.long), K)
    assert len(result.rows) == 0
    assert class_mean_update(torch.empty(0, D), result, momentum=0.5).shape == (0, D)


@pytest.mark.parametrize("repel", [0.0, 0.3])
def test_means_of_classes_that_are_not_touched_keep_every_bit(repel):
    target = torch.tensor([4, 4, 1, -100, 4, 1, 1])
    sums = batch_sums(torch.randn(7, D), target, K, (target + 1) % K if repel else None)
    means = torch.randn(K, D)
    same = (class_mean_update(means, sums, momentum=0.7, repel=repel) == means).all(1)
    assert same.tolist() == (~sums.touched()).tolist()
    assert (~same).nonzero().flatten().tolist() == ([1, 2, 4, 5] if repel else [1, 4])


def test_a_rule_of_zero_momentum_puts_the_mean_and_half_a_sample_moves_half_as_far():
    features = torch.randn(2, D)
    sums = batch_sums(features, torch.tensor([3, 3]), K)
    start = torch.randn(2, D)
    means = class_mean_update(start, sums, momentum=0.0)
    torch.testing.assert_close(means, features.mean(0, keepdim=True).expand(2, D))
    half = batch_sums(features[:1], torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0, 0.0]]), K)
    torch.testing.assert_close(
        class_mean_update(start[:1], half, momentum=0.0), (start[:1] + features[:1]) / 2
    )


def _share(rank, folder, features, target, rivals):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    part = [slice(0, 0), slice(0, None)][rank] if len(target) < 4 else [slice(0, 3), slice(3, None)][rank]
    torch.save(batch_sums(features[part], target[part], K, rivals[part]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("count", [2, 7, 40])
def test_processes_share_samples_or_sums_also_where_one_has_none(tmp_path, count, asked):
    """With two or seven samples these are fewer than 2 K sums, with forty more."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, D, generator=generator)
    target, rivals = torch.randint(0, 4, (2, count), generator=generator)
    arguments = (str(tmp_path), features, target, rivals)
    mp.start_processes(_share, args=arguments, nprocs=2, start_method="fork")
    expected = batch_sums(features, target, K, rivals)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        found, whole = by_class(shared), by_class(expected)
        assert found.keys() == whole.keys()
        for k, parts in found.items():
            for ours, theirs in zip(parts, whole[k], strict=True):
                torch.testing.assert_close(ours, theirs)
