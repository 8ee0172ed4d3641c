"""Damage planted in every file of a run: told and mended, refused, or proven to change no number."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.folders import in_mid_run
from tests.faults.runs import CannotStart, call, compare, in_process, must, start, wait

__all__ = ["Verdict", "corrupt_export", "corrupt_resume", "interrupted_run"]

Damage = Callable[[bytes], bytes]

_SEED = Path("arms/etf/seed0")
_OTHER = Path("arms/learnable/seed0")
_FINISHED = ("last.safetensors", "best.safetensors", "result.json", "metrics.jsonl", "state.pt")
_OF_THE_RUN = ("recipe.yaml", "data.json", "env.json")


@dataclass(frozen=True)
class Verdict:
    """What became of one damage: ``mended``, ``refused``, ``harmless``, or ``MISSED`` and why."""

    file: str
    damage: str
    outcome: str
    why: str = ""


def interrupted_run(recipe: Path, whole: Path) -> Path:
    """A run stopped inside its second arm, with a newest checkpoint and the one before."""
    out = whole.with_name("interrupted")
    running = start(
        call(["run", recipe, "--out", out], before=_stop_in_the_second_arm, report=False),
        out.with_suffix(".log"),
    )
    must(wait(running), "a run stopped by SIGTERM", code=128 + signal.SIGTERM)
    present = {path.name for path in (out / _SEED).iterdir()}
    if missing := {"state.pt", "state.prev.pt", "metrics.jsonl"} - present:
        raise CannotStart(f"a run stopped by SIGTERM left no {sorted(missing)}")
    return out


def _stop_in_the_second_arm() -> None:
    in_mid_run(lambda: os.kill(os.getpid(), signal.SIGTERM))


def _damages(size: int, rng: random.Random, flips: int) -> list[tuple[str, Damage]]:
    cuts = sorted({0, 1, size // 3, size // 2, size - 64, size - 1} & set(range(size)))
    damages: list[tuple[str, Damage]] = [
        (f"cut to {cut} bytes", lambda data, cut=cut: data[:cut]) for cut in cuts
    ]
    bits = sorted(rng.sample(range(8 * size), flips))
    damages += [(f"bit {bit} flipped", lambda data, bit=bit: _flip(data, bit)) for bit in bits]
    damages.append(
        (
            "zeros in the middle",
            lambda data: (
                data[: size // 2] + bytes(min(512, size // 4)) + data[size // 2 + min(512, size // 4) :]
            ),
        )
    )
    return damages


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def corrupt_resume(
    recipe: Path, whole: Path, interrupted: Path, *, flips: int, seed: int, every: int = 1
) -> Iterator[Verdict]:
    """Plant each damage in a copy of a run, resume it, and judge.

    Args:
        recipe: Its file.
        whole: The uninterrupted run.
        interrupted: From :func:`interrupted_run`.
        flips: Single bits flipped at random offsets of each file.
        seed: Of the offsets.
        every: Take one of so many damages.
    """
    rng = random.Random(seed)
    plans: list[tuple[Path, str, str, Damage]] = []
    for base, folder, names in (
        (whole, _SEED, _FINISHED),
        (whole, Path(), _OF_THE_RUN),
        (interrupted, _SEED, ("state.pt", "state.prev.pt", "metrics.jsonl")),
        (interrupted, Path(), _OF_THE_RUN),
    ):
        for name in names:
            good = (base / folder / name).read_bytes()
            plans += [
                (base, str(folder / name), words, damage) for words, damage in _damages(len(good), rng, flips)
            ]
    for base, name in ((whole, "last.safetensors"), (whole, "best.safetensors"), (whole, "result.json"),
                       (whole, "metrics.jsonl"), (interrupted, "state.pt")):  # fmt: skip
        foreign = (whole / _OTHER / name).read_bytes()
        plans.append((base, str(_SEED / name), "another arm's", lambda data, foreign=foreign: foreign))
    for at, (base, name, words, damage) in enumerate(plans):
        if at % every == 0:
            yield _judge(recipe, whole, base, name, words, damage)
    if every == 1:
        yield _both_states(recipe, interrupted)


def _judge(recipe: Path, whole: Path, base: Path, name: str, words: str, damage: Damage) -> Verdict:
    out = whole.with_name("damaged")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(base, out)
    path = out / name
    path.write_bytes(damage(path.read_bytes()))
    shown = f"{name} ({'finished' if base == whole else 'interrupted'})"
    ended = in_process(call(["run", recipe, "--out", out, "--resume"], report=False), out.with_suffix(".log"))
    told = Path(name).name in ended.told
    if ended.code != 0:
        if ended.refused and told:
            return Verdict(shown, words, "refused", ended.told[-300:])
        return Verdict(shown, words, "MISSED", f"exit code {ended.code}: {ended.told[-300:]}")
    if wrong := compare(whole, out):
        return Verdict(shown, words, "MISSED", f"other numbers: {wrong}")
    return Verdict(shown, words, "mended" if told else "harmless")


def _both_states(recipe: Path, interrupted: Path) -> Verdict:
    """Both checkpoints damaged: nothing is trained over them."""
    out = interrupted.with_name("damaged")
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(interrupted, out)
    for name in ("state.pt", "state.prev.pt"):
        path = out / _SEED / name
        path.write_bytes(path.read_bytes()[:-100])
    ended = in_process(call(["run", recipe, "--out", out, "--resume"], report=False), out.with_suffix(".log"))
    good = ended.refused and "no usable checkpoint" in ended.told and "delete" in ended.told
    return Verdict(
        "state.pt and state.prev.pt", "both cut", "refused" if good else "MISSED", ended.told[-300:]
    )


def corrupt_export(whole: Path, *, flips: int, seed: int) -> Iterator[Verdict]:
    """Plant damage in what ``export`` and ``predict`` read: they refuse, or load the same model."""
    import torch

    from etfhead.experiment.export.choice import rank_models
    from etfhead.experiment.export.trained import TrainedModel, load_trained
    from etfhead.experiment.report.records import read_run

    def load(out: Path) -> TrainedModel:
        records = read_run(out)
        return load_trained(records, rank_models(records, arm="etf")[0])

    good = load(whole)
    rng = random.Random(seed)
    out = whole.with_name("damaged")
    for name in (str(_SEED / "best.safetensors"), str(_SEED / "result.json"), "data.json", "recipe.yaml"):
        for words, damage in _damages(len((whole / name).read_bytes()), rng, flips):
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(whole, out)
            (out / name).write_bytes(damage((out / name).read_bytes()))
            try:
                found = load(out)
            except ValueError as error:
                yield Verdict(f"{name} (export)", words, "refused", str(error))
                continue
            except Exception as error:
                yield Verdict(f"{name} (export)", words, "MISSED", f"{type(error).__name__}: {error}")
                continue
            theirs, mine = found.model.state_dict(), good.model.state_dict()
            same = theirs.keys() == mine.keys() and all(torch.equal(theirs[key], mine[key]) for key in mine)
            same &= (found.class_names, found.data_config) == (good.class_names, good.data_config)
            yield Verdict(
                f"{name} (export)",
                words,
                "harmless" if same else "MISSED",
                "" if same else "other weights or facts",
            )
