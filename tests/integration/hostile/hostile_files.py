"""Hostile files, the same for the same seed: mutated, cut, lying, nested and repeated ones, and bombs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.integration.hostile.bombs import QUICK, SLOW
from tests.integration.hostile.whole_files import whole_files

_LIES = (
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
    b"\x80\0\0\0",
    b"\0\0\0\x01",
)


@dataclass(frozen=True, slots=True)
class HostileFile:
    """A file, what it calls itself, and the medium as which it is sent."""

    medium: str
    name: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.name} ({self.medium}, {len(self.content)} bytes)"


def flipped(content: bytes, dice: random.Random) -> bytes:
    """Change some bytes anywhere."""
    changed = bytearray(content)
    for _ in range(max(1, len(changed) // dice.choice((20, 200, 2000)))):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def lying(content: bytes, dice: random.Random) -> bytes:
    """Put extreme numbers where the sizes stand: near the beginning."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(4, min(len(changed) - 4, 120))
        changed[at : at + 4] = dice.choice(_LIES)
    return bytes(changed)


def cut(content: bytes, dice: random.Random) -> bytes:
    """Leave the end away."""
    return content[: dice.randrange(1, len(content))]


def repeated(content: bytes, dice: random.Random) -> bytes:
    """Repeat a part of it many times where it stands."""
    start, end = sorted(dice.sample(range(len(content)), 2))
    times = min(1000, 2_000_000 // (end - start))
    return content[:start] + content[start:end] * times + content[end:]


def nested(content: bytes, dice: random.Random) -> bytes:
    """Put it into the middle of itself."""
    at = dice.randrange(len(content))
    return content[:at] + content + content[at:]


def disguised(content: bytes, dice: random.Random) -> bytes:
    """Give it the beginning of another format."""
    others = [other for files in whole_files().values() for other in files.values()]
    size = dice.choice((4, 12, 64))
    return dice.choice(others)[:size] + content[size:]


def torn(content: bytes, dice: random.Random) -> bytes:
    """Take a part out of the middle."""
    start, end = sorted(dice.sample(range(len(content)), 2))
    return content[:start] + content[end:]


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flipped,
    lying,
    cut,
    repeated,
    nested,
    disguised,
    torn,
)


def hostile_files(count: int, *, seed: int, with_slow: bool) -> Iterator[HostileFile]:
    """Yield `count` files: the bombs, then mutations of every format in turn."""
    dice = random.Random(seed)
    bombs = (*QUICK, *SLOW) if with_slow else QUICK
    for medium, name, make in bombs[:count]:
        yield HostileFile(medium, name, make())
    wholes = [(medium, name, file) for medium, files in whole_files().items() for name, file in files.items()]
    dice.shuffle(wholes)
    for number in range(max(0, count - len(bombs))):
        medium, name, content = wholes[number % len(wholes)]
        mutate = MUTATIONS[(number + number // len(wholes)) % len(MUTATIONS)]
        yield HostileFile(medium, f"{name} {mutate.__name__}", mutate(content, dice))
