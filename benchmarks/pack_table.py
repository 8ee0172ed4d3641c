"""Pack a table with several numeric targets into one file for `dataset: regression_npz`.

python -m benchmarks.pack_table wq.arff --targets 14 --out wq.npz
python -m benchmarks.pack_table hopper.npz --x obs --y act --group episode --out hopper_table.npz

ARFF: the last TARGETS attributes are the targets, as in the multi-target sets of MULAN; every attribute has
to be numeric. NPZ: the arrays named by --x and --y. With --group the last group is the test split and the
last fifth of each other group, in its order, is validation: steps of one trajectory resemble their
neighbours, and a drawn split would test on near copies of training samples. Without it the split is left to
the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, Any]


def read_arff(path: Path, targets: int) -> Arrays:
    """Inputs, targets and target names of an ARFF file."""
    from scipy.io import arff

    rows, meta = arff.loadarff(path)
    names = meta.names()
    if other := [name for name, kind in zip(names, meta.types(), strict=True) if kind != "numeric"]:
        raise SystemExit(f"{path}: {', '.join(other[:5])}: not numeric; code categories as numbers first")
    if not 0 < targets < len(names):
        raise SystemExit(f"{path}: {len(names)} attributes cannot end with {targets} targets")
    table = np.stack([rows[name] for name in names], axis=1).astype(np.float64)
    return {"x": table[:, :-targets], "y": table[:, -targets:], "target_names": np.array(names[-targets:])}


def read_npz(path: Path, x: str, y: str) -> Arrays:
    """Inputs and targets of a NumPy archive."""
    with np.load(path, allow_pickle=False) as archive:
        if missing := [name for name in (x, y) if name not in archive.files]:
            raise SystemExit(f"{path} lacks {', '.join(missing)}; it has {', '.join(archive.files)}")
        inputs, targets = archive[x], archive[y].reshape(len(archive[x]), -1)
    names = np.array([f"{y} {k}" for k in range(targets.shape[1])])
    return {"x": inputs, "y": targets, "target_names": names}


def split_by_group(groups: np.ndarray) -> np.ndarray:
    """train, val or test for each row.

    >>> split_by_group(np.repeat([4, 7], 5)).tolist()
    ['train', 'train', 'train', 'train', 'val', 'test', 'test', 'test', 'test', 'test']
    """
    split = np.full(len(groups), "train", dtype="<U5")
    *others, last = np.unique(groups)
    if not others:
        raise SystemExit("--group: expected at least two groups, one of them to test on")
    for group in others:
        rows = np.flatnonzero(groups == group)
        split[rows[len(rows) - max(1, len(rows) // 5) :]] = "val"
    split[groups == last] = "test"
    return split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--targets", type=int, help="ARFF: how many of the last columns are targets")
    parser.add_argument("--x", help="NPZ: array of inputs (N, D)")
    parser.add_argument("--y", help="NPZ: array of targets (N, n)")
    parser.add_argument("--group", help="NPZ: array (N,) of what must not be split, such as trajectories")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.file.suffix == ".arff":
        if args.targets is None or args.group:
            raise SystemExit("ARFF needs --targets and has no --group")
        arrays = read_arff(args.file, args.targets)
    else:
        if args.x is None or args.y is None:
            raise SystemExit("NPZ needs --x and --y")
        arrays = read_npz(args.file, args.x, args.y)
        if args.group:
            with np.load(args.file, allow_pickle=False) as archive:
                arrays["split"] = split_by_group(archive[args.group])
    np.savez_compressed(args.out, **arrays)
    rows, columns = arrays["x"].shape
    print(f"wrote {args.out}: {rows} rows, {columns} inputs, {arrays['y'].shape[1]} targets")


if __name__ == "__main__":
    main()
