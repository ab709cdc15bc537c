"""The languages of a Whisper model, and the options of a request in its terms."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

from engines.transformers.speech.guards import Guards
from handlers.errors import InvalidOption

_SEARCH_OPTIONS = ("num_beams", "early_stopping", "length_penalty", "repetition_penalty")


@dataclass(frozen=True, slots=True)
class SpeechSettings:
    """Settings that must be equal for recordings that run together."""

    timestamps: Literal["segment", "word", False] = "segment"
    task: str | None = None
    seed: int | None = None
    max_new_tokens: int | None = None
    search: tuple[tuple[str, Any], ...] = ()
    guards: Guards = field(default_factory=Guards)


class WhisperLanguages:
    """The languages of one model: whether it is multilingual, their codes, detection."""

    def __init__(self, name: str, model: WhisperForConditionalGeneration, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        config: Any = model.generation_config
        config.max_length = None  # every call has its own bound
        vocabulary = tokenizer.get_vocab()
        # Fine-tuned models often have an old generation config without these fields.
        if not hasattr(config, "is_multilingual"):
            config.is_multilingual = model.config.vocab_size >= 51865
        if not hasattr(config, "no_timestamps_token_id"):
            config.no_timestamps_token_id = vocabulary["<|notimestamps|>"]
        if config.is_multilingual and not hasattr(config, "lang_to_id"):
            tokens = {f"<|{code}|>" for code in TO_LANGUAGE_CODE.values()}
            config.lang_to_id = {token: vocabulary[token] for token in tokens & vocabulary.keys()}
        if config.is_multilingual and not hasattr(config, "task_to_id"):
            config.task_to_id = {task: vocabulary[f"<|{task}|>"] for task in ("transcribe", "translate")}
        self.is_multilingual: bool = config.is_multilingual
        self.has_word_times = hasattr(config, "alignment_heads")
        ids: dict[str, int] = config.lang_to_id if self.is_multilingual else {}
        self._codes = {token_id: token.strip("<|>") for token, token_id in ids.items()}

    def settings(self, options: Mapping[str, Any]) -> SpeechSettings:
        """Return the settings of `options` for this model.

        Raises:
            InvalidOption: permanent; it cannot translate, or has no times of words.
        """
        if options.get("translate") and not self.is_multilingual:
            raise InvalidOption(
                f"options.translate is true, but model {self.name} knows English only; use a multilingual model"
            )
        timestamps = options.get("timestamps", "segment")
        if timestamps == "word" and not self.has_word_times:
            raise InvalidOption(
                f'options.timestamps is "word", but model {self.name} has no alignment heads; ask for "segment"'
            )
        task = "translate" if options.get("translate") else "transcribe"
        return SpeechSettings(
            timestamps=timestamps,
            task=task if self.is_multilingual else None,
            seed=options.get("seed"),
            max_new_tokens=options.get("max_new_tokens"),
            search=tuple((name, options[name]) for name in _SEARCH_OPTIONS if name in options),
            guards=Guards.of(options),
        )

    def code(self, language: str | None) -> str | None:
        """Return the code of `language`, a code or an English name; None means detection where the model has it.

        Raises:
            InvalidOption: permanent; the model does not know this language.
        """
        if language is None:
            return None if self.is_multilingual else "en"
        wanted = language.strip().lower()
        code = TO_LANGUAGE_CODE.get(wanted, wanted)
        if not self.is_multilingual:
            if code == "en":
                return code
            raise InvalidOption(
                f'options.language is "{language}", but model {self.name} knows English only; '
                "leave it out, or use a multilingual model"
            )
        known = self._codes.values()
        if code in known:
            return code
        names = [name for name, its in TO_LANGUAGE_CODE.items() if its in known]
        near = difflib.get_close_matches(wanted, [*names, *known], n=1)
        hint = f"did you mean {near[0]}?" if near else f"known codes: {', '.join(sorted(known))}"
        if wanted in ("auto", "detect"):
            hint = "leave it out to have the language detected"
        raise InvalidOption(f'options.language is "{language}", which model {self.name} does not know; {hint}')

    def detect(self, model: WhisperForConditionalGeneration, encoded: Any) -> list[str]:
        ids = model.detect_language(encoder_outputs=encoded).tolist()
        return [self._codes[token_id] for token_id in ids]
