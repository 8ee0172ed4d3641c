"""Finding files, and decoding them so that a broken one is an error of its own."""

import os
import struct
import warnings
import zlib

import pytest
import timm
import torch
from PIL import Image

from etfhead.experiment.data.decode import decode_image
from etfhead.experiment.predict.images import decoded_batches, find_images

DATA = {
    "input_size": (3, 16, 16),
    "interpolation": "bilinear",
    "mean": (0.5, 0.4, 0.3),
    "std": (0.2, 0.3, 0.4),
    "crop_pct": 0.8,
    "crop_mode": "center",
}


def decoded(paths, data=DATA, **options):
    return list(decoded_batches(paths, data, **{"batch_size": 3, **options}))


def test_folders_are_searched_and_names_are_taken_as_they_are(tmp_path):
    for name in ("b/2.PNG", "b/1.jpg", "a/x.webp", "a/.hidden.png", ".git/3.png", "notes.txt", "z.bmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([tmp_path / "notes.txt", tmp_path, "gone.png"])
    names = ["notes.txt", "z.bmp", "a/x.webp", "b/1.jpg", "b/2.PNG"]
    assert found[:-1] == [tmp_path / name for name in names]
    assert str(found[-1]) == "gone.png"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no images"):
        find_images([tmp_path / "empty"])


def test_an_empty_name_is_not_the_current_folder(pictures, monkeypatch):
    monkeypatch.chdir(pictures[0].parent)
    with pytest.raises(ValueError, match="an empty name"):
        find_images(["0.png", ""])


def test_a_folder_that_cannot_be_read_is_counted(pictures, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path):
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert find_images([tmp_path]) == [*pictures, tmp_path / "closed"]
    ((_, images, reasons),) = decoded([*pictures, tmp_path / "closed"], batch_size=9)
    assert len(images) == 4
    assert reasons.keys() == {4}
    assert "closed: a folder that cannot be read" in reasons[4]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "-dash.png"])
def test_names_that_no_file_can_have_are_errors_of_their_own(pictures, name):
    ((_, images, reasons),) = decoded(find_images([name, pictures[0]]), batch_size=9)
    assert len(images) == 1
    assert reasons.keys() == {0}


def test_a_pipe_is_refused_before_it_is_opened(pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    ((_, images, reasons),) = decoded([tmp_path / "pipe.png", pictures[0]], batch_size=9)
    assert len(images) == 1
    assert "not a regular file" in reasons[0]


def test_of_a_moving_image_the_first_picture_counts(pictures, tmp_path):
    frames = [Image.new("P", (20, 20), shade) for shade in (3, 90, 200)]
    for name in ("moving.gif", "pages.tiff"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / f"still.{name}")
        ((_, images, _),) = decoded([tmp_path / name, tmp_path / f"still.{name}"])
        assert torch.equal(images[0], images[1])


def test_pixels_stay_where_the_file_has_them_whatever_exif_says(tmp_path):
    image = Image.linear_gradient("L").convert("RGB")
    for name, turn in (("plain.png", 1), ("turned.png", 6), ("nonsense.png", 99)):
        exif = Image.Exif()
        exif[0x0112] = turn
        image.save(tmp_path / name, exif=exif)
    ((_, images, _),) = decoded([tmp_path / f"{name}.png" for name in ("plain", "turned", "nonsense")])
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_images_are_prepared_by_timms_transform(pictures):
    transform = timm.data.create_transform(**DATA)
    (first, images, reasons), (second, more, _) = decoded(pictures)
    assert (first, second, reasons) == (pictures[:3], pictures[3:], {})
    expected = torch.stack([transform(decode_image(path, "RGB")) for path in pictures])
    assert torch.equal(torch.cat([images, more]), expected)


def test_one_channel(pictures):
    data = {**DATA, "input_size": (1, 16, 16), "mean": (0.5,), "std": (0.25,)}
    ((_, images, _),) = decoded(pictures, data, batch_size=9)
    assert images.shape == (4, 1, 16, 16)


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def broken(tmp_path, pictures):
    """Files that are not images, each with a word of its reason."""
    contents = {
        "empty.png": (b"", "UnidentifiedImageError"),
        "text.jpg": (b"not an image", "UnidentifiedImageError"),
        "cut.png": (pictures[0].read_bytes()[:200], "cut.png"),
        "bomb.png": (png_header(40_000, 40_000), "DecompressionBomb"),
        "large.png": (png_header(10_000, 10_000), "DecompressionBomb"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.new("1", (1, 65_000)).save(tmp_path / "strip.png")
    words = {tmp_path / name: word for name, (_, word) in contents.items()}
    return {
        **words,
        tmp_path / "strip.png": "more than Pillow's limit",
        tmp_path / "gone.png": "does not exist",
    }


def test_broken_files_spoil_nothing_else(pictures, broken):
    data = {**DATA, "input_size": (3, 64, 64)}
    whole = torch.cat([images for _, images, _ in decoded(pictures, data)])
    paths = [path for pair in zip(broken, [*pictures, *pictures], strict=False) for path in pair]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches = decoded(paths, data)
    seen, found = [], []
    for files, images, reasons in batches:
        seen += files
        found += [] if images is None else list(images)
        for place, reason in reasons.items():
            assert broken[files[place]] in reason
            assert "\n" not in reason
        assert len(reasons) == sum(file in broken for file in files)
    assert seen == paths
    assert torch.equal(torch.stack(found), torch.cat([whole, whole])[: len(found)])


def test_a_batch_without_any_image(broken):
    data = {**DATA, "input_size": (3, 64, 64)}  # at 16 pixels the strip is small
    ((files, images, reasons),) = decoded(list(broken), data, batch_size=99)
    assert images is None
    assert list(reasons) == list(range(len(files)))


def test_out_of_memory_is_the_files_error(pictures, monkeypatch):
    def transform(image):
        raise MemoryError

    monkeypatch.setattr("timm.data.create_transform", lambda **options: transform)
    ((_, images, reasons),) = decoded(pictures[:1])
    assert images is None
    assert "MemoryError" in reasons[0]


def test_workers_change_nothing(pictures, broken):
    paths = [*pictures, *broken]
    for one, other in zip(decoded(paths), decoded(paths, workers=2), strict=True):
        assert one[0] == other[0]
        assert one[2] == other[2]
        assert one[1] is other[1] or torch.equal(one[1], other[1])


def test_bad_arguments(pictures):
    with pytest.raises(ValueError, match="batch_size=0: expected at least 1"):
        decoded(pictures, batch_size=0)
    with pytest.raises(ValueError, match="workers=-1: expected at least 0"):
        decoded(pictures, workers=-1)
    with pytest.raises(ValueError, match="takes 4 channels"):
        decoded(pictures, {**DATA, "input_size": (4, 16, 16), "mean": (0.5,) * 4, "std": (0.5,) * 4})
