"""Recipes under ``torchrun``, started as the card on many processes starts them."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.faults.runs import compare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
        reason="torch was built without gloo",
    ),
]

# No batch statistics, which tell processes apart. Dropout would too.
RECIPE = """\
name: torchrun
model: etfhead_mlp
model_kwargs: {widths: [24, 12]}
dataset: digits
train_limit: 480
ood_dataset: synthetic
img_size: 8
in_chans: 1
epochs: 4
batch_size: 32
lr: 0.004
model_ema: true
model_ema_decay: 0.9
collapse_every: 1
cpu: true
seeds: [0]
baseline: learnable
arms:
  learnable: {head: linear}
  etf: {head: etf, neck: none, scale: 5.0}
  delta: {head: delta, neck: none}
"""
ARMS = ("learnable", "etf", "delta")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PATIENCE = 300.0


def start(folder, out, *words, launcher=TORCHRUN, **options):
    """``etfhead run`` in processes of their own, whose words go to a file beside ``out``."""
    command = [sys.executable, *launcher, "-m", "etfhead.cli", "run", str(folder / "recipe.yaml")]
    with (folder / f"{out}.log").open("a") as log:
        return subprocess.Popen(
            [*command, "--out", str(folder / out), *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT, **options,
        )  # fmt: skip


def finish(folder, out, *words, launcher=TORCHRUN):
    code = start(folder, out, *words, launcher=launcher).wait(PATIENCE)
    told = (folder / f"{out}.log").read_text()
    assert code == 0, told
    return told


def results(folder, out):
    return {arm: json.loads((folder / out / f"arms/{arm}/seed0/result.json").read_text()) for arm in ARMS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The recipe, and what two processes make of it when nothing happens to them."""
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "recipe.yaml").write_text(RECIPE)
    told = finish(folder, "two")
    assert told.count("3 of 3 trainings finished") == 1, told  # one of them talks
    return folder


def test_two_processes_train_and_measure_what_one_does(folder):
    finish(folder, "one", launcher=())
    one, two = results(folder, "one"), results(folder, "two")
    for arm in ARMS:
        seed = f"arms/{arm}/seed0"
        weights = load_file(folder / "one" / seed / "last.safetensors")
        for name, tensor in load_file(folder / "two" / seed / "last.safetensors").items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-4, atol=1e-5, msg=f"{arm} {name}")
        assert one[arm]["last"].keys() == two[arm]["last"].keys()
        for name in ("test_loss", "test_top1", "test_ece", "test_ood_auroc_neco", "test_ood_auroc_nci"):
            assert two[arm]["last"][name] == pytest.approx(one[arm]["last"][name], rel=1e-3), f"{arm} {name}"


def _worker(launcher, rank):
    for process in psutil.Process(launcher.pid).children(recursive=True):
        if "etfhead.cli" in process.cmdline() and process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize("killed", ["first", "second", "all"])
def test_a_killed_run_goes_on_to_the_numbers_of_one_left_alone(folder, killed):
    launcher = start(folder, killed)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (folder / killed / "arms/etf/seed0/state.pt").exists():
            assert launcher.poll() is None, (folder / f"{killed}.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        workers = [_worker(launcher, rank) for rank in range(2)]
        if killed == "all":
            launcher.kill()
        for rank, worker in enumerate(workers):
            if killed in ("all", ("first", "second")[rank]):
                worker.kill()
        assert launcher.wait(PATIENCE) != 0
        psutil.wait_procs(workers, PATIENCE)  # torchrun ends the other one
    finally:
        launcher.kill()
    assert not (folder / killed / "arms/delta/seed0/result.json").exists()
    finish(folder, killed, "--resume")
    assert compare(folder / "two", folder / killed) == []


def test_a_group_that_is_told_to_stop_goes_on_to_the_same_numbers(folder):
    """torchrun passes on the signal that its processes have got already; workers get it too."""
    if sys.platform != "linux":
        pytest.skip("process groups as on Linux")
    launcher = start(folder, "group", "workers=2", start_new_session=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while not (folder / "group/arms/learnable/seed0/state.pt").exists():
            assert launcher.poll() is None, (folder / "group.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        family = psutil.Process(launcher.pid).children(recursive=True)
        os.killpg(launcher.pid, signal.SIGTERM)
        assert launcher.wait(PATIENCE) != 0
        _, left = psutil.wait_procs(family, timeout=120.0)
    finally:
        launcher.kill()
    told = (folder / "group.log").read_text()
    assert told.count("etfhead: stopped by signal 15; checkpoint") == 2, told
    assert "etfhead: error" not in told
    assert left == []
    finish(folder, "group", "workers=2", "--resume")
    assert compare(folder / "two", folder / "group") == []


def test_another_number_of_processes_does_not_go_on(folder):
    """Each would see another share of a batch: other numbers from there on."""
    before = {path: path.read_bytes() for path in (folder / "two").rglob("*.safetensors")}
    code = start(folder, "two", "--resume", launcher=()).wait(PATIENCE)
    told = (folder / "two.log").read_text()
    assert code == 2, told
    assert "of another run (processes is 2 there, 1 now)" in told
    assert "Traceback" not in told
    assert {path: path.read_bytes() for path in (folder / "two").rglob("*.safetensors")} == before
