"""Which files of a model on the hub are of use here: weights that are safe to load, and what describes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from engines.resolved_model import ResolvedModel
from engines.settings import TransformersSettings
from handlers.errors import ModelLoadFailed

_WEIGHTS = "*.safetensors"
_WORDS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.spm", "*.vocab", "merges*", "vocab*")
_PICKLES = ("*.bin", "*.pt", "*.pth")
_CODE = ("*.py",)


@dataclass(frozen=True, slots=True)
class WantedFiles:
    """What the settings of engine transformers allow to load; of a model for another engine all is wanted."""

    pickle: bool = False
    code: bool = False

    @classmethod
    def by(cls, settings: TransformersSettings) -> WantedFiles:
        """Return what `settings` allow."""
        return cls(pickle=settings.allow_pickle, code=settings.trust_remote_code)

    @property
    def extras(self) -> list[str]:
        """What is fetched beyond what is safe: names that a later run compares with its own."""
        return [name for name, is_wanted in (("code", self.code), ("pickle", self.pickle)) if is_wanted]

    def of(self, model: ResolvedModel, names: Iterable[str]) -> list[str]:
        """Return those of the files `names` of `model` that are wanted; pickles only where there is nothing safer.

        Raises:
            ModelLoadFailed: permanent; its weights are none that may be loaded.
        """
        there = sorted(names)
        if model.engine not in (None, "transformers"):
            return there
        patterns = [*_WORDS, *(_CODE if self.code else ())]
        weights = [name for name in there if fnmatch(name, _WEIGHTS)]
        if not weights:
            pickles = [name for name in there if _is_one_of(name, _PICKLES)]
            if pickles and not self.pickle:
                raise ModelLoadFailed(
                    f"model {model.key} has no *.safetensors weights at {model.source}, only "
                    f"{', '.join(pickles[:3])}; name a revision that has them (tag revision), or set "
                    "transformers.allow_pickle if you trust whoever wrote it"
                )
            weights = pickles
        return sorted({*weights, *(name for name in there if _is_one_of(name, patterns))})


def _is_one_of(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) or fnmatch(name.rpartition("/")[2], pattern) for pattern in patterns)
