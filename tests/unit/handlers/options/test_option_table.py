"""The table of options for people: complete, and the committed page is the one the code makes."""

from __future__ import annotations

from pathlib import Path

from handlers.options.options import OPTIONS, options_page

PAGE = Path(__file__).parents[4] / "docs" / "options.md"


def test_the_committed_page_is_what_the_table_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == options_page(), "run: inferstream options --markdown > docs/options.md"


def test_every_option_has_a_row_with_a_cell_in_each_column() -> None:
    _, rule, *rows = (line for line in options_page().splitlines() if line.startswith("|"))
    assert [row.split("`")[1] for row in rows] == list(OPTIONS)
    assert {row.count(" | ") for row in rows} == {rule.count(" | ")}


def test_a_row_says_what_an_engine_calls_the_option_and_what_it_takes() -> None:
    (row,) = (line for line in options_page().splitlines() if "`max_new_tokens`" in line)
    assert "(ollama: `num_predict`)" in row
    assert "an integer from 1 to limits.max_tokens" in row
    assert "text-generation, vlm" in row
