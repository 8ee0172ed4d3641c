"""`key=value` and `~key`."""

import pytest

from etfhead.experiment.recipe import Arm


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["epochs=5"], "epochs", 5),
        (["epochs=5", "epochs=6"], "epochs", 6),
        (["lr=1e-4"], "lr", 1e-4),
        (["seeds=[7,8]"], "seeds", (7, 8)),
        (["seeds=7,8"], "seeds", (7, 8)),
        (["model_kwargs.a.b=1", "model_kwargs.c=d"], "model_kwargs", {"a": {"b": 1}, "c": "d"}),
        (["data_root=a=b", "dataset=cifar10"], "data_root", "a=b"),
        (["color_jitter="], "color_jitter", None),
        (["arms.etf.basis=identity"], "arms", {"learnable": Arm(), "etf": Arm(head="etf", basis="identity")}),
        (["arms.new={head: cosine}", "~arms.etf"], "arms", {"learnable": Arm(), "new": Arm(head="cosine")}),
        (["~arms.etf.basis"], "arms", {"learnable": Arm(), "etf": Arm(head="etf")}),
        (["~arms.learnable", "baseline=etf"], "baseline", "etf"),
    ],
)
def test_overrides(load, overrides, key, value):
    assert getattr(load("", *overrides), key) == value


def test_a_deleted_key_returns_to_its_default(load):
    assert load("lr: 0.5\n", "~lr").lr == 0.001


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("epoch=3", ["unknown key 'epoch'", "did you mean 'epochs'?"]),
        ("epochs=ten", ["epochs: expected an integer", 'the text "ten"']),
        ("epochs=0", ["epochs: expected a number >= 1"]),
        ("epochs", ["expected key=value"]),
        ("=3", ["expected key=value"]),
        ("arms.=3", ["expected key=value"]),
        ("arms.eft.basis=haar", ["no arm 'eft'", "did you mean 'etf'?"]),
        ("arms.etf.basic=haar", ["unknown key 'basic' in arm 'etf'", "did you mean 'basis'?"]),
        ("arms.etf.basis.x=1", ["'arms.etf.basis' holds a single value"]),
        ("epochs.x=1", ["'epochs' holds a single value"]),
        ("nothing.x=1", ["unknown key 'nothing'"]),
        ("~arms.cosine", ["no 'arms.cosine'"]),
        ("~lrr", ["no 'lrr'"]),
        ("lr=[1", ["not YAML"]),
        ("arms=3", ["arms: expected a mapping"]),
    ],
)
def test_refused_overrides_name_themselves(refusal, override, words):
    message = refusal("", override)
    assert f"override {override!r}" in message
    for word in words:
        assert word in message


def test_overrides_leave_the_other_lines_in_messages(refusal):
    message = refusal("smoothing: 2\n", "epochs=3")
    assert "my.yaml, line 12: smoothing" in message
