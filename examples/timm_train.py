"""timm's own train.py, unchanged; the lines marked `# etfhead` are all that a fixed head adds.

timm does not install train.py: take it from a clone of its repository, of the version that is installed.

python examples/timm_train.py pytorch-image-models/train.py
"""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

import timm
import torch
from digits import EPOCHS, write_image_folder
from timm.models import load_checkpoint

import etfhead  # etfhead


def arguments(data: Path) -> list[str]:
    """The command line of train.py; of two models it takes the last."""
    return [
        *("--data-dir", str(data), "--output", "output", "--experiment", "digits"),
        *("--num-classes", "10", "--img-size", "32", "--batch-size", "64", "--workers", "0"),
        *("--opt", "adamw", "--lr", "2e-3", "--warmup-epochs", "0", "--epochs", str(EPOCHS)),
        *("--mixup", "0.2", "--cutmix", "0.5", "--mixup-prob", "0.5", "--smoothing", "0.1"),
        *("--hflip", "0", "--scale", "0.8", "1.0", "--layer-decay", "0.9"),
        *("--model-ema", "--model-ema-decay", "0.9"),
        *("--device", "cuda" if torch.cuda.is_available() else "cpu"),
        *("--model", "test_resnet"),
        *("--device-modules", "etfhead.integrations.timm_plugin", "--model", "etf_test_resnet"),  # etfhead
    ]


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("train_py", type=Path, help="timm's train.py, in a clone")
    script = parser.parse_args().train_py.resolve()
    if not script.is_file():
        parser.error(f"there is no file {script}")
    words = arguments(write_image_folder(Path("digits")))
    sys.argv = [str(script), *words]
    runpy.run_path(str(script), run_name="__main__")
    model = timm.create_model(words[-1], num_classes=10)
    load_checkpoint(model, "output/digits/last.pth.tar", use_ema=True)
    etfhead.fold_head(model)  # etfhead
    torch.save(model.state_dict(), "digits.pt")


if __name__ == "__main__":
    main()
