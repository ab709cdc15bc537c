"""What the stack is made of, and what it tells a worker; that it runs is tested with real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import LocalStack, StackError


def test_its_settings_name_each_part_and_no_other(tmp_path: Path) -> None:
    stack = LocalStack(tmp_path)
    assert [part.name for part in stack.parts] == ["broker", "s3", "mlflow"]
    for part in stack.parts:
        part.ports = part.choose_ports()
    stack.s3.directory.mkdir(parents=True)
    stack.s3.prepare()
    assert set(stack.settings()) == {"kafka", "s3", "mlflow"}


def test_a_stack_that_is_not_started_has_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="is not started"):
        LocalStack(tmp_path).settings()
