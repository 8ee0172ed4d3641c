"""The minimiser: known minima, several basins, saddles, singular Hessians, bad input."""

import math

import pytest
import torch

from etfhead.theory.minimise import minimise


def rosenbrock(variables):
    x = torch.cat([variables["a"].flatten(), variables["b"].flatten()])
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def test_finds_the_minimum_of_rosenbrock_and_keeps_names_and_shapes():
    found = minimise(rosenbrock, {"a": (2, 2), "b": ()}, starts=4, seed=1)
    assert {name: tuple(value.shape) for name, value in found.point.items()} == {"a": (2, 2), "b": ()}
    assert all(value.dtype == torch.float64 for value in found.point.values())
    torch.testing.assert_close(found.point["a"], torch.ones(2, 2, dtype=torch.float64), rtol=0, atol=1e-10)
    assert found.loss < 1e-20
    assert found.gradient < 1e-9


def test_the_gradient_reaches_rounding_along_a_valley_of_minima():
    # Every point of the sphere is a minimum, so the Hessian is singular there.
    found = minimise(lambda v: (v["x"].square().sum() - 2) ** 2 + 1, {"x": (6,)})
    assert found.gradient <= 1e-14
    assert found.point["x"].norm().item() == pytest.approx(math.sqrt(2), rel=1e-14)
    assert found.loss == pytest.approx(1, abs=1e-15)


def tilted_wells(variables):
    return ((variables["x"] ** 2 - 1) ** 2 + 0.3 * variables["x"]).sum()


def test_the_lowest_of_several_minima_counts_and_says_how_many_starts_reached_it():
    found = minimise(tilted_wells, {"x": (1,)}, starts=12)
    assert found.point["x"].item() < -1
    assert 0 < found.agreeing < found.starts == 12


def test_a_saddle_is_left():
    # Newton alone would go to the saddle at zero.
    found = minimise(lambda v: v["x"][0] ** 2 - v["x"][1] ** 2 + v["x"][1] ** 4, {"x": (2,)}, scale=0.05)
    assert found.loss == pytest.approx(-0.25)
    assert found.agreeing == 3


def test_a_start_that_ends_in_nan_does_not_hide_a_finite_one():
    def loss(variables):
        x = variables["x"]
        return x - x.log()  # NaN from a negative start

    for seed in range(4):
        found = minimise(loss, {"x": ()}, starts=6, seed=seed)
        assert found.point["x"].item() == pytest.approx(1, abs=1e-9)
        assert 0 < found.agreeing < 6


def test_the_seed_fixes_the_starts():
    first, again, other = (minimise(tilted_wells, {"x": (3,)}, seed=seed, starts=2) for seed in (0, 0, 1))
    assert torch.equal(first.point["x"], again.point["x"])
    assert first.evaluations == again.evaluations != other.evaluations


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"starts": 0}, "starts=0"),
        ({"max_iterations": 0}, "max_iterations=0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": math.nan}, "scale=nan"),
    ],
)
def test_bad_options_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        minimise(tilted_wells, {"x": (1,)}, **options)


def test_no_variables_is_an_error():
    with pytest.raises(ValueError, match="shapes is empty"):
        minimise(tilted_wells, {})
