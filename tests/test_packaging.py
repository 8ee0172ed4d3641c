"""The lock that CI installs from: whole, by hash, within pyproject.toml's ranges, and of no one machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What each lock installs: extras of pyproject.toml, and a list of its own.
LOCKS = {
    "ci": (("dev",), "build.in"),
    "slow": (("dev", "onnx", "lightning"), "build.in"),
    "tools": (None, "tools.in"),
}
_PIN = re.compile(
    r"(?P<requirement>[a-z0-9.-]+==[^ ;]+(?: ; [^\\]+)?)"
    r"(?P<hashes>(?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def pins(text: str) -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for match in _PIN.finditer(text):
        requirement = Requirement(match["requirement"].strip())
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    return Version(specifier.version)


def wanted(name: str) -> list[Requirement]:
    extras, file = LOCKS[name]
    lines = (ROOT / "requirements" / file).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    if extras is not None:
        project = PROJECT["project"]
        lines += project["dependencies"]
        lines += [line for extra in extras for line in project["optional-dependencies"][extra]]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_pins_one_version_by_hash(name):
    text = lock(name)
    rest = _PIN.sub("", text)
    assert all(line.startswith(("#", "    #")) for line in rest.splitlines()), rest[:500]
    assert len(pins(text)) > 10
    for each in pins(text).values():
        assert all(specifier.operator == "==" for pin in each for specifier in pin.specifier)
        # Two versions of a package are for different Pythons or systems.
        assert len(each) == 1 or all(pin.marker is not None for pin in each)


@pytest.mark.parametrize("name", LOCKS)
def test_it_holds_all_that_is_asked_for_within_the_ranges(name):
    found = pins(lock(name))
    for requirement in wanted(name):
        each = found.get(canonicalize_name(requirement.name))
        assert each, f"{requirement.name} is not in requirements/{name}.txt: run `make lock`"
        for pin in each:
            told = f"{pin} is not within {requirement}: run `make lock`"
            assert requirement.specifier.contains(version(pin), prereleases=True), told


@pytest.mark.parametrize("name", LOCKS)
def test_it_names_no_machine(name):
    text = re.sub(r"-[cr] requirements/[a-z]+\.(?:txt|in)$", "", lock(name), flags=re.MULTILINE)
    found = re.search(r"/|@|--(?:index|extra|find|trusted)|\.whl|-[cr] .*", text)
    assert found is None, found


def test_both_runs_of_the_tests_see_the_same_versions():
    small, large = pins(lock("ci")), pins(lock("slow"))
    assert {name: set(map(str, each)) for name, each in small.items()}.items() <= {
        name: set(map(str, each)) for name, each in large.items()
    }.items()


def test_the_build_backend_is_in_the_lock():
    # CI builds without isolation, or pip would fetch an unpinned backend.
    for line in PROJECT["build-system"]["requires"]:
        requirement = Requirement(line)
        (pin,) = pins(lock("ci"))[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version(pin))


def test_the_extra_for_hugging_face_is_what_the_tests_use():
    extras = PROJECT["project"]["optional-dependencies"]
    assert set(extras["hf"]) <= set(extras["dev"])


def test_ci_installs_from_the_lock():
    assert "make test LOCKED=1" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
