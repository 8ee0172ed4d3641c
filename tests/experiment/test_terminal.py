from etfhead.experiment.data.readable import summarize_unreadable
from etfhead.experiment.terminal import printable, shown

CLEAR = "\x1b[2J\x1b]0;mine\x07\x9b31m\u202e"


def test_no_control_character_is_left():
    for text in (shown(CLEAR), printable(CLEAR)):
        assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in text)
    assert shown(CLEAR).isprintable()


def test_plain_text_is_left_alone():
    text = "Ährenfeld 猫 ±3.5 % \U0001f600"
    assert shown(text) == printable(text) == text
    assert printable("a\n\tb\n") == "a\n\tb\n"
    assert shown("a\nb\udcff") == "a\\nb\\udcff"


def test_names_of_unreadable_files_are_told():
    told = summarize_unreadable({"cat/\x1b[2J.png": "OSError: \x1b[1m"}, 3)
    assert told == r"1 of 3 image files cannot be decoded: cat/\x1b[2J.png (OSError: \x1b[1m)"
