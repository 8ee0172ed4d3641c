"""Every closed form against a minimiser that knows nothing of it: all samples, float64, random starts."""

import math

import numpy as np
import pytest
import scipy.optimize
import torch

from etfhead.frames.imbalanced import imbalanced_ce_geometry, orthogonal_geometry, seli_geometry
from etfhead.frames.last_layer import simplex_geometry

EXACT = {"dtype": torch.float64}


def labels_of(counts):
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def minimise(loss, shapes, *, non_negative=(), seed=0):
    """L-BFGS-B from a random point, polished by Newton steps on what is not at its bound."""
    sizes = [math.prod(shape) for shape in shapes]
    start = 0.5 * torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed), **EXACT)
    bounds = [(None, None)] * sum(sizes)
    for which in non_negative:
        begin = sum(sizes[:which])
        start[begin : begin + sizes[which]].abs_()
        bounds[begin : begin + sizes[which]] = [(0.0, None)] * sizes[which]

    def pieces(flat):
        return [x.view(shape) for x, shape in zip(flat.split(sizes), shapes, strict=True)]

    def value_and_gradient(numbers):
        flat = torch.tensor(numbers, requires_grad=True, **EXACT)
        value = loss(*pieces(flat))
        (gradient,) = torch.autograd.grad(value, flat)
        return value.item(), gradient.numpy()

    found = scipy.optimize.minimize(
        value_and_gradient,
        start.numpy(),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 0.0, "gtol": 1e-13, "maxcor": 60},
    )
    flat = torch.from_numpy(found.x)
    free = torch.tensor([low is None for low, _ in bounds]) | (flat > 1e-9)
    for _ in range(3):
        gradient = torch.from_numpy(value_and_gradient(flat.numpy())[1])[free]
        hessian = torch.autograd.functional.hessian(lambda x: loss(*pieces(x)), flat)[free][:, free]
        # Rotations leave the loss alone, so the Hessian is singular: least squares.
        flat[free] -= torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd", rcond=1e-9).solution[
            :, 0
        ]
    assert np.abs(value_and_gradient(flat.numpy())[1][free.numpy()]).max() < 1e-11
    return loss(*pieces(flat)).item(), pieces(flat)


def class_means(features, labels, classes):
    means = torch.stack([features[:, labels == k].mean(1) for k in range(classes)])
    within = max((features[:, labels == k].T - means[k]).abs().max() for k in range(classes))
    assert within < 1e-6, "within a class all features are the same"
    return means


def assert_geometry(geometry, weight, means, tolerance=1e-6):
    pairs = [
        (geometry.weight_gram, weight @ weight.T),
        (geometry.mean_gram, means @ means.T),
        (geometry.product, weight @ means.T),
    ]
    for ours, found in pairs:
        assert ours.dtype == torch.float64
        assert (ours - found).norm() < tolerance * found.norm()


@pytest.mark.parametrize(
    ("counts", "decays"),
    [
        ((7, 4, 2, 1), (0.01, 0.02)),
        ((7, 4, 2, 1), (0.08, 0.04)),
        ((3, 3, 3), (0.01, 0.01)),
        ((5, 1), (0.03, 0.01)),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_squared_error(counts, decays, bias):
    K, d, labels = len(counts), len(counts) + 1, labels_of(counts)
    N = len(labels)
    Y = torch.nn.functional.one_hot(labels, K).T.double()

    def loss(W, H, b=0.0):
        error = (W @ H + b - Y).square().sum() / (2 * N)
        return error + decays[0] / 2 * W.square().sum() + decays[1] / 2 * H.square().sum()

    shapes = [(K, d), (d, N)] + ([(K, 1)] if bias else [])
    _, (W, H, *_) = minimise(loss, shapes)
    geometry = orthogonal_geometry(counts, weight_decay=decays[0], feature_decay=decays[1], bias=bias)
    assert_geometry(geometry, W, class_means(H, labels, K))
    assert not geometry.centred


def test_minorities_collapse_at_the_threshold_and_not_before():
    counts = [60, 9, 4]
    at = 4 / 73**2  # n = N^2 lambda_W lambda_H
    for product, collapsed in ((0.999 * at, False), (1.001 * at, True)):
        geometry = orthogonal_geometry(counts, weight_decay=2 * product**0.5, feature_decay=product**0.5 / 2)
        alive = [bool(matrix[2, 2] > 0) for matrix in geometry[:3]]
        assert alive == [not collapsed] * 3
        assert all(matrix[1, 1] > 0 for matrix in geometry[:3])


def test_with_a_bias_and_equal_counts_the_squared_error_gives_the_simplex():
    geometry = orthogonal_geometry([20] * 5, weight_decay=1e-3, feature_decay=1e-3, bias=True)
    simplex = simplex_geometry(5).product
    for matrix in geometry[:3]:
        torch.testing.assert_close(matrix / matrix.norm(), simplex / simplex.norm(), rtol=0, atol=1e-14)


def test_with_a_bias_heads_are_further_apart_than_tails():
    gram = orthogonal_geometry(
        [60, 40, 25, 12, 3], weight_decay=1e-3, feature_decay=1e-3, bias=True
    ).weight_gram
    cosine = gram / gram.diagonal().outer(gram.diagonal()).sqrt()
    assert cosine[0, 1] < cosine[2, 3] < 0
    assert gram.sum(0).norm() < 1e-12 * gram.norm()


@pytest.mark.parametrize(
    ("counts", "decays"),
    [
        ((6, 4, 2, 1), (0.01, 0.02)),
        ((9, 4, 1), (0.06, 0.06)),
        ((3, 3, 3), (0.02, 0.01)),
        ((5, 2), (0.01, 0.03)),
    ],
)
def test_cross_entropy_with_non_negative_features(counts, decays):
    K, d, labels = len(counts), len(counts) + 1, labels_of(counts)

    def loss(W, H):
        entropy = torch.nn.functional.cross_entropy((W @ H).T, labels)
        return entropy + decays[0] / 2 * W.square().sum() + decays[1] / 2 * H.square().sum()

    # Several basins: with non-negative features classes can share an axis. The lowest counts.
    lowest, (W, H) = min(
        (minimise(loss, [(K, d), (d, len(labels))], non_negative=[1], seed=s) for s in range(4)),
        key=lambda found: found[0],
    )
    geometry = imbalanced_ce_geometry(counts, weight_decay=decays[0], feature_decay=decays[1])
    assert_geometry(geometry, W, class_means(H, labels, K))
    assert not geometry.centred
    assert geometry.mean_gram.count_nonzero() == (2 if decays == (0.06, 0.06) else K)  # one class collapsed
    entropy = torch.nn.functional.cross_entropy(geometry.product.T[labels], labels)
    squares = (
        decays[0] * geometry.weight_gram.trace() + decays[1] * geometry.mean_gram.diagonal()[labels].sum()
    )
    assert (entropy + squares / 2).item() == pytest.approx(lowest, rel=1e-12)


def test_the_optimum_of_cross_entropy_is_below_where_a_minority_is_stuck_at_zero():
    """Shortly before its threshold a class at zero is a saddle that bounded descent does not leave."""
    labels = labels_of([9, 4, 1])

    def loss(W, H):
        entropy = torch.nn.functional.cross_entropy((W @ H).T, labels)
        return entropy + 0.025 * W.square().sum() + 0.025 * H.square().sum()

    stuck, _ = minimise(loss, [(3, 4), (4, 14)], non_negative=[1])
    geometry = imbalanced_ce_geometry([9, 4, 1], weight_decay=0.05, feature_decay=0.05)
    assert geometry.mean_gram[2, 2] > 0
    entropy = torch.nn.functional.cross_entropy(geometry.product.T[labels], labels)
    squares = geometry.weight_gram.trace() + geometry.mean_gram.diagonal()[labels].sum()
    assert (entropy + 0.025 * squares).item() < stuck - 1e-3


def test_the_threshold_of_cross_entropy():
    at = 4 / 73**2 * 2 / 3  # n = N^2 lambda_W lambda_H K / (K - 1)
    for product, collapsed in ((0.999 * at, False), (1.001 * at, True)):
        geometry = imbalanced_ce_geometry([60, 9, 4], weight_decay=product**0.5, feature_decay=product**0.5)
        assert bool(geometry.mean_gram[2, 2] == 0) is collapsed
        assert bool((geometry.product[:, 2] == 0).all()) is collapsed
        assert geometry.weight_gram[2, 2] > 0  # its class vector points away from the others


def test_seli_is_the_decomposition_of_the_simplex_encoded_labels():
    counts = [7, 4, 2, 1]
    labels = labels_of(counts)
    K, N = len(counts), len(labels)
    encoded = torch.nn.functional.one_hot(labels, K).T.double() - 1 / K
    V, S, Uh = torch.linalg.svd(encoded, full_matrices=False)
    geometry = seli_geometry(counts)
    first = [int((labels == k).nonzero()[0]) for k in range(K)]
    torch.testing.assert_close(geometry.weight_gram, (V * S) @ V.T, rtol=0, atol=1e-13)
    torch.testing.assert_close(geometry.mean_gram, ((Uh.T * S) @ Uh)[first][:, first], rtol=0, atol=1e-13)
    torch.testing.assert_close(geometry.product, encoded[:, first], rtol=0, atol=1e-13)
    assert geometry.centred
    assert N == 14


def test_seli_is_the_support_vector_machine_over_features():
    counts, d = [3, 2, 1], 2
    labels = labels_of(counts)
    K, N = len(counts), len(labels)
    index = np.arange(N)

    def split(x):
        return x[: K * d].reshape(K, d), x[K * d :].reshape(d, N)

    def margins(x):
        W, H = split(x)
        logits = W @ H
        gaps = logits[labels.numpy(), index] - logits
        return gaps.T[np.arange(K) != labels.numpy()[:, None]] - 1

    def slope(x):
        W, H = split(x)
        rows = []
        for i, y in enumerate(labels.tolist()):
            for c in range(K):
                if c != y:
                    dW, dH = np.zeros((K, d)), np.zeros((d, N))
                    dW[y], dW[c], dH[:, i] = H[:, i], -H[:, i], W[y] - W[c]
                    rows.append(np.concatenate([dW.ravel(), dH.ravel()]))
        return np.array(rows)

    best = min(
        (
            scipy.optimize.minimize(
                lambda x: x @ x / 2,
                np.random.default_rng(seed).normal(size=K * d + d * N),
                jac=lambda x: x,
                constraints={"type": "ineq", "fun": margins, "jac": slope},
                method="SLSQP",
                options={"maxiter": 1000, "ftol": 1e-15},
            )
            for seed in range(3)
        ),
        key=lambda found: found.fun if margins(found.x).min() > -1e-9 else np.inf,
    )
    W, H = map(torch.from_numpy, split(best.x))
    encoded = torch.nn.functional.one_hot(labels, K).T.double() - 1 / K
    assert best.fun == pytest.approx(torch.linalg.svdvals(encoded).sum().item(), rel=1e-9)
    assert_geometry(seli_geometry(counts), W, class_means(H, labels, K))


def test_cross_entropy_nears_seli_as_its_decay_vanishes_but_slowly():
    counts = torch.tensor([20.0, 20.0, 2.0, 2.0], **EXACT)
    target = seli_geometry([20, 20, 2, 2]).weight_gram
    distances = []
    for decay in (1e-3, 1e-5, 1e-7):

        def loss(W, H, decay=decay):
            entropy = torch.nn.functional.cross_entropy(H @ W.T, torch.arange(4), reduction="none")
            return (counts / 44) @ entropy + decay / 2 * (W.square().sum() + counts @ H.square().sum(1))

        _, (W, _) = minimise(loss, [(4, 4), (4, 4)])
        gram = W @ W.T
        distances.append((gram / gram.norm() - target / target.norm()).norm().item())
    first, second, third = (1 / distance for distance in distances)
    assert second - first == pytest.approx(third - second, rel=0.02)  # c / log(1 / decay)
    assert 0.03 < distances[2] < distances[0] < 0.15


def test_many_unequal_classes_keep_their_digits():
    counts = [int(5000 * 1000 ** (-k / 199)) for k in range(200)]
    geometry = seli_geometry(counts)
    projector = geometry.weight_gram @ geometry.mean_gram
    torch.testing.assert_close(projector, geometry.product, rtol=0, atol=1e-11)
    ones = torch.ones(200, **EXACT)
    for matrix in geometry[:3]:
        assert (matrix @ ones).norm() < 1e-12 * matrix.norm()


@pytest.mark.parametrize(
    "counts",
    [(4, 2, 1), [4, 2, 1], torch.tensor([4, 2, 1]), np.array([4, 2, 1]), torch.tensor([4.0, 2.0, 1.0])],
)
def test_counts_of_any_kind(counts):
    for one, other in zip(seli_geometry(counts), seli_geometry([4, 2, 1]), strict=True):
        assert one == other if isinstance(one, bool) else torch.equal(one, other)


@pytest.mark.parametrize(
    "counts",
    [
        [3],
        [],
        [3, 0],
        [3, -1],
        [2.5, 1],
        [[1, 2]],
        "ab",
        None,
        [True, True],
        [float("nan"), 1.0],
        [float("inf"), 1.0],
        5,
        [1, None],
    ],
)
def test_bad_counts(counts):
    with pytest.raises(ValueError, match=r"class_counts=.*expected at least two positive integers"):
        seli_geometry(counts)


@pytest.mark.parametrize("geometry", [orthogonal_geometry, imbalanced_ce_geometry])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), None, True, "1"])
@pytest.mark.parametrize("argument", ["weight_decay", "feature_decay"])
def test_bad_decays(geometry, argument, value):
    decays = {"weight_decay": 0.1, "feature_decay": 0.1, argument: value}
    with pytest.raises(ValueError, match=rf"{argument}=.*expected a positive number"):
        geometry([3, 2], **decays)
