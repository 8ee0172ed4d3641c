"""One thread a process: the tests' models are tiny, and threads on busy cores wait for each other."""

import os
import random
import sys

import pytest

from tests.heard_signals import heard_signals

# Before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def signals():
    """None is ignored."""
    with heard_signals():
        yield


@pytest.fixture(autouse=True)
def seeds():
    """What a test draws does not depend on those before it in its process, which change with every run."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(0)
