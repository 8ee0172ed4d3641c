"""A training that forgot update_heads is told when it is evaluated, once; one that did not is not."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn

from etfhead.heads import ClassMeanHead, DeltaRuleHead, GuidedETFHead, update_heads

HEADS = [ClassMeanHead, DeltaRuleHead, GuidedETFHead]
IMAGES, TARGET = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3


def model_with(head):
    return nn.Sequential(nn.Linear(6, 6), head)


def train(model, steps, *, update=False):
    model.train()
    for _ in range(steps):
        nn.functional.cross_entropy(model(IMAGES), TARGET).backward()
        if update:
            update_heads(model, TARGET)


def warned(model):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model.eval()
    return [str(one.message) for one in told]


@pytest.mark.parametrize("kind", HEADS)
def test_a_training_without_updates_is_told_once(kind):
    model = model_with(kind(6, 3))
    before = model[1].class_vectors().clone()
    train(model, 30)
    (told,) = warned(model)
    assert told.startswith(
        f"{kind.__name__}: 30 training forwards and no update_heads(model, target): its class vectors have "
        "not moved"
    )
    assert torch.equal(model[1].class_vectors(), before)
    train(model, 30)
    assert warned(model) == []


@pytest.mark.parametrize("kind", HEADS)
def test_a_training_with_updates_is_not(kind):
    model = model_with(kind(6, 3))
    train(model, 30, update=True)
    assert warned(model) == []


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_is_meant_to_stay_is_not(kind):
    frozen = model_with(kind(6, 3))
    frozen[1].requires_grad_(False)
    train(frozen, 30)
    assert warned(frozen) == []
    evaluated = model_with(kind(6, 3).eval())
    for _ in range(30):
        evaluated(IMAGES).sum().backward()
    assert warned(evaluated) == []


def test_a_simplex_that_never_turns_is_not():
    model = model_with(GuidedETFHead(6, 3, until=0))
    train(model, 30)
    assert warned(model) == []


def test_a_simplex_that_has_turned_for_the_last_time_is_not():
    model = model_with(GuidedETFHead(6, 3, until=5))
    train(model, 5, update=True)
    resumed = model_with(GuidedETFHead(6, 3, until=5))
    resumed.load_state_dict(model.state_dict())
    train(resumed, 30)
    assert warned(resumed) == []


def test_passes_that_train_nothing_are_not_counted():
    model = model_with(DeltaRuleHead(6, 3))
    train(model, 9)  # as a dry run
    with torch.no_grad():  # as for the statistics of batch norm
        for _ in range(30):
            model(IMAGES)
    assert warned(model) == []


def test_the_count_is_in_no_state_dict_and_no_copy():
    model = model_with(DeltaRuleHead(6, 3))
    names = set(model.state_dict())
    train(model, 30)
    assert set(model.state_dict()) == names
    assert warned(copy.deepcopy(model)) == []
    assert warned(pickle.loads(pickle.dumps(model))) == []
    assert len(warned(model)) == 1


def test_a_compiled_forward_is_compiled_once():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter, model = CompileCounter(), model_with(DeltaRuleHead(6, 3, neck=None))
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    for _ in range(12):
        compiled(IMAGES).sum().backward()
        model.zero_grad()
    torch._dynamo.reset()
    assert counter.frame_count == 1
    assert warned(model) == []
