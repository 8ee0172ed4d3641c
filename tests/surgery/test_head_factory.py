import pytest
import torch
from torch import nn

from etfhead.surgery import swap_head


@pytest.mark.parametrize(
    ("options", "got"),
    [
        ({"frame": []}, "frame: list"),
        ({"label_smoothing": None}, "label_smoothing: NoneType"),
        ({"label_smoothing": torch.zeros(2)}, "label_smoothing: Tensor"),
    ],
)
def test_an_option_of_another_type_is_refused_by_name(options, got):
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 4))
    before = model[1]
    with pytest.raises(ValueError, match=rf"classifier '1' .*head='etf' has a type .*got {got}"):
        swap_head(model, "etf", classifier="1", **options)
    assert model[1] is before
