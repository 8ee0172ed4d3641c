"""``timeout`` and a scheduler's SIGTERM to a real run with loading processes, started from a shell."""

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice

import psutil
import pytest

from etfhead.errors import Interrupted, TrainingError
from etfhead.experiment import runner
from etfhead.experiment.data.workers import WorkerLost
from etfhead.experiment.training import arm_run
from tests.faults.runs import compare, write_recipe
from tests.heard_signals import heard_signals
from tests.held_runs import HELD, PLAIN

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="process groups as on Linux")


def start(recipe, out, *words, program=PLAIN):
    run = ["run", str(recipe), "workers=2", "--out", str(out), *words]
    with heard_signals():
        return subprocess.Popen(
            [*program, *run], env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def finish(process):
    told, _ = process.communicate(timeout=300)
    return process.returncode, told


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    place = tmp_path_factory.mktemp("workers")
    recipe, out = write_recipe(place / "recipe.yaml"), place / "whole"
    code, told = finish(start(recipe, out))
    assert code == 0, told
    return recipe, out


@pytest.mark.parametrize("sender", ["timeout", "scheduler"])
def test_a_group_that_is_told_to_stop_goes_on_to_the_same_numbers(whole, tmp_path, sender):
    recipe, out = whole[0], tmp_path / "out"
    if sender == "timeout" and shutil.which("timeout") is None:
        pytest.skip("no timeout(1)")
    process = start(recipe, out, program=("timeout", "600", *HELD) if sender == "timeout" else HELD)
    try:
        deadline = time.monotonic() + 300
        while not (out / "arms/learnable/seed0/state.pt").exists():
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        family = psutil.Process(process.pid).children(recursive=True)
        if sender == "timeout":  # sends it on: to the run, and to its group
            process.send_signal(signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGTERM)
        code, told = finish(process)
        _, left = psutil.wait_procs(family, timeout=120.0)
    finally:
        process.kill()
    assert code == 143, told
    assert "stopped by signal 15; checkpoint" in told
    assert "Traceback" not in told
    assert len(family) >= 2
    assert left == []
    code, told = finish(start(recipe, out, "--resume"))
    assert code == 0, told
    assert compare(whole[1], out) == []


def test_a_death_before_training_is_told_with_arm_and_seed(recipe, tmp_path, monkeypatch):
    def dies(*args, **options):
        raise WorkerLost("a loading process (pid 7) was killed")

    monkeypatch.setattr(arm_run.Session, "build", dies)
    arm = next(iter(recipe.arms))
    with pytest.raises(
        TrainingError, match=rf"^arm '{arm}', seed \d: orient: a loading process \(pid 7\) was"
    ):
        runner.run(recipe, tmp_path / "out")


class _Lost:
    """Batches of which only some come."""

    def __init__(self, loader, batches):
        self.loader, self.batches, self.dataset = loader, batches, loader.dataset

    def __iter__(self):
        yield from islice(self.loader, self.batches)
        raise WorkerLost("a loading process (pid 7) was killed")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_death_costs_no_step_and_a_stop_goes_first(recipe, tmp_path, monkeypatch, stopped):
    """Without real processes: the checkpoint is of the step that the last batch was for."""
    whole, out = runner.run(recipe, tmp_path / "whole"), tmp_path / "out"
    build, requests = arm_run.Session.build, []

    def with_less(*args, **options):
        session = build(*args, **options)
        session.train_loader = _Lost(session.train_loader, 2)
        return session

    def asked(self):
        requests.append(self)
        return enter(self)

    enter = runner.StopRequest.__enter__
    monkeypatch.setattr(runner.StopRequest, "__enter__", asked)
    monkeypatch.setattr(arm_run.Session, "build", with_less)
    if stopped:
        lost = WorkerLost.__init__

        def just_then(self, *args):
            requests[0].signum = signal.SIGTERM
            lost(self, *args)

        monkeypatch.setattr(WorkerLost, "__init__", just_then)
    error, words = (
        (Interrupted, "checkpoint")
        if stopped
        else (TrainingError, r"step 2 of \d+ .*state\.pt; lower workers")
    )
    with pytest.raises(error, match=words):
        runner.run(recipe, out)
    monkeypatch.undo()
    runner.run(recipe, out, resume=True)
    assert compare(whole, out) == []
