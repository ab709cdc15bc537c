"""The whole product on this machine: the embedded stack, its topics and one worker, started and stopped together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import yaml

from deploy.local import LocalStack, PartStatus, StackError
from deploy.local.part import end_of_log
from deploy.local.process import GuardedProcess
from deploy.models import CATALOGUE, models_directory
from engines.configuration import load
from engines.models.model_manager import ModelManager
from engines.models.registration import ModelSource
from handlers import model_registry
from streams import interrupts
from streams.kafka.topic_admin import create_topics
from streams.kafka.topic_reader import TopicReader
from streams.kafka.topics import Topics
from streams.messages import decode_event
from streams.plugins import import_plugins
from streams.settings import Settings


@dataclass(frozen=True, slots=True)
class LocalModel:
    """One model; the fields are those of `ModelManager.register_model_to_mlflow`."""

    name: str
    source: ModelSource
    tags: Mapping[str, str]
    folder: Path | None = None

    @classmethod
    def prepared(cls, name: str, folder: Path) -> Self:
        """Return the model `name` of the catalogue, which `prepare` put into `folder`.

        It is registered by that place, so its files, hundreds of megabytes, are neither uploaded nor downloaded.
        """
        return cls(name, "local", {**CATALOGUE[name].tags, "physical_path": str(folder)})


_WORKER_START_TIMEOUT_S = 90.0
_WARMING_TIMEOUT_S = 240.0
"""What a worker gets on top where it loads models before it starts."""
_STOP_MARGIN_S = 5.0
_POLL_S = 0.1


class LocalPlatform:
    """Everything a newcomer needs, in one object.

        with LocalPlatform(LocalStack(Path(".local"))) as platform:
            ...  # platform.settings reaches it; so does any `inferstream` command run in this folder

    Data and logs live under the root of its stack. While it runs, `inferstream.yaml` there holds the settings that
    reach it (mode 0600, it names secrets). Nothing outlives the process that started it, however that ends; the worker
    is drained unless the block ends by an exception, such as a Ctrl-C.
    """

    def __init__(
        self,
        stack: LocalStack,
        *,
        overrides: Mapping[str, Mapping[str, Any]],
        models: Callable[[], Iterable[LocalModel]],
    ) -> None:
        """`overrides` are settings on top of those of `stack`, which is not started yet, by section and name.

        What `models` returns is registered before the worker starts, so `worker.warm` may name it; it is called once
        the folder is this platform's, so that nothing is prepared in vain.
        """
        self.stack = stack
        self.config_path = stack.root / "inferstream.yaml"
        self.worker_log_path = stack.root / "logs" / "worker.log"
        self.http_url = ""
        """Where the running worker answers HTTP."""
        self._overrides = overrides
        self._prepare_models = models
        self._worker: GuardedProcess | None = None
        self._settings: Settings | None = None
        self._has_config = False

    @property
    def settings(self) -> Settings:
        """The settings of the running platform."""
        if self._settings is None:
            raise StackError("the local platform is not started; use it as a context manager or call start()")
        return self._settings

    def start(self) -> None:
        """Start the stack, create the topics, register the models, start the worker and return when it consumes.

        Raises:
            StackError: permanent; a part did not start. Nothing is left running.
            InferenceError: a model cannot be registered. Nothing is left running.
        """
        try:
            self.stack.claim()
            models = tuple(self._prepare_models())
            # Its client takes seconds to import, in which the servers start.
            importing = threading.Thread(target=_import_mlflow, name="import mlflow")
            importing.start()
            try:
                self.stack.start()
            finally:
                importing.join()  # MLflow cannot be imported while the interpreter ends
            self._write_config()
            self._settings = load(Settings, config_file=self.config_path).settings
            import_plugins(self._settings.worker.plugins)
            interrupts.run(create_topics(self._settings.kafka, model_registry.tasks()))
            self._register_all(models)
            self._start_worker()
        except BaseException:
            self.stop(drain=False)
            raise

    def _start_worker(self) -> None:
        began = time.monotonic()
        self._report("starting", began)
        self._worker = GuardedProcess(
            [sys.executable, "-m", "streams.cli", "worker"],
            env={**os.environ, "INFERSTREAM_CONFIG": str(self.config_path)},
            directory=Path.cwd(),
            log_path=self.worker_log_path,
        )
        try:
            self.http_url = interrupts.run(self._await_worker(self._worker))
        except BaseException as error:
            self._worker.kill()
            self._worker = None
            self._report("failed" if isinstance(error, Exception) else "stopped", began, str(error))
            raise
        self._report("ready", began)

    def wait(self) -> NoReturn:
        """Watch the parts until `check` raises."""
        while True:
            self.check()
            time.sleep(_POLL_S)

    def check(self) -> None:
        """Return where every part and the worker run.

        Raises:
            StackError: permanent; one has died; says which, and shows the end of its log.
        """
        dead = [part for part in self.stack.parts if part.status != "ready"]
        if dead:
            raise StackError(f"{dead[0].name} died. {end_of_log(dead[0].log_path)}")
        if self._worker is None or self._worker.poll() is not None:
            raise StackError(f"the worker died. {end_of_log(self.worker_log_path)}")

    def stop(self, *, drain: bool = True) -> None:
        """Drain or kill the worker, stop the stack and remove the settings file; harmless when repeated."""
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                if drain and worker.poll() is None:
                    os.kill(worker.pid, signal.SIGTERM)
                    patience = time.monotonic() + self.settings.worker.drain_timeout_s + _STOP_MARGIN_S
                    while worker.poll() is None and time.monotonic() < patience:
                        time.sleep(_POLL_S)
                worker.kill()
                self._report("stopped", time.monotonic())
        finally:
            self.stack.stop()
            if self._has_config:  # else it is that of another stack in this folder
                self.config_path.unlink(missing_ok=True)
                self._has_config = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.stop(drain=error is None)

    def _register_all(self, models: Sequence[LocalModel]) -> None:
        if not models:
            return
        address, began = self.settings.mlflow.tracking_uri, time.monotonic()
        self.stack.report(PartStatus("models", "starting", address, 0.0))
        manager = ModelManager(self.settings.mlflow, self.settings.cache)
        for model in models:
            manager.register_model_to_mlflow(
                model_name=model.name, model_source=model.source, model_path=model.folder, tags=model.tags
            )
        self.stack.report(PartStatus("models", "ready", address, time.monotonic() - began))

    def _write_config(self) -> None:
        tree: dict[str, dict[str, Any]] = self.stack.settings()
        own: dict[str, dict[str, Any]] = {"http": {"port": 0}, "mlflow": {"physical_roots": [str(models_directory())]}}
        for layer in (own, self._overrides):
            for section, values in layer.items():
                tree[section] = {**tree.get(section, {}), **values}
        self._has_config = True
        text = "# Written by the running local platform, removed when it stops.\n" + yaml.safe_dump(tree)
        with os.fdopen(os.open(self.config_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)

    async def _await_worker(self, worker: GuardedProcess) -> str:
        """Wait for the worker's own word that it has started, and return the address of its HTTP side."""
        kafka = self.settings.kafka
        async with TopicReader(kafka, [Topics(kafka.topic_prefix).events], start="beginning") as reader:
            reading = asyncio.create_task(_find_start(reader, worker.pid))
            try:
                late = time.monotonic() + _WORKER_START_TIMEOUT_S
                late += _WARMING_TIMEOUT_S if self.settings.worker.warm else 0
                while not reading.done():
                    if worker.poll() is not None or time.monotonic() > late:
                        what = "died" if worker.poll() is not None else "was not ready in time"
                        raise StackError(f"the worker {what}. {end_of_log(self.worker_log_path)}")
                    await asyncio.wait({reading}, timeout=_POLL_S)
                return reading.result()
            finally:
                reading.cancel()

    def _report(self, status: Any, began: float, detail: str = "") -> None:
        address = self.http_url if status == "ready" else ""
        self.stack.report(PartStatus("worker", status, address, time.monotonic() - began, detail))


def _import_mlflow() -> None:
    import mlflow  # noqa: F401 - imported already where it is needed next


async def _find_start(reader: TopicReader, pid: int) -> str:
    """Return the HTTP address that the worker with that process id announces at its start."""
    async for record in reader.records():
        if record.value is not None:
            event = decode_event(record.value)
            if event.kind == "worker_started" and event.details.get("pid") == pid:
                return event.details.get("http") or ""
    raise AssertionError("reading a topic never ends by itself")
