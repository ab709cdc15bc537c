"""What a running benchmark has at hand: the servers, models, a folder of its own, and a bar to move."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy.local import KafkaRelease, LocalStack, PartStatus
from deploy.models import CATALOGUE, prepare
from engines.config.settings import CacheSettings, MlflowSettings
from engines.models.model_manager import ModelManager
from tests.integration.worker_process import Site

Report = Callable[[str, float], None]
"""Hears what is being done now, and how much of the whole is done by then, 0 to 1."""


class Bench:
    """The servers that all benchmarks of one run share, started when the first one asks for them."""

    def __init__(
        self,
        directory: Path,
        *,
        is_quick: bool = False,
        rounds: int | None = None,
        kafka: KafkaRelease | None = None,
        on_status: Callable[[PartStatus], None] = lambda _: None,
    ) -> None:
        self.directory = directory.absolute()
        """Where servers and working folders are kept."""
        self.is_quick = is_quick
        self.rounds = rounds
        self.kafka = kafka
        """The release of Apache Kafka that runs in place of the embedded broker, where there is one."""
        self._on_status = on_status
        self._exit = ExitStack()
        self._stack: LocalStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def stack(self) -> LocalStack:
        """The running broker, S3 store and MLflow server."""
        if self._stack is None:
            self._stack = self._exit.enter_context(
                LocalStack(self.directory / "servers", kafka=self.kafka, on_status=self._on_status)
            )
        return self._stack


class Context:
    """What one benchmark has; its folder is empty at the start and is removed at the end."""

    def __init__(self, bench: Bench, name: str, report: Report = lambda what, fraction: None) -> None:
        self._bench = bench
        self.report = report
        self.is_quick = bench.is_quick
        self.directory = bench.directory / "work" / name

    def __enter__(self) -> Self:
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # the workers' logs say why, where something went wrong
            shutil.rmtree(self.directory)

    @property
    def stack(self) -> LocalStack:
        """The broker, S3 store and MLflow server of this run."""
        return self._bench.stack

    @property
    def broker(self) -> str:
        """What the broker is, in words."""
        return "the embedded one" if self._bench.kafka is None else "Apache Kafka, one node"

    def scaled(self, count: int, *, quick: int) -> int:
        """Return `count`, or `quick` where only a short run is wanted."""
        return quick if self.is_quick else count

    def rounds(self, usual: int) -> int:
        """Return how many rounds to run: what the command line says, one in a quick run, else `usual`."""
        return self._bench.rounds or (1 if self.is_quick else usual)

    def turns(self, rounds: int, *, sides: int = 2) -> Callable[[str, int], None]:
        """Return what moves the bar at every turn of `interleaved` with so many sides and rounds."""
        done = 0

        def on_turn(side: str, number: int) -> None:
            nonlocal done
            self.report(f"round {number + 1} of {rounds}: {side}", done / (sides * rounds))
            done += 1

        return on_turn

    def site(self, **sections: Mapping[str, Any]) -> Site:
        """Return topics and a consumer group of their own, with settings on top of the stack's."""
        folder = self.directory / f"site-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        return Site(folder, self.stack.settings(), **{name: dict(values) for name, values in sections.items()})

    def register(self, name: str, tags: Mapping[str, str], folder: Path | None = None) -> None:
        """Register a model at the stack, unless just this is registered already; without files, by its name alone."""
        if folder is None:
            # What says that it lies on the workers already: an engine that needs no files never looks.
            tags = {**tags, "physical_path": f"/no-files/{name}"}
        self.models().register_model_to_mlflow(model_name=name, model_source="local", model_path=folder, tags=tags)

    def prepared_model(self, name: str) -> Path:
        """Return the folder of a model of the catalogue, made where need be, and register it at the stack."""
        self.report(f"preparing {name}", 0.0)
        folder = prepare(CATALOGUE[name])
        self.register(name, CATALOGUE[name].tags, folder)
        return folder

    def models(self) -> ModelManager:
        """Return a manager of the stack's models, its files in this benchmark's folder."""
        return ModelManager(
            MlflowSettings(tracking_uri=self.stack.mlflow.url),
            CacheSettings(directory=self.directory / "model-files"),
        )
