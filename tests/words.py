"""Counts words and phrases that the text of this project avoids; `python -m tests.words`, a part of `make check`.

Pages and README have none. In the code each may occur as often as it does today, and less: lower its number here when
you take some away. Strings that messages are made of count as docstrings and comments do.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CODE = ("streams", "engines", "handlers", "deploy")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")

ALLOWED_IN_CODE = {
    r"(?<!there )\b(?:is|are) no (?!longer|more)": 0,
    r"\bwhoever\b": 0,
    r"\banew\b": 0,
    r"\bof (?:its|their|one's) own\b": 7,
    r"\bhears?\b": 11,
    r"\bgives? way\b": 0,
    r"\bwhat it is of\b": 0,
    r"\b(?:lets?|letting) go\b": 0,
    r"\b(?:tells?|told) of\b": 0,
    r"\bfor want of\b": 0,
    r"\b(?:no|some|every|any)body\b": 4,
    r"\b(?:holds?|holding|held) (?:\w+ )?up\b": 0,
    r"\bwithout a word\b": 1,
    r"\bone behind the other\b": 0,
    r"\bfor good\b": 0,
    r"\ball the same\b": 0,
    r"\bgoes? before\b": 0,
    r"\bof late\b": 0,
    r"\bby heart\b": 0,
    r"\bin the making\b": 0,
    r"\b(?:comes?|came) to nothing\b": 0,
    r"\b(?:became|becomes|comes) of\b": 0,
}


def texts(path: Path) -> list[str]:
    """Return the lines of a file, without the names of functions and the like in code."""
    text = path.read_text(encoding="utf-8")
    return [re.sub(r"\w*_\w*|\w+\(|\.\w+", " ", line) if path.suffix == ".py" else line for line in text.splitlines()]


def files(*names: str) -> list[Path]:
    found: list[Path] = []
    for name in names:
        path = ROOT / name
        found += [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
    return found


def places(pattern: str, paths: list[Path]) -> list[str]:
    expression = re.compile(pattern, re.IGNORECASE)
    return [
        f"{path.relative_to(ROOT)}:{number}: {found}"
        for path in paths
        for number, line in enumerate(texts(path), 1)
        for found in expression.findall(line)
    ]


def main() -> int:
    wrong: list[str] = []
    code, pages = files(*CODE), files(*PAGES)
    for pattern, allowed in ALLOWED_IN_CODE.items():
        wrong += places(pattern, pages)
        in_code = places(pattern, code)
        if len(in_code) > allowed:
            wrong += [f"{pattern} occurs {len(in_code)} times in the code, {allowed} are allowed:", *in_code]
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")  # noqa: T201
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
