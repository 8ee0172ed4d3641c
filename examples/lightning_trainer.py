"""Lightning on a timm model; the lines marked `# etfhead` are all that a fixed head adds.

pip install lightning
python examples/lightning_trainer.py
"""

from __future__ import annotations

try:
    import lightning
except ImportError:
    raise SystemExit("this example needs Lightning: pip install lightning") from None
import timm
import torch
from digits import EPOCHS, digits, output
from torch import Tensor, nn
from torch.utils.data import DataLoader

import etfhead  # etfhead


class Classifier(lightning.LightningModule):
    """A timm model and its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.model = timm.create_model("test_resnet", num_classes=10)
        etfhead.swap_head(self.model, label_smoothing=0.1)  # etfhead
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, target = batch
        return self.criterion(self.model(images), target)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, target = batch
        self.log("accuracy", (self.model(images).argmax(1) == target).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def main() -> None:
    out = output(__doc__, "digits.pt")
    lightning.seed_everything(0)
    train, test = digits()
    classifier = Classifier()
    trainer = lightning.Trainer(
        max_epochs=EPOCHS, accelerator="auto", devices=1, logger=False, enable_checkpointing=False
    )
    loaders = DataLoader(train, batch_size=64, shuffle=True, drop_last=True), DataLoader(test, batch_size=256)
    trainer.fit(classifier, *loaders)
    print(f"accuracy: {trainer.callback_metrics['accuracy']:.1%}")
    etfhead.fold_head(classifier.model)  # etfhead
    torch.save(classifier.model.state_dict(), out)


if __name__ == "__main__":
    main()
