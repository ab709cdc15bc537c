"""Makes the model of this package: `python -m inferstream_langid.train FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path

from .profiles import Profiles

TEXTS = Path(__file__).parent / "texts"


def main() -> None:
    """Write the profiles of the languages under `texts` into the folder named on the command line."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(TEXTS.glob("*.txt"))}
    Profiles.of_texts(texts).save(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
