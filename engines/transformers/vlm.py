"""vlm and video-analysis by image-text-to-text models, such as LLaVA and Qwen-VL; tasks that use one model share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from jinja2 import TemplateError
from PIL import Image
from transformers import PreTrainedModel
from transformers.generation.utils import GenerationMixin

from engines.transformers.classification import evenly, frames_seen
from engines.transformers.device import to_model
from engines.transformers.generation.runner import GenerationRunner, Prompt
from engines.transformers.generation.token_sequence import TokenSequence
from engines.transformers.loading import ModelFolder
from engines.transformers.process_state import running
from engines.transformers.runner import TaskRunner
from engines.transformers.shared_models import SharedModels
from handlers.errors import InvalidInput, InvalidOption, ModelLoadFailed

_OF_THE_PROMPT = frozenset({"input_ids", "attention_mask"})
_MOST_SEEN_PIXELS = 25_000_000
"""Processors keep no more of an image, and each copies it three times: 1.4 GB for 100 megapixels."""

_EXPAND = "_expand_inputs_for_generation"
"""How a model repeats its inputs for beams; models with several images override it."""


class VisionLanguageRunner(GenerationRunner):
    """Answers conversations about images; rows may have different numbers of images of any sizes."""

    kinds = ("AutoModelForImageTextToText",)
    needs = "a vision-language model"
    parts = (ModelFolder.processor,)

    def __init__(self, name: str, model: PreTrainedModel, processor: Any) -> None:
        if model.config.is_encoder_decoder:
            raise ModelLoadFailed(
                f"model {name} is a {type(model).__name__}, an encoder-decoder; only decoder-only "
                "models, which continue the prompt, run for images"
            )
        super().__init__(name, model, processor.tokenizer)
        self.processor = processor
        config: Any = model.config
        names = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
        tokens = (getattr(holder, name, None) for holder in (config, processor) for name in names)
        self.placeholders = frozenset(token for token in tokens if isinstance(token, int))

    def prompt(self, inputs: dict[str, Any]) -> Prompt:
        """Return the tokens of the conversation, with placeholders of the images, and the images' tensors."""
        try:
            encoded = self._encode(inputs)
        except TemplateError as error:
            raise InvalidInput(f"data.messages does not suit model {self.name}: {error}") from error
        except ValueError as error:
            # Processors say so that there are too many images, or that one is too small.
            raise InvalidInput(f"model {self.name} does not take these images: {error}") from error
        tokens: list[int] = encoded["input_ids"][0].tolist()
        extras = {name: tensor for name, tensor in encoded.items() if name not in _OF_THE_PROMPT}
        return Prompt(tokens, to_model(self.model, extras))

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        sequence = super().prepare(inputs, options)
        if not sequence.beams:
            return sequence
        # Repeated one by one for the beams, the images of one row would be mixed up.
        one_by_one = getattr(type(self.model), _EXPAND) is getattr(GenerationMixin, _EXPAND)
        if one_by_one and any(tensor.shape[0] > 1 for tensor in sequence.extras.values()):
            raise InvalidOption(
                f"options.num_beams above 1 takes one image with model {self.name}; leave it out, or send one image"
            )
        return sequence

    def _encode(self, inputs: dict[str, Any]) -> Any:
        """Return the processor's output for a conversation, about a video where there are `video_metadata`."""
        messages, about_video = inputs["messages"], inputs.get("video_metadata")
        self._refuse_marks(messages)
        more: dict[str, Any] = {}
        if about_video is not None:
            more["processor_kwargs"] = {"do_sample_frames": False, "video_metadata": [about_video]}
        elif self.processor.chat_template is None:
            images = [_reduced(image) for image in inputs["images"]]
            return self.processor(text=self._plain_text(messages), images=images, return_tensors="pt")
        else:
            messages = _with_images(messages, [_reduced(image) for image in inputs["images"]])
        return self.processor.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", **more
        )

    def _refuse_marks(self, messages: Sequence[dict[str, Any]]) -> None:
        """Refuse texts with the processor's own mark for an image: it would look for one more image there."""
        marks = [getattr(self.processor, name, None) for name in ("image_token", "video_token")]
        for text in (part["text"] for message in messages for part in message["content"] if "text" in part):
            if mark := next((one for one in marks if isinstance(one, str) and one and one in text), None):
                raise InvalidInput(
                    f"the text holds {mark!r}, which model {self.name} takes for an image; leave it out: images of "
                    'data.images stand before the text, or where data.messages has {"type": "image"}'
                )

    def _plain_text(self, messages: Sequence[dict[str, Any]]) -> str:
        """Return the user's one message as text, with the processor's marks for images. Processors whose image token
        is not a plain string add it themselves."""
        if len(messages) > 1:
            raise InvalidInput(f"data.messages needs a chat template, which model {self.name} lacks; send data.prompt")
        token = getattr(self.processor, "image_token", None)
        image = token if isinstance(token, str) else ""
        return "".join(image if part["type"] == "image" else part["text"] for part in messages[0]["content"])


def _reduced(image: Image.Image) -> Image.Image:
    factor = math.ceil(math.sqrt(image.width * image.height / _MOST_SEEN_PIXELS))
    return image.reduce(factor) if factor > 1 else image


def _with_images(messages: Sequence[dict[str, Any]], images: Sequence[Any]) -> list[dict[str, Any]]:
    """Return `messages` with each image in its part, as processors expect."""
    left = iter(images)
    return [
        {
            "role": message["role"],
            "content": [
                {**part, "image": next(left)} if part["type"] == "image" else part for part in message["content"]
            ],
        }
        for message in messages
    ]


class VlmRunner(VisionLanguageRunner):
    """Asks a vision-language model, as task vlm does; a subclass makes the conversations. The tasks that ask one model
    share all that its runner has, so their texts grow in one running batch; each has its own budget and release."""

    def __init__(self, asked: VisionLanguageRunner, release: Callable[[], None] = lambda: None) -> None:
        vars(self).update(vars(asked))
        TaskRunner.__init__(self, asked.name, asked.model, release)

    @classmethod
    def load(cls, folder: ModelFolder, shared: SharedModels) -> Self:
        """Return the runner over the image-text-to-text model in `folder`, which other tasks may use already."""
        asked, release = shared.take(folder.path, lambda: VisionLanguageRunner.load(folder, shared))
        try:
            return cls(asked, release)
        except BaseException:
            release()
            raise

    def close(self) -> None:
        """Release the model; the last task that does so ends its loops."""
        self._release()


_ROOM_FOR_ANSWER = 0.25
"""The share of a model's context for the answer where the request does not limit it."""

_CLOCK_HZ = 1000


class VideoDescriptionRunner(VlmRunner):
    """Answers a prompt about a video, with as many frames as fit the model's context. Models that support videos get
    one, with the frames' times; others get images."""

    def __init__(self, asked: VisionLanguageRunner, release: Callable[[], None] = lambda: None) -> None:
        super().__init__(asked, release)
        self.takes_videos = takes_videos(self.processor)
        own = getattr(self.processor, "video_processor", None) if self.takes_videos else None
        self._taken_together: int = getattr(own, "temporal_patch_size", None) or 1

    def prepare(self, inputs: dict[str, Any], options: dict[str, Any]) -> TokenSequence:
        """Return the question in the form of vlm; its result has frame_times_s and duration_s as well."""
        if "prompt" not in inputs:
            raise InvalidInput(f"data.prompt is required: model {self.name} answers in text; send a question")
        there = len(inputs["frames"])
        with running():
            seen = evenly(there, min(there, self._frames_that_fit(inputs, options)))
            sequence = super().prepare(self._question(inputs, seen), options)
        times = frames_seen(inputs, seen)
        sequence.as_result = lambda answer: {**answer, **times}
        return sequence

    def _frames_that_fit(self, inputs: dict[str, Any], options: dict[str, Any]) -> int:
        """Return how many frames leave room for the answer, at least 1: each takes equally many tokens."""
        there, together = len(inputs["frames"]), self._taken_together
        context = self.context
        if context is None:
            return there
        room = context - (options.get("max_new_tokens") or int(context * _ROOM_FOR_ANSWER))
        first, second = (self._tokens(inputs, count * together) for count in (1, 2))
        fitting = together * (1 + (room - first) // max(1, second - first))
        while together < fitting < there and self._tokens(inputs, fitting) > room:
            fitting -= together  # the text about the frames grows a little with their number
        return max(1, fitting)

    def _tokens(self, inputs: dict[str, Any], count: int) -> int:
        return len(self.prompt(self._question(inputs, [0] * count)).tokens)

    def _question(self, inputs: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
        frames, asked = inputs["frames"][seen], {"type": "text", "text": inputs["prompt"]}
        if self.takes_videos:
            content: list[dict[str, Any]] = [{"type": "video", "video": frames}, asked]
            about: dict[str, Any] = {"video_metadata": metadata_of(inputs, seen)}
        else:
            content = [*({"type": "image"} for _ in frames), asked]
            about = {"images": [Image.fromarray(np.ascontiguousarray(frame)) for frame in frames]}
        return {"messages": [{"role": "user", "content": content}], **about}


def takes_videos(processor: Any) -> bool:
    """Return whether `processor` supports videos, and its chat template has a place for one."""
    token = getattr(processor, "video_token", None)
    if getattr(processor, "video_processor", None) is None or not isinstance(token, str):
        return False
    content = [{"type": "video"}, {"type": "text", "text": "?"}]
    try:
        return token in processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    except (TemplateError, ValueError):  # no place for a video, or no template at all
        return False


def metadata_of(inputs: dict[str, Any], seen: Sequence[int]) -> dict[str, Any]:
    """Return the metadata of the frames `seen` for processors: their times, on a clock of milliseconds. Frames are
    numbered as if there were one per millisecond, so that the times are right however the frames were picked."""
    indices = [round(inputs["frame_times_s"][index] * _CLOCK_HZ) for index in seen]
    return {
        "total_num_frames": max(round(inputs["duration_s"] * _CLOCK_HZ), indices[-1] + 1),
        "fps": float(_CLOCK_HZ),
        "duration": inputs["duration_s"],
        "frames_indices": indices,
    }
