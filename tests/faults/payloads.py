"""Files that would run code, write elsewhere, or turn a report into a program. Each must do nothing."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tests.faults.kills import Outcome
from tests.faults.runs import Ended, call, in_process

__all__ = ["active_content", "code_in_files", "code_in_text", "links_and_names", "scripts_in_reports"]

_SCRIPT = "<script>document.title='x'</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(2)>"


class Harm:
    """Unpickled, it makes a folder that shows it was."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def _ask(words: list[str | Path], place: Path) -> Ended:
    return in_process(call(words), place / "log")


def _verdict(ended: Ended, mark: Path, *, may_work: bool = False) -> str:
    if mark.exists():
        return "EXECUTED"
    if "Traceback" in ended.told or ended.code not in ((0, 2) if may_work else (2,)):
        return f"exit code {ended.code}: {ended.told[-300:]}"
    return ""


def code_in_files(recipe: Path, whole: Path, place: Path) -> Iterator[Outcome]:
    """Pickles wherever a run, an export or a report reads a file."""
    mark = place / "mark"
    harm = Harm(mark)
    evil = {
        "a torch file": lambda path: torch.save({"format": "etfhead training state", "model": harm}, path),
        "a plain pickle": lambda path: path.write_bytes(pickle.dumps(harm)),
    }
    seed = Path("arms/etf/seed0")
    for how, plant in evil.items():
        for name in ("state.pt", "state.prev.pt", "last.safetensors", "best.safetensors"):
            out = _copy(whole, place)
            if name.startswith("state"):
                (out / seed / "result.json").unlink()
                (out / seed / "state.pt").unlink()
            plant(out / seed / name)
            ended = _ask(["run", recipe, "--out", out, "--resume"], place)
            yield f"{how} as {name}: --resume", _verdict(ended, mark, may_work=True)
        out = _copy(whole, place)
        plant(out / seed / "best.safetensors")
        ended = _ask(["export", out, "--arm", "etf", "--out", place / "export"], place)
        yield f"{how} as best.safetensors: export", _verdict(ended, mark)
        for suffix in ("pt", "pth", "safetensors", "bin"):
            plant(place / f"weights.{suffix}")
            words = ["run", recipe, f"initial_checkpoint={place}/weights.{suffix}", "--out", place / "new"]
            yield f"{how} as initial_checkpoint .{suffix}", _verdict(_ask(words, place), mark)
        for suffix in ("pt", "pth", "npy", "csv"):
            plant(place / f"labels.{suffix}")
            words = ["run", recipe, f"labels_file={place}/labels.{suffix}", "--out", place / "new"]
            yield f"{how} as labels_file .{suffix}", _verdict(_ask(words, place), mark)
        hub = place / "hub"
        hub.mkdir(exist_ok=True)
        (hub / "config.json").write_text(
            '{"architecture": "test_resnet", "num_classes": 10, "pretrained_cfg": {}}'
        )
        plant(hub / "pytorch_model.bin")
        words = ["run", recipe, f"model=local-dir:{hub}", "pretrained=true", "model_kwargs={}", "img_size=32",
                 "--out", place / "new"]  # fmt: skip
        yield f"{how} as weights of a local-dir: model", _verdict(_ask(words, place), mark)
    objects = np.array([harm], dtype=object)
    np.save(place / "objects.npy", objects, allow_pickle=True)
    np.savez(place / "objects.npz", x_train=objects, y_train=objects, x_test=objects, y_test=objects)
    for words, what in (
        ([f"labels_file={place}/objects.npy"], "an array of objects as labels_file"),
        (["dataset=npz", f"data_root={place}/objects.npz"], "arrays of objects as npz data"),
        (
            ["dataset=multilabel_npz", f"data_root={place}/objects.npz"],
            "arrays of objects as multilabel_npz data",
        ),
        (
            ["dataset=regression_npz", f"data_root={place}/objects.npz"],
            "arrays of objects as regression_npz data",
        ),
    ):
        yield what, _verdict(_ask(["run", recipe, *words, "--out", place / "new"], place), mark)
    out = _copy(whole, place)
    np.savez(out / seed / "features.npz", features=objects, labels=objects)
    yield (
        "arrays of objects as features.npz: report",
        _verdict(_ask(["report", out], place), mark, may_work=True),
    )


def code_in_text(recipe: Path, whole: Path, place: Path) -> Iterator[Outcome]:
    """YAML that names Python objects, in a recipe, an override, and the recipe of a run folder."""
    mark = place / "mark"
    text = recipe.read_text(encoding="utf-8")
    for tag in (
        "object/apply:os.mkdir",
        "object/new:os.mkdir",
        "object/apply:os.system",
        "name:os.mkdir",
        "module:os",
    ):
        argument = f'["mkdir {mark}"]' if "system" in tag else f'["{mark}"]'
        value = f"!!python/{tag} {argument if tag.startswith('object') else ''}".rstrip()
        evil = place / "evil.yaml"
        evil.write_text(text + f"description: {value}\n")
        for command in ("show", "validate", "run"):
            yield f"!!python/{tag} in a recipe: {command}", _verdict(_ask([command, evil], place), mark)
        ended = _ask(["run", recipe, f"description={value}", "--out", place / "new"], place)
        yield f"!!python/{tag} in an override", _verdict(ended, mark)
        out = _copy(whole, place)
        with (out / "recipe.yaml").open("a") as file:
            file.write(f"evil: {value}\n")
        for words in (
            ["report", out],
            ["run", recipe, "--out", out, "--resume"],
            ["export", out, "--out", place / "e"],
        ):
            yield f"!!python/{tag} in a run folder: {words[0]}", _verdict(_ask(words, place), mark)
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    (place / "bomb.yaml").write_text(bomb)
    yield "a billion laughs as a recipe", _verdict(_ask(["show", place / "bomb.yaml"], place), mark)


def links_and_names(recipe: Path, whole: Path, place: Path) -> Iterator[Outcome]:
    """Names that climb out of a folder, and links that lead out of it: nothing outside may change."""
    text = recipe.read_text(encoding="utf-8")
    secret = place / "outside" / "secret"
    secret.parent.mkdir()
    for name in ("state.pt", "result.json", "metrics.jsonl", "secret"):
        (secret.parent / name).write_text("mine")
    before = {path: path.read_bytes() for path in sorted((place / "outside").iterdir())}

    def unchanged(ended: Ended, codes: tuple[int, ...] = (2,)) -> str:
        after = {path: path.read_bytes() for path in sorted((place / "outside").iterdir())}
        if after != before:
            return "WROTE OUTSIDE"
        return (
            ""
            if ended.code in codes and "Traceback" not in ended.told
            else f"{ended.code}: {ended.told[-300:]}"
        )

    for name in ("../outside", "/etc/x", "a/../../outside", "..", "a\\b", "x\0y", ""):
        quoted = '"' + name.replace("\\", "\\\\").replace("\0", "\\0") + '"'
        evil = place / "evil.yaml"
        evil.write_text(text.replace("name: faults", f"name: {quoted}"))
        yield f"recipe named {name!r}", unchanged(_ask(["run", evil], place))
        evil.write_text(text.replace("  etf:", f"  {quoted}:"))
        yield f"arm named {name!r}", unchanged(_ask(["run", evil, "--out", place / "new"], place))
        evil.write_text(text + f"settings: {{{quoted}: {{lr: 0.1}}}}\n")
        yield f"setting named {name!r}", unchanged(_ask(["run", evil, "--out", place / "new"], place))
        out = _copy(whole, place)
        stored = (out / "recipe.yaml").read_text()
        (out / "recipe.yaml").write_text(stored.replace("  etf:", f"  {quoted}:"))
        yield f"arm named {name!r} in a run folder: report", unchanged(_ask(["report", out], place))
        (out / "recipe.yaml").write_text(
            stored.replace("settings: {}", f"settings: {{{quoted}: {{lr: 0.1}}}}")
        )
        yield (
            f"setting named {name!r} in a run folder: report",
            unchanged(_ask(["report", out], place), (0, 2)),
        )
    for name in ("report.html", "report.md", "summary.json", "accuracy_epoch.png", "env.json", "recipe.yaml"):
        out = _copy(whole, place)
        for link in (out / name, out / f"{name}.tmp"):
            if name not in ("env.json", "recipe.yaml") or link.suffix == ".tmp":
                link.unlink(missing_ok=True)
                link.symlink_to(secret)
        yield f"{name} is a link: report", unchanged(_ask(["report", out], place), (0,))
        yield (
            f"{name} is a link: --resume",
            unchanged(_ask(["run", recipe, "--out", out, "--resume"], place), (0,)),
        )
    out = _copy(whole, place)
    for name in (
        "state.pt.tmp",
        "last.safetensors",
        "last.safetensors.tmp",
        "result.json.tmp",
        "metrics.jsonl.tmp",
    ):
        link = out / "arms/etf/seed0" / name
        link.unlink(missing_ok=True)
        link.symlink_to(secret)
    yield (
        "files of an arm are links: --resume",
        unchanged(_ask(["run", recipe, "--out", out, "--resume"], place), (0,)),
    )
    for name in ("arms", "arms/etf", "arms/etf/seed0", "settings"):
        out = _copy(whole, place)
        shutil.rmtree(out / name, ignore_errors=True)
        target = place / "outside" if name.endswith("seed0") else place / "tree"
        if not name.endswith("seed0"):
            shutil.rmtree(target, ignore_errors=True)
            inside = {"arms": "etf/seed0", "arms/etf": "seed0", "settings": "a/arms/etf/seed0"}[name]
            (target / inside).parent.mkdir(parents=True)
            (target / inside).symlink_to(place / "outside", target_is_directory=True)
        (out / name).symlink_to(target, target_is_directory=True)
        yield (
            f"{name} is a link: --overwrite",
            unchanged(_ask(["run", recipe, "--out", out, "--overwrite"], place)),
        )
    out = _copy(whole, place)
    (out / "run.lock").symlink_to(secret)
    yield "run.lock is a link: --resume", unchanged(_ask(["run", recipe, "--out", out, "--resume"], place))


def scripts_in_reports(whole: Path, place: Path) -> Iterator[Outcome]:
    """HTML and script in every text that a user or a file can bring into a report."""
    import json

    import yaml

    root = place / "images"
    for part in ("train", "test"):
        for at, name in enumerate(("<script>alert(1)<", "$\\frac{$ & 'b' \"c\" onload=x")):
            folder = root / part / name.replace("/", "")
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = np.random.default_rng([at, number, part == "test"]).integers(
                    0, 256, (8, 8), dtype=np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "train" / "<script>alert(1)<" / "<img src=x onerror=alert(1)>.png").write_bytes(b"broken")
    spec = {
        "name": "x", "description": _SCRIPT, "model": "etfhead_mlp", "model_kwargs": {"widths": [8]},
        "img_size": 8, "in_chans": 1, "dataset": "image_folder", "data_root": str(root),
        "epochs": 1, "batch_size": 4, "cpu": True,
        "seeds": [0], "baseline": "a", "arms": {"a": {"head": "linear"}, "b": {"head": "etf"}},
    }  # fmt: skip
    (place / "html.yaml").write_text(yaml.safe_dump(spec))
    shutil.rmtree(place / "new", ignore_errors=True)
    ended = _ask(["run", place / "html.yaml", "--out", place / "new"], place)
    wrong = ended.told[-300:] if ended.code else active_content(place / "new")
    told = (
        ""
        if wrong or "1 of 25 image files" in (place / "new/report.html").read_text()
        else "no count of unreadable files"
    )
    yield "markup in description, class and file names", wrong or told
    out = _copy(whole, place)
    for path in [
        out / "env.json",
        out / "data.json",
        *out.glob("arms/*/*/result.json"),
        *out.glob("arms/*/*/metrics.jsonl"),
    ]:
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        path.write_text("\n".join(json.dumps(_poison(json.loads(line))) for line in lines) + "\n")
    stored = yaml.safe_load((out / "recipe.yaml").read_text())
    evil_arms = {
        f"{_SCRIPT.replace('/', '')}{at}": dict(arm) for at, arm in enumerate(stored["arms"].values())
    }
    (out / "recipe.yaml").write_text(
        yaml.safe_dump(
            {
                **_poison(stored),
                "arms": {**stored["arms"], **evil_arms},
                "settings": {},
                "baseline": "etf",
                "seeds": [0],
            }
        )
    )
    ended = _ask(["report", out], place)
    yield (
        "markup in every text of a run folder: report",
        ended.told[-300:] if ended.code else active_content(out),
    )


def _poison(value: object) -> object:
    """Every text, and a new key, replaced by markup; the seal goes."""
    if isinstance(value, dict):
        poisoned = {
            key: _poison(item) for key, item in value.items() if key not in ("sha256", "files_sha256")
        }
        return {**poisoned, f"<b onclick=x>{_SCRIPT}": _SCRIPT}
    if isinstance(value, list):
        return [_poison(item) for item in value]
    return value + _SCRIPT if isinstance(value, str) else value


class _Active(HTMLParser):
    """Collects whatever in a page could run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "embed", "svg", "form", "link", "base", "b"):
            self.found.append(f"<{tag}>")
        for name, value in attrs:
            text = (value or "").strip().lower()
            fetched = name == "src" and not text.startswith("data:image/png;base64,")
            led = name == "href" and ":" in text.split("/")[0]
            if name.startswith("on") or fetched or led:
                self.found.append(f"{tag} {name}={text[:40]}")


def active_content(out: Path) -> str:
    """What could run in the HTML report of a folder, and raw tags in its Markdown; empty = nothing."""
    page = (out / "report.html").read_text(encoding="utf-8")
    parser = _Active()
    parser.feed(page)
    found = parser.found + ([] if "default-src 'none'" in page else ["no content policy"])
    markdown = (out / "report.md").read_text(encoding="utf-8")
    outside_code = "\n".join(block for at, block in enumerate(markdown.split("```")) if at % 2 == 0)
    found += [f"Markdown {tag}" for tag in ("<script", "<img", "<svg", "<b ") if tag in outside_code.lower()]
    return f"EXECUTED {found}" if found else ""


def _copy(whole: Path, place: Path) -> Path:
    out = place / "planted"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(place / "new", ignore_errors=True)
    shutil.copytree(whole, out)
    return out
