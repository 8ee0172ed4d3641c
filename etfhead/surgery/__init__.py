"""Change the classifier of any model, turn it toward the data, and change it back."""

from etfhead.surgery.align import align_head
from etfhead.surgery.classifiers import find_classifiers
from etfhead.surgery.layer_decay import layer_decay_groups
from etfhead.surgery.parallel import prepare_ddp
from etfhead.surgery.swap import find_heads, fold_head, swap_head

__all__ = [
    "align_head",
    "find_classifiers",
    "find_heads",
    "fold_head",
    "layer_decay_groups",
    "prepare_ddp",
    "swap_head",
]
