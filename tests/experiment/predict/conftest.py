"""An export that etfhead did not write: a stock timm model saved by timm."""

import pytest
import timm
import torch
from timm.models._hub import save_for_hf


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Folder of an RGB model of three classes with random weights, and the model."""
    folder = tmp_path_factory.mktemp("stock") / "model"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3).eval()
    with torch.no_grad():
        model.fc.weight.mul_(30.0)  # or every class would be equally probable
    save_for_hf(model, folder, model_config={"label_names": ["cat", "dog", "owl"]}, safe_serialization=True)
    return folder, model


@pytest.fixture
def pictures(tmp_path):
    """Four images of different sizes and modes."""
    from PIL import Image

    generator = torch.Generator().manual_seed(3)
    files = []
    for place, (mode, size) in enumerate(
        [("RGB", (40, 60)), ("L", (33, 20)), ("RGBA", (8, 8)), ("P", (64, 64))]
    ):
        pixels = torch.randint(0, 256, (size[1], size[0], 3), dtype=torch.uint8, generator=generator).numpy()
        files.append(tmp_path / f"{place}.png")
        Image.fromarray(pixels).convert(mode).save(files[-1])
    return files
