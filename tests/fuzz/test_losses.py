"""Random scores, targets and options of every loss: a finite number, or a sentence; NaN only from NaN."""

import inspect

import pytest
import torch
from hypothesis import strategies as st

from etfhead import losses
from etfhead.experiment.loss_names import CLASS_LOSSES
from etfhead.experiment.training.class_losses import _MODULES, LossFacts, build_class_loss
from tests.fuzz.exploring import attempt, explore, sizes

NAMES = [name for name in CLASS_LOSSES if name in _MODULES]
K, SAMPLES = 5, 20
FACTS = LossFacts(K, (9, 5, 3, 2, 1), SAMPLES, torch.full((K, K), 0.05) + 0.75 * torch.eye(K))
NUMBERS = st.one_of(
    st.floats(0, 1),
    st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0, 1e-30, 1e30, float("nan"), float("inf"), 0, 1, 3, True]),
)
VALUES = st.one_of(
    NUMBERS, st.none(), st.sampled_from(["mean", "sum", "none", "x"]), st.lists(NUMBERS, max_size=3)
)
SCORES = st.one_of(
    st.floats(-30, 30, width=32),
    st.sampled_from([0.0, 1e-20, 88.0, -100.0, 1e4, -1e4, 6e4]),
)
BROKEN = st.sampled_from([float("nan"), float("inf"), -float("inf")])
FLOATS = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])


@st.composite
def logits(draw, strange):
    rows, columns = draw(st.integers(1, 4)), K
    if strange:
        rows, columns = draw(st.integers(0, 4)), draw(st.sampled_from([0, 1, K, K, K + 1]))
    entry = st.one_of(SCORES, BROKEN) if strange and draw(st.booleans()) else SCORES
    values = draw(st.lists(entry, min_size=rows * columns, max_size=rows * columns))
    found = torch.tensor(values, dtype=torch.float64).reshape(rows, columns).to(draw(FLOATS))
    if strange and draw(st.integers(0, 5)) == 0:
        found = draw(
            st.sampled_from([found[0:0], found.flatten(), found[None], found.long() if not values else found])
        )
    return found


@st.composite
def targets(draw, rows, strange):
    if not strange:
        if draw(st.booleans()):
            return torch.tensor(draw(st.lists(st.integers(0, K - 1), min_size=rows, max_size=rows)))
        weights = draw(st.lists(st.integers(0, 3), min_size=rows * K, max_size=rows * K))
        soft = torch.tensor(weights, dtype=torch.float32).reshape(rows, K) + 1e-3
        return soft / soft.sum(1, keepdim=True)
    kind = draw(
        st.sampled_from([torch.int64, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float16])
    )
    shape = draw(
        st.sampled_from([(rows,), (rows, K), (rows + 1,), (), (rows, 1), (rows, K + 1), (1, rows, K)])
    )
    entry = st.sampled_from([0, 1, K - 1, K, -1, -100, 2**40, 0.5, float("nan"), float("inf")])
    count = torch.Size(shape).numel()
    values = draw(st.lists(entry, min_size=count, max_size=count))
    if not kind.is_floating_point:
        values = [int(v) if abs(v) < 2**50 else 0 for v in values]
        values = values if kind in (torch.int64, torch.bool) else [v % 100 for v in values]
    return (
        torch.tensor(values, dtype=torch.float64 if kind.is_floating_point else torch.int64)
        .reshape(shape)
        .to(kind)
    )


@st.composite
def cases(draw, name):
    strange = draw(st.booleans())
    scores = draw(logits(strange))
    target = draw(targets(len(scores) if scores.ndim else 0, strange))
    keys = list(inspect.signature(getattr(losses, _MODULES[name])).parameters)
    options = draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=2))
    return strange, scores, target, options


def made(name, options):
    needed = {
        "active_passive": {"active": "normalized_cross_entropy", "passive": "mean_absolute_error"},
        "active_negative": {"active": "normalized_cross_entropy"},
        "logit_clip": {"loss": "generalized_cross_entropy"},  # torch's own says RuntimeError
    }
    return build_class_loss(name, {**needed.get(name, {}), **options}, FACTS)


@sizes(320, 3200)
@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_finite_or_refuses(size, name):
    def check(case):
        strange, scores, target, options = case
        criterion, error = attempt(lambda: made(name, options), ValueError)
        if error is not None:
            assert str(error)
            return
        scores = scores.clone().requires_grad_(scores.is_floating_point())
        index = (torch.arange(len(target)) % SAMPLES,) if _is_stateful(criterion) and target.ndim else ()
        found, error = attempt(lambda: criterion(scores, target, *index), ValueError, IndexError)
        if error is not None:
            assert str(error)
            plain = not (strange or options or target.is_floating_point())  # not every loss has soft targets
            assert not plain, f"refused a plain case: {error}"
            return
        finite = scores.isfinite().all() and (not target.is_floating_point() or target.isfinite().all())
        ignored = not target.is_floating_point() and bool((target == -100).all())  # the mean of nothing
        if not finite or not scores.numel() or found.numel() == 0 or ignored:
            return
        assert found.isfinite().all(), (name, options, scores, target, found)
        if found.requires_grad:
            (gradient,) = torch.autograd.grad(found.sum(), scores, allow_unused=True)
            assert gradient is None or gradient.isfinite().all(), (name, options, scores, target, gradient)

    explore(max(size // len(NAMES), 1), cases(name), check)


def _is_stateful(criterion):
    return "index" in inspect.signature(criterion.forward).parameters
