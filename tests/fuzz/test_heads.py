"""Random options of every head: a model that works, or one sentence about the option."""

import inspect

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from etfhead.heads import update_heads
from etfhead.surgery import find_heads, swap_head
from etfhead.surgery.head_factory import HEADS
from tests.fuzz.exploring import attempt, explore, sizes

KNOWN = {
    name: sorted(
        key
        for key, p in inspect.signature(kind).parameters.items()
        if p.kind is p.KEYWORD_ONLY and key != "class_counts"
    )
    for name, (kind, _) in HEADS.items()
}
WORDS = st.sampled_from(
    ["auto", "none", "simplex", "orthoplex", "union", "code", "orthogonal", "imbalanced_ce", "seli",
     "class_means", "identity", "hadamard", "haar", "batchnorm", "layernorm", "features", "", "nan"]
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-2, 9),
    st.floats(0, 1),
    st.sampled_from([0.0, 1.0, -1.0, 1e-30, 1e30, float("nan"), float("inf")]),
)
TENSORS = st.sampled_from(
    [
        torch.zeros(3, 4),
        torch.eye(4),
        torch.full((5, 2), torch.nan),
        torch.randn(6, 2, generator=torch.Generator()),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    WORDS,
    TENSORS,
    st.lists(NUMBERS, max_size=3),
    st.dictionaries(st.sampled_from(["weight_decay", "feature_decay", "bias", "x"]), NUMBERS, max_size=2),
)


def options(head):
    keys = st.one_of(st.sampled_from(KNOWN[head]), st.sampled_from(["nonsense", "basis", "scale"]))
    return st.dictionaries(keys, VALUES, max_size=3)


CLASSES = st.one_of(st.integers(-1, 9), st.none(), st.sampled_from([True, 2.0, "3"]))
COUNTS = st.one_of(st.none(), st.none(), st.lists(st.one_of(st.integers(-1, 50), NUMBERS), max_size=5))


@sizes(240, 2000)
@pytest.mark.parametrize("head", HEADS)
def test_a_head_works_or_says_why_not(size, head):
    size //= len(HEADS)

    def check(case):
        chosen, width, K, counts = case
        model = nn.Sequential(nn.Flatten(), nn.Linear(width, 4))
        before = list(model)
        sizes_given = {"num_classes": K, "class_counts": counts}
        _, error = attempt(
            lambda: swap_head(model, head, classifier="1", **sizes_given, **chosen), ValueError
        )
        if error is not None:
            assert str(error)
            assert list(model) == before
            return
        images = torch.randn(6, width, generator=torch.Generator().manual_seed(0))
        outputs = model(images)
        found = find_heads(model)
        classes = found["1"].num_classes if found else model[1].out_features
        assert outputs.shape == (6, classes)
        assert outputs.isfinite().all(), (chosen, width, K)
        outputs.sum().backward()
        if head in ("class_mean", "delta", "guided"):
            update_heads(model, torch.arange(6) % classes)
            assert model(images).isfinite().all(), (chosen, width, K)

    torch.manual_seed(0)
    case = st.tuples(options(head), st.integers(1, 12), CLASSES, COUNTS)
    explore(max(size, 1), case, check)
