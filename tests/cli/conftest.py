"""Commands called in this process, or in one of their own."""

import subprocess
import sys

import pytest

from etfhead.cli import main


@pytest.fixture
def call(capsys):
    """Run a command; return its exit code, stdout and stderr."""

    def _call(*argv):
        code = main(argv)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return _call


@pytest.fixture
def error_line(call):
    """Run a command that fails; return its one line on stderr."""

    def _error_line(*argv, code=2):
        got, out, err = call(*argv)
        assert got == code
        assert out == ""
        assert err.startswith("etfhead: error: ")
        assert err.count("\n") == 1
        return err

    return _error_line


@pytest.fixture(scope="session")
def process():
    """Run Python with these arguments."""

    def _process(*argv, **options):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.run([sys.executable, *argv], text=True, check=False, **pipes)

    return _process
