"""The base of all tasks that generate text, rows with their own budget, sampling and stops; and text-generation."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Self

import torch
from jinja2 import TemplateError
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from engines.base import NO_HURRY, Emit, Urgency
from engines.config.settings import TransformersSettings
from engines.transformers.generation.cache_sizes import CacheSizes, Limits
from engines.transformers.generation.loop import GenerationLoop
from engines.transformers.generation.micro_batches import SOURCE, MicroBatchLoop, generate
from engines.transformers.generation.rolling.attention import use_grouped_attention
from engines.transformers.generation.rolling.cache import fits
from engines.transformers.generation.rolling.loop import RollingLoop
from engines.transformers.generation.sampling import BEAM_OPTIONS, Sampling, TokenPicker, changes_scores
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.loading import ModelFolder
from engines.transformers.process_state import running
from engines.transformers.runner import Outcome, TaskRunner
from engines.transformers.shared_models import SharedModels
from handlers.errors import InferenceError, InvalidInput, InvalidOption, ModelLoadFailed, counted

DEFAULT_NEW_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Prompt:
    """The prompt's tokens, and further inputs of the model, such as pixel_values."""

    tokens: list[int]
    extras: Mapping[str, torch.Tensor] = field(default_factory=dict)


class GenerationRunner(TaskRunner):
    """Generates text; each request keeps its own budget, sampling and stops. Requests join the running batch and
    leave it when they are done; requests with beams, and models whose cache does not support that, run in small
    batches. A subclass makes the prompt. `placeholders` are tokens that stand for something other than text."""

    placeholders: frozenset[int] = frozenset()

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(name, model)
        self.tokenizer = tokenizer
        own = model.generation_config
        self.sampling_defaults = Sampling.of_model(own)
        self.default_new_tokens: int = own.max_new_tokens or DEFAULT_NEW_TOKENS
        ends: Any = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        self.ends = frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
        pads = (own.pad_token_id, tokenizer.pad_token_id, *sorted(self.ends), 0)
        model.generation_config = _plain(own, pad=next(pad for pad in pads if isinstance(pad, int) and pad >= 0))
        self.context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._sizes = CacheSizes.of_model(model)

    @abstractmethod
    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the prompt of one input.

        Raises:
            InvalidInput: permanent; the model cannot take this input.
        """

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        runner = super().load(folder, shared)
        runner.configure(folder.settings)
        return runner

    def configure(self, settings: TransformersSettings) -> None:
        """Prepare the loops that answer texts and searches by beams; called once, before the first request."""
        self.limits = Limits.of(settings, self.model.device)
        by_generate = partial(generate, self.model)
        self.beams = MicroBatchLoop(self.name, by_generate, self.limits, self._result, self._sizes)
        self.texts: GenerationLoop = self.beams
        # Only `generate` applies score settings of a model's own configuration.
        can_roll = fits(self.model) and not changes_scores(self.model.generation_config)
        if settings.batching != "micro" and can_roll:
            use_grouped_attention(self.model)
            self.texts = RollingLoop(self.name, self.model, self.limits, self._result, self._sizes)

    def submit(
        self,
        inputs: dict[str, Any],
        options: dict[str, Any],
        emit: Emit | None = None,
        urgency: Urgency = NO_HURRY,
    ) -> Future[dict[str, Any]]:
        """Start one answer and return at once; from any thread. Its result has generated_text, prompt_tokens,
        completion_tokens and finish_reason.

        Raises:
            InferenceError: permanent; this input or these options cannot be run.
        """
        sequence = self.prepare(inputs, options)
        return self._loop_of(sequence).submit(sequence, emit, urgency)

    def _loop_of(self, sequence: TokenSequence) -> GenerationLoop:
        return self.beams if sequence.beams else self.texts

    def answer(self, prepared: Sequence[TokenSequence]) -> Iterator[tuple[int, Outcome]]:
        """Yield the results of `submit`, the shortest answers first."""
        places: dict[Future[dict[str, Any]], int] = {}
        try:
            for place, sequence in enumerate(prepared):
                try:
                    places[self._loop_of(sequence).submit(sequence)] = place
                except InferenceError as error:
                    yield place, error
            for done in as_completed(places):
                failure = done.exception()
                yield places[done], failure if isinstance(failure, InferenceError) else done.result()
        finally:
            for left in places:  # where this is left early: the others are not needed
                left.cancel()

    def last_sign(self) -> float | None:
        return max(self.texts.last_sign, self.beams.last_sign)

    def close(self) -> None:
        """End the loops; requests that still wait are Cancelled."""
        self.texts.close()
        self.beams.close()

    def _result(self, sequence: TokenSequence) -> dict[str, Any]:
        answer = {
            "generated_text": sequence.text(),
            "prompt_tokens": len(sequence.prompt),
            "completion_tokens": len(sequence.tokens),
            "finish_reason": sequence.finish_reason or "length",
        }
        return sequence.as_result(answer)

    @running()
    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        """Return the sequence of `inputs`, with the beam options where there are several beams."""
        count = options.get("num_beams", 1)
        if count > 1 and (options.get("do_sample") or options.get("temperature")):
            raise InvalidOption("options.num_beams above 1 never samples; leave out do_sample and temperature")
        prompt = self.prompt(inputs)
        self._check_tokens(prompt.tokens)
        budget = self._budget(len(prompt.tokens), options)
        self._check_cache(count, len(prompt.tokens) + budget)
        return TokenSequence(
            prompt.tokens,
            extras=prompt.extras,
            beams={name: options[name] for name in BEAM_OPTIONS if name in options} if count > 1 else {},
            tokenizer=self.tokenizer,
            ends=self.ends,
            budget=budget,
            stop=options.get("stop", ()),
            picker=TokenPicker(Sampling.of_request(options, self.sampling_defaults)),
        )

    def _check_cache(self, beams: int, tokens: int) -> None:
        """Refuse what would never fit the cache; in a small batch a row without beams runs however long it is."""
        need, most = beams * self._sizes.of(tokens), self.limits.max_bytes
        if need <= most or (beams == 1 and self.texts is self.beams):
            return
        bound = f"transformers.kv_cache_bytes allows {most} for model {self.name}"
        if beams > 1:
            raise InvalidOption(
                f"options.num_beams is {beams}: prompt and answer of each beam need {need} bytes of cache together, "
                f"{bound}; ask for fewer beams or tokens, shorten the prompt, or raise it on the workers"
            )
        raise InvalidInput(
            f"prompt and answer need {need} bytes of cache, {bound}; shorten the prompt, lower "
            "options.max_new_tokens, or raise it on the workers"
        )

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        """Refuse tokens without an embedding: on CUDA such a token would break the whole process."""
        embeddings: Any = self.model.get_input_embeddings()
        highest = max((token for token in tokens if token not in self.placeholders), default=-1)
        if highest >= embeddings.num_embeddings:
            raise InvalidInput(f"the tokenizer of model {self.name} makes tokens that its weights lack")

    def _budget(self, prompt_tokens: int, options: dict[str, Any]) -> int:
        """Return the most tokens of the answer, at least 1."""
        budget: int = options.get("max_new_tokens", 0)
        if not budget and "max_length" in options:
            budget = options["max_length"] - prompt_tokens
            if budget < 1:
                raise InvalidOption(
                    f"options.max_length is {options['max_length']}, but the prompt alone has "
                    f"{counted(prompt_tokens, 'token')}; raise it, or give max_new_tokens"
                )
        budget = budget or self.default_new_tokens
        if self.context is None:
            return budget
        if prompt_tokens >= self.context:
            raise InvalidInput(
                f"the prompt has {counted(prompt_tokens, 'token')}; model {self.name} takes {self.context} of prompt "
                "and answer together: shorten it"
            )
        return min(budget, self.context - prompt_tokens)


class TextGenerationRunner(GenerationRunner):
    """Continues prompts and conversations."""

    kinds: ClassVar[tuple[str, ...]] = ("AutoModelForCausalLM",)
    needs = "a language model"
    parts = (ModelFolder.tokenizer,)

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the tokens of the prompt, through the chat template where the tokenizer has one."""
        messages = inputs.get("messages")
        if self.tokenizer.chat_template is None:
            if messages is not None:
                raise InvalidInput(
                    f"data.messages needs a chat template, which model {self.name} lacks; send data.inputs"
                )
            encoded: Any = self.tokenizer(inputs["inputs"])
        else:
            messages = messages or [{"role": "user", "content": inputs["inputs"]}]
            try:
                encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
            except TemplateError as error:
                raise InvalidInput(f"data.messages does not suit model {self.name}: {error}") from error
        tokens: list[int] = encoded["input_ids"]
        if not tokens:
            raise InvalidInput(f"data.inputs has no token that model {self.name} knows; send some text")
        return Prompt(tokens)


class Seq2SeqRunner(TextGenerationRunner):
    """Answers prompts that an encoder reads, as with T5 and BART; the row begins with the decoder's start token."""

    kinds = ("AutoModelForSeq2SeqLM",)

    def __init__(self, name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        super().__init__(name, model, tokenizer)
        config: Any = model.generation_config
        # A row's own budget ends it; this would end all of a batch by the longest budget among them.
        config.forced_eos_token_id = None
        self._start = decoder_start(name, config.decoder_start_token_id, config.bos_token_id)

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the decoder's start token, with the encoder's input."""
        source = super().prompt(inputs).tokens
        self._check_tokens(source)
        if self.context is not None and len(source) > self.context:
            raise InvalidInput(
                f"the prompt has {counted(len(source), 'token')}; model {self.name} reads {self.context}: shorten it"
            )
        return Prompt([self._start], {SOURCE: torch.tensor([source], device=self.model.device)})

    def _result(self, sequence: TokenSequence) -> dict[str, Any]:
        return {**super()._result(sequence), "prompt_tokens": sequence.extras[SOURCE].shape[1]}


def decoder_start(name: str, *candidates: Any) -> int:
    """Return the first token of an encoder-decoder's answers: the first of `candidates` that is one.

    Raises:
        ModelLoadFailed: permanent; there is none.
    """
    for token in candidates:
        if isinstance(token, int):
            return token
    raise ModelLoadFailed(f"model {name} does not say its decoder_start_token_id; save it with one")


def _plain(own: GenerationConfig, *, pad: int) -> GenerationConfig:
    """Return the model's generation config without what each row decides for itself. `generate` fills missing values
    from the model's config, which would leak into rows."""
    plain = copy.deepcopy(own)
    plain.do_sample, plain.pad_token_id = False, pad
    for name in ("temperature", "top_k", "top_p", "min_p", "typical_p", "repetition_penalty", "num_beams"):
        setattr(plain, name, None)
    plain.max_length = plain.max_new_tokens = None
    return plain
