"""Examples of the multi-label cards run as they stand."""

import re
from pathlib import Path

import torch

DOCS = Path(__file__).parent.parent / "docs"


def run(card, **smaller):
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / card).read_text(), re.DOTALL)
    for long, short in smaller.items():
        assert long in block
        block = block.replace(long, short)
    names = {}
    exec(compile(block, card, "exec"), names)
    return names


def test_the_loss_takes_rows_and_lists():
    names = run("pick_all_label.md")
    assert torch.equal(names["loss"], names["same"])
    assert names["logits"].grad.isfinite().all()


def test_the_head_trains_calibrates_and_decodes(capsys):
    names = run("multilabel_head.md", resnet18="test_resnet")
    head, hot, scores = names["head"], names["hot"], names["scores"]
    assert head.calibration_size == 32
    assert hot.shape == scores.shape == (32, 20)
    sizes = hot.sum(1)
    assert 1 <= sizes.min() <= sizes.max() <= 6
    assert eval(capsys.readouterr().out) == names["label_lists"](hot)[:2]


def test_decoding_without_a_head():
    hot = run("label_decoding.md")["hot"]
    assert hot.shape == (8, 20)
