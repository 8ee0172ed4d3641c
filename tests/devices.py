"""Tests of the CPU and of a GPU: the same test for both, or for a GPU alone."""

from __future__ import annotations

import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

cuda_only = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
cuda = pytest.param("cuda", marks=cuda_only)
devices = pytest.mark.parametrize("device", ["cpu", cuda])
on_gpu = pytest.mark.parametrize("device", [cuda])


def _can_compile() -> bool:
    """Whether inductor can make kernels for a GPU: their launchers are built with a C compiler."""
    headers = Path(sysconfig.get_path("include"), "Python.h").is_file()
    return bool(headers and find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang"))))


compiles = pytest.mark.skipif(not _can_compile(), reason="needs triton and a C compiler with Python.h")
