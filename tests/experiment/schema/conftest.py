"""A small recipe file and what loading a changed one gives or says."""

import pytest

from etfhead.experiment.schema import load_recipe

TEXT = """\
name: tiny
model: test_resnet
img_size: 32
dataset: digits
epochs: 2
arms:
  learnable: {head: linear}
  etf:
    head: etf
    basis: haar
baseline: learnable
"""


@pytest.fixture
def minimal():
    """The text of the small recipe; what a test appends stands on line 12."""
    return TEXT


@pytest.fixture
def write(tmp_path):
    """Write a recipe file; return its path."""

    def _write(text):
        path = tmp_path / "my.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return _write


@pytest.fixture
def load(write):
    """Load the small recipe with lines appended and overrides, or another text."""

    def _load(extra="", *overrides, text=TEXT):
        return load_recipe(write(text + extra if extra else text), overrides)

    return _load


@pytest.fixture
def refusal(load):
    """Load what must be refused; return the one line that says why."""

    def _refusal(*args, **kwargs):
        with pytest.raises(ValueError, match=r"\w") as caught:
            load(*args, **kwargs)
        message = str(caught.value)
        assert "\n" not in message
        return message

    return _refusal
