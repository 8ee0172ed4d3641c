"""What the pages say is what the package does and what the result files hold; every link leads somewhere."""

import json
import re

import pytest

from benchmarks import readme
from etfhead.experiment.schema import list_recipes
from tests.doc_pages import NAMES, ROOT, prose

TEXT = (ROOT / "README.md").read_text()
INDEX = (ROOT / "docs" / "README.md").read_text()
LINKING = [*NAMES, "CHANGELOG.md"]
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
RECIPES = list_recipes()


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda path: path.name)
def test_tables_are_those_of_the_result_files(page):
    text = page.read_text()
    assert readme.filled(text) == text, "run python -m benchmarks.readme"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_carry_their_machine(path):
    content = json.loads(path.read_text())
    assert content["results"]
    metadata = content["metadata"]
    assert {"torch", "python", "etfhead"} <= set(json.dumps(metadata).replace('"', " ").split())
    assert "/root" not in json.dumps(content)


def test_every_shipped_recipe_named_in_the_text_exists():
    shipped = {recipe.name for recipe in RECIPES}
    assert set(re.findall(r"etfhead (?:run|cp|show) (\w+)", TEXT)) - {"mine"} <= shipped


def test_the_first_page_stays_short():
    assert TEXT.count("\n") <= 300


# Where the README gives a figure in its text: result, arm, key, digits.
FIGURES = {
    "98.3 % learnable": ("quickstart", "learnable", "test_top1_best"),
    "98.5 % fixed": ("quickstart", "etf", "test_top1_best"),
    "70.3 % learnable": ("fine_tune", "learnable", "test_top1_best"),
    "77.8 % with the simplex": ("fine_tune", "etf_aligned", "test_top1_best"),
    "same start has 77.3 %": ("fine_tune", "learnable_aligned", "test_top1_best"),
    "23.5 % learnable": ("few_classes_photos", "learnable", "test_top1_best"),
    "23.3 % delta rule": ("few_classes_photos", "delta", "test_top1_best"),
    "21.0 % a fixed simplex": ("few_classes_photos", "etf", "test_top1_best"),
    "16.9 % one turned": ("few_classes_photos", "guided", "test_top1_best"),
    "99.4 % learnable": ("many_classes", "learnable", "test_top1_best"),
    "99.7 % delta rule": ("many_classes", "delta_code", "test_top1_best"),
    "97.2 % a fixed code": ("many_classes", "code", "test_top1_best"),
    "25.9 % fixed vectors": ("many_classes", "union", "test_top1_best"),
    "17.1 % learnable": ("many_classes_photos", "learnable", "test_top1_best"),
    "17.2 % delta rule": ("many_classes_photos", "delta", "test_top1_best"),
    "13.3 % class means": ("many_classes_photos", "class_mean", "test_top1_best"),
    "9.7 % fixed vectors": ("many_classes_photos", "union", "test_top1_best"),
    "97.7 % exact match": ("multilabel_digits", "etf_pal", "test_exact_match_best"),
    "97.9 % learnable": ("multilabel_digits", "learnable_bce", "test_exact_match_best"),
    "simplex has 49.7 mAP": ("multilabel_real", "etf_pal", "test_map_best"),
    "same neck 42.6": ("multilabel_real", "learnable_bn_pal", "test_map_best"),
    "(ASL) 50.8": ("multilabel_real", "learnable_asl", "test_map_best"),
}


@pytest.mark.parametrize("words", FIGURES)
def test_figures_in_the_text_are_those_of_the_result_files(words):
    name, arm, key = FIGURES[words]
    content = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    mean = content["results"]["arms"][arm]["figures"][key]["mean"]
    said = re.search(r"\d+\.\d", words)[0]
    assert abs(mean - float(said)) <= 0.0501
    assert words in " ".join(TEXT.split())


def test_costs_in_the_text_are_those_of_the_tables():
    costs = TEXT[TEXT.index("## What it costs") : TEXT.index("## More")]
    said = re.findall(r"[\d,.]*\d(?= ms\b| MB\b| and [\d.]+ times| times)", costs)
    table = set(re.findall(r"[\d,.]*\d", (ROOT / "docs" / "costs.md").read_text()))
    assert len(said) == 30
    assert set(said) <= table


def links(page):
    """Targets of a page's links inside the repository: path, and anchor or nothing."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target.partition("#")[::2] for target in found if "://" not in target]


def anchors(page):
    """Anchors of a page's headings, as GitHub and most renderers make them."""
    seen = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        assert name not in seen, f"{page}: two headings {heading!r}"
        seen.add(name)
    return seen


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
    for path, anchor in links(page):
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), path
        assert target.is_relative_to(ROOT), path
        if anchor:
            assert anchor in anchors(target.relative_to(ROOT).as_posix()), f"{path}#{anchor}"


def test_every_page_is_reached_from_the_start():
    reached, ahead = set(), ["docs/README.md"]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            targets = [
                ((ROOT / page).parent / path).resolve() for path, _ in links(page) if path.endswith(".md")
            ]
            ahead += [target.relative_to(ROOT).as_posix() for target in targets]
    assert set(NAMES) <= reached
    assert ("docs/README.md", "") in links("README.md")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_start_lists_every_recipe_as_it_is(recipe):
    facts = [recipe.description, f"`{recipe.dataset}`", recipe.takes]
    start = " | ".join([f"| [`{recipe.name}`](../etfhead/recipes/{recipe.name}.yaml)", *facts, ""])
    (row,) = (line for line in INDEX.splitlines() if line.startswith(f"| [`{recipe.name}`]"))
    assert row.startswith(start), f"expected {start}"
    files = re.findall(r"results/(\w+)\.json", row)
    if (ROOT / "benchmarks" / "results" / f"{recipe.name}.json").is_file():
        assert files == [recipe.name]
    if files:
        page = re.search(r"\[table\]\(([\w./]+)", row)[1]
        shown = set(re.findall(r"<!-- results: (\w+)", (ROOT / "docs" / page).read_text()))
        assert set(files) <= shown
    else:
        assert "not yet measured" in row


def test_the_start_lists_every_result():
    listed = re.findall(r"results/(\w+)\.json\)", INDEX)
    assert sorted(listed) == [path.stem for path in RESULTS]
