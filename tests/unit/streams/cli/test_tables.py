"""Tables keep every cell whole, however narrow the terminal is."""

from __future__ import annotations

import pytest

from streams.cli.tables import show

HEADINGS = ("name", "versions", "task", "source")
ADDRESS = "physical://local/smollm2-135m-instruct"
ROW = ("smollm2-135m-instruct", "[1], 2", "text-generation", ADDRESS)


def shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    show(HEADINGS, [ROW])
    return capsys.readouterr().out.splitlines()


def test_where_no_terminal_bounds_it_a_row_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert [line.split() for line in shown(capsys) if ADDRESS in line] == [
        ["smollm2-135m-instruct", "[1],", "2", "text-generation", ADDRESS]
    ]


@pytest.mark.parametrize("columns", [50, 60])
def test_in_a_narrow_terminal_each_cell_has_its_line(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = [line.strip().split(maxsplit=1) for line in shown(capsys)]
    assert lines == [[ROW[0]], ["versions", "[1], 2"], ["task", ROW[2]], ["source", ADDRESS]]
