"""Finished runs, trained once: digits with heads that fold and heads that do not, and label sets."""

import dataclasses

import pytest

from etfhead.experiment import runner
from etfhead.experiment.recipe import Arm, Recipe
from etfhead.experiment.report.records import read_run

ARMS = {
    "learnable": Arm(head="linear"),
    "etf": Arm(head="etf", basis="haar"),
    "cosine": Arm(head="cosine"),
    "class_mean": Arm(head="class_mean"),
    "posthoc": Arm(head="linear", posthoc=1.0),
    "posthoc_cosine": Arm(head="cosine", posthoc=1.0),
}
# Every head, and what can become of it in an export.
HEADS = {
    "learnable": Arm(head="linear"),
    "learnable_posthoc": Arm(head="linear", posthoc=1.0),
    "etf_haar": Arm(head="etf", basis="haar"),
    "etf_hadamard": Arm(head="etf", basis="hadamard"),
    "etf_without_neck": Arm(head="etf", neck="none"),
    "etf_low_rank": Arm(head="etf", low_rank=2),
    "etf_posthoc": Arm(head="etf", posthoc=1.0),
    "etf_normalize": Arm(head="etf", normalize=True),
    "orthoplex": Arm(head="etf", frame="orthoplex"),
    "cosine": Arm(head="cosine"),
    "class_mean": Arm(head="class_mean"),
    "class_mean_posthoc": Arm(head="class_mean", posthoc=1.0),
    "delta": Arm(head="delta"),
    "guided": Arm(head="guided"),
}
LABEL_ARMS = {
    "etf": Arm(head="multilabel_etf", loss="pick_all_label", decode="nearest"),
    "learnable": Arm(head="linear", loss="binary_cross_entropy"),
}


def _run(recipe, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("etfhead.experiment.report.write_report", lambda out: out)
        return runner.run(recipe, out)


def _digits(**changes):
    recipe = Recipe(
        name="digits-test",
        description="two | epochs <script>",
        model="test_resnet",
        img_size=16,
        in_chans=1,
        dataset="digits",
        val_fraction=0.05,
        train_limit=300,
        batch_size=50,
        epochs=2,
        lr=1e-2,
        cpu=True,
        collapse_every=0,
        seeds=(0, 1),
        arms=ARMS,
        baseline="learnable",
    )
    return dataclasses.replace(recipe, **changes)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A run folder: six arms, two seeds, and a description that is markup."""
    return _run(_digits(), tmp_path_factory.mktemp("digits") / "run")


@pytest.fixture(scope="session")
def heads(tmp_path_factory):
    """A run folder: an arm of every head, one seed."""
    return _run(_digits(seeds=(0,), arms=HEADS), tmp_path_factory.mktemp("heads") / "run")


@pytest.fixture(scope="session")
def label_sets(tmp_path_factory):
    """A run folder on generated images with several labels each."""
    recipe = Recipe(
        name="labels-test",
        model="test_resnet",
        img_size=16,
        dataset="multilabel_synthetic",
        batch_size=40,
        epochs=2,
        lr=3e-3,
        cpu=True,
        seeds=(0,),
        arms=LABEL_ARMS,
        baseline="learnable",
    )
    return _run(recipe, tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture
def records(digits):
    return read_run(digits)


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory):
    """The test part of the digits as PNG files, and the class of each."""
    from PIL import Image

    from etfhead.experiment.data.digits import read_digits

    folder, test = tmp_path_factory.mktemp("images"), read_digits().test
    files = [folder / f"{place:03d}.png" for place in range(len(test))]
    for file, pixels in zip(files, test.pixels, strict=True):
        Image.fromarray(pixels).save(file)
    return files, [str(label) for label in test.labels.tolist()]
