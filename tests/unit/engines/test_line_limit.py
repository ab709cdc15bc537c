"""Lines of a kind are bounded in a time; the others are counted, and taken once."""

from __future__ import annotations

from engines.log_context import LineLimit


def test_so_many_lines_of_a_kind_in_a_time_and_the_others_are_counted() -> None:
    now = [0.0]
    limit = LineLimit(2, 1.0, clock=lambda: now[0])
    assert [limit.allows("a") for _ in range(5)] == [True, True, False, False, False]
    assert limit.allows("b")
    assert limit.take_left_out() == {"a": 3}
    assert limit.take_left_out() == {}
    now[0] = 1.0
    assert limit.allows("a")
