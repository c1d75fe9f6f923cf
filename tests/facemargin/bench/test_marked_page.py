"""Blocks of a page that a program fills: nothing outside of them changes."""

from pathlib import Path

import pytest

from facemargin.bench.marked_page import fill, markdown_table
from facemargin.errors import ConfigError

PAGE = "# Title\n\n<!-- measured a -->\nold\n<!-- end a -->\n\ntext\n<!-- measured b -->\n<!-- end b -->\n"


def test_a_block_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    fill(page, "a", "\nnew \\1 text\n\n")
    fill(page, "b", "more")
    expected = PAGE.replace("old", "new \\1 text").replace("measured b -->\n", "measured b -->\nmore\n")
    assert page.read_text() == expected
    fill(page, "a", "old")
    fill(page, "b", "more")
    assert page.read_text() == expected.replace("new \\1 text", "old")


@pytest.mark.parametrize("content", ["", PAGE + PAGE, PAGE.replace("end a", "end c")])
def test_a_page_without_exactly_one_such_block_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(content)
    with pytest.raises(ConfigError, match="must have one block from '<!-- measured a -->'"):
        fill(page, "a", "new")
    assert page.read_text() == content


def test_a_page_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        fill(tmp_path / "none.md", "a", "new")


def test_a_table_has_a_rule_and_a_line_for_each_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---:|\n| 1 | 2 |"
