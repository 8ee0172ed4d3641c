import math

import pytest
import torch

from etfhead.frames import SimplexFrame
from etfhead.frames.orient import class_means_code, orient_simplex, polar_factor

SIZES = [(2, 1), (2, 9), (5, 4), (5, 5), (10, 64), (65, 64)]


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size, seed=0):
    return torch.linalg.qr(gaussian(size, size, seed=seed))[0]


def simplex_gram(K):
    return torch.full((K, K), -1 / (K - 1), dtype=torch.float64).fill_diagonal_(1)


def close(actual, expected, atol=1e-12):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("K", "d"), SIZES)
def test_the_oriented_vectors_are_a_simplex(K, d):
    M = orient_simplex(gaussian(K, d) + 3)
    close(M @ M.T, simplex_gram(K))
    close(M.sum(0), torch.zeros(d, dtype=torch.float64))


@pytest.mark.parametrize(("K", "d"), SIZES)
def test_no_other_rotation_comes_nearer_to_the_means(K, d):
    means = gaussian(K, d, seed=1)
    M = orient_simplex(means)
    score = (M * means).sum()
    turned = [(M @ rotation(d, seed) * means).sum() for seed in range(50)]
    assert max(turned) <= score + 1e-12
    if d > 1:  # small turns too: a stationary point that is no maximum would show
        for seed in range(50):
            skew = 0.01 * gaussian(d, d, seed=seed)
            assert (M @ torch.linalg.matrix_exp(skew - skew.T) * means).sum() <= score + 1e-12


def test_the_issue_formula_where_it_applies():
    # K <= d: M = sqrt(K/(K-1)) (I - 11^T/K) U^T, U the polar factor of the centred means' transpose.
    K, d = 6, 20
    means = gaussian(K, d)
    centred = means - means.mean(0)
    left, _, right = torch.linalg.svd(centred.T, full_matrices=False)
    centring = torch.eye(K, dtype=torch.float64) - 1 / K
    close(orient_simplex(means), math.sqrt(K / (K - 1)) * centring @ (left @ right).T)


@pytest.mark.parametrize(("K", "d"), SIZES)
def test_means_that_are_a_simplex_are_kept(K, d):
    M = SimplexFrame(K, d, basis="haar", seed=5).matrix()
    close(orient_simplex(7.0 * M + 2.0), M)


@pytest.mark.parametrize(("K", "d"), [(5, 4), (10, 64)])
def test_turned_features_and_renumbered_classes_turn_and_renumber_the_simplex(K, d):
    means, R = gaussian(K, d), rotation(d, 3)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(4))
    close(orient_simplex(means @ R), orient_simplex(means) @ R)
    close(orient_simplex(means[order]), orient_simplex(means)[order])


def deficient(kind, K=8, d=12):
    means = gaussian(K, d)
    if kind == "equal classes":
        means[3] = means[1]
        means[6] = means[1]
    elif kind == "on a line":
        means = torch.linspace(0, 1, K, dtype=torch.float64)[:, None] * means[:1] + 5
    elif kind == "along axes":
        means = torch.eye(K, d, dtype=torch.float64) * torch.tensor([1.0, 1, 1, 0, 0, 0, 0, 0])[:, None]
    elif kind == "all equal":
        means[:] = means[0]
    else:
        means[:] = 0
    return means


KINDS = ["equal classes", "on a line", "along axes", "all equal", "zero"]


@pytest.mark.parametrize("kind", KINDS)
def test_rank_deficient_means_are_completed_to_a_nearest_simplex(kind):
    means = deficient(kind)
    M = orient_simplex(means)
    close(M @ M.T, simplex_gram(8))
    assert torch.equal(M, orient_simplex(means.clone()))
    best = torch.linalg.svdvals(means - means.mean(0)).sum() * math.sqrt(8 / 7)  # von Neumann's bound
    close((M * means).sum() - (M * means.mean(0)).sum(), best, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_completion_does_not_depend_on_lapacks_choice_of_a_basis(kind):
    # Rounding in the means changes every basis of the undecided subspaces, the completion must not follow.
    means = deficient(kind)
    noise = 1e-16 * gaussian(8, 12, seed=9) * means.abs().max()
    close(orient_simplex(means + noise), orient_simplex(means), atol=1e-9)
    close(orient_simplex(3 * means), orient_simplex(means), atol=1e-9)


def test_polar_factor_of_tall_wide_and_singular_matrices():
    for shape in ((3, 5), (5, 3), (4, 4)):
        A = gaussian(*shape)
        A[:, 0] = 0
        Q = polar_factor(A)
        gram = Q @ Q.T if shape[0] <= shape[1] else Q.T @ Q
        close(gram, torch.eye(min(shape), dtype=torch.float64))
        close((Q * A).sum(), torch.linalg.svdvals(A).sum())


def test_other_types_and_devices_of_means_are_taken():
    means = gaussian(4, 6)
    half = orient_simplex(means.half().requires_grad_())
    assert half.dtype == torch.float64
    assert not half.requires_grad
    with torch.device("meta"):
        assert torch.equal(orient_simplex(means), orient_simplex(means))
        assert class_means_code(means, 3).device.type == "cpu"


def test_a_code_with_exponent_one_and_all_components_has_the_means_cosines():
    means = gaussian(50, 8) + 4
    unit = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    close(class_means_code(means, 8, exponent=1.0), unit)
    for code in (
        class_means_code(means, 8, exponent=1.0, rotate=False),
        class_means_code(means, 11, exponent=1.0),
    ):
        close(code @ code.T, unit @ unit.T)


def test_a_code_with_exponent_zero_is_whitened():
    means = gaussian(400, 6) @ torch.diag(torch.tensor([9.0, 3, 1, 1, 0.3, 0.1], dtype=torch.float64))
    centred = means - means.mean(0)
    white = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T @ centred)).T
    unit = torch.nn.functional.normalize(white, dim=1)
    code = class_means_code(means, 6, exponent=0.0)
    close(code @ code.T, unit @ unit.T, atol=1e-10)


def test_a_code_of_fewer_dimensions_keeps_the_principal_components():
    means = gaussian(40, 9) @ torch.diag(torch.arange(9, 0, -1).double())
    centred = means - means.mean(0)
    values, axes = torch.linalg.eigh(centred.T @ centred)  # ascending
    scores = centred @ axes[:, -4:] * values[-4:].sqrt() ** (0.25 - 1)
    unit = torch.nn.functional.normalize(scores, dim=1)
    code = class_means_code(means, 4)
    assert code.shape == (40, 4)
    close(code @ code.T, unit @ unit.T, atol=1e-10)


def test_vectors_of_trunk_means_point_to_them_and_those_of_inputs_need_not():
    means = gaussian(60, 16) + 2
    centred = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    assert (class_means_code(means, 16) * centred).sum(1).min() > 0.9
    assert (class_means_code(means, 16, rotate=False) * centred).sum(1).mean() < 0.5
    uncentred = torch.nn.functional.normalize(means, dim=1)
    assert (class_means_code(means, 16, centre=False, exponent=1.0) * uncentred).sum(1).min() > 1 - 1e-12


def test_turned_features_turn_the_code():
    means, R = gaussian(60, 16), rotation(16)
    close(class_means_code(means @ R, 16), class_means_code(means, 16) @ R, atol=1e-10)


def test_the_same_means_give_the_same_code_whatever_sign_svd_returns(monkeypatch):
    means = gaussian(30, 12)
    expected = class_means_code(means, 5)
    svd = torch.linalg.svd

    def flipped(matrix, **options):
        left, spectrum, right = svd(matrix, **options)
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(spectrum))[: len(spectrum)]
        return left * signs, spectrum, signs[:, None] * right

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    close(class_means_code(means, 5), expected)


def test_dimensions_beyond_the_rank_are_zero():
    code = class_means_code(gaussian(40, 3) @ gaussian(3, 20, seed=1), 10)
    assert code[:, :3].norm(dim=1).min() > 1 - 1e-12
    assert torch.equal(code[:, 3:], torch.zeros(40, 7, dtype=torch.float64))


@pytest.mark.parametrize("d", [2, 8, 20])
def test_equal_and_empty_classes_get_distinct_unit_vectors(d):
    means = gaussian(30, 8)
    means[[4, 9, 22]] = means[2].clone()
    means[[5, 6]] = means.mean(0)
    for _ in range(50):  # the overall mean itself, to rounding
        means[[5, 6]] = means.mean(0)
    code = class_means_code(means, d)
    close(code.norm(dim=1), torch.ones(30, dtype=torch.float64))
    distance = torch.cdist(code, code).fill_diagonal_(9)
    assert distance.min() > 1e-5
    group = code[[2, 4, 9, 22]]
    assert (group @ group.T).min() > 0.9  # still neighbours
    assert torch.equal(code, class_means_code(means, d))


def test_means_on_a_line_or_all_equal_still_separate_all_classes():
    for means in (torch.arange(6.0)[:, None] * torch.ones(6, 4), torch.ones(6, 4)):
        code = class_means_code(means, 4)
        assert torch.cdist(code, code).fill_diagonal_(9).min() > 1e-3


@pytest.mark.parametrize("call", [orient_simplex, lambda means: class_means_code(means, 3)])
@pytest.mark.parametrize(
    ("means", "message"),
    [
        (torch.zeros(4), r"means: expected shape \(K, m\)"),
        (torch.zeros(1, 4), r"K >= 2, got \(1, 4\)"),
        (torch.tensor([[1.0, 2], [3, float("nan")], [float("inf"), 0]]), "2 of 3 rows .* first is class 1"),
    ],
)
def test_bad_means_are_named(call, means, message):
    with pytest.raises(ValueError, match=message):
        call(means)


def test_too_many_classes_for_a_simplex():
    with pytest.raises(ValueError, match=r"6 classes in 4 dimensions.*d \+ 1 = 5: use class_means_code"):
        orient_simplex(gaussian(6, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exponent": -1.0}, "exponent=-1.0: expected a number >= 0"),
        ({"exponent": math.nan}, "exponent=nan"),
        ({"in_features": 1}, "in_features=1: expected an integer >= 2"),
        ({"rotate": True}, "rotate=True with means of width 7: .*in_features=3"),
    ],
)
def test_bad_options_of_the_code(options, message):
    with pytest.raises(ValueError, match=message):
        class_means_code(gaussian(5, 7), **{"in_features": 3, **options})


def test_any_exponent_and_any_unit_of_the_means_give_the_same_finite_code():
    means = gaussian(20, 6)
    for exponent in (0.25, 60.0):
        expected = class_means_code(means, 4, exponent=exponent)
        assert expected.isfinite().all()
        for unit in (1e8, 1e-8):
            close(class_means_code(unit * means, 4, exponent=exponent), expected, atol=1e-9)
