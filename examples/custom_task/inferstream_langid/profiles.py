"""Languages as frequencies of trigrams, and how well a text fits each.

Source: Cavnar and Trenkle, "N-Gram-Based Text Categorization", 1994, with log-likelihoods in place of ranks.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

FILE = "profiles.json"

_NO_LETTERS = re.compile(r"[\W\d_]+")


def trigrams(text: str) -> Iterator[str]:
    """Yield every three neighbouring letters of `text`; what is no letter counts as one space."""
    letters = f" {_NO_LETTERS.sub(' ', text.lower()).strip()} "
    return (letters[index : index + 3] for index in range(len(letters) - 2))


class Profiles:
    """How often each trigram occurs in each language; immutable, so any thread may share it."""

    def __init__(self, counts: Mapping[str, Mapping[str, int]]) -> None:
        self.counts = {language: dict(found) for language, found in counts.items()}
        self._totals = {language: sum(found.values()) for language, found in self.counts.items()}
        self._kinds = len({trigram for found in self.counts.values() for trigram in found})

    @classmethod
    def of_texts(cls, texts: Mapping[str, str]) -> Profiles:
        """Return the profiles of languages given by a text each."""
        return cls({language: Counter(trigrams(text)) for language, text in texts.items()})

    @classmethod
    def load(cls, folder: Path) -> Profiles:
        """Return the profiles saved in `folder`.

        Raises:
            OSError, ValueError: there is no such file, or it holds something else.
        """
        counts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        if not isinstance(counts, dict) or not counts:
            raise ValueError(f"{FILE} holds no languages")
        return cls(counts)

    def save(self, folder: Path) -> None:
        """Write the profiles into `folder`, which is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps(self.counts, ensure_ascii=False, indent=0), encoding="utf-8")

    def probabilities(self, text: str, *, unseen: float) -> dict[str, float]:
        """Return the probability of each language, likeliest first; they add up to 1.

        `unseen`, above 0, is the count of a trigram that a language's text does not hold.
        """
        fits = {language: self._log_likelihood(language, text, unseen) for language in self.counts}
        best = max(fits.values())
        shares = {language: math.exp(fit - best) for language, fit in fits.items()}
        total = sum(shares.values())
        return {name: shares[name] / total for name in sorted(shares, key=shares.__getitem__, reverse=True)}

    def _log_likelihood(self, language: str, text: str, unseen: float) -> float:
        found, total = self.counts[language], self._totals[language] + unseen * self._kinds
        return sum(math.log((found.get(trigram, 0) or unseen) / total) for trigram in trigrams(text))
