"""Names: what one may hold, what operating systems leave behind."""

import pytest

from histopipe.core.names import (
    escape_control_characters,
    has_control_characters,
    remove_control_characters,
    with_slashes,
)
from histopipe.core.system_files import is_leftover, leftovers_among

LEFT_BEHIND = [
    "__MACOSX/10253/0/._a.png",
    "10253/0/._a.png",
    "._a.png",
    ".DS_Store",
    "10253/.DS_Store",
    "Icon\r",
    "10253/Icon\r",
    "10253/Icon\uf00d",
    "Thumbs.db",
    "10253/THUMBS.DB",
    "Desktop.ini",
    "ehthumbs.db",
    "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg",
    "10253/@eaDir/a.png@SynoEAStream",
    "$RECYCLE.BIN/S-1-5-21/$R1.png",
    "System Volume Information/IndexerVolumeGuid",
    ".Spotlight-V100/Store-V2/a",
    ".Trashes/501/a.png",
    ".fseventsd/0000",
    ".Trash-1000/files/a.png",
    ".AppleDouble/a.png",
    "10253/.directory",
    ".~lock.labels.csv#",
    "~$labels.xlsx",
    "10253/0/a.png:Zone.Identifier",
    "lost+found/a.png",
]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_operating_systems_leave_behind_is_known(name: str) -> None:
    assert is_leftover(name)
    assert is_leftover(f"wrapper/{name}")


PUT_THERE = ["a.png", "10253/0/a.png", ".a.png", "Icon.png", "icons/Icon", "thumbs/a.png", "é/@a:b.png", "", "."]


@pytest.mark.parametrize("name", PUT_THERE)
def test_what_somebody_put_there_is_not_taken_for_it(name: str) -> None:
    assert not is_leftover(name)


def test_all_names_of_an_archive_are_judged_like_each_by_itself() -> None:
    assert leftovers_among([*LEFT_BEHIND, *PUT_THERE]) == set(LEFT_BEHIND)


@pytest.mark.parametrize(
    "character", ["\0", "\n", "\r", "\t", "\x1b", "\x7f", "\x85", "\u2028", "\u2029", "\u202e", "\u2066"]
)
def test_a_name_holds_no_control_character(character: str) -> None:
    assert has_control_characters(f"a{character}b")
    assert remove_control_characters(f"a{character}b") == "ab"
    assert escape_control_characters(f"a{character}b").isprintable()


def test_other_letters_are_names() -> None:
    for name in ("größe 3.png", "患者/1.png", "a|b", "a\u00a0b", "e\u0301"):
        assert not has_control_characters(name)
        assert remove_control_characters(name) == name
        assert escape_control_characters(name) == name
    assert escape_control_characters("\udcff.png") == "\\udcff.png"


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("10253\\0\\a.png", "10253/0/a.png"),
        ("10253\\0\\", "10253/0/"),
        ("a/b\\c.png", "a/b/c.png"),
        ("..\\a.png", "..\\a.png"),
        ("a\\..\\..\\b.png", "a\\..\\..\\b.png"),
        ("C:\\a.png", "C:\\a.png"),
        ("\\\\server\\a.png", "\\\\server\\a.png"),
    ],
)
def test_backslashes_separate_folders_unless_they_lead_out(name: str, read: str) -> None:
    assert with_slashes(name) == read
