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


@pytest.mark.parametrize("with_rivals", [False, True])
def test_sums_are_those_of_a_loop(with_rivals):
    features = torch.randn(9, D)
    target = torch.tensor([5, 1, 1, 3, 5, 1, 3, 3, 3])
    rivals = (target + 2) % K if with_rivals else None
    result, expected = batch_sums(features, target, K, rivals), naive(features, target, rivals)
    touched = sorted({*target.tolist(), *(rivals.tolist() if with_rivals else [])})
    assert result.rows.tolist() == touched
    for i, k in enumerate(touched):
        pull = torch.cat([result.pull[i], result.pull_weight[i, None]])
        push = torch.cat([result.push[i], result.push_weight[i, None]])
        torch.testing.assert_close(pull, expected[k][0])
        torch.testing.assert_close(push, expected[k][1])


def test_weights_that_all_classes_share_are_left_out_of_soft_targets():
    features = torch.randn(3, D)
    hard = torch.nn.functional.one_hot(torch.tensor([0, 2, 2]), K)
    result = batch_sums(features, 0.9 * hard + 0.1 / K, K)
    assert result.rows.tolist() == [0, 2]
    torch.testing.assert_close(result.pull_weight, torch.tensor([0.9, 1.8]))
    torch.testing.assert_close(result.pull, 0.9 * torch.stack([features[0], features[1:].sum(0)]))


def test_an_empty_batch_touches_nothing():
    result = batch_sums(torch.empty(0, D), torch.empty(0, dtype=torch.long), K)
    assert len(result.rows) == 0
    assert class_mean_update(torch.empty(0, D), result, momentum=0.5).shape == (0, D)


def test_a_rule_of_zero_momentum_puts_the_mean_and_half_a_sample_moves_half_as_far():
    features = torch.randn(2, D)
    sums = batch_sums(features, torch.tensor([3, 3]), K)
    start = torch.randn(1, D)
    torch.testing.assert_close(class_mean_update(start, sums, momentum=0.0), features.mean(0, keepdim=True))
    half = batch_sums(features[:1], torch.tensor([[0.0, 0.0, 0.0, 0.5, 0.0, 0.0]]), K)
    torch.testing.assert_close(class_mean_update(start, half, momentum=0.0), (start + features[:1]) / 2)


def _share(rank, folder, features, target, rivals):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    part = [slice(0, 0), slice(0, None)][rank] if len(target) < 4 else [slice(0, 3), slice(3, None)][rank]
    torch.save(batch_sums(features[part], target[part], K, rivals[part]), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("count", [2, 7, 40])
def test_processes_share_samples_or_sums_also_where_one_has_none(tmp_path, count):
    """With two or seven samples these are fewer than 2 K sums, with forty more."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(count, D, generator=generator)
    target, rivals = torch.randint(0, 4, (2, count), generator=generator)
    arguments = (str(tmp_path), features, target, rivals)
    mp.start_processes(_share, args=arguments, nprocs=2, start_method="fork")
    expected = batch_sums(features, target, K, rivals)
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for ours, whole in zip(shared, expected, strict=True):
            torch.testing.assert_close(ours, whole)
