"""One local stack for the whole run of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import LocalStack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def local_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A running broker, S3 store and MLflow server, shared: use topics, keys and model names of your own.

    A test that stops a part starts it again before it ends.
    """
    with LocalStack(tmp_path_factory.mktemp("stack")) as stack:
        yield stack
