"""Noisy labels with the true ones beside them, one by one and in batches."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.true_labels import WithTrueLabels


class Plain(Dataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.full((1, 2, 2), float(index)), index % 2


class Batched(Plain):
    def __getitems__(self, indices):
        return [self[i] for i in reversed(list(reversed(indices)))]


@pytest.mark.parametrize("kind", [Plain, Batched])
def test_items_stay_beside_their_labels(kind):
    true = [4, 3, 2, 1, 0]
    dataset = Subset(WithTrueLabels(kind(), true), [4, 1, 3])
    images, observed, labels = next(iter(DataLoader(dataset, batch_size=3)))
    assert images[:, 0, 0, 0].tolist() == [4.0, 1.0, 3.0]
    assert observed.tolist() == [0, 1, 1]
    assert labels.tolist() == [0, 3, 1]
    assert labels.dtype == torch.int64


def test_another_number_of_labels():
    with pytest.raises(ValueError, match="true: expected 5 labels, one an item, got 3"):
        WithTrueLabels(Plain(), read_digits().train.labels[:3])
