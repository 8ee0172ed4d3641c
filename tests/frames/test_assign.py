import itertools

import pytest
import torch

from etfhead.frames import SimplexFrame, make_frame
from etfhead.frames import assign as assign_module
from etfhead.frames.assign import assign_classes
from etfhead.frames.assigned import AssignedFrame
from etfhead.frames.base import Frame
from etfhead.frames.fitted import ClassMeansFrame
from etfhead.frames.orient import orient_simplex


class Cloud(Frame):
    """Random unit vectors from a seed: a closed form without any symmetry."""

    name = "cloud"

    def matrix(self):
        generator = torch.Generator().manual_seed(7)
        rows = torch.randn(self.num_classes, self.in_features, generator=generator, dtype=torch.float64)
        return torch.nn.functional.normalize(rows, dim=1)

    def spec(self):
        return {"name": self.name, "num_classes": self.num_classes, "in_features": self.in_features}


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clustered(K, d, seed=0):
    centres = gaussian(K // 20, d, seed=seed).repeat_interleave(20, 0)
    return centres + 0.5 * gaussian(K, d, seed=seed + 1) + 3


def score(frame, means):
    target = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    return (frame.matrix() * target).sum(1).mean().item()


def test_small_problems_come_close_to_the_best_of_all_permutations():
    # For a fixed permutation the best rotation has the nuclear norm as its sum: try all 720.
    for seed in range(5):
        base, means = Cloud(6, 3), gaussian(6, 3, seed=seed)
        target = torch.nn.functional.normalize(means - means.mean(0), dim=1)
        best = max(
            torch.linalg.svdvals(base.matrix()[list(order)].T @ target).sum().item() / 6
            for order in itertools.permutations(range(6))
        )
        found = score(assign_classes(base, means), means)
        assert found <= best + 1e-12
        assert found >= 0.85 * best  # alternation ends in a local optimum


def test_a_permuted_and_turned_frame_is_recovered_from_near_the_truth():
    base = Cloud(60, 8)
    turn = torch.linalg.qr(gaussian(8, 8))[0]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    centred = base.matrix() - base.matrix().mean(0)
    near = torch.matrix_exp(0.03 * (gaussian(8, 8, seed=1) - gaussian(8, 8, seed=1).T)) @ turn
    start = AssignedFrame(60, 8, base=base, assignment=range(60), rotation=near)
    found = assign_classes(start, centred[order] @ turn)
    assert torch.equal(found.assignment, order)


def test_of_a_simplex_every_assignment_is_a_rotation_so_it_equals_the_oriented_one():
    means = gaussian(20, 32) + 1
    target = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    found = assign_classes(SimplexFrame(20, 32), means, rounds=1)
    torch.testing.assert_close(found.matrix(), orient_simplex(target), rtol=0, atol=1e-10)


@pytest.mark.parametrize("method", ["exact", "greedy"])
def test_no_round_lowers_the_sum(method, monkeypatch):
    monkeypatch.setattr(assign_module, "_BLOCK", 32)
    monkeypatch.setattr(assign_module, "_LEAST_GAIN", 0.0)
    base, means = make_frame("union", num_classes=300, in_features=16), clustered(300, 16)
    scores = [score(assign_classes(base, means, method=method, rounds=r), means) for r in range(1, 9)]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(scores))
    assert scores[-1] > scores[0]
    at_random = AssignedFrame(300, 16, base=base, assignment=range(300))
    assert scores[0] > score(at_random, means) + 0.3


@pytest.mark.parametrize(("K", "d"), [(1000, 32)])
def test_greedy_keeps_most_of_the_exact_sum(K, d, monkeypatch):
    base, means = make_frame("union", num_classes=K, in_features=d), clustered(K, d)
    exact = score(assign_classes(base, means, method="exact"), means)
    greedy = score(assign_classes(base, means, method="greedy"), means)
    monkeypatch.setattr(assign_module, "_EXACT_UP_TO", K - 1)
    assert assign_classes(base, means) == assign_classes(base, means, method="greedy")
    monkeypatch.setattr(assign_module, "_EXACT_UP_TO", K)
    assert score(assign_classes(base, means), means) == exact
    assert 0.96 * exact <= greedy


def test_similar_classes_get_similar_vectors():
    means = clustered(400, 16)
    base = make_frame("union", num_classes=400, in_features=16)
    same = torch.arange(400)[:, None] // 20 == torch.arange(400) // 20

    def gap(frame):
        cosines = frame.matrix() @ frame.matrix().T
        return (cosines[same].mean() - cosines[~same].mean()).item()

    plain = AssignedFrame(400, 16, base=base, assignment=torch.randperm(400))
    assert gap(assign_classes(base, means)) > gap(plain) + 0.2


@pytest.mark.parametrize("method", ["exact", "greedy"])
def test_doing_it_again_starts_from_what_it_is_given(method):
    base = make_frame("union", num_classes=600, in_features=16)
    first = assign_classes(base, clustered(600, 16), method=method, rounds=2)
    moved = clustered(600, 16) + 0.3 * gaussian(600, 16, seed=5)
    again = assign_classes(first, moved, method=method, rounds=1)
    assert score(again, moved) >= score(first, moved)
    assert again.base is base
    kept = (again.assignment == first.assignment).float().mean().item()
    fresh = assign_classes(base, moved, method=method, rounds=1)
    assert kept > (fresh.assignment == first.assignment).float().mean().item()
    unturned = AssignedFrame(600, 16, base=base, assignment=first.assignment)
    assert score(assign_classes(unturned, moved, rounds=1), moved) >= score(unturned, moved)


@pytest.mark.parametrize("method", ["exact", "greedy"])
def test_the_same_call_gives_the_same_frame_and_leaves_the_global_state_alone(method):
    base, means = make_frame("union", num_classes=700, in_features=16), clustered(700, 16)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = assign_classes(base, means, method=method, rounds=2)
    assert torch.equal(before, torch.get_rng_state())
    assert assign_classes(base, means.clone(), method=method, rounds=2) == first
    with torch.device("meta"):
        assert assign_classes(base, means, method=method, rounds=2) == first


def test_the_place_of_the_means_and_the_length_of_one_do_not_matter():
    base, means = Cloud(40, 8), gaussian(40, 8)
    moved = assign_classes(base, 4 * means + 100)
    assert torch.equal(moved.assignment, assign_classes(base, means).assignment)


def test_means_without_rank_are_no_obstacle():
    for means in (torch.zeros(40, 8), torch.arange(40.0)[:, None] * torch.ones(40, 8)):
        for method in ("exact", "greedy"):
            assign_classes(Cloud(40, 8), means, method=method)


@pytest.mark.parametrize(
    ("frame", "means", "options", "message"),
    [
        (Cloud(5, 3), torch.zeros(5, 3), {"method": "best"}, "method='best': expected 'auto', 'exact'"),
        (Cloud(5, 3), torch.zeros(5, 3), {"rounds": 0}, "rounds=0"),
        (Cloud(5, 3), torch.zeros(5, 7), {}, r"means: expected shape \(5, 3\).*class_means_code\(means, 3\)"),
        (Cloud(5, 3), torch.zeros(4, 3), {}, r"means: expected shape \(5, 3\)"),
        (Cloud(2, 2), torch.tensor([[1.0, float("nan")], [0, 0]]), {}, "first is class 0"),
        (ClassMeansFrame(2, 2, vectors=torch.eye(2)), torch.zeros(2, 2), {}, "expected a closed-form frame"),
    ],
)
def test_bad_input_names_the_argument(frame, means, options, message):
    with pytest.raises(ValueError, match=message):
        assign_classes(frame, means, **options)
