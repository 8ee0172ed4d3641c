"""`etfhead predict`: table, JSON lines, and what unreadable files do to the exit code."""

import io
import json
import os
import sys

import pytest
import timm
import torch
from PIL import Image
from timm.models._hub import save_for_hf

from etfhead.cli import main


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stock") / "model"
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(
        model, folder, model_config={"label_names": ["cat", "do\x1bg", "owl"]}, safe_serialization=True
    )
    return str(folder)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, shade in (("a.png", 0), ("b.png", 255)):
        Image.new("RGB", (20, 20), (shade, 30, 90)).save(folder / name)
    return folder


def test_json_lines(call, stock, pictures):
    (pictures / "bad.png").write_bytes(b"bad")
    code, out, err = call("predict", stock, str(pictures), "--json", "--top-k", "2")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [row["file"] for row in rows] == [str(pictures / name) for name in ("a.png", "b.png", "bad.png")]
    assert rows[2].keys() == {"file", "error"}
    for row in rows[:2]:
        assert [set(entry) for entry in row["predictions"]] == [{"label", "index", "probability"}] * 2
    assert "1 of 3 files could not be read" in err
    assert err.startswith(f"etfhead: model: {stock}")


def test_table(call, stock, pictures):
    (pictures / "bad.png").write_bytes(b"bad")
    code, out, err = call("predict", stock, str(pictures / "bad.png"), str(pictures))
    header, *rows = out.splitlines()
    assert code == 0
    assert header.split() == ["FILE", "#1", "#2", "#3"]
    files = [str(pictures / "a.png"), str(pictures / "b.png")]
    assert [row[: len(file) + 1] for row, file in zip(rows, files, strict=True)] == [
        f"{file} " for file in files
    ]
    assert (
        header.index("#2")
        == min(
            rows[0].find(f"  {name}", header.index("#1"))
            for name in ("cat", "do\\x1bg", "owl")
            if rows[0].find(f"  {name}", header.index("#1")) > 0
        )
        + 2
    )
    assert "\x1b" not in out
    assert err.count("cannot decode image") == 2
    shares = [float(word) for word in rows[0][len(files[0]) :].split()[1::2]]
    assert sum(shares) == pytest.approx(1, abs=2e-4)


def test_exit_codes(call, stock, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"bad")
    bad, good = str(tmp_path / "bad.png"), str(pictures)
    assert call("predict", stock, good, "--strict")[0] == 0
    assert call("predict", stock, good, bad)[0] == 0
    assert call("predict", stock, good, bad, "--strict")[0] == 2
    code, out, err = call("predict", stock, bad, str(tmp_path / "gone.png"))
    assert (code, out) == (2, "")
    assert "2 of 2 files could not be read" in err


def test_names_with_line_breaks_and_bytes_that_are_no_text(call, stock, pictures):
    (pictures / "a.png").rename(pictures / "a\nb.png")
    (pictures / "b.png").rename(os.fsdecode(os.fsencode(pictures) + b"/\xff.png"))
    code, out, _ = call("predict", stock, str(pictures))
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "a\\nb.png" in out
    assert "\\udcff.png" in out
    _, out, _ = call("predict", stock, str(pictures), "--json")
    assert [os.path.basename(json.loads(line)["file"]) for line in out.splitlines()] == [
        "a\nb.png",
        "\udcff.png",
    ]


def test_a_reader_that_leaves_is_no_error(stock, pictures, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as pipe:
        monkeypatch.setattr("sys.stdout", pipe)
        assert main(["predict", stock, str(pictures), "--json"]) == 141
    assert capsys.readouterr().err == f"etfhead: model: {stock}\n"


def test_a_terminal_without_umlauts(stock, pictures, monkeypatch):
    (pictures / "a.png").rename(pictures / "\u00e4.png")
    found = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", found)
    assert main(["predict", stock, str(pictures)]) == 0
    found.seek(0)
    assert "\\xe4.png" in found.read()


def test_names_with_a_leading_dash(call, stock, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    (pictures / "a.png").rename("-a b.png")
    for words in (("--", "-a b.png"), ("./-a b.png",)):
        code, out, _ = call("predict", stock, *words)
        assert code == 0
        assert out.splitlines()[1].startswith("-a b.png ")


def test_an_empty_name(error_line, stock, pictures, monkeypatch):
    monkeypatch.chdir(pictures)
    assert "an empty name among the images" in error_line("predict", stock, "")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--arm", "etf"], "is not a run folder and holds one model"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
    ],
)
def test_errors_are_one_line(error_line, stock, pictures, options, words):
    assert words in error_line("predict", stock, str(pictures), *options)


def test_an_empty_folder(error_line, stock, tmp_path):
    assert "holds no images" in error_line("predict", stock, str(tmp_path))


@pytest.mark.parametrize("option", ["--top-k", "--batch-size"])
def test_numbers_out_of_range(call, stock, pictures, option):
    code, out, err = call("predict", stock, str(pictures), option, "0")
    assert (code, out) == (2, "")
    assert "expected at least 1" in err.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="the fault is planted in a forked process")
def test_a_process_that_dies_while_it_decodes_is_one_line(call, stock, pictures, monkeypatch):
    monkeypatch.setattr("etfhead.experiment.predict.images.decode_image", lambda *_: os.kill(os.getpid(), 9))
    code, _, err = call("predict", stock, str(pictures), "--workers", "1")
    assert code == 2
    assert "etfhead: error: a loading process (pid " in err
    assert "lower --workers" in err
    assert "Traceback" not in err
