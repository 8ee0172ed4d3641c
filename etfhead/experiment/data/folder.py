"""A tree of class folders: ``root/train/<class>/*.jpg``, ``root/test/<class>/*.jpg``, maybe ``root/val/``."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.images import FileImages, Source
from etfhead.experiment.data.readable import summarize_unreadable, unreadable

__all__ = ["IMAGE_EXTENSIONS", "folder_classes", "folder_split", "is_image", "read_image_folder"]

_log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})
_VALIDATION = ("val", "valid", "validation")


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image that is read."""
    return not path.name.startswith(".") and path.suffix.lower() in IMAGE_EXTENSIONS


def _class_folders(part: Path) -> list[str]:
    names = sorted(
        entry.name for entry in part.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise DataError(f"{part} holds no class folders; expected {part}/<class>/<image>")
    return names


def _scan_class(part: Path, name: str) -> tuple[list[tuple[str, int]], int]:
    """Relative paths and sizes of one class's images, and how many other files were passed over."""
    images, ignored = [], 0
    for folder, below, files in os.walk(part / name):
        below[:] = sorted(entry for entry in below if not entry.startswith("."))
        for file in sorted(files):
            path = Path(folder, file)
            if not is_image(path):
                ignored += 1
                continue
            images.append((path.relative_to(part).as_posix(), path.stat().st_size))
    if not images:
        raise DataError(
            f"class folder {part / name} holds no images (extensions {', '.join(sorted(IMAGE_EXTENSIONS))}); "
            "add images or remove the folder"
        )
    return images, ignored


def _scan(part: Path, classes: list[str]) -> tuple[FileImages, int]:
    paths, sizes, labels, ignored = [], [], [], 0
    for label, name in enumerate(classes):
        images, other = _scan_class(part, name)
        paths += [path for path, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
        ignored += other
    found = FileImages(
        part,
        np.array(paths, dtype=object),
        np.array(labels, dtype=np.int64),
        np.array(sizes, dtype=np.int64),
    )
    return found, ignored


@dataclass(frozen=True)
class _Tree:
    """Which folders are which part, and the classes that all of them hold."""

    root: Path
    test: Path
    val: Path | None
    classes: list[str]
    how_split: str


def _eval_parts(root: Path) -> tuple[Path, Path | None, str]:
    """The test part, the validation part if there is one, and what to say of them."""
    found = [root / name for name in _VALIDATION if (root / name).is_dir()]
    if len(found) > 1:
        names = " and ".join(f"{part.name}/" for part in found)
        raise DataError(f"{root} holds {names}; keep the one that is the validation part")
    if (root / "test").is_dir():
        if not found:
            return root / "test", None, ""
        name = found[0].name
        told = f"{name}/ is the validation part: nothing is carved from train/, val_fraction does not apply"
        return root / "test", found[0], told
    if found:
        return found[0], None, f"{found[0].name}/ serves as test set because there is no test/"
    raise DataError(f"{root} holds neither test/ nor val/; expected {root}/test/<class>/<image>")


def _check_same_classes(train: Path, classes: list[str], other: Path) -> None:
    others = _class_folders(other)
    for extra, here, there in (
        (sorted(set(others) - set(classes)), other, train),
        (sorted(set(classes) - set(others)), train, other),
    ):
        if extra:
            shown = ", ".join(extra[:5]) + (", ..." if len(extra) > 5 else "")
            raise DataError(
                f"{len(extra)} class folder(s) of {here} are not in {there}: {shown}; "
                "both must hold the same classes"
            )


def _readable(found: FileImages, classes: list[str], bad: dict[str, str]) -> FileImages:
    kept = np.array([i for i, path in enumerate(found.paths) if path not in bad], dtype=np.int64)
    left = found.subset(kept)
    for label in np.flatnonzero(np.bincount(left.labels, minlength=len(classes)) == 0):
        raise DataError(
            f"class folder {found.root / classes[label]}: none of its images can be decoded; "
            f"{summarize_unreadable(bad, len(found))}"
        )
    return left


def _check_readable(
    parts: list[FileImages], classes: list[str], how: str
) -> tuple[list[FileImages], list[str]]:
    """The images that can be decoded, and a note about each part that has others."""
    if how == "unchecked":
        for part in parts:
            for path in part.paths[part.sizes == 0]:
                raise DataError(f"image {part.root / path} is empty (0 bytes); replace or remove the file")
        return parts, []
    kept, notes = [], []
    for part in parts:
        bad = unreadable(part.root, part.paths.tolist())
        told = f"{part.root.name}/: {summarize_unreadable(bad, len(part))}"
        if bad and how == "stop":
            raise DataError(f"{told}; replace or remove them, or write unreadable_images: leave_out")
        kept.append(_readable(part, classes, bad))
        if bad:
            notes.append(f"{told}; left out")
            _log.warning("image_folder: %s", notes[-1])
    return kept, notes


def _without_train(root: Path) -> str:
    """What is wrong with a root that has no training part, and what to do."""
    if root.is_file():
        return "is a file, not a folder; name the folder above train/ and test/"
    state = "has no train/ folder" if root.is_dir() else "does not exist"
    if root.is_dir() and any(is_image(path) for path in root.glob("*/*")):
        return f"{state}; it holds the class folders themselves: move them into train/ and test/"
    return f"{state}; expected {root}/train/<class>/<image>"


def _tree(data_root: str | None) -> _Tree:
    """The parts of a folder; no class folder is looked into."""
    if data_root is None:
        raise DataError("dataset=image_folder needs data_root, the folder above train/ and test/; got none")
    root = Path(data_root).expanduser()
    if not (root / "train").is_dir():
        raise DataError(f"data_root {root} {_without_train(root)}")
    test, val, how_split = _eval_parts(root)
    classes = _class_folders(root / "train")
    _check_same_classes(root / "train", classes, test)
    if val is not None:
        try:
            _check_same_classes(root / "train", classes, val)
        except DataError as error:
            advice = f"or move {val.name}/ away to have the validation part carved from train/"
            raise DataError(f"{error}; {advice}") from None
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} holds one class ({classes[0]}); at least two are needed")
    return _Tree(root, test, val, classes, how_split)


def _together(root: Path, train: FileImages, val: FileImages) -> FileImages:
    """The images of both parts, named from the folder above."""
    paths = [f"{part.root.name}/{path}" for part in (train, val) for path in part.paths]
    return FileImages(
        root,
        np.array(paths, dtype=object),
        np.concatenate([train.labels, val.labels]),
        np.concatenate([train.sizes, val.sizes]),
    )


def folder_classes(data_root: str | None) -> tuple[str, ...]:
    """Class names of an image folder, without looking at an image.

    Raises:
        DataError: If a folder is missing or the class lists differ.
    """
    return tuple(_tree(data_root).classes)


def folder_split(data_root: str | None) -> str:
    """What ``val/`` is used for, in a sentence; empty where there is none.

    Raises:
        DataError: As :func:`folder_classes`.
    """
    return _tree(data_root).how_split


def read_image_folder(
    data_root: str | None, unreadable_images: Literal["leave_out", "stop", "unchecked"] = "leave_out"
) -> Source:
    """Class folders below ``train/``, ``test/`` and, where they are, ``val/``.

    With all three ``val/`` (or ``valid/``, ``validation/``) is the validation part; without ``test/`` it is
    the test part. Class names are the folder names in sorted order and must be the same in all parts. Hidden
    files and files without an image extension are passed over and counted; nested folders belong to their
    class.

    Args:
        data_root: The folder above ``train/``.
        unreadable_images: Every file is decoded once: those that cannot be are left out and named in the
            notes, or refused (``"stop"``). ``"unchecked"`` decodes nothing here; such a file then stops the
            training that draws it.

    Raises:
        DataError: If a folder is missing or empty, the class lists differ, a class has no image that can be
            decoded, or an unreadable one is not to be left out.
    """
    tree = _tree(data_root)
    root, classes = tree.root, tree.classes
    folders = [root / "train", *([] if tree.val is None else [tree.val]), tree.test]
    parts, ignored = zip(*(_scan(folder, classes) for folder in folders), strict=True)
    notes = [tree.how_split] if tree.how_split else []
    if sum(ignored):
        notes.append(f"{sum(ignored)} hidden or non-image file(s) passed over")
    (train, *between, test), left_out = _check_readable(list(parts), classes, unreadable_images)
    facts: dict[str, Any] = {"root": str(root), "notes": (*notes, *left_out), "how_split": tree.how_split}
    if not between:
        return Source(train, test, tuple(classes), **facts)
    held_out = np.repeat([False, True], [len(train), len(between[0])])
    return Source(_together(root, train, between[0]), test, tuple(classes), held_out=held_out, **facts)
