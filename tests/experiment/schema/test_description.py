import pytest

from etfhead.experiment.schema import load_recipe, smoke

NAME, TEXT = "quickstart", "learnable, cosine and fixed ETF head on handwritten digits"


@pytest.mark.parametrize(("overrides", "description"), [
    ([], TEXT),
    (["epochs=3", "lr=0.1", "arms.etf.basis=haar"], TEXT),
    (["dataset=digits", "model=test_resnet"], TEXT),
    (["dataset=image_folder", "data_root=/home/ann/photos"], f"{NAME}, with dataset=image_folder"),
    (["model=resnet18"], f"{NAME}, with model=resnet18"),
    (["model=resnet18", "dataset=npz", "data_root=x.npz", "name=mine"],
     "mine, with dataset=npz, model=resnet18"),
    (["dataset=npz", "data_root=x.npz", "description=cats and dogs"], "cats and dogs"),
    (["dataset=npz", "~description"], ""),
])  # fmt: skip
def test_a_description_holds_for_the_data_and_model_it_was_written_for(overrides, description):
    assert load_recipe(NAME, overrides).description == description


def test_the_path_is_the_data_where_nothing_else_names_them():
    assert (
        load_recipe("long_tail_real", ["data_root=my.npz"]).description == "long_tail_real, with dataset=npz"
    )
    places = load_recipe("fashion_mnist", ["data_root=elsewhere"])
    assert places.description == load_recipe("fashion_mnist").description


def test_what_a_copy_says_stays_true(load):
    copy = "description: copied from quickstart\n"
    assert load(copy, "dataset=npz").description == "copied from quickstart, with dataset=npz"
    assert load(copy, "lr=0.1").description == "copied from quickstart"
    assert load("", "dataset=npz").description == ""


def test_a_smoke_run_does_not_claim_the_data_of_its_recipe():
    assert smoke(load_recipe(NAME)).description == "smoke run of quickstart: a tiny model on generated data"


def test_a_smoke_run_of_a_smoke_run_is_the_same():
    assert smoke(smoke(load_recipe(NAME))) == smoke(load_recipe(NAME))


def test_another_model_after_another_model_stands_alone(load):
    copy = "description: copied from quickstart, with model=resnet18\n"
    assert load(copy, "model=resnet50").description == "copied from quickstart, with model=resnet50"
