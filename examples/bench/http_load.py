"""Load over HTTP: so many connections, each with one request under way at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Answered:
    """What came of a load: how long it took as a whole, and each request by itself."""

    seconds: float
    ms: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return len(self.ms) / self.seconds


async def ask(url: str, path: str, bodies: Sequence[bytes], connections: int) -> Answered:
    """POST every body once over `connections` connections that are kept, and return the times.

    Speaks just the HTTP that both servers answer with, so that the client takes little of the machine.

    Raises:
        AssertionError: an answer is not 200, or has no length.
    """
    host, _, port = url.removeprefix("http://").rpartition(":")
    waiting = list(bodies)
    answered = Answered(0.0)

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while waiting:
                body = waiting.pop()
                began = time.perf_counter()
                writer.write(
                    b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                    % (path.encode(), host.encode(), len(body), body)
                )
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(_length_of(head))
                answered.ms.append((time.perf_counter() - began) * 1000)
        finally:
            writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(connections)))
    answered.seconds = time.perf_counter() - began
    return answered


def _length_of(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    assert lines[0].split()[1] == b"200", head
    lengths = [line.partition(b":")[2] for line in lines if line.startswith(b"content-length:")]
    assert len(lengths) == 1, head
    return int(lengths[0])
