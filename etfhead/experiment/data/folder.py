"""A tree of class folders: ``root/train/<class>/*.jpg`` and ``root/test/<class>/*.jpg``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import numpy as np

from etfhead.errors import DataError
from etfhead.experiment.data.images import FileImages, Source
from etfhead.experiment.data.readable import summarize_unreadable, unreadable

__all__ = ["IMAGE_EXTENSIONS", "folder_classes", "read_image_folder"]

_log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp"})


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
            if file.startswith(".") or path.suffix.lower() not in IMAGE_EXTENSIONS:
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


def _test_part(root: Path) -> tuple[Path, list[str]]:
    if (root / "test").is_dir():
        unused = ["val/ is not used: validation images are carved from train/"]
        return root / "test", unused if (root / "val").is_dir() else []
    if (root / "val").is_dir():
        return root / "val", ["val/ serves as test set because there is no test/"]
    raise DataError(f"{root} holds neither test/ nor val/; expected {root}/test/<class>/<image>")


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


def _parts(data_root: str | None) -> tuple[Path, Path, list[str], list[str]]:
    """The folder, its test part, the classes of both parts, and notes; no class folder is looked into."""
    if data_root is None:
        raise DataError("dataset=image_folder needs data_root, the folder above train/ and test/; got none")
    root = Path(data_root).expanduser()
    if not (root / "train").is_dir():
        state = "does not exist" if not root.is_dir() else "has no train/ folder"
        raise DataError(f"data_root {root} {state}; expected {root}/train/<class>/<image>")
    test_root, notes = _test_part(root)
    classes, test_classes = _class_folders(root / "train"), _class_folders(test_root)
    if classes != test_classes:
        for extra, here, there in (
            (sorted(set(test_classes) - set(classes)), test_root, root / "train"),
            (sorted(set(classes) - set(test_classes)), root / "train", test_root),
        ):
            if extra:
                shown = ", ".join(extra[:5]) + (", ..." if len(extra) > 5 else "")
                raise DataError(
                    f"{len(extra)} class folder(s) of {here} are not in {there}: {shown}; "
                    "both must hold the same classes"
                )
    if len(classes) < 2:
        raise DataError(f"{root / 'train'} holds one class ({classes[0]}); at least two are needed")
    return root, test_root, classes, notes


def folder_classes(data_root: str | None) -> tuple[str, ...]:
    """Class names of an image folder, without looking at an image.

    Raises:
        DataError: If a folder is missing or the class lists differ.
    """
    return tuple(_parts(data_root)[2])


def read_image_folder(
    data_root: str | None, unreadable_images: Literal["leave_out", "stop", "unchecked"] = "leave_out"
) -> Source:
    """Class folders below ``train/`` and ``test/`` (or ``val/`` as test set when there is no ``test/``).

    Class names are the folder names in sorted order and must be the same in both parts. Hidden files and
    files without an image extension are passed over and counted; nested folders belong to their class.

    Args:
        data_root: The folder above ``train/``.
        unreadable_images: Every file is decoded once: those that cannot be are left out and named in the
            notes, or refused (``"stop"``). ``"unchecked"`` decodes nothing here; such a file then stops the
            training that draws it.

    Raises:
        DataError: If a folder is missing or empty, the class lists differ, a class has no image that can be
            decoded, or an unreadable one is not to be left out.
    """
    root, test_root, classes, notes = _parts(data_root)
    train, ignored = _scan(root / "train", classes)
    test, ignored_test = _scan(test_root, classes)
    if ignored + ignored_test:
        notes.append(f"{ignored + ignored_test} hidden or non-image file(s) passed over")
    (train, test), left_out = _check_readable([train, test], classes, unreadable_images)
    notes += left_out
    return Source(train, test, tuple(classes), root=str(root), notes=tuple(notes))
