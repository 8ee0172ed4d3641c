"""A comparison on two processes is the comparison on one, where no batch statistics tell them apart."""

import json
import os
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import load_file

from etfhead.experiment.recipe import Arm

ARMS = {
    "learnable": Arm(head="linear"),
    "etf": Arm(head="etf", neck="none", scale=5.0),
    "delta": Arm(head="delta", neck="none"),
}


def _run(rank, run, recipe, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    # As torchrun tells it.
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT="0")
    run(recipe, f"{folder}/two")
    torch.distributed.destroy_process_group()


def test_two_processes_train_what_one_trains(run, recipe, tmp_path):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("torch was built without gloo")
    recipe = replace(recipe, model="test_vit", mixup=0.0, cutmix=0.0, drop=0.0, drop_path=0.0, opt="sgd")
    recipe = replace(recipe, lr=0.05, clip_grad=None, arms=ARMS, baseline="learnable")
    mp.start_processes(_run, args=(run, recipe, str(tmp_path)), nprocs=2, start_method="fork")
    run(recipe, tmp_path / "one")
    for arm in ARMS:
        one, two = (tmp_path / out / "arms" / arm / "seed0" for out in ("one", "two"))
        weights = load_file(one / "last.safetensors")
        for name, tensor in load_file(two / "last.safetensors").items():
            torch.testing.assert_close(tensor, weights[name], rtol=1e-3, atol=1e-5, msg=f"{arm} {name}")
        results = [json.loads((folder / "result.json").read_text()) for folder in (one, two)]
        losses = [result["last"]["test_loss"] for result in results]
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
