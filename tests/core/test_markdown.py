"""Text from data in Markdown, read back by an independent parser."""

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from medseg.core.markdown import plain, table

PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
HOSTILE = "".join("\\`*_[]()|~<>&!#-+.:/ \n\tab1")


@given(st.text(alphabet=HOSTILE, max_size=30) | st.text(max_size=30))
def test_text_comes_back_as_one_line_without_mark_up(text: str) -> None:
    # No control characters: HTML has none, so the parser replaces NUL.
    text = "".join(character for character in text if character.isprintable() or character.isspace())
    rendered = PARSER.render(f"a{plain(text)}z").strip()
    assert rendered.startswith("<p>a")
    inner = rendered.removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inner
    assert unescape(inner) == "a" + " ".join(text.split()) + "z"


@given(st.lists(st.text(alphabet=HOSTILE, max_size=12), min_size=4, max_size=4))
def test_cells_stay_in_their_cells(cells: list[str]) -> None:
    rendered = PARSER.render(table(["x", "y"], [[plain(cell) for cell in cells[:2]], [plain(c) for c in cells[2:]]]))
    assert rendered.count("<td") == 4
    assert "<a" not in rendered


@given(st.lists(st.text(alphabet="|a1", max_size=12), min_size=4, max_size=4))
def test_a_bar_never_parts_a_cell(cells: list[str]) -> None:
    rendered = PARSER.render(table(["x", "|"], [cells[:2], cells[2:]]))
    assert rendered.count("<td") == 4
    assert rendered.count("|") == "".join(cells).count("|") + 1


def test_a_bar_is_escaped_once() -> None:
    assert table(["a|b"], [["a|b"], [plain("a|b")]]).splitlines()[::2] == ["| a\\|b |"] * 2


def test_a_table_by_hand() -> None:
    assert table(["run", "Dice"], [["a", "0.5"]]) == "| run | Dice |\n| --- | ---: |\n| a | 0.5 |"


def test_columns_of_numbers_can_be_named_and_all_others_are_words() -> None:
    assert table(["run", "Dice", "on"], [], numbers=["Dice"]).splitlines()[1] == "| --- | ---: | --- |"
    assert table(["part", "what it is"], [], numbers=()).splitlines()[1] == "| --- | --- |"


def test_the_first_column_is_words_even_if_another_has_its_name() -> None:
    assert table(["run", "run"], []).splitlines()[1] == "| --- | ---: |"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a|b", "a\\|b"), ("<b>x", "&lt;b>x"), ("R&D", "R&amp;D"), ("two\nlines", "two lines"), (0.5, "0.5")],
)
def test_what_is_escaped(text: object, expected: str) -> None:
    assert plain(text) == expected
