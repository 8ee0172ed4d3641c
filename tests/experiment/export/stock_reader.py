"""Read exports where etfhead is not installed; run as a script, by test_outside.py.

    python -I stock_reader.py WAY JOBS.json

``JOBS.json`` lists what to read: ``export`` (the folder), ``images`` (a folder with ``image.png`` and
``random.npy``) and ``out`` (the .npz with logits that is written). ``WAY`` is one of

- ``card``: run the code of the export's README.md as it is, but for the path of the folder;
- ``old-timm=DIR``: the same with the timm that lies in DIR, and the card's other way to make the model;
- ``bare``: the traced formats by the library they are for and numpy, others being hidden.
"""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

HERE = "path/to/this/folder"
NOT_FOR = {
    "model.onnx": ("torch", "torchvision", "timm", "safetensors", "PIL"),
    "model.pt2": ("torchvision", "timm", "safetensors", "PIL", "onnxruntime"),
}


class Hiding:
    """A finder of modules that finds all but some, as if they were not installed."""

    def __init__(self, finder, names):
        self.finder, self.names = finder, names

    def find_spec(self, fullname, path=None, target=None):
        hidden = fullname.partition(".")[0] in self.names
        return None if hidden else self.finder.find_spec(fullname, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def hide(names):
    sys.meta_path[:] = [Hiding(finder, names) for finder in sys.meta_path]


def run_card(export, old):
    """What the code of a card leaves behind: ``logits`` of image.png, and ``model`` or ``session``."""
    first, *others = re.findall(r"```python\n(.*?)```", (export / "README.md").read_text("utf-8"), re.DOTALL)
    if old:
        (other,) = others
        first, count = re.subn(r"^model = .*\n", lambda _: other, first, flags=re.MULTILINE)
        assert count == 1
    assert HERE in first
    scope = {}
    exec(compile(first.replace(HERE, str(export)), "README.md", "exec"), scope)
    return scope


def read_bare(export):
    (file,) = (name for name in NOT_FOR if (export / name).exists())
    hide(NOT_FOR[file])
    if file == "model.onnx":
        import onnxruntime

        return {"session": onnxruntime.InferenceSession(str(export / file))}
    import torch

    return {"torch": torch, "model": torch.export.load(export / file).module()}


def evaluate(scope, images):
    if "session" in scope:
        return scope["session"].run(["logits"], {"images": images})[0]
    torch = scope["torch"]
    with torch.no_grad():
        return scope["model"](torch.from_numpy(images)).numpy()


def main(way, jobs):
    way, _, folder = way.partition("=")
    if folder:
        sys.path.insert(0, folder)
    assert importlib.util.find_spec("etfhead") is None, "this Python has etfhead"
    import numpy as np

    for job in json.loads(Path(jobs).read_text("utf-8")):
        export = Path(job["export"])
        os.chdir(job["images"])
        scope = read_bare(export) if way == "bare" else run_card(export, way == "old-timm")
        random = np.load("random.npy")
        found = {"many": evaluate(scope, random), "one": evaluate(scope, random[:1])}
        if "logits" in scope:
            found["picture"] = scope["logits"].numpy()
        np.savez(job["out"], **found)
    assert "etfhead" not in sys.modules
    loaded = [name for name in ("torch", "timm", "onnxruntime", "numpy") if name in sys.modules]
    print(json.dumps({name: sys.modules[name].__version__ for name in loaded}))


if __name__ == "__main__":
    main(*sys.argv[1:])
