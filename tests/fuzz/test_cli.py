"""Whatever the arguments: an exit code for what was asked or for bad input, and never a traceback."""

import contextlib
import dataclasses
import io
import os

import pytest
from hypothesis import strategies as st

from etfhead.cli import main
from etfhead.experiment.recipe import Arm, Recipe
from tests.fuzz.exploring import explore, sizes

FIELDS = [field.name for field in dataclasses.fields(Recipe)]
OPTIONS = [field.name for field in dataclasses.fields(Arm)]
# Nothing here may lead out of the folder of the test: `cp` writes where it is told to.
TEXT = st.text(max_size=6).filter(lambda text: "/" not in text and not text.startswith(("~", "..")))
VALUES = st.one_of(
    st.sampled_from(
        ["1", "0", "-1", "1e-3", "1e999", "nan", ".nan", "null", "~", "true", "[0, 1]", "0,1", "{a: 1}", "[",
         "{", "etf", "linear", "digits", "npz", "'", "&a", "*a", "!!python/object:os.system", "a: b", "", " ",
         "9" * 5000]
    ),
    st.integers().map(str),
    st.floats().map(str),
    TEXT,
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        [*FIELDS, *(f"arms.etf.{name}" for name in OPTIONS), "arms.new.head", "arms", "settings.a.lr"]
    ),
    st.lists(st.one_of(TEXT, st.sampled_from(["arms", "lr", "settings"])), max_size=3).map(".".join),
)
OVERRIDES = st.one_of(
    st.tuples(KEYS, VALUES).map("=".join),
    KEYS.map("~{}".format),
    TEXT,
)
WORDS = st.one_of(
    st.sampled_from(
        ["ls", "show", "cp", "report", "export", "predict", "theory", "quickstart", "--help", "-h",
         "--version", "--debug", "--out", "--resume", "--arm", "--seed", "--format", "timm", "md", "--top-k",
         "0", "-1", "--json", "--", ".", "--weights", "best", "--tolerance", "nan", "\x00", "\ud800"]
    ),
    TEXT,
)  # fmt: skip
SHOWN = st.lists(OVERRIDES, max_size=4).map(lambda found: ["show", "quickstart", *found])
OF_FOLDERS = st.tuples(
    st.sampled_from(["report", "export", "predict", "cp", "show"]), st.lists(WORDS, max_size=4)
).map(lambda found: [found[0], *found[1]])
# No command that trains or computes for long on good arguments.
ANY = st.lists(WORDS, max_size=5).filter(lambda found: "theory" not in found[:2])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def check(argv):
    # As Python opens them: text that is no text must not break the message about it.
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:  # argparse's help and complaints
            code = stop.code
    err.flush()
    said = err.buffer.getvalue().decode()
    assert code in (0, 2), (argv, code, said)
    assert "Traceback" not in said or "--debug" in argv
    assert "etfhead: error: unexpected" not in said, (argv, said)
    if code == 2:
        assert "etfhead: error: " in said, (argv, said)
        assert "--debug" in argv or len(said.rstrip("\n").splitlines()) == 1, (argv, said)
    for name in os.listdir():  # what `cp` has written must not change the next case
        if os.path.isfile(name):
            os.unlink(name)


def test_the_home_of_nobody_is_bad_input(elsewhere):
    check(["show", "~no-such-user"])
    check(["cp", "quickstart", "~no-such-user/x.yaml"])


@sizes(60, 1200)
def test_overrides_are_taken_or_refused(size, elsewhere):
    explore(size, SHOWN, check)


@sizes(60, 1200)
def test_arguments_are_understood_or_refused(size, elsewhere):
    explore(size, st.one_of(OF_FOLDERS, ANY), check)
