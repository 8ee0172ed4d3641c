"""What is allowed and probably not meant, told beside a recipe that runs."""

from __future__ import annotations

from collections.abc import Iterable

from etfhead.experiment.recipe import Recipe

__all__ = ["batch_note", "recipe_notes"]


def recipe_notes(recipe: Recipe) -> list[str]:
    """Notes on a recipe that can be built; its data are looked at where they are image files.

    >>> from etfhead.experiment.schema import load_recipe
    >>> recipe_notes(load_recipe("quickstart"))
    []
    """
    return [note for note in (_normalization_note(recipe), _colour_note(recipe)) if note is not None]


def batch_note(batch_size: int, images: int) -> str | None:
    """Say that a batch is more than there are.

    >>> batch_note(1000, 480)
    'batch_size 1000 is more than the 480 training images: one step of 480 an epoch'
    >>> batch_note(480, 480) is None
    True
    """
    if batch_size <= images:
        return None
    return f"batch_size {batch_size} is more than the {images} training images: one step of {images} an epoch"


def _normalization_note(recipe: Recipe) -> str | None:
    if recipe.mean is None or recipe.std is None or not (recipe.pretrained or recipe.initial_checkpoint):
        return None
    from etfhead.experiment.data.statistics import pretrained_normalization

    own = pretrained_normalization(recipe)
    if own is None or (own.mean, own.std) == (recipe.mean, recipe.std):
        return None
    key = "mean" if own.mean != recipe.mean else "std"
    ours, theirs = _listed(getattr(recipe, key)), _listed(getattr(own, key))
    if recipe.pretrained:
        told = f"{recipe.model}'s weights were trained with {theirs}; mean=null std=null takes those"
    else:
        told = (
            f"{recipe.model}'s published weights were trained with {theirs}; if the file holds those, pass "
            f"mean={_listed(own.mean, ',')} std={_listed(own.std, ',')}"
        )
    return f"{key} {ours} is the recipe's; {told}"


def _colour_note(recipe: Recipe) -> str | None:
    if recipe.dataset != "image_folder" or recipe.in_chans != 1 or recipe.data_root is None:
        return None
    from etfhead.experiment.data.colour import first_in_colour

    found = first_in_colour(recipe.data_root)
    if found is None:
        return None
    return f"in_chans 1 reads the images as grey, and {found} is in colour; in_chans=3 keeps it"


def _listed(values: Iterable[float], separator: str = ", ") -> str:
    return f"[{separator.join(f'{value:g}' for value in values)}]"
