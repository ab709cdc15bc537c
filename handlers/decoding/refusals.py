"""What a caller is told where a child process ended before it had decoded a file."""

from __future__ import annotations

from handlers.decoding.limits import Limits
from handlers.decoding.processes import ChildEnded
from handlers.errors import InferenceError, MediaCorrupt, MediaTooLarge, OutOfMemory


def refusal(ended: ChildEnded, what: str, limits: Limits, *, cure: str) -> InferenceError:
    """Return the error for `what`; `cure` is what to do, to follow a colon."""
    match ended.reason:
        case "time":
            return MediaTooLarge(
                f"{what} takes longer to decode than media.decode_timeout_s allows ({limits.timeout_s:g} s): {cure}"
            )
        case "memory":
            return MediaTooLarge(
                f"{what} takes more memory to decode than media.decode_memory_bytes allows "
                f"({limits.memory_bytes} bytes): {cure}"
            )
        case "killed":
            return OutOfMemory(
                f"the process that decoded {what} was killed from outside, most likely as the machine has no memory "
                "left; try again"
            )
        case "crash":
            return MediaCorrupt(f"{what} is damaged: it makes its decoder crash ({ended.detail}); {cure}")
