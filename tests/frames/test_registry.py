import pytest
import torch

from etfhead.frames import FRAMES, frame_options, make_frame


@pytest.mark.parametrize(
    ("K", "d", "name"),
    [
        (2, 1, "simplex"),
        (65, 64, "simplex"),
        (66, 64, "orthoplex"),
        (128, 64, "orthoplex"),
        (129, 64, "union"),
    ],
)
def test_auto_follows_the_sizes(K, d, name):
    frame = make_frame("auto", num_classes=K, in_features=d, seed=3)
    assert frame.spec()["name"] == name
    assert make_frame(**frame.spec()) == frame


def test_auto_leaves_out_what_only_its_other_choices_know():
    union = make_frame("auto", num_classes=129, in_features=64, basis="haar", antipodal=True)
    assert union == make_frame("union", num_classes=129, in_features=64, antipodal=True)
    simplex = make_frame("auto", num_classes=10, in_features=64, basis="haar", antipodal=True)
    assert simplex == make_frame("simplex", num_classes=10, in_features=64, basis="haar")
    with pytest.raises(ValueError, match="rotation: not an option of frame='union'"):
        make_frame("auto", num_classes=129, in_features=64, rotation=1)


def test_options_are_those_make_frame_takes():
    assert frame_options(num_classes=66, in_features=64) == ("basis", "seed")
    assert frame_options("union", num_classes=10, in_features=64) == ("signs", "antipodal", "seed")
    assert frame_options("code", num_classes=10, in_features=64) == ("seed", "vectors")


def test_names_are_those_of_the_classes():
    assert {name: kind.name for name, kind in FRAMES.items()} == {name: name for name in FRAMES}
    assert set(FRAMES) >= {"simplex", "orthoplex", "union", "code"}


def test_a_newer_spec_is_refused():
    spec = make_frame(num_classes=10, in_features=64).spec()
    assert make_frame(**spec, version=1).spec() == spec
    with pytest.raises(ValueError, match="version=2: spec of a newer etfhead"):
        make_frame(**spec, version=2)
    with pytest.raises(ValueError, match="version='1'"):
        make_frame(**spec, version="1")


@pytest.mark.parametrize("name", ["class_means", "oriented_simplex"])
def test_a_frame_from_data_says_what_it_needs(name):
    with pytest.raises(ValueError, match=f"vectors: frame='{name}' is made from data"):
        make_frame(name, num_classes=4, in_features=4)


def test_spec_and_state_rebuild_a_frame_from_data():
    frame = make_frame("class_means", num_classes=4, in_features=4, vectors=torch.eye(4))
    assert make_frame(**frame.spec(), **frame.state()) == frame


@pytest.mark.parametrize("name", ["simplx", "", None, 3])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="expected 'auto' or one of 'simplex', 'orthoplex', 'union', 'code'"):
        make_frame(name, num_classes=4, in_features=4)
