"""`etfhead export` around the exporting: arguments, what is printed, errors."""

from pathlib import Path

import pytest

from etfhead.experiment.export import Choice, Exported


@pytest.fixture
def recorded(monkeypatch):
    """Replace exporting by a function that keeps its arguments."""
    calls = []

    def export_run(run, out, **options):
        calls.append((run, out, options))
        choice = Choice(
            arm="etf", seed=3, weights="best", epoch=7, validation=97.5, metric="accuracy", reason="why"
        )
        checked = options["format_name"] != "onnx"
        return Exported(
            folder=Path("o"),
            choice=choice,
            difference=2.5e-6 if checked else None,
            largest_logit=12.0,
            head="folded",
            notes=() if checked else ("not compared",),
        )

    monkeypatch.setattr("etfhead.experiment.export.export_run", export_run)
    return calls


def test_defaults(call, recorded):
    code, out, err = call("export", "run")
    ((run, folder, options),) = recorded
    assert (code, err, run, folder) == (0, "", "run", None)
    assert options == {
        "format_name": "timm",
        "arm": None,
        "seed": None,
        "weights": "best",
        "overwrite": False,
    }
    assert out.splitlines() == [
        "model: etf, seed 3, best epoch (7), validation accuracy 97.50 % (why)",
        "head: folded",
        "checked: read back, its logits on random images differ by at most 2.5e-06 from the trained model's "
        "(largest logit 12)",
        "wrote o",
    ]


def test_every_argument(call, recorded):
    words = "export --format onnx run --arm a --seed 2 --weights last --out o --overwrite"
    assert call(*words.split())[1].splitlines()[2:] == ["note: not compared", "wrote o"]
    assert recorded[0][:2] == ("run", "o")
    assert recorded[0][2] == {
        "format_name": "onnx",
        "arm": "a",
        "seed": 2,
        "weights": "last",
        "overwrite": True,
    }


def test_errors_are_one_line(error_line, tmp_path):
    assert "does not exist; expected a folder written by `etfhead run`" in error_line(
        "export", str(tmp_path / "gone")
    )


def test_formats_are_those_of_the_exporter(capsys):
    from etfhead.cli import main
    from etfhead.experiment.export import FORMATS

    with pytest.raises(SystemExit):
        main(["export", "run", "--format", "pickle"])
    message = capsys.readouterr().err
    assert all(name in message for name in FORMATS)
