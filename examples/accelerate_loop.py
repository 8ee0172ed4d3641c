"""A plain accelerate loop with mixup and cutmix; the lines marked `# etfhead` are all that a fixed head adds.

python examples/accelerate_loop.py
torchrun --nproc_per_node 2 examples/accelerate_loop.py  # on GPUs, accelerate launch does as well
"""

from __future__ import annotations

import timm
import torch
from accelerate import Accelerator
from digits import EPOCHS, digits, output
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from torch.utils.data import DataLoader

import etfhead  # etfhead


def main() -> None:
    out = output(__doc__, "digits.safetensors")
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    torch.manual_seed(0)
    train, test = digits()
    model = timm.create_model("test_resnet", num_classes=10)
    etfhead.swap_head(model, label_smoothing=0.1)  # etfhead
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.5, prob=0.5, num_classes=10, label_smoothing=0.1)
    criterion = SoftTargetCrossEntropy()
    loaders = DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=256)
    wrapped, optimizer, train_loader, test_loader = accelerator.prepare(model, optimizer, *loaders)
    for epoch in range(EPOCHS):
        wrapped.train()
        for images, target in train_loader:
            images, target = mixup(images, target)
            accelerator.backward(criterion(wrapped(images), target))
            optimizer.step()
            optimizer.zero_grad()
        wrapped.eval()
        with torch.no_grad():
            parts = [
                accelerator.gather_for_metrics((wrapped(images).argmax(1), target))
                for images, target in test_loader
            ]
        correct = torch.cat([found == target for found, target in parts])
        accelerator.print(f"epoch {epoch}: {correct.float().mean():.1%}")
    stock = accelerator.unwrap_model(wrapped)
    etfhead.fold_head(stock)  # etfhead
    accelerator.save(stock.state_dict(), out, safe_serialization=True)


if __name__ == "__main__":
    main()
