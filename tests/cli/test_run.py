"""`etfhead run` around the training: arguments, exits, interruptions and errors."""

import errno
import os
import signal
from pathlib import Path

import pytest

from etfhead.errors import Interrupted


@pytest.fixture
def recorded(monkeypatch):
    """Replace training by a function that keeps its arguments, or raises what a test puts in."""
    from etfhead.experiment import preflight, runner

    calls = []
    failure = []

    def run(recipe, out, *, resume=False, overwrite=False):
        calls.append((recipe, out, resume, overwrite))
        if failure:
            raise failure[0]
        return out

    monkeypatch.setattr(runner, "run", run)
    monkeypatch.setattr(preflight, "check_buildable", lambda recipe: 0)
    monkeypatch.setattr("etfhead.cli.commands._print_table", lambda out: print(f"table of {out}"))
    return calls, failure


@pytest.mark.parametrize(
    "argv",
    [
        ["quickstart", "epochs=3", "~arms.cosine", "--out", "o"],
        ["--out", "o", "quickstart", "epochs=3", "~arms.cosine"],
        ["quickstart", "--out", "o", "epochs=3", "~arms.cosine"],
        ["quickstart", "epochs=3", "--out", "o", "~arms.cosine"],
        ["quickstart", "epochs=2", "--out=o", "~arms.cosine", "--debug", "epochs=3"],
    ],
)
def test_overrides_stand_anywhere(call, recorded, argv):
    code, out, _ = call("run", *argv)
    ((recipe, folder, resume, overwrite),) = recorded[0]
    assert code == 0
    assert (recipe.epochs, list(recipe.arms), str(folder)) == (3, ["learnable", "etf"], "o")
    assert (resume, overwrite) == (False, False)
    assert out.splitlines() == ["table of o", f"report: {os.path.join('o', 'report.html')}"]


def test_run_flags_and_default_folder(call, recorded):
    assert call("run", "quickstart", "--smoke", "--resume")[0] == 0
    assert call("run", "quickstart", "--overwrite")[0] == 0
    (small, first, *flags), (_, second, *other) = recorded[0]
    assert (small.dataset, first, flags) == ("synthetic", Path("runs/quickstart-smoke"), [True, False])
    assert (second, other) == (Path("runs/quickstart"), [False, True])


def test_a_run_folder_goes_on_where_it_is(call, recorded, tmp_path):
    place = tmp_path / "elsewhere"
    place.mkdir()
    assert call("cp", "quickstart", str(place / "recipe.yaml"))[0] == 0
    (place / "env.json").write_text('{"etfhead": "0"}')
    assert call("run", str(place), "--resume")[0] == 0
    assert call("run", str(place / "recipe.yaml"), "--resume")[0] == 0
    assert call("run", str(place), "--resume", "--out", "o")[0] == 0
    assert call("run", str(place))[0] == 0
    assert call("run", str(place), "--overwrite")[0] == 0
    (place / "env.json").unlink()  # a recipe that merely has this name
    assert call("run", str(place / "recipe.yaml"), "--resume")[0] == 0
    named = recorded[0][-1][1]
    assert [folder for _, folder, *_ in recorded[0]] == [place, place, Path("o"), named, named, named]
    assert named.parent == Path("runs")


def test_the_home_of_an_attached_option(call, recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert call("run", "quickstart", "--out=~/o")[0] == 0
    assert recorded[0][0][1] == tmp_path / "o"


def test_only_the_first_of_several_processes_prints(call, recorded, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert call("run", "quickstart", "--out", "o")[:2] == (0, "")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_names_its_checkpoint_and_how_to_continue(call, recorded, signum, code):
    recorded[1].append(Interrupted(signum, "o p/arms/etf/seed0/state.pt"))
    argv = ["run", "quickstart", "epochs=3", "~arms.cosine", "--smoke", "--overwrite", "--out", "o p"]
    got, out, err = call(*argv)
    assert (got, out) == (code, "")
    assert "o p/arms/etf/seed0/state.pt" in err
    command = err.splitlines()[-1].removeprefix("continue with: ")
    assert command == "etfhead run quickstart epochs=3 '~arms.cosine' --smoke --out 'o p' --resume"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "o/last.safetensors"),
            ["o/last.safetensors", "No space"],
        ),
        (OSError(errno.ENOSPC, "No space left on device"), ["No space left on device"]),
        (PermissionError(errno.EACCES, "Permission denied", "o"), ["o: Permission denied"]),
        (
            ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"),
            ["'matplotlib'", "pip install"],
        ),
        (ValueError("first line\nsecond  line"), ["first line second line"]),
    ],
)
def test_what_the_user_can_mend_exits_2(error_line, recorded, failure, words):
    recorded[1].append(failure)
    line = error_line("run", "quickstart", "--out", "o")
    for word in words:
        assert word in line
    assert "unexpected" not in line


@pytest.mark.parametrize(
    "failure", [RuntimeError("broken\nbadly"), KeyError("x"), ModuleNotFoundError("no", name="etfhead.gone")]
)
def test_anything_else_exits_1_without_a_traceback(error_line, recorded, failure):
    recorded[1].append(failure)
    line = error_line("run", "quickstart", "--out", "o", code=1)
    assert f"unexpected {type(failure).__name__}" in line
    assert "--debug" in line


@pytest.mark.parametrize("argv", [["--debug", "run", "quickstart"], ["run", "quickstart", "--debug"]])
def test_debug_shows_the_traceback(call, recorded, argv):
    recorded[1].append(RuntimeError("broken"))
    code, _, err = call(*argv)
    assert code == 1
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1] == "etfhead: error: unexpected RuntimeError: broken"


def test_a_second_interrupt_is_quiet(call, recorded):
    recorded[1].append(KeyboardInterrupt())
    assert call("run", "quickstart") == (130, "", "etfhead: stopped\n")
