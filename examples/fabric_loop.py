"""A plain Lightning Fabric loop; the lines marked `# etfhead` are all that a fixed head adds.

pip install lightning
python examples/fabric_loop.py
"""

from __future__ import annotations

try:
    from lightning.fabric import Fabric
except ImportError:
    raise SystemExit("this example needs Lightning: pip install lightning") from None
import timm
import torch
from digits import EPOCHS, digits, output
from torch.utils.data import DataLoader

import etfhead  # etfhead


def main() -> None:
    out = output(__doc__, "digits.pt")
    fabric = Fabric(accelerator="auto", devices=1)
    fabric.launch()
    fabric.seed_everything(0)
    train, test = digits()
    model = timm.create_model("test_resnet", num_classes=10)
    etfhead.swap_head(model)  # etfhead
    wrapped, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=2e-3))
    loaders = DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=256)
    train_loader, test_loader = fabric.setup_dataloaders(*loaders)
    for epoch in range(EPOCHS):
        wrapped.train()
        for images, target in train_loader:
            fabric.backward(torch.nn.functional.cross_entropy(wrapped(images), target))
            optimizer.step()
            optimizer.zero_grad()
        wrapped.eval()
        with torch.no_grad():
            correct = torch.cat([wrapped(images).argmax(1) == target for images, target in test_loader])
        fabric.print(f"epoch {epoch}: {correct.float().mean():.1%}")
    etfhead.fold_head(model)  # etfhead
    fabric.save(out, model.state_dict())


if __name__ == "__main__":
    main()
