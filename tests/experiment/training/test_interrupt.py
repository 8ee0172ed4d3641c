"""Real signals to a real process: exit codes, and the same numbers after --resume."""

import os
import signal
import subprocess
import time
from dataclasses import replace

import torch
from safetensors.torch import load_file

from etfhead.experiment.runner import run
from etfhead.experiment.schema import load_recipe, smoke
from tests.held_runs import HELD

OVERRIDES = ["drop=0.1", "mixup=0.2"]


def start(out):
    words = ["run", "quickstart", *OVERRIDES, "--smoke", "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*HELD, *words], env=environment, stderr=subprocess.PIPE, text=True)


def stop_after_first_epoch(out, signum):
    """Start a run, send the signal once the first checkpoint is there; exit code and what was told."""
    process = start(out)
    try:
        deadline = time.monotonic() + 300
        while not (out / "arms" / "learnable" / "seed0" / "state.pt").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signum)
        _, told = process.communicate(timeout=300)
    finally:
        process.kill()
    return process.returncode, told


def test_sigint(tmp_path):
    code, told = stop_after_first_epoch(tmp_path / "out", signal.SIGINT)
    assert code == 130
    assert "--resume" in told
    assert "Traceback" not in told


def test_sigterm_and_resume(tmp_path):
    out = tmp_path / "out"
    code, told = stop_after_first_epoch(out, signal.SIGTERM)
    assert code == 143
    assert "--resume" in told
    assert "Traceback" not in told
    recipe = replace(smoke(load_recipe("quickstart", OVERRIDES)), seeds=(0,))
    assert list(out.glob("arms/*/seed*/result.json")) == []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process: a sum over more threads is another sum
    try:
        run(recipe, out, resume=True)
        whole = run(recipe, tmp_path / "whole")
    finally:
        torch.set_num_threads(threads)
    compared = 0
    for path in whole.glob("arms/*/seed*/*.safetensors"):
        mine, theirs = load_file(path), load_file(out / path.relative_to(whole))
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
        compared += 1
    assert compared == 6
