"""What the stack is made of, and what it tells a worker; that it runs is tested with real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.local import LocalStack, StackError
from deploy.local.ports import free_ports


def as_if_started(stack: LocalStack) -> LocalStack:
    for part in stack.parts:
        part.ports = dict(zip(part.port_names, free_ports(len(part.port_names)), strict=True))
    store = stack.part("s3")
    store.directory.mkdir(parents=True)
    store.prepare()
    return stack


def test_without_being_asked_it_runs_no_ollama(tmp_path: Path) -> None:
    stack = as_if_started(LocalStack(tmp_path))
    assert [part.name for part in stack.parts] == ["broker", "s3", "mlflow"]
    assert stack.endpoints.ollama_base is None
    assert "ollama" not in stack.settings()


def test_with_ollama_the_settings_lead_to_it(tmp_path: Path) -> None:
    stack = as_if_started(LocalStack(tmp_path, with_ollama=True))
    address = f"http://{stack.part('ollama').address}"
    assert stack.endpoints.ollama_base == address
    assert stack.settings()["ollama"] == {"api_base": address}


def test_a_stack_that_is_not_started_has_no_addresses(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="is not started"):
        LocalStack(tmp_path, with_ollama=True).settings()
