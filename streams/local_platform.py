"""The whole product on this machine: the embedded stack, its topics and one worker, started and stopped together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import yaml

from deploy.local import LocalStack, PartStatus, StackError
from deploy.local.process import GuardedProcess
from deploy.models import CATALOGUE
from engines.configuration import load
from engines.models import ModelManager
from handlers import model_registry
from streams.messages import decode_event
from streams.settings import Settings
from streams.topic_admin import create_topics
from streams.topic_reader import TopicReader
from streams.topics import Topics

_WORKER_START_TIMEOUT_S = 90.0
_STOP_MARGIN_S = 5.0
_POLL_S = 0.1


class LocalPlatform:
    """Everything a newcomer needs, in one object.

        with LocalPlatform(Path(".local")) as platform:
            ...  # platform.settings reaches it; so does any `inferstream` command run in this folder

    Data and logs live under `root`. While it runs, `root/inferstream.yaml` holds the settings that reach it
    (mode 0600, it names secrets). Nothing outlives the process that started it, however that ends.
    """

    def __init__(
        self,
        root: Path,
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        with_ollama: bool = False,
        on_status: Callable[[PartStatus], None] = lambda status: None,
    ) -> None:
        """`overrides` are settings on top of those of the embedded stack, by section and name.

        `with_ollama` also starts a small model behind Ollama's API.
        """
        self.stack = LocalStack(root, with_ollama=with_ollama, on_status=on_status)
        self.config_path = self.stack.root / "inferstream.yaml"
        self.worker_log_path = self.stack.root / "logs" / "worker.log"
        self.http_url = ""
        """Where the running worker answers HTTP."""
        self._overrides = {"http": {"port": 0}, **(overrides or {})}
        self._on_status = on_status
        self._worker: GuardedProcess | None = None
        self._settings: Settings | None = None

    @property
    def settings(self) -> Settings:
        """The settings of the running platform."""
        if self._settings is None:
            raise StackError("the local platform is not started; use it as a context manager or call start()")
        return self._settings

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, None where it does not run."""
        return self._worker.pid if self._worker is not None and self._worker.poll() is None else None

    def start(self) -> None:
        """Start the stack, create the topics, start the worker and return when it consumes.

        Raises:
            StackError: permanent; a part did not start. Nothing is left running.
        """
        try:
            self.stack.start()
            self._write_config()
            self._settings = load(Settings, config_file=self.config_path).settings
            asyncio.run(create_topics(self._settings.kafka, model_registry.tasks()))
            self.start_worker()
        except BaseException:
            self.stop()
            raise

    def start_worker(self) -> None:
        """Start a worker and return when it consumes.

        Raises:
            StackError: permanent; it died or was late; the message shows the end of its log.
        """
        began = time.monotonic()
        self._report("starting", began)
        self._worker = GuardedProcess(
            [sys.executable, "-m", "streams.cli", "worker"],
            env={**os.environ, "INFERSTREAM_CONFIG": str(self.config_path)},
            directory=Path.cwd(),
            log_path=self.worker_log_path,
        )
        try:
            self.http_url = asyncio.run(self._await_worker(self._worker))
        except BaseException as error:
            self._worker.kill()
            self._report("failed", began, str(error))
            raise
        self._report("ready", began)

    def register_model(self, name: str, folder: Path) -> None:
        """Register the prepared model `name` from `folder` with its tags, unless this recipe of it is there already."""
        manager = ModelManager(self.settings.mlflow, self.settings.cache)
        tags = CATALOGUE[name].tags
        known = [model for model in manager.list_models() if model.name == name]
        if not any(model.tags.get("recipe") == tags["recipe"] for model in known):
            manager.register_model_to_mlflow(
                model_name=name, model_source="huggingface", model_path=str(folder), tags=tags
            )

    def wait(self) -> NoReturn:
        """Watch the parts for ever.

        Raises:
            StackError: permanent; a part has died; says which part, and shows the end of its log.
        """
        while True:
            dead = [part for part in self.stack.parts if part.status != "ready"]
            if dead:
                raise StackError(f"{dead[0].name} died; the end of {dead[0].log_path}:\n{dead[0].log_tail()}")
            if self.worker_pid is None:
                raise StackError(f"the worker died; the end of {self.worker_log_path}:\n{self._log_tail()}")
            time.sleep(_POLL_S)

    def stop_worker(self) -> int | None:
        """Tell the worker to drain and wait for it; return its exit status, None where none was running."""
        if self._worker is None:
            return None
        status = self._worker.poll()
        if status is None:
            os.kill(self._worker.pid, signal.SIGTERM)
            patience = time.monotonic() + self.settings.worker.drain_timeout_s + _STOP_MARGIN_S
            while (status := self._worker.poll()) is None and time.monotonic() < patience:
                time.sleep(_POLL_S)
        self._worker.kill()
        self._worker = None
        self._report("stopped", time.monotonic())
        return status

    def stop(self) -> None:
        """Drain the worker, stop the stack and remove the settings file; harmless when repeated."""
        try:
            self.stop_worker()
        finally:
            self.stack.stop()
            self.config_path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_config(self) -> None:
        tree: dict[str, dict[str, Any]] = self.stack.settings()
        for section, values in self._overrides.items():
            tree[section] = {**tree.get(section, {}), **values}
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
                while not reading.done():
                    if worker.poll() is not None or time.monotonic() > late:
                        what = "died" if worker.poll() is not None else "was not ready in time"
                        raise StackError(
                            f"the worker {what}; the end of {self.worker_log_path}:\n{self._log_tail()}"
                        )
                    await asyncio.wait({reading}, timeout=_POLL_S)
                return reading.result()
            finally:
                reading.cancel()

    def _log_tail(self) -> str:
        return "\n".join(self.worker_log_path.read_text(errors="replace").splitlines()[-20:])

    def _report(self, status: Any, began: float, detail: str = "") -> None:
        address = self.http_url if status == "ready" else ""
        self._on_status(PartStatus("worker", status, address, time.monotonic() - began, detail))


async def _find_start(reader: TopicReader, pid: int) -> str:
    """Return the HTTP address that the worker with that process id tells of as it starts."""
    async for record in reader.records():
        if record.value is not None:
            event = decode_event(record.value)
            if event.kind == "worker_started" and event.details.get("pid") == pid:
                return event.details.get("http") or ""
    raise AssertionError("reading a topic never ends by itself")
