"""Models of the Hugging Face Hub: selects their files, and fetches them from the hub or from its local cache."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from engines.models.resolved_model import ResolvedModel
from handlers.errors import InferenceError, InvalidRequest, ModelLoadFailed, RegistryUnavailable, counted
from handlers.logger import get_logger

log = get_logger(__name__)


_SAFE_WEIGHTS = "*.safetensors"
_WORDS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.vocab", "merges*", "vocab*")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_CODE = ("*.py",)


@dataclass(frozen=True, slots=True)
class WantedFiles:
    """Which files the settings of engine transformers allow to load; for other engines, all."""

    pickle: bool = False
    code: bool = False

    @property
    def extras(self) -> list[str]:
        """What is fetched beyond the safe files, as names that a later run compares with its own."""
        return [name for name, is_wanted in (("code", self.code), ("pickle", self.pickle)) if is_wanted]

    def of(self, model: ResolvedModel, names: Iterable[str]) -> list[str]:
        """Return the wanted ones of the files `names` of `model`; pickles only where there is nothing safer.

        Raises:
            ModelLoadFailed: permanent; it has no weights that may be loaded.
        """
        there = sorted(names)
        if model.engine not in (None, "transformers"):
            return there
        patterns = [*_WORDS, *(_CODE if self.code else ())]
        weights = [name for name in there if fnmatch(name, _SAFE_WEIGHTS)]
        if not weights:
            pickles = [name for name in there if _is_one_of(name, _PICKLES)]
            if pickles and not self.pickle:
                raise ModelLoadFailed(
                    f"model {model.key} has no *.safetensors weights at {model.source}, only "
                    f"{', '.join(pickles[:3])}; name a revision that has them (tag revision), or set "
                    "transformers.allow_pickle if you trust its author"
                )
            weights = pickles
        return sorted({*weights, *(name for name in there if _is_one_of(name, patterns))})


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)


_WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".gguf"})
_PIN_TIMEOUT_S = 5.0
_ANSWER_S = 10.0
"""How long the hub may be silent while a model loads; its client would wait without end."""


def fetch_from_hub(model: ResolvedModel, folder: Path, *, wanted: WantedFiles, max_bytes: int) -> Path:
    """Fetch the files of `hf://org/name` into `folder`, at the revision in its tag `revision`.

    Only `wanted` files, at most `max_bytes`, which is checked before the first byte. Where the hub does not answer,
    the files are copied from its client's cache on this machine, if that holds complete configuration and weights.

    Raises:
        ModelLoadFailed: permanent; the hub has no such model or revision, or it is gated; it is too
            large, or has no weights that may be loaded.
        RegistryUnavailable: retryable; the hub did not answer, and the cache has no complete copy.
    """
    repo_id, revision = model.source.removeprefix("hf://"), model.tags.get("revision")
    try:
        from huggingface_hub import HfApi, constants, snapshot_download
    except ImportError as error:
        raise ModelLoadFailed(
            f"model {model.key} is registered by reference, {model.source}; fetching it needs "
            "huggingface-hub, which is not installed: pip install 'inferstream[torch]'"
        ) from error
    at = revision or "main"
    try:
        found = HfApi().model_info(repo_id, revision=revision, files_metadata=True, timeout=_ANSWER_S)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or ()}
        names = wanted.of(model, sizes)
        if (size := sum(sizes[name] for name in names)) > max_bytes:
            raise ModelLoadFailed(
                f"model {model.key}: {model.source} at revision {at} has {size} bytes to fetch in "
                f"{counted(len(names), 'file')}; cache.directory_max_bytes allows {max_bytes}: raise it, or name a "
                "smaller model"
            )
        exactly = [glob.escape(name) for name in names]
        snapshot_download(repo_id, revision=found.sha or revision, local_dir=folder, allow_patterns=exactly)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the client's notes on its download
        return folder
    except InferenceError:
        raise
    except Exception as error:  # raised by httpx, the client, or its downloader
        shutil.rmtree(folder, ignore_errors=True)
        if refused := _refusal(error, at):
            raise ModelLoadFailed(f"model {model.key}, {model.source}: the hub {refused}") from error
        lacks = _copy_from_cache(model, folder, wanted)
        if lacks is None:
            log.info("files_from_hub_cache", model=model.key, repo_id=repo_id, revision=at)
            return folder
        raise RegistryUnavailable(
            f"model {model.key}: the hub cannot be asked for {repo_id} ({type(error).__name__}), and its cache "
            f"on this machine ({constants.HF_HUB_CACHE}, under HF_HOME) {lacks} at revision {at}; point HF_HOME "
            f"at a cache that has it (hf download {repo_id} --revision {at}), allow access to the hub, or "
            "register its folder so that MLflow keeps the files"
        ) from error


def _refusal(error: Exception, revision: str) -> str | None:
    """Return why the hub refuses a model at `revision`, and what to do; None where it did not refuse."""
    from huggingface_hub import errors, get_token

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.GatedRepoError):
        token = "no token is set" if get_token() is None else "the account of the token in use is not let in"
        return (
            f"keeps it behind a gate, and {token}; accept its terms on its page there, and set HF_TOKEN to a token of "
            "that account, here and for every worker"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"has this model, but not at revision {revision}; correct the tag revision, or leave it out"
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError) or status == 404:
        return "has no such model, or shows it only with a token; correct the name, or set HF_TOKEN"
    return "refuses the token in use; correct HF_TOKEN" if status == 401 else None


def find_on_hub(repo_id: str, revision: str | None) -> tuple[str | None, Sequence[str] | None]:
    """Return commit and files of a model at `revision` (default: main), each None where it is not known: from the hub,
    or the commit from its client's cache here.

    Never waits long. If neither answers, logs one WARNING `hub_model_not_checked`.

    Raises:
        InvalidRequest: permanent; the hub has no such model or revision, or refuses it to the token that is set here.
    """
    at = revision or "main"
    try:
        from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
    except ImportError as error:
        log.warning("hub_model_not_checked", repo_id=repo_id, revision=at, reason=str(error))
        return None, None
    try:
        found = HfApi().model_info(repo_id, revision=revision, timeout=_PIN_TIMEOUT_S)
        names = [file.rfilename for file in found.siblings or ()]
        if names and (found.gated or found.private):
            one = next((name for name in names if fnmatch(name, _SAFE_WEIGHTS)), names[-1])
            get_hf_file_metadata(hf_hub_url(repo_id, one, revision=found.sha), timeout=_PIN_TIMEOUT_S)
            log.warning("hub_model_needs_token", repo_id=repo_id, cure="set HF_TOKEN for every worker")
        return found.sha, names
    except Exception as error:  # as above
        if refused := _refusal(error, at):
            raise InvalidRequest(f"hf://{repo_id}: the hub {refused}") from error
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    commit = _commit(Path(constants.HF_HUB_CACHE) / f"models--{repo_id.replace('/', '--')}", at)
    if commit is None:
        log.warning("hub_model_not_checked", repo_id=repo_id, revision=at, reason=reason)
    return commit, None


def snapshot_in(folder: Path) -> tuple[Path, dict[str, str]] | None:
    """Return the folder and tags of the model in a folder of the client's cache, `models--org--name`.

    None where `folder` is not such a folder, and is the model itself.

    Raises:
        InvalidRequest: permanent; it holds several, and does not say which is that of the main branch.
    """
    kind, *names = folder.name.split("--")
    snapshots = {path.name: path for path in (folder / "snapshots").glob("*/")}
    if kind != "models" or not names or not snapshots:
        return None
    commit = _commit(folder, "main")
    if commit not in snapshots:
        if len(snapshots) > 1:
            raise InvalidRequest(
                f"model_path {folder} holds {len(snapshots)} snapshots, none of them of branch main; give the "
                f"folder of one: {folder / 'snapshots' / min(snapshots)}, ..."
            )
        (commit,) = snapshots
    return snapshots[commit], {"repo_id": "/".join(names), "revision": commit}


def _commit(cached: Path, revision: str) -> str | None:
    """Return the commit of a branch or tag in a cached repository."""
    try:
        return (cached / "refs" / revision).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def _copy_from_cache(model: ResolvedModel, folder: Path, wanted: WantedFiles) -> str | None:
    """Copy a model from the client's cache; return what the cache lacks where that is not possible."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repo_id, revision = model.source.removeprefix("hf://"), model.tags.get("revision")
    try:
        snapshot = Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return "does not have it"
    missing = sorted(_missing(snapshot))
    if missing:
        return f"has only a part of it (without {', '.join(missing[:3])})"
    files = (path for path in snapshot.rglob("*") if path.is_file())
    for name in wanted.of(model, [path.relative_to(snapshot).as_posix() for path in files]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(snapshot / name, folder / name)
    return None


def _missing(snapshot: Path) -> Iterator[str]:
    """Yield what a cached model lacks: the client does not know whether a snapshot is complete."""
    if any((snapshot.parent.parent / "blobs").glob("*.incomplete")):
        yield "files whose download broke off"
    files = [path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()]
    yield from (path.name for path in files if not path.exists())
    if not (snapshot / "config.json").is_file():
        yield "config.json"
    if not any(path.suffix in _WEIGHTS for path in files):
        yield "weights"
    for index in snapshot.glob("*.index.json"):
        shards = set(json.loads(index.read_bytes()).get("weight_map", {}).values())
        yield from (shard for shard in shards if not (snapshot / shard).is_file())


def _link_or_copy(source: Path, target: Path) -> None:
    """Share the bytes where the disk can: neither the cache's files nor ours are changed in place."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)
