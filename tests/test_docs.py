"""Every block of every page runs as it stands, or is read by the parser it is meant for."""

import ast
import doctest
import importlib
import random
import re
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import etfhead
from etfhead import cli
from etfhead.experiment.schema import load_recipe, recipe_from_dict
from etfhead.experiment.schema.plain import expand_settings, recipe_to_dict
from etfhead.experiment.schema.yaml_lines import parse_yaml
from etfhead.frames.orient import orient_simplex
from etfhead.surgery import find_heads
from tests.doc_commands import check, commands
from tests.doc_pages import GIVEN, NAMES, ROOT, blocks, prose, smaller, start


def of_kind(kind):
    """Pages that have a block of this kind."""
    return [page for page in NAMES if any(block.kind == kind for block in blocks(page))]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run folder that pages call runs/quickstart, of a tiny model."""
    folder = tmp_path_factory.mktemp("docs") / "quickstart"
    words = ["run", "quickstart", "--smoke", "--out", str(folder), "~arms.cosine", "collapse_every=0"]
    assert cli.main(words) == 0
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to be in; random states and what timm knows are put back."""
    monkeypatch.chdir(tmp_path)
    importlib.import_module("etfhead.experiment.models")  # registers once a process, and stays
    registry = importlib.import_module("timm.models._registry")
    tables = [registry._model_entrypoints, registry._model_to_module, registry._module_to_models]
    saved = [dict(table) for table in tables]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.manual_seed(0)
    yield tmp_path
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    for table, before in zip(tables, saved, strict=True):
        table.clear()
        table.update(before)


@pytest.fixture
def with_run(request, folder):
    """A folder of images and, for pages that name it, the trained run."""
    pages = (ROOT / request.param).read_text()
    images = [f"path/to/images/{part}/{name}/1.jpg" for part in ("train", "test") for name in "abc"]
    for name in (*images, "photos/a.jpg", "photos/b.png", "more.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.randint(0, 255, (40, 40), dtype=np.uint8)).save(folder / name)
    if request.param == "docs/theory_multilabel.md":  # the two cases it shows, of 28
        module = importlib.import_module("etfhead.theory.multilabel")
        cases = tuple(case for case in module.THEOREM.cases if case.name in SHOWN.findall(pages))
        request.getfixturevalue("monkeypatch").setattr(
            module, "THEOREM", replace(module.THEOREM, cases=cases)
        )
    if "runs/quickstart" in pages:
        shutil.copytree(request.getfixturevalue("trained"), folder / "runs" / "quickstart")
    return request.param


@pytest.fixture
def process_group(request, folder):
    """One process that is a group, for the page on many."""
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def execute(page):
    """Run a page's Python in one namespace, and return it."""
    names = start(page)
    for block in smaller(page, "python"):
        if "integrations.timm_plugin" in block.code:  # an import registers once a process
            importlib.import_module("etfhead.integrations.timm_models").register()
        if "transformers" in block.code:
            pytest.importorskip("transformers")
        if "timm.task" in block.code:
            pytest.importorskip("timm.task", reason=f"timm {timm.__version__} has no timm.task yet")
        if ">>>" in block.code:
            test = doctest.DocTestParser().get_doctest(block.code, names, page, page, block.line)
            flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
            result = doctest.DocTestRunner(optionflags=flags).run(test, clear_globs=False)
            assert result.failed == 0, f"{page}:{block.line}"
            names.update(test.globs)
        else:
            exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
            for line, said in re.findall(r"^(\w[\w.]*\(\))  # \w+\((\w+=.*?)\)", block.code, re.MULTILINE):
                value = eval(line, names)  # a comment that shows a named tuple
                shown = {key: float(number) for key, number in re.findall(r"(\w+)=(-?[\d.]+)", said)}
                assert shown == pytest.approx(value._asdict(), abs=1e-4), f"{page}: {line}"
                names.setdefault("compared", []).append(line)
    return names


def unload(names):
    state = torch.load("resnet18.pt", weights_only=True)
    timm.create_model("resnet18", num_classes=100).load_state_dict(state, strict=True)


def trainers(names):
    assert isinstance(find_heads(names["task"].trainable_module)["fc"], etfhead.ETFHead)
    assert {group["lr_scale"] for group in names["groups"]} < {0.75**level for level in range(1, 20)}


def distributed(names):
    assert isinstance(names["whole"].get_classifier(), torch.nn.Linear)


def million(names):
    assert names["value"].item() < 1.0
    assert (names["found"] == names["y"]).all()
    assert "tensor(1.)" in names["printed"]


def pick_all_label(names):
    assert torch.equal(names["loss"], names["same"])
    assert names["logits"].grad.isfinite().all()


def multilabel_head(names):
    head, hot, scores = names["head"], names["hot"], names["scores"]
    assert head.calibration_size == 32
    assert hot.shape == scores.shape == (32, 20)
    sizes = hot.sum(1)
    assert 1 <= sizes.min() <= sizes.max() <= 6
    assert ast.literal_eval(names["printed"]) == names["label_lists"](hot)[:2]


def label_decoding(names):
    assert names["hot"].shape == (8, 20)


SHOWN = re.compile(r"^(PAL\S*  K=.*?)  \(3 of 3 starts", re.MULTILINE)


def label_sets(names):
    """The figures that the card shows are those of the theorem, rounding apart."""
    (block,) = (block for block in blocks("docs/theory_multilabel.md") if block.kind == "text")
    titles = [case.name for case in names["result"].theorem.cases]
    assert titles == SHOWN.findall(block.code)
    shown = re.findall(r"^  (\S.*?) {2,}(\S+) +(\S+) +\S+  ok$", block.code, re.MULTILINE)
    assert len(shown) == 19
    computed = {(check.what, f"{check.predicted:.8g}") for check in names["result"].checks}
    assert {(what, predicted) for what, predicted, _ in shown} <= computed
    assert names["result"].ok


def coherence(names):
    assert names["compared"] == ["frame.coherence()"]


def migration(names):
    images, trained = names["images"], names["trained"]
    bound = 1e-4 * trained.abs().max().item()
    torch.testing.assert_close(names["folded"], trained, rtol=0, atol=bound)
    assert type(names["stock"].get_classifier()) is etfhead.ETFHead  # swapped once more, in place
    assert torch.equal(names["again"](images), trained)
    learned = names["learned"] - names["learned"].mean(0)
    nearest = names["frame"].__class__(*learned.shape, vectors=orient_simplex(learned)).matrix()
    assert torch.nn.functional.cosine_similarity(nearest.float(), learned).min() > 0.9


# What must hold of a page's names when its blocks have run.
AFTER = {
    "README.md": unload,
    "docs/trainers.md": trainers,
    "docs/distributed.md": distributed,
    "docs/large_k.md": million,
    "docs/pick_all_label.md": pick_all_label,
    "docs/multilabel_head.md": multilabel_head,
    "docs/label_decoding.md": label_decoding,
    "docs/theory_multilabel.md": label_sets,
    "docs/migration.md": migration,
    **dict.fromkeys(["docs/simplex.md", "docs/orthoplex.md", "docs/union.md"], coherence),
}


@pytest.mark.parametrize("with_run", of_kind("python"), indirect=True)
def test_python_runs(with_run, request, capsys):
    if "torch.distributed" in (ROOT / with_run).read_text():
        request.getfixturevalue("process_group")
    names = execute(with_run) | {"printed": capsys.readouterr().out}
    AFTER.get(with_run, lambda names: None)(names)


@pytest.mark.parametrize("with_run", of_kind("bash"), indirect=True)
def test_commands(with_run):
    for block in smaller(with_run, "bash"):
        for words, text in commands(block.code):
            check(words, text, run=True)


@pytest.mark.parametrize("page", NAMES)
def test_commands_in_the_text(page):
    for span in re.findall(r"`((?:etfhead|make|python -m|pip|torchrun) [^`]+)`", prose(page)):
        ((words, _),) = commands(" ".join(span.split()))
        if len(words) == {"etfhead": 2, "python": 3}.get(words[0]):
            words.append("--help")  # the command as such
        check(words, run=False)


@pytest.mark.parametrize("page", NAMES)
def test_names_and_files_in_the_text(page):
    text = prose(page)
    for name in re.findall(r"`(etfhead(?:\.\w+)+)", text):
        resolve(name)
    for path in re.findall(r"`((?:etfhead|tests|benchmarks|examples|docs)/[\w./]+)`", text):
        assert (ROOT / path).exists(), path


def resolve(dotted):
    """Import as far as there are modules, then look up."""
    first, *rest = dotted.split(".")
    found = importlib.import_module(first)
    for word in rest:
        if isinstance(found, types.ModuleType) and not hasattr(found, word):
            found = importlib.import_module(f"{found.__name__}.{word}")
        else:
            found = getattr(found, word)
    return found


def test_yaml_is_read_as_recipes_are():
    found = [block for page in NAMES for block in blocks(page) if block.kind == "yaml"]
    assert found
    for block in found:
        data, _ = parse_yaml(block.code, block.page)
        if "arms" not in data:
            noisy = load_recipe("quickstart", ["noise_kind=symmetric"] if "noise_rate" in block.code else [])
            data = recipe_to_dict(noisy) | data
        assert expand_settings(recipe_from_dict(data)) or not data.get("settings")


def floors(code):
    """The floors of the house are the package's folders."""
    named = {word for line in code.splitlines() for word in re.split(r" {2,}", line)[:-1]}
    folders = {path.parent.name for path in (ROOT / "etfhead").glob("*/__init__.py")}
    assert named <= folders
    assert folders - named == {"integrations"}


# Blocks that are neither code nor commands, and what shows that they are true.
TEXTS = {"CONTRIBUTING.md": floors, "docs/theory_multilabel.md": lambda code: SHOWN.search(code)[1]}


@pytest.mark.parametrize("page", of_kind("text"))
def test_other_blocks(page):
    (block,) = (block for block in blocks(page) if block.kind == "text")
    TEXTS[page](block.code)


def test_no_block_escapes():
    kinds = {(block.kind, block.page) for page in NAMES for block in blocks(page)}
    assert {kind for kind, _ in kinds} <= {"python", "bash", "yaml", "text"}
    assert GIVEN.keys() | AFTER.keys() <= set(of_kind("python"))
    assert TEXTS.keys() == set(of_kind("text"))


def test_readers_bring_nothing_of_ours():
    for page in GIVEN:
        for name, value in start(page).items():
            ours = getattr(value, "__module__", "").startswith("etfhead")
            made = isinstance(value, etfhead.ETFHead | etfhead.frames.Frame)
            assert made or not ours, f"{page} needs an import of {name}"
