import pytest
import torch

from etfhead.frames import make_frame
from etfhead.frames.last_layer import frame_geometry, simplex_geometry, sums_to_zero


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_the_simplex_is_that_of_the_frame(num_classes):
    frame = make_frame("simplex", num_classes=num_classes, in_features=12)
    closed, built = simplex_geometry(num_classes), frame_geometry(frame)
    for name in ("weight_gram", "mean_gram", "product"):
        assert getattr(closed, name).dtype == torch.float64
        torch.testing.assert_close(getattr(closed, name), getattr(built, name), rtol=0, atol=1e-14)
    assert closed.centred
    assert built.centred


@pytest.mark.parametrize(
    ("name", "num_classes", "in_features", "centred"),
    [("simplex", 9, 8, True), ("orthoplex", 8, 4, True), ("orthoplex", 7, 4, False), ("code", 5, 4, None)],
)
def test_a_frame_is_its_own_dual_and_centred_where_its_vectors_sum_to_zero(
    name, num_classes, in_features, centred
):
    frame = make_frame(name, num_classes=num_classes, in_features=in_features)
    geometry = frame_geometry(frame)
    vectors = frame.matrix()
    for i in range(num_classes):
        for j in range(num_classes):
            cosine = sum(x * y for x, y in zip(vectors[i].tolist(), vectors[j].tolist(), strict=True))
            assert geometry.weight_gram[i, j].item() == pytest.approx(cosine, abs=1e-14)
    assert geometry.mean_gram is geometry.weight_gram is geometry.product
    if centred is not None:
        assert geometry.centred is centred


def test_vectors_that_went_through_float32_still_sum_to_zero_and_a_single_step_off_does_not():
    vectors = make_frame("simplex", num_classes=50, in_features=64).matrix()
    assert sums_to_zero(vectors.float())
    assert sums_to_zero((vectors @ vectors.T).float())
    vectors[0, 0] += 1e-3
    assert not sums_to_zero(vectors)
    assert not sums_to_zero(torch.eye(5))
    assert not sums_to_zero(torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("num_classes", [1, 0, -3, 2.5, True, "3"])
def test_bad_sizes(num_classes):
    with pytest.raises(ValueError, match=r"num_classes=.*expected an integer >= 2"):
        simplex_geometry(num_classes)
