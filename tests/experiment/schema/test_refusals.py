"""What each refusal of a recipe file says: file, line, key, expected and got."""

import pytest


@pytest.mark.parametrize(
    ("extra", "line", "words"),
    [
        ("epoch: 3\n", 12, ["unknown key 'epoch'", "did you mean 'epochs'?"]),
        ("epochs: 3\n", 12, ["'epochs' is repeated", "line 5"]),
        ("lr: fast\n", 12, ["lr: expected a number", 'got the text "fast"']),
        ("lr: true\n", 12, ["lr: expected a number", "got true"]),
        ("lr: -1\n", 12, ["lr: expected a number > 0", "got -1"]),
        ("lr:\n", 12, ["lr: expected a number", "got nothing"]),
        ("batch_size: 3.5\n", 12, ["batch_size: expected an integer", "got the number 3.5"]),
        ("no_aug: 1\n", 12, ["no_aug: expected true or false", "got the number 1"]),
        ("cpu: maybe\n", 12, ["cpu: expected true or false", 'got the text "maybe"']),
        ("opt: 7\n", 12, ["opt: expected text", "got the number 7", 'in quotes: "7"']),
        (
            "interpolation: bicubik\n",
            12,
            ["expected bilinear, bicubic or nearest", "did you mean 'bicubic'?"],
        ),
        ("seeds: 3\n", 12, ["seeds: expected a list such as [0, 1, 2]", "the number 3; write [3]"]),
        ("seeds:\n  - 0\n  - x\n", 12, ["seeds: expected an integer", 'got the text "x"']),
        ("scale: [0.1, 0.2, 0.3]\n", 12, ["scale: expected a list of 2 numbers", "[0.1, 0.2, 0.3]"]),
        ("model_kwargs: 3\n", 12, ["model_kwargs: expected a mapping"]),
        ("train_limit: lots\n", 12, ["train_limit: expected an integer or null", 'the text "lots"']),
        ("mean: [0.5]\nstd: [0.5]\n", 12, ["mean: expected 3 number(s)", "got 1"]),
        (
            "warmup_epochs: 2\n",
            12,
            ["warmup_epochs: expected fewer than epochs (2), got 2; pass warmup_epochs=0 too"],
        ),
        ("lr: {a: 1}\n", 12, ["lr: expected a number", "got the mapping"]),
        ("mixup: .nan\n", 12, ["mixup: expected a number >= 0", "got nan"]),
        ("mixup: .Inf\n", 12, ["mixup: expected a number >= 0", "got inf"]),
        (f"lr: {10**400}\n", 12, ["lr: expected a number below 1e308"]),
        (f"train_limit: {10**400}\n", 12, ["train_limit: expected a number below 2^63"]),
        (f"train_limit: {2**63}\n", 12, ["train_limit: expected a number below 2^63"]),
        ('lr: "a\\nb\\e[31m"\n', 12, [r'got the text "a\nb\x1b[31m"']),
    ],
)
def test_refusals_name_file_line_key_expected_and_got(refusal, extra, line, words):
    message = refusal(extra)
    assert f"my.yaml, line {line}: " in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("basis", "bases", 10, ["unknown key 'bases' in arm 'etf'", "did you mean 'basis'?"]),
        ("haar", "har", 10, ["arms.etf.basis: expected identity, hadamard or haar", "did you mean 'haar'?"]),
        (
            "{head: linear}",
            "{head: linear, scale: 2}",
            7,
            ["arms.learnable.scale: head: linear has no such option"],
        ),
        ("{head: linear}", "{head: lienar}", 7, ["arms.learnable.head", "did you mean 'linear'?"]),
        ("{head: linear}", "linear", 7, ["arms.learnable: expected options such as {head: etf}"]),
        ("  etf:", "  my etf:", 8, ["arms.my etf: an arm's name is letters"]),
        (
            "baseline: learnable",
            "baseline: cosine",
            11,
            ["baseline: expected the name of an arm (learnable, etf)"],
        ),
        ("dataset: digits", "dataset: mnist", 4, ["dataset: expected digits"]),
    ],
)
def test_refusals_inside_arms(refusal, minimal, old, new, line, words):
    message = refusal(text=minimal.replace(old, new))
    assert f"my.yaml, line {line}: " in message
    for word in words:
        assert word in message


def test_missing_keys_are_listed_with_what_they_mean(refusal):
    message = refusal(text="name: tiny\n")
    for key in ("model", "img_size", "dataset", "epochs", "arms", "baseline"):
        assert f"'{key}'" in message
    assert "passes over the training images" in message


@pytest.mark.parametrize(
    "tag",
    ["!!python/object/apply:os.system", "!!python/name:os.system", "!!python/object/new:os.system", "!own"],
)
@pytest.mark.parametrize("key", ["description: ", "model_kwargs: {x: ", "seeds: [0, "])
def test_objects_are_refused_and_never_executed(refusal, tmp_path, tag, key):
    marker = tmp_path / "executed"
    closing = {"{": "}", "[": "]"}.get(key.strip(" x:0,")[-1:], "")
    message = refusal(f"{key}{tag} ['touch {marker}']{closing}\n")
    assert not marker.exists()
    assert "line 12" in message
    assert "is refused" in message or "not YAML" in message
    assert not marker.exists()


def test_objects_in_keys_are_refused(refusal):
    assert "refused" in refusal("!!python/name:os.system x: 3\n")


def test_objects_in_overrides_are_refused(refusal, tmp_path):
    marker = tmp_path / "executed"
    message = refusal("", f"description=!!python/object/apply:os.system ['touch {marker}']")
    assert not marker.exists()
    assert "override" in message
    assert "refused" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got nothing"),
        ("- a\n- b\n", "key: value"),
        ("just text", "key: value"),
        ("a: [1, 2\n", "not YAML"),
        ("a: 1\n\tb: 2\n", "line 2"),
        ("a: 1\n---\nb: 2\n", "not YAML"),
        ("a: \x00\n", "not YAML"),
        (b"name: \xff\xfe\xff\n", "UTF-8"),
        ("a: &x 1\nb: *x\n", "line 1: anchors and aliases"),
        ("? [a, b]\n: 1\n", "a key is one word"),
        ("a: " + "[" * 2000 + "]" * 2000, "nested too deeply"),
        ("a: " + "[" * 30 + "]" * 30, "nested too deeply"),
        ("# " + "x" * (1 << 20), "larger than 1 MB"),
        ("arms: [etf]\n", "arms: expected a mapping from names"),
    ],
)
def test_what_is_not_a_recipe(refusal, text, words):
    assert words in refusal(text=text)
