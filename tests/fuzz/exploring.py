"""Cases by Hypothesis in two sizes: a few for every run of the tests, thousands for `make test-slow`."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings

__all__ = ["attempt", "explore", "one_line", "sizes"]

_QUIET = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)


def sizes(few, many):
    """Run a test with so many cases, and marked slow with so many."""
    return pytest.mark.parametrize("size", [few, pytest.param(many, marks=pytest.mark.slow)])


def explore(size, strategy, check):
    """Call ``check`` with ``size`` cases, the same every time: a red test stays red."""

    @settings(
        max_examples=size,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=_QUIET,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        print_blob=False,
    )
    @given(strategy)
    def run(case):
        check(case)

    run()


def attempt(call, *refusals):
    """What a call returns and None; or None and the error with which it refuses."""
    try:
        return call(), None
    except refusals as error:
        return None, error


def one_line(error):
    """Whether an error says something, in one line."""
    text = str(error)
    return bool(text.strip()) and len(text.splitlines()) == 1
