"""Fetches models that are registered by reference, `hf://org/name`, from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from engines.resolved_model import ResolvedModel
from handlers.errors import ModelLoadFailed, RegistryUnavailable


def fetch_from_hub(model: ResolvedModel, folder: Path) -> Path:
    """Bring the files that `hf://org/name` names into `folder`, at the revision its tag `revision` asks for.

    Raises:
        ModelLoadFailed: permanent; the hub has no such model or revision, or keeps it behind a gate.
        RegistryUnavailable: retryable; the hub did not answer.
    """
    repo_id, revision = model.source.removeprefix("hf://"), model.tags.get("revision")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
        from huggingface_hub.errors import RevisionNotFoundError as RevisionNotFound
    except ImportError as error:
        raise ModelLoadFailed(
            f"model {model.key} is registered by reference, {model.source}; fetching it needs "
            "huggingface-hub, which is not installed: pip install 'inferstream[torch]'"
        ) from error
    try:
        return Path(snapshot_download(repo_id, revision=revision, local_dir=folder))
    except (RepositoryNotFoundError, RevisionNotFound, ValueError) as error:
        raise ModelLoadFailed(
            f"model {model.key}: the hub has no model {repo_id} at revision {revision or 'main'}, or it "
            "needs a token; register it again, or set HF_TOKEN"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise RegistryUnavailable(
            f"model {model.key}: the hub did not serve {repo_id} ({type(error).__name__}); try again, or "
            "register its folder so that MLflow keeps the files"
        ) from error
