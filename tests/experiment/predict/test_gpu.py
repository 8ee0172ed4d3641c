"""On a GPU the same classes as on the CPU, from a stock folder and from a traced program."""

import json

import pytest
import torch

from etfhead.experiment.predict import load_predictor, predict

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("traced", [False, True])
def test_gpu_and_cpu_agree(stock, pictures, tmp_path, traced):
    folder, model = stock
    if traced:
        shape = json.loads((folder / "config.json").read_text())["pretrained_cfg"]["input_size"]
        dynamic = ({0: torch.export.Dim("batch", min=1)},)
        program = torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=dynamic)
        torch.export.save(program, tmp_path / "model.pt2")
        (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
        folder = tmp_path
    on_cpu, on_gpu = (
        [p.top for p in predict(load_predictor(folder, device=device), pictures)]
        for device in ("cpu", "cuda")
    )
    for one, other in zip(on_cpu, on_gpu, strict=True):
        for (label, _, value), (name, _, found) in zip(one, other, strict=True):
            assert label == name
            assert found == pytest.approx(value, abs=2e-3)
