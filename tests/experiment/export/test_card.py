"""The model card: true figures, code that runs, and text of users that stays text."""

import dataclasses
import importlib.util
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from etfhead.experiment.export import FORMATS, export_run, load_trained, rank_models
from etfhead.experiment.export.card import model_card
from etfhead.experiment.export.config import model_config
from etfhead.experiment.report.records import read_run
from etfhead.experiment.report.summary import summarize
from tests.older_timm import HAS_LOCAL_DIR


def export(run, out, name="timm", arm="etf"):
    export_run(run, out, arm=arm, seed=0, format_name=name)
    return (out / "README.md").read_text()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "onnx" else name for name in FORMATS]
)
def test_the_code_of_the_card_gives_the_trained_models_logits(
    digits, tmp_path, monkeypatch, digit_files, name
):
    if name == "onnx" and importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("needs the extra etfhead[onnx]")
    files, _ = digit_files
    text = export(digits, tmp_path / "path" / "to" / "this" / "folder", name)
    code, *others = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "image.png").write_bytes(files[3].read_bytes())
    monkeypatch.chdir(tmp_path)
    scope = {}
    if name == "timm" and not HAS_LOCAL_DIR:
        code = re.sub("^model = .*local-dir.*$", others[0], code, flags=re.MULTILINE)
    exec(code, scope)
    records = read_run(digits)
    model = load_trained(records, rank_models(records, arm="etf", seed=0)[0]).model
    with torch.no_grad():
        expected = model(scope["batch"])
    assert torch.allclose(scope["logits"], expected, rtol=1e-3, atol=1e-3)
    assert len(others) == (name == "timm")
    for other in others:
        exec(other, scope)
        with torch.no_grad():
            assert torch.equal(scope["model"](scope["batch"]), scope["logits"])


def test_front_matter_names_no_licence(digits, tmp_path):
    text = export(digits, tmp_path / "out")
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "timm"
    assert "license" not in front
    assert "not known" in text.split("## Licence")[1]


def test_figures_are_the_reports(digits, tmp_path):
    text, summary = export(digits, tmp_path / "out"), summarize(digits)
    figure = summary["arms"]["etf"]["figures"]["test_top1_best"]
    assert f"{figure['mean']:.2f} ± {figure['std']:.2f}" in text
    assert f"This model: {figure['values'][0]:.2f} % test accuracy" in text
    data = json.loads((digits / "data.json").read_text())
    assert data["digest"] in text
    assert f"{data['sizes']['train']:,} train" in text
    assert '"name": "simplex"' in text


def test_text_of_users_is_escaped(digits, tmp_path):
    text = export(digits, tmp_path / "out")
    assert "two \\| epochs &lt;script&gt;" in text
    assert "<script>" not in text


def test_class_names_are_escaped_and_the_code_is_not_touched(digits):
    records = read_run(digits)
    trained = load_trained(records, rank_models(records, arm="etf", seed=0)[0])
    odd = [
        "</p><script>x",
        "a|b",
        "`c`",
        "[d](javascript:e)",
        "*f*",
        "# g",
        "h\n## i",
        "```\nj",
        "",
        "ß\u202e",
    ]
    recipe = dataclasses.replace(trained.recipe, description="Ends with a dot.")
    trained = dataclasses.replace(trained, class_names=tuple(odd), recipe=recipe)
    text = model_card(trained, model_config(trained, {}, "timm"), summarize(digits))
    assert "<script" not in text
    assert "Ends with a dot. Arm, seed" in text
    assert not re.search(r"^(```)?\s*(## i|j|# g)", text, re.MULTILINE)
    (line,) = (line for line in text.splitlines() if line.startswith("Classes, in the order"))
    assert all(word in line for word in (r"a\|b", r"\`c\`", r"\[d\](javascript:e)", r"\*f\*", "h ## i", "ß"))
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        compile(code, "card", "exec")


def test_label_sets_say_where_their_thresholds_are(label_sets, tmp_path):
    text = export(label_sets, tmp_path / "out", arm="etf")
    assert "etfhead.readout" in text
    assert "softmax" not in text
    assert "the images are synthetic" in text


def test_the_documentations_example_runs(digits, digit_files, tmp_path, monkeypatch, capsys):
    docs = Path(__file__).parents[3] / "docs" / "export.md"
    (code,) = re.findall(r"```python\n(.*?)```", docs.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "quickstart").symlink_to(digits)
    (tmp_path / "photos").mkdir()
    for file in digit_files[0][:3]:
        (tmp_path / "photos" / file.name).write_bytes(file.read_bytes())
    exec(code.replace(").folder", ", overwrite=True).folder"), {})
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["None"] * 3
