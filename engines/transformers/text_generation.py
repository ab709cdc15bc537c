"""text-generation: which runner answers, by the kind of the model; and the one of causal language models."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

from engines.transformers.generation_runner import GenerationRunner, Prompt
from engines.transformers.loading import ModelFolder
from handlers.errors import InvalidInput


class TextGenerationRunner(GenerationRunner):
    """Answers prompts and conversations by going on where they end."""

    kinds = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
    purpose = "a language model"

    @classmethod
    def load(cls, folder: ModelFolder) -> TextGenerationRunner:
        """Return the runner of a causal or sequence-to-sequence language model and its tokenizer."""
        auto_class = folder.auto_class(*cls.kinds, purpose=cls.purpose)
        runner: type[TextGenerationRunner] = cls
        if auto_class == "AutoModelForSeq2SeqLM":
            from engines.transformers.seq2seq_generation import Seq2SeqRunner

            runner = Seq2SeqRunner
        return runner(folder.name, folder.model(auto_class, purpose=cls.purpose), folder.tokenizer())

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
                encoded = self.tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, return_dict=True
                )
            except TemplateError as error:
                raise InvalidInput(f"data.messages does not suit model {self.name}: {error}") from error
        tokens: list[int] = encoded["input_ids"]
        if not tokens:
            raise InvalidInput(f"data.inputs has no token that model {self.name} knows; send some text")
        return Prompt(tokens)
