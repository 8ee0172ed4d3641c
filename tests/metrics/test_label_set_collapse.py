from __future__ import annotations

import math
import pickle
from itertools import combinations

import pytest
import torch
import torch.multiprocessing as mp

from etfhead.frames import make_frame
from etfhead.frames.tagwise import tagwise_constants
from etfhead.metrics.class_moments import add_batch, empty_moments
from etfhead.metrics.functional import neural_collapse
from etfhead.metrics.label_set_collapse import MultiLabelCollapse
from etfhead.metrics.label_set_table import LabelSets, join_sets
from etfhead.metrics.multilabel_functional import multilabel_collapse
from etfhead.metrics.tag_average import angles
from etfhead.theory.balanced_pal import BalancedPal

K, D = 6, 9
SCALES = {1: 1.0, 2: 0.894109, 3: 0.833277}


def hot(sets, each=1):
    rows = torch.zeros(len(sets) * each, K)
    for row, members in enumerate(m for m in sets for _ in range(each)):
        rows[row, list(members)] = 1.0
    return rows


def every_set(*sizes, each=2):
    return hot([s for m in sizes for s in combinations(range(K), m)], each)


def collapsed(target, *, offset=0.0, size=1.0):
    """Features exactly as the theorem says, around any offset, and their class vectors."""
    vectors = make_frame("simplex", num_classes=K, in_features=D, basis="haar", seed=0).matrix()
    scale = torch.tensor([SCALES.get(int(m), 0.0) for m in target.sum(1)], dtype=torch.float64)
    return offset + size * scale[:, None] * (target.double() @ vectors), vectors


def noisy(target, seed=0, spread=0.3):
    generator = torch.Generator().manual_seed(seed)
    features, vectors = collapsed(target, offset=3.0)
    noise = spread * torch.randn(features.shape, generator=generator, dtype=torch.float64)
    return features + noise, vectors


@pytest.mark.parametrize("offset", [0.0, 3.0, 1e6])
def test_the_theorems_features_are_collapsed_whatever_their_offset(offset):
    target = every_set(1, 2, 3)
    features, vectors = collapsed(target, offset=offset, size=7.0)
    figures = multilabel_collapse(features, target, K, weight=vectors)
    tolerance = 1e-9 if offset < 1e3 else 1e-7
    for name in ("nc1", "nc2_equinorm", "nc2_equiangular", "nc2_etf", "nc2w_etf", "nc3", "nc3_product"):
        assert figures[name] < tolerance, name
    for m, sets in ((2, 15), (3, 20)):
        assert figures[f"tag_error_m{m}"] < tolerance
        assert figures[f"tag_angle_m{m}"] < 60 * tolerance
        assert figures[f"tag_scale_m{m}"] == pytest.approx(SCALES[m], abs=1e-8)
        assert figures[f"tag_sets_m{m}"] == sets
        assert figures[f"nc1_quotient_m{m}"] < tolerance
    assert figures["tag_sets_left_out"] == figures["samples_without_label"] == 0


def test_the_released_formulas_do_not_vanish_there():
    """Global mean over all samples of the single-label sum alone, and NC2 of uncentred means."""
    target = every_set(1, 2, 3)
    features, vectors = collapsed(target, offset=3.0)
    single = target.sum(1) == 1
    means = torch.stack([features[single & (target[:, k] == 1)].mean(0) for k in range(K)])
    simplex = (torch.eye(K, dtype=torch.float64) - 1 / K) / math.sqrt(K - 1)

    def distance(matrix):
        return (matrix / matrix.norm() - simplex).norm()

    small = features[single].sum(0) / len(features)
    assert distance(means @ means.T) > 0.5
    assert distance(vectors @ (means - small).T) > 0.1
    assert distance((means - means.mean(0)) @ (means - means.mean(0)).T) < 1e-9


@pytest.mark.parametrize("normalize", [False, True])
def test_minimisers_of_the_theorems_model_measure_as_predicted(normalize):
    """Features found by a numerical minimiser, and constants in closed form."""
    setting = BalancedPal(5, {1: 4, 2: 2, 3: 1}, 5, 5e-3, 1e-4, normalize=normalize)
    solution = setting.model.solve(seed=0)
    features = solution.minimum.point["features"].detach()
    figures = multilabel_collapse(features, setting.model.targets, 5, weight=solution.weight.detach())
    predicted = tagwise_constants(5, setting.kappa, (2, 3), normalize=normalize).tolist()
    for m, constant in zip((2, 3), predicted, strict=True):
        assert figures[f"tag_scale_m{m}"] == pytest.approx(constant, abs=1e-4)
        assert figures[f"tag_error_m{m}"] < 1e-3
        assert figures[f"tag_angle_m{m}"] < 0.1
    assert figures["nc1"] < 1e-6
    assert figures["nc2_etf"] < 1e-3
    assert figures["nc3"] < 1e-6


def test_single_label_figures_are_those_of_neural_collapse():
    target = every_set(1, 2, each=4)
    features, vectors = noisy(target)
    single = target.sum(1) == 1
    figures = multilabel_collapse(features, target, K, weight=vectors)
    alone = neural_collapse(features[single], target[single].argmax(1), K, weight=vectors)
    shared = set(alone) - {"nc4"}
    assert {"nc1", "nc2_etf", "nc3"} <= shared <= set(figures)
    for name in shared:
        torch.testing.assert_close(figures[name], alone[name])


def test_tag_wise_figures_are_the_naive_loops():
    target = torch.cat([every_set(1, each=5), every_set(2, each=3), every_set(3, each=1)])
    features, _ = noisy(target)
    figures = multilabel_collapse(features, target, K)
    keys = [tuple(row.nonzero().flatten().tolist()) for row in target]
    of_set = {
        key: torch.stack([f for f, k in zip(features, keys, strict=True) if k == key]) for key in set(keys)
    }
    means = {key: rows.mean(0) for key, rows in of_set.items()}
    middle = torch.stack([means[k,] for k in range(K)]).mean(0)
    for m in (2, 3):
        sets = [key for key in means if len(key) == m]
        gaps = torch.stack([means[key] - middle for key in sets])
        totals = torch.stack([sum(means[k,] - middle for k in key) for key in sets])
        scale = torch.linalg.lstsq(totals.reshape(-1, 1), gaps.reshape(-1, 1)).solution.squeeze()
        error = (gaps - scale * totals).norm() / gaps.norm()
        cosine = torch.nn.functional.cosine_similarity(gaps, totals)
        spread = [(of_set[key] - means[key]).square().sum() for key in sets]
        within = sum(spread) / sum(len(of_set[key]) for key in sets)
        expected = {
            "tag_scale": scale,
            "tag_error": error,
            "tag_angle": torch.rad2deg(cosine.acos()).mean(),
            "nc1_quotient": within / gaps.square().sum(1).mean(),
        }
        for name, value in expected.items():
            assert figures[f"{name}_m{m}"] == pytest.approx(float(value), rel=1e-9)
    for name in ("tag_error", "tag_angle"):
        assert figures[name] == pytest.approx(float(figures[f"{name}_m2"] + figures[f"{name}_m3"]) / 2)


def test_in_span_only_what_moves_logits_counts():
    target = every_set(1, 2, 3)
    features, vectors = collapsed(target, offset=3.0)
    aside = torch.linalg.svd(vectors).Vh[K - 1 :]  # directions that no class vector sees
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(len(target), len(aside), generator=generator, dtype=torch.float64) @ aside
    shift = 2.0 * torch.randn(1, D, generator=generator, dtype=torch.float64)
    figures = multilabel_collapse(features + hidden, target, K, weight=vectors + shift)
    assert figures["tag_error_m2"] > 0.3
    for m in (2, 3):  # a vector that all class vectors share moves no logit against another
        assert figures[f"tag_error_in_span_m{m}"] < 1e-9
        assert figures[f"tag_angle_in_span_m{m}"] < 1e-6
        assert figures[f"tag_scale_in_span_m{m}"] == pytest.approx(SCALES[m], abs=1e-8)
    assert figures["tag_error_in_span"] < 1e-9 < figures["tag_error"]
    for weight in (None, torch.zeros(K, D)):
        plain = multilabel_collapse(features + hidden, target, K, weight=weight)
        assert not [name for name in plain if "in_span" in name]
        torch.testing.assert_close(plain["tag_error"], figures["tag_error"])


def test_sets_that_cannot_be_compared_are_left_out_and_counted():
    target = torch.cat([every_set(1, each=3), hot([(0, 1)], 4), hot([(2, 3)], 1), hot([range(K)], 2)])
    features, _ = noisy(target)
    figures = multilabel_collapse(features, target, K, min_samples=2)
    assert figures["tag_sets_m2"] == 1
    assert figures["tag_sets_left_out"] == 2  # a single sample; all labels at once
    fewer = multilabel_collapse(features[:-3], target[:-3], K)
    assert figures["tag_error_m2"] == fewer["tag_error_m2"]
    no_single = (target.sum(1) > 1) | (target[:, 1] == 0)
    figures = multilabel_collapse(features[no_single], target[no_single], K)
    assert figures["missing_classes"] == 1
    assert figures["tag_sets_m2"] == 1  # (2, 3); (0, 1) needs label 1 alone
    assert figures["tag_sets_left_out"] == 2


def test_without_larger_sets_there_are_no_tag_wise_figures():
    target = torch.cat([every_set(1), torch.zeros(3, K)])
    features, _ = noisy(target)
    figures = multilabel_collapse(features, target, K)
    assert figures["samples_without_label"] == 3
    assert [name for name in figures if name.startswith("tag")] == ["tag_sets_left_out"]


@pytest.mark.parametrize("step", [1, 5, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_and_order_do_not_matter(step, shuffled):
    target = torch.cat([every_set(1, 2, 3, each=3), torch.zeros(2, K)])
    features, vectors = noisy(target)
    order = (
        torch.randperm(len(target), generator=torch.Generator().manual_seed(1))
        if shuffled
        else range(len(target))
    )
    order = torch.as_tensor(order)
    whole = multilabel_collapse(features, target, K, weight=vectors)
    metric = MultiLabelCollapse(K, vectors)
    for rows in order.split(step):
        metric.update(features[rows], target[rows])
    figures = metric.compute()
    assert list(figures) == list(whole)
    for name, value in figures.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-10, atol=1e-12)
    assert len(metric.set_labels) < 2 * 35  # the table doubles, no more


def test_types_of_features_and_targets():
    target = every_set(1, 2, each=4)
    features, _ = noisy(target)
    half = features.bfloat16()
    reference = multilabel_collapse(half.double(), target, K)
    for kind in (torch.uint8, torch.bool, torch.int64):
        for name, value in multilabel_collapse(half, target.to(kind), K).items():
            torch.testing.assert_close(value, reference[name])


def test_reset_forward_pickle_merge_and_plot():
    target = every_set(1, 2, 3, each=3)
    features, vectors = noisy(target)
    whole = multilabel_collapse(features, target, K, weight=vectors)
    metric = MultiLabelCollapse(K, vectors)
    first, cut = metric(features[:40], target[:40]), 55
    metric.update(features[40:cut], target[40:cut])
    assert not metric.set_labels[-1].any()  # a row to spare
    assert {"nc1", "tag_error_m2"} <= set(first)
    metric = pickle.loads(pickle.dumps(metric))
    other = MultiLabelCollapse(K)
    other.update(features[cut:], target[cut:])
    assert not set(map(tuple, other.set_labels.tolist())) <= set(map(tuple, metric.set_labels.tolist()))
    empty = MultiLabelCollapse(K, vectors)
    for part in (metric, other, MultiLabelCollapse(K)):
        empty.merge_state(part)
    grows = MultiLabelCollapse(K, vectors)
    grows.merge_state(metric)
    grows.update(features[cut:], target[cut:])  # new sets beside merged ones
    metric.update(features[cut:], target[cut:])
    for found in (metric.compute(), empty.compute(), grows.compute()):
        for name, value in whole.items():
            torch.testing.assert_close(found[name], value)
    _, axis = metric.plot()
    assert [text.get_text() for text in axis.get_xticklabels()][-2:] == ["tag_error_m2", "tag_error_m3"]
    shown = [text.get_text() for text in axis.get_xticklabels()]
    assert "tag_error_in_span_m2" in shown
    metric.plot([first, whole])
    metric.reset()
    assert metric.in_features == 0
    assert len(metric.set_labels) == 0
    metric.update(features, target)
    torch.testing.assert_close(metric.compute()["tag_error"], whole["tag_error"])


def test_casts_inference_mode_and_batches_without_figures_leave_the_sums():
    target = every_set(1, 2, 3, each=3)
    features, vectors = noisy(target)
    weight = vectors.clone()
    metric = MultiLabelCollapse(K, weight)
    with torch.inference_mode():
        metric.reset()
        metric.update(features[:40], target[:40])
    metric.update(features[40:60], target[40:60])
    torch.nn.ModuleList([metric]).to(torch.bfloat16)
    with pytest.raises(ValueError, match="0 of 6 labels"):
        metric(features[60:61], target[60:61])  # added all the same
    metric.update(features[61:], target[61:])
    for factor in (1.0, -1.0):
        weight.copy_(factor * vectors)  # followed between two results
        expected = multilabel_collapse(features, target, K, weight=weight)
        for name, value in metric.compute().items():
            torch.testing.assert_close(value, expected[name])


def _measure(rank, folder, batches, vectors):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    metric = MultiLabelCollapse(K, vectors, compute_with_cache=False)  # or a process could skip the sum
    for batch in batches[rank]:
        metric.update(*batch)
    first = metric.compute()
    metric.reset()
    for batch in batches[rank][:1]:
        metric.update(*batch)
    metric.compute()  # synchronised, and back: the rest is added to the own samples alone
    for batch in batches[rank][1:]:
        metric.update(*batch)
    torch.save((first, metric.compute()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("cuts", [(5, 60), (0, 0)])
def test_processes_with_different_sets_measure_the_whole(tmp_path, cuts):
    """Sets that both have, sets that one has; with (0, 0) a process without a sample."""
    target = every_set(1, 2, 3, each=3)
    features, vectors = noisy(target)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(2))
    first, second = cuts
    shares = [[order[:first], order[first:second]] if second else [], [order[second:]]]
    batches = [[(features[rows], target[rows]) for rows in share] for share in shares]
    mp.start_processes(_measure, args=(str(tmp_path), batches, vectors), nprocs=2, start_method="fork")
    whole = multilabel_collapse(features, target, K, weight=vectors)
    for rank in range(2):
        for figures in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert set(figures) == set(whole)
            for name, value in figures.items():
                torch.testing.assert_close(value, whole[name])


def test_a_table_moves_into_one_that_holds_all_its_sets():
    metric = MultiLabelCollapse(K)
    features, _ = noisy(every_set(2, each=3))
    metric.update(features, every_set(2, each=3))
    every = every_set(2, 3, each=1).to(torch.uint8).flip(0)
    moved = join_sets(metric.set_labels, metric.sets, every)
    assert moved.counts.tolist() == [0] * 20 + [3] * 15
    for row in range(20, 35):
        old = (metric.set_labels == every[row]).all(1).nonzero().item()
        assert torch.equal(moved.sums[row], metric.set_sums[old])
        assert moved.squares[row] == metric.set_squares[old]


def test_the_index_finds_old_rows_makes_new_ones_and_follows_the_table():
    labels, moments, index = torch.zeros(0, K, dtype=torch.uint8), empty_moments(0, 2, 0), LabelSets()
    wanted = hot([(0, 1), (2, 3)]).bool()
    labels, moments, rows = index.find(labels, moments, wanted)
    assert rows.tolist() == [0, 1]
    add_batch(
        moments, torch.ones(1, 2, dtype=torch.float64), rows[:1], torch.empty(2, 0, dtype=torch.float64)
    )
    labels, moments, rows = index.find(labels, moments, hot([(4, 5), (2, 3), (1, 2, 3)]).bool())
    assert rows.tolist() == [2, 1, 3]
    assert moments.counts.tolist() == [1, 0, 0, 0]
    labels, moments, rows = index.find(labels.clone(), moments, hot([(1, 2, 3), (0, 5)]).bool())
    assert rows.tolist() == [3, 4]
    assert len(labels) == len(moments.counts) == 8
    fresh = torch.zeros(0, K, dtype=torch.uint8)
    _, _, rows = index.find(fresh, empty_moments(0, 2, 0), hot([(2, 3)]).bool())
    assert rows.tolist() == [0]


def test_angles_are_exact_where_an_arc_cosine_is_not():
    tiny = torch.tensor([[1.0, 1e-9], [-1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    along = torch.tensor([[1.0, 0.0]] * 3, dtype=torch.float64)
    found = angles(3.0 * along, tiny).tolist()
    assert found == pytest.approx([math.degrees(1e-9), 180.0, 90.0], rel=1e-6)


def test_bad_input():
    metric = MultiLabelCollapse(K)
    with pytest.raises(ValueError, match=r"target: expected multi-hot rows of shape \(4, 6\), got \(4, 5\)"):
        metric.update(torch.zeros(4, D), torch.zeros(4, 5))
    with pytest.raises(ValueError, match="target: expected 0 and 1, got 0 to 2"):
        metric.update(torch.zeros(1, D), torch.tensor([[0, 2, 0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="features: 1 of 2 samples hold NaN"):
        metric.update(torch.tensor([[0.0], [torch.nan]]), torch.zeros(2, K))
    with pytest.raises(ValueError, match="features: expected floats of shape"):
        metric.update([[0.0]], torch.zeros(1, K))
    assert metric.in_features == 0
    metric.update(torch.randn(4, D), every_set(2)[:4])
    with pytest.raises(ValueError, match="expected 9 features"):
        metric.update(torch.randn(4, D + 1), every_set(1)[:4])
    with pytest.raises(ValueError, match="target: 0 of 6 labels have a sample that carries no other"):
        metric.compute()
    with pytest.raises(ValueError, match=r"weight: expected shape \(6, 9\)"):
        metric.set_class_vectors(torch.zeros(K, 3))
    with pytest.raises(ValueError, match="min_samples"):
        MultiLabelCollapse(K, min_samples=0)
