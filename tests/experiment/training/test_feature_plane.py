"""Where features lie in the picture: as they are in two dimensions, by the class vectors in more."""

import pytest
import torch
from torch import nn

from etfhead import ETFHead
from etfhead.experiment.training.feature_plane import feature_plane


def test_two_dimensions_are_shown_as_they_are():
    features = torch.randn(20, 2)
    plane = feature_plane(features, nn.Linear(2, 5))
    assert plane.boundary is None
    assert plane.names == ("feature 1", "feature 2")
    torch.testing.assert_close(plane.points(features), features)


@pytest.mark.parametrize("d", [2, 3, 16])
@pytest.mark.parametrize("fixed", [False, True])
def test_the_boundary_of_two_classes_is_where_the_layer_changes_its_mind(d, fixed):
    torch.manual_seed(d)
    layer = ETFHead(d, 2, neck=None) if fixed else nn.Linear(d, 2)
    features = torch.randn(200, d) * torch.linspace(0.5, 2, d) + 0.3
    plane = feature_plane(features, layer)
    points = plane.points(features).double()
    a, b, c = plane.boundary
    named = points @ torch.tensor([a, b]).double() + c > 0
    if d > 2 and not fixed:  # what the plane does not hold must not matter
        assert b == pytest.approx(0, abs=1e-9)
    assert torch.equal(named, layer(features).argmax(1) == 1)


def test_the_second_axis_is_the_one_of_largest_variance_beside_the_first():
    layer = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0, 0, 0, 0], [1.0, 0, 0, 0]]))
    features = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([9.0, 1, 5, 2])
    plane = feature_plane(features, layer)
    torch.testing.assert_close(plane.axes.T @ plane.axes, torch.eye(2).double())
    torch.testing.assert_close(plane.axes[:, 0], torch.tensor([1.0, 0, 0, 0]).double())
    assert plane.axes[2, 1] > 0.99
    spread = plane.points(features).var(0)
    assert spread[1].item() == pytest.approx(features[:, 2].var().item(), rel=0.02)


def test_no_plane():
    assert feature_plane(torch.randn(9, 4), nn.Linear(4, 3)) is None  # which two directions?
    assert feature_plane(torch.randn(9, 1), nn.Linear(1, 2)) is None
    same = nn.Linear(4, 2)
    nn.init.zeros_(same.weight)
    assert feature_plane(torch.randn(9, 4), same) is None


def test_features_that_are_all_one_still_have_a_plane():
    plane = feature_plane(torch.ones(9, 4), nn.Linear(4, 2))
    points = plane.points(torch.ones(9, 4))
    torch.testing.assert_close(points, torch.zeros(9, 2))
    torch.testing.assert_close(plane.axes.T @ plane.axes, torch.eye(2).double())
