"""Change the classifier of any model, and change it back."""

from etfhead.surgery.classifiers import find_classifiers
from etfhead.surgery.swap import find_heads, fold_head, swap_head

__all__ = ["find_classifiers", "find_heads", "fold_head", "swap_head"]
