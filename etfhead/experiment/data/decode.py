"""One image file to one Pillow image, with every failure named after the file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from etfhead.errors import DataError

__all__ = ["bombs_are_errors", "decode_image", "decode_unguarded"]


def _sixteen_bit_to_gray(image: Image.Image) -> Image.Image:
    # Pillow's own conversion clips at 255 and turns nearly every 16-bit image white.
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"integer pixels span {values.min()}..{values.max()}, expected 0..65535")
    return Image.fromarray(((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8))


def _over_white(image: Image.Image) -> Image.Image:
    # Dropping alpha would show whatever colour hides under transparent pixels, black for most clip art.
    rgba = image.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, "white")
    canvas.alpha_composite(rgba)
    return canvas


def decode_image(path: Path, mode: str) -> Image.Image:
    """Decode a file to Pillow mode ``mode``.

    Transparency is laid over white; 16-bit gray is scaled to 8 bits; palette, CMYK and bilevel images are
    converted by Pillow. Images with floating-point pixels have no defined range and are refused. EXIF
    orientation is not applied, as in torchvision and timm.

    Args:
        path: Image file.
        mode: ``"L"`` (one channel) or ``"RGB"`` (three).

    Raises:
        DataError: If the file is missing, truncated, not an image, or so large that Pillow suspects a
            decompression bomb. The message names the file.
    """
    with bombs_are_errors():
        return decode_unguarded(path, mode)


@contextmanager
def bombs_are_errors() -> Iterator[None]:
    """Let Pillow refuse every image that it suspects. Filters of warnings are the whole process's."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_unguarded(path: Path, mode: str) -> Image.Image:
    """:func:`decode_image` for threads, inside a :func:`bombs_are_errors` of the thread that starts them."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "F":
                raise ValueError("floating-point pixels have no defined range; save as 8-bit or 16-bit")
            if image.mode.startswith("I"):
                return _sixteen_bit_to_gray(image).convert(mode)
            if image.has_transparency_data:
                return _over_white(image).convert(mode)
            return image.convert(mode)
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, ...
        reason = " ".join(str(error).split()) or "unknown error"
        raise DataError(
            f"cannot decode image {path}: {type(error).__name__}: {reason}; replace or remove the file"
        ) from error
