"""Model files on this machine: downloaded once, checked, kept by name and version within a budget."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from engines.config.settings import CacheSettings
from engines.models.flavours import digest_of, files_in, flatten, refuse_logged
from engines.models.hub import WantedFiles, fetch_from_hub
from engines.models.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed, RegistryUnavailable
from handlers.logger import get_logger

log = get_logger(__name__)

Download = Callable[[str, Path], Path]
"""Downloads the files at an address into a folder, and returns where in it they are."""

STAMP = ".inferstream.json"
"""Written last into a folder, so it exists only in complete ones; its time is that of the last use."""

LEAST_FREE_BYTES = 256 * 1024**2
"""With less free space than this, the disk counts as full."""

_LOOK_S = 0.5
"""How often the progress of a download is checked."""


@dataclass(frozen=True, slots=True)
class _Stamp:
    """The content of a stamp: origin and size of the files, and which files of a hub model were wanted."""

    source: str
    sha256: str
    bytes: int
    wanted: Sequence[str] = ("code", "pickle")


@dataclass(slots=True, eq=False)
class _Download:
    """One version on its way here, also by another process."""

    model: ResolvedModel
    heard_at: float = field(default_factory=time.monotonic)
    has_ended: threading.Event = field(default_factory=threading.Event)

    def hear(self) -> None:
        """Note a sign of life."""
        self.heard_at = time.monotonic()

    def watch(self, parts: Callable[[], Iterable[Path]]) -> None:
        """Count each change of its files as a sign of life; runs in a separate thread, as a disk that hangs blocks
        it."""
        latest = 0
        while not self.has_ended.wait(_LOOK_S):
            with contextlib.suppress(OSError):  # renamed while it was read
                changed = max((path.stat().st_mtime_ns for path in parts()), default=0)
                if changed != latest:
                    latest = changed
                    self.hear()


class ModelFiles:
    """A folder per model version, `directory/name/version`.

    Thread-safe, and safe beside other processes with the same directory: one of them downloads, the rest
    wait. A folder appears by renaming, whole and checked, or not at all. What this process acquired and did
    not release stays; other folders go, least recently used first, when the budget is exceeded.
    """

    def __init__(
        self,
        settings: CacheSettings,
        physical_roots: Sequence[Path],
        download: Download,
        wanted: WantedFiles | None = None,
    ) -> None:
        self._directory = settings.directory.expanduser()
        self._max_bytes = settings.directory_max_bytes
        self._roots = [root.expanduser().resolve() for root in physical_roots]
        self._download = download
        self._wanted = wanted or WantedFiles()
        self._lock = threading.Lock()
        self._in_use: Counter[str] = Counter()
        self._downloads: list[_Download] = []

    def acquire(self, model: ResolvedModel) -> Path:
        """Return the folder of `model`: in place where its `physical_path` is trusted, downloaded otherwise.

        Raises:
            ModelLoadFailed: permanent; it has no files, or not those that were registered, or the disk is full.
            RegistryUnavailable: retryable; the download is incomplete.
        """
        in_place = self._physical(model)
        if in_place is not None:
            return in_place
        with self._lock:
            self._in_use[model.key] += 1
        try:
            folder = self._directory / model.name / model.version
            if not self._use(folder, model):
                with self._watched(folder, model) as download:
                    self._bring(folder, model, download)
            return folder
        except BaseException:
            self.release(model)
            raise

    def release(self, model: ResolvedModel) -> None:
        """Release a folder; call it once for each `acquire`."""
        with self._lock:
            self._in_use[model.key] -= 1
            if self._in_use[model.key] <= 0:
                del self._in_use[model.key]

    def last_sign(self, model: ResolvedModel) -> float:
        """Return when, by time.monotonic, bytes of `model` last came here, also for another process; 0 where none are
        on their way."""
        return max((one.heard_at for one in self._downloads if one.model == model), default=0.0)

    def health(self) -> dict[str, Any]:
        """Return {"status": ok | error, "directory", "free_bytes"} of the disk; never raises."""
        answer: dict[str, Any] = {"status": "ok", "directory": str(self._directory)}
        existing = next(path for path in (self._directory, *self._directory.absolute().parents) if path.exists())
        try:
            answer["free_bytes"] = free = shutil.disk_usage(existing).free
        except OSError as error:
            return {**answer, "status": "error", "error": f"cannot be read: {error.strerror}"}
        if free < LEAST_FREE_BYTES:
            answer.update(status="error", error=f"the disk is full: {free} bytes are free; see cache.directory")
        return answer

    def _physical(self, model: ResolvedModel) -> Path | None:
        """Return the folder in a trusted tag `physical_path`, None where the files must be downloaded. Every user who
        may write to the registry may set the tag, so it counts only under a root that the operator allows."""
        tagged = model.tags.get("physical_path")
        if not tagged:
            return None
        path = Path(tagged).expanduser().resolve()
        if any(path.is_relative_to(root) for root in self._roots) and path.is_dir():
            refuse_logged(path, model.key)
            return path
        if _is_downloadable(model.source):
            log.info("physical_path_not_used", model=model.key, physical_path=tagged)
            return None
        roots = ", ".join(map(str, self._roots)) or "none"
        raise ModelLoadFailed(
            f"model {model.key} has its files at physical_path {tagged}, which is not a folder under "
            f"mlflow.physical_roots ({roots}); add its root there, or register the folder itself"
        )

    def _use(self, folder: Path, model: ResolvedModel) -> bool:
        """Return whether `folder` holds `model`, and note that it is in use."""
        stamp = _read_stamp(folder)
        if stamp is None or stamp.source != _origin(model):
            return False  # nothing there, or another version of that number
        if not set(self._wanted.extras) <= set(stamp.wanted):
            return False  # fetched from the hub when the settings allowed less
        tagged = model.tags.get("sha256")
        if tagged and stamp.sha256 and stamp.sha256 != tagged:
            return False
        with contextlib.suppress(OSError):  # a read-only directory works too
            os.utime(folder / STAMP)
        return True

    @contextlib.contextmanager
    def _watched(self, folder: Path, model: ResolvedModel) -> Iterator[_Download]:
        """Say during the block that `model` is on its way to `folder`."""
        download = _Download(model)
        self._downloads.append(download)
        watch = partial(download.watch, lambda: folder.parent.glob(f".{model.version}.*.partial/**/*"))
        try:
            threading.Thread(target=watch, name=f"watch-{model.key}", daemon=True).start()
            yield download
        finally:
            download.has_ended.set()
            self._downloads.remove(download)

    def _bring(self, folder: Path, model: ResolvedModel, download: _Download) -> None:
        from filelock import FileLock

        if not _is_downloadable(model.source):
            raise ModelLoadFailed(
                f"model {model.key} has source {model.source}, which holds no files; register its folder, or "
                "name an engine that needs none"
            )
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{model.version}.lock"):
                if self._use(folder, model):  # another thread or process has downloaded it
                    return
                for left_over in folder.parent.glob(f".{model.version}.*.partial"):
                    shutil.rmtree(left_over, ignore_errors=True)
                self._install(folder, model, download)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise ModelLoadFailed(
                    f"model {model.key} does not fit on the disk of cache.directory ({self._directory}); "
                    "make room there, or lower cache.directory_max_bytes"
                ) from error
            raise ModelLoadFailed(
                f"the files of model {model.key} cannot be kept in cache.directory ({self._directory}): "
                f"{error.strerror or error}"
            ) from error
        self._evict()

    def _install(self, folder: Path, model: ResolvedModel, download: _Download) -> None:
        """Download into a temporary folder, check, and rename; runs under the lock of this version."""
        started = time.monotonic()
        partial = Path(tempfile.mkdtemp(prefix=f".{model.version}.", suffix=".partial", dir=folder.parent))
        try:
            content = self._fetched(model, partial)
            if not files_in(content):
                raise ModelLoadFailed(f"model {model.key} has no files at {model.source}; register it again")
            digest, tagged = digest_of(content, download.hear), model.tags.get("sha256")
            if tagged and digest != tagged:
                raise ModelLoadFailed(
                    f"the files of model {model.key} are not the ones that were registered: their SHA-256 is "
                    f"{digest}, tag sha256 says {tagged}; register them again as a new version"
                )
            flatten(content, model.key)
            size = sum(path.stat().st_size for path in files_in(content))
            stamp = _Stamp(_origin(model), digest, size)
            if model.source.startswith("hf://"):
                stamp = replace(stamp, wanted=self._wanted.extras)
            (content / STAMP).write_text(json.dumps(asdict(stamp)), encoding="utf-8")
            if folder.exists():
                folder.rename(partial / "replaced")
            content.rename(folder)
            log.info("files_downloaded", model=model.key, bytes=size, seconds=round(time.monotonic() - started, 3))
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _fetched(self, model: ResolvedModel, partial: Path) -> Path:
        try:
            if model.source.startswith("hf://"):
                return fetch_from_hub(model, partial / "files", wanted=self._wanted, max_bytes=self._max_bytes)
            return self._download(model.source, partial)
        except RegistryUnavailable as error:
            # Clients hide the disk's error in the text of their own.
            if shutil.disk_usage(partial).free < LEAST_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            raise

    def _evict(self) -> None:
        """Remove the least recently used folders that this process does not use, until the budget holds."""
        kept: list[tuple[float, int, Path]] = []
        for stamped in self._directory.glob(f"*/*/{STAMP}"):
            stamp = _read_stamp(stamped.parent)
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                if stamp is not None:
                    kept.append((stamped.stat().st_mtime, stamp.bytes, stamped.parent))
        total = sum(size for _, size, _ in kept)
        for _, size, folder in sorted(kept):
            if total <= self._max_bytes:
                return
            if self._remove(folder):
                total -= size
                log.info("files_evicted", model=f"{folder.parent.name}/{folder.name}", bytes=size)
        if total > self._max_bytes:
            log.warning("files_exceed_budget", bytes=total, max_bytes=self._max_bytes)

    def _remove(self, folder: Path) -> bool:
        """Remove a folder unless this process uses it; return whether it is gone."""
        with self._lock:
            if self._in_use[f"{folder.parent.name}/{folder.name}"]:
                return False
            going = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
            try:
                folder.rename(going)  # in one step, so that no half of it is ever found
            except OSError:
                return not folder.exists()
        shutil.rmtree(going, ignore_errors=True)
        return True


def _origin(model: ResolvedModel) -> str:
    """Return a text that differs where the files of a version differ: on the hub, one address has many revisions."""
    revision = model.tags.get("revision")
    return f"{model.source}@{revision}" if revision and model.source.startswith("hf://") else model.source


def _is_downloadable(source: str) -> bool:
    scheme, separator, _ = source.partition(":")
    return bool(separator) and scheme not in {"ollama", "physical"}


def _read_stamp(folder: Path) -> _Stamp | None:
    try:
        return _Stamp(**json.loads((folder / STAMP).read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        log.warning("model_files_unreadable", folder=str(folder), exc_info=True)
        return None
