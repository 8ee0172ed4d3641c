"""One thread a process: the tests' models are tiny, and threads on busy cores wait for each other."""

import os

import pytest

from tests.heard_signals import heard_signals

# Before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def signals():
    """None is ignored."""
    with heard_signals():
        yield
