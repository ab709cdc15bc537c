"""Extractive answers: the span of a document's words that a document question answering model selects.

Source: https://arxiv.org/abs/1912.13318 (LayoutLM); https://arxiv.org/abs/1606.05250 section 5 (answer spans)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from engines.transformers.device import to_model
from engines.transformers.loading import ModelFolder
from engines.transformers.process_state import running
from handlers.decoding.document_pages import Page, Word
from handlers.errors import InvalidInput, ModelLoadFailed

_LONGEST_ANSWER = 15
"""In tokens."""

_MOST_OVERLAP = 256
"""Most tokens that neighbouring windows of a long page share."""

_GRID = 1000
"""The scale of boxes for these models: a page is this wide and high."""

_READ = ("input_ids", "attention_mask", "token_type_ids", "bbox")

_RIGHT_EDGE = [_GRID] * 4
_NOWHERE = [0] * 4


class Answer(NamedTuple):
    """An answer in the form of a result: its text, its page, and its probability."""

    answer: str
    answer_page: int
    answer_score: float


class AnswerFinder:
    """Finds answers with a LayoutLM model; not safe to share between threads."""

    def __init__(self, folder: ModelFolder) -> None:
        """Load a document question answering model and its tokenizer.

        Raises:
            ModelLoadFailed: permanent; another kind of model, or an incomplete one.
        """
        self._name = folder.name
        needs = "a document question answering model"
        self.model = folder.model("AutoModelForDocumentQuestionAnswering", needs=needs)
        self._image_processor: Any = None
        if getattr(self.model.config, "visual_embed", False):
            self._image_processor = folder.image_processor()
            self._image_processor.apply_ocr = False  # the words are known, and its own OCR needs Tesseract
        self._tokenizer = folder.tokenizer()
        if not getattr(self._tokenizer, "is_fast", False):
            raise ModelLoadFailed(f"model {self._name} needs a fast tokenizer; save it with its tokenizer.json")
        longest: int = self._tokenizer.model_max_length
        self._window = min(longest, getattr(self.model.config, "max_position_embeddings", longest))

    @running()
    def find(self, question: str, pages: Sequence[Page]) -> Answer:
        """Return the most probable answer on any of `pages`, all of which must have words; "" where there is none.

        Raises:
            InvalidInput: permanent; the question alone fills a window.
        """
        best = Answer("", pages[0]["number"], 0.0)
        for page in pages:
            for window in self._windows(question, page):
                best = max(best, self._answer(*window, page), key=lambda found: found.answer_score)
        return best

    def _windows(self, question: str, page: Page) -> Iterator[tuple[dict[str, list[Any]], list[int | None]]]:
        """Yield, as much of a page as the model reads at once, what it is given, and for each token the page's word
        that it belongs to: None for tokens of the question and special ones."""
        words = page["words"] or []
        if not words:
            return
        boxes = [_on_grid(word, page) for word in words]
        texts = [word["text"] for word in words]
        takes_boxes = hasattr(self._tokenizer, "pad_token_box")
        asked: dict[str, Any] = (
            {"text": [question], "text_pair": [texts], "boxes": [boxes]}
            if takes_boxes
            else {"text": question.split(), "text_pair": texts, "is_split_into_words": True}
        )
        try:
            encoded = self._tokenizer(
                **asked,
                max_length=self._window,
                stride=min(self._window // 2, _MOST_OVERLAP),
                truncation="only_second",
                return_token_type_ids=True,
                return_overflowing_tokens=True,
            )
        except Exception as error:  # the tokenizers library raises its own types, with these words
            if "Truncation error" not in str(error) and "too short" not in str(error):
                raise
            raise InvalidInput(
                f"data.question is too long: model {self._name} reads {self._window} tokens of question and "
                "page at once; ask a shorter one"
            ) from error
        for index in range(len(encoded["input_ids"])):
            sides = zip(encoded.sequence_ids(index), encoded.word_ids(index), strict=True)
            owners = [owner if side == 1 else None for side, owner in sides]
            seen = {name: encoded[name][index] for name in _READ if name in encoded}
            if not takes_boxes:
                specials = {self._tokenizer.sep_token_id: _RIGHT_EDGE}
                seen["bbox"] = [
                    specials.get(token, _NOWHERE) if owner is None else boxes[owner]
                    for token, owner in zip(seen["input_ids"], owners, strict=True)
                ]
            yield seen, owners

    def _answer(self, seen: dict[str, list[Any]], owners: Sequence[int | None], page: Page) -> Answer:
        inputs = {name: torch.tensor([values]) for name, values in seen.items()}
        if self._image_processor is not None:
            pixels = self._image_processor(images=page["image"], return_tensors="pt")["pixel_values"]
            inputs["pixel_values"] = pixels
        with torch.inference_mode():
            found = self.model(**to_model(self.model, inputs))
        length = len(owners)
        start, end, score = best_span(
            found.start_logits[0, :length].float().cpu(),
            found.end_logits[0, :length].float().cpu(),
            torch.tensor([owner is not None for owner in owners]),
        )
        first, last = owners[start], owners[end]
        if first is None or last is None:
            return Answer("", page["number"], 0.0)
        words = (page["words"] or [])[first : last + 1]
        return Answer(" ".join(word["text"] for word in words), page["number"], score)


def best_span(start: torch.Tensor, end: torch.Tensor, allowed: torch.Tensor) -> tuple[int, int, float]:
    """Return first and last token of the likeliest answer, and its probability. `start` and `end` are the scores of
    each token (tokens,); only `allowed` tokens can be part of an answer. The first token stands for "no answer" and
    takes its share of the probability."""
    counted = allowed.clone()
    counted[0] = True
    starts, ends = (scores.masked_fill(~counted, -torch.inf).softmax(0) * allowed for scores in (start, end))
    spans = torch.outer(starts, ends).triu().tril(_LONGEST_ANSWER - 1)
    first, last = divmod(int(spans.argmax()), len(start))
    return first, last, float(spans[first, last])


def _on_grid(word: Word, page: Page) -> list[int]:
    sizes = (page["width"], page["height"]) * 2
    return [min(max(int(_GRID * side / size), 0), _GRID) for side, size in zip(word["box"], sizes, strict=True)]
