"""timm's own train.py, unchanged; the arguments marked `# etfhead` are all that a fixed head adds.

timm does not install train.py: take it from a clone of its repository, of the version that is installed.

python examples/timm_train.py pytorch-image-models/train.py
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import timm
import torch
from digits import EPOCHS, write_image_folder
from timm.models import load_checkpoint

import etfhead  # etfhead


def arguments(data: Path) -> list[str]:
    """The command line of train.py."""
    return [
        *("--data-dir", str(data), "--output", "output", "--experiment", "digits"),
        *("--num-classes", "10", "--img-size", "32", "--batch-size", "64", "--workers", "0"),
        *("--opt", "adamw", "--lr", "2e-3", "--warmup-epochs", "0", "--epochs", str(EPOCHS)),
        *("--mixup", "0.2", "--cutmix", "0.5", "--mixup-prob", "0.5", "--smoothing", "0.1"),
        *("--hflip", "0", "--scale", "0.8", "1.0", "--layer-decay", "0.9", "--model-ema"),
        *("--device", "cuda" if torch.cuda.is_available() else "cpu"),
        *("--device-modules", "etfhead.integrations.timm_plugin", "--model", "etf_test_resnet"),  # etfhead
    ]


def main() -> None:
    script = Path(sys.argv[1]).resolve()
    sys.argv = [str(script), *arguments(write_image_folder(Path("digits")))]
    runpy.run_path(str(script), run_name="__main__")
    model = timm.create_model("etf_test_resnet", num_classes=10)
    load_checkpoint(model, "output/digits/last.pth.tar")
    etfhead.fold_head(model)  # etfhead
    torch.save(model.state_dict(), "digits.pt")


if __name__ == "__main__":
    main()
