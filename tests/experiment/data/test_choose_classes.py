"""Some classes of a data set, with new numbers, out of memory or out of files."""

import numpy as np
import pytest

from etfhead.errors import DataError
from etfhead.experiment.data.choose_classes import keep_classes
from etfhead.experiment.data.digits import read_digits
from etfhead.experiment.data.folder import read_image_folder


def test_images_keep_their_order_and_get_new_numbers():
    source = read_digits()
    small = keep_classes(source, [9, 3])
    assert small.class_names == ("9", "3")
    for before, after in ((source.train, small.train), (source.test, small.test)):
        at = np.flatnonzero(np.isin(before.labels, [9, 3]))
        assert (after.pixels == before.pixels[at]).all()
        assert after.labels.tolist() == [0 if k == 9 else 1 for k in before.labels[at]]
        assert after.labels.dtype == np.int64


def test_files_on_disk(image_tree, tmp_path):
    source = read_image_folder(str(image_tree(tmp_path / "tree")))
    small = keep_classes(source, [2, 0])
    assert small.class_names == ("eel", "cat")
    assert [path.split("/")[0] for path in small.train.paths] == ["cat"] * 5 + ["eel"] * 5
    assert small.train.labels.tolist() == [1] * 5 + [0] * 5
    assert small.root == source.root


@pytest.mark.parametrize("classes", [[0, 10], [-1, 0]])
def test_a_class_that_is_none(classes):
    with pytest.raises(DataError, match=r"classes: (10|-1) is not one of the data set's, .* 0 to 9"):
        keep_classes(read_digits(), classes)
