"""Hugging Face's Trainer on a timm model; the lines marked `# etfhead` are all that a fixed head adds.

pip install transformers
python examples/hf_trainer.py
"""

from __future__ import annotations

try:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification, Trainer, TrainingArguments
except ImportError:
    raise SystemExit("this example needs transformers: pip install transformers") from None
import torch
from digits import EPOCHS, digits, output

import etfhead  # etfhead


def collate(samples: list[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    images, target = zip(*samples, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.stack(target)}


def main() -> None:
    out = output(__doc__, "digits")
    train, test = digits()
    config = TimmWrapperConfig.from_dict({"architecture": "test_resnet", "num_classes": 10})
    torch.manual_seed(0)
    # With weights: TimmWrapperForImageClassification.from_pretrained("timm/resnet18.a1_in1k", num_labels=10)
    model = TimmWrapperForImageClassification(config)
    etfhead.swap_head(model)  # etfhead
    arguments = TrainingArguments(
        "trainer",
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="no",
        report_to=[],
    )
    trainer = Trainer(
        model,
        arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=lambda found: {
            "accuracy": float((found.predictions.argmax(1) == found.label_ids).mean())
        },
    )
    trainer.train()
    print(f"accuracy: {trainer.evaluate()['eval_accuracy']:.1%}")
    etfhead.fold_head(model)  # etfhead
    model.save_pretrained(out)


if __name__ == "__main__":
    main()
