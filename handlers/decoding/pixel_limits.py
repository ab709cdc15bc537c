"""Limits the pixels of all images of a request, which are in memory at the same time."""

from __future__ import annotations

from collections.abc import Iterable

from handlers.errors import MediaTooLarge

_MOST_ASPECT = 200
"""Largest ratio of an image's sides."""


def check_size(
    what: str, width: int, height: int, max_pixels: int, *, has: str = "is", cure: str = "scale it down"
) -> None:
    """Refuse an image that is too large, or so narrow that models that scale its shorter side up run out of memory.

    Raises:
        MediaTooLarge: permanent; more than `max_pixels`, or one side is more than 200 times the other.
    """
    if width * height > max_pixels:
        raise MediaTooLarge(
            f"{what} {has} {width} x {height} = {width * height} pixels; media.max_image_pixels allows {max_pixels}: "
            f"{cure}"
        )
    if max(width, height) > _MOST_ASPECT * min(width, height):
        raise MediaTooLarge(
            f"{what} {has} {width} x {height} pixels; one side may be at most {_MOST_ASPECT} times the other: cut it "
            "into pieces, or pad it"
        )


def check_sizes(
    what: str, sizes: Iterable[tuple[str, int, int]], max_pixels: int, *, cure: str, cure_of_one: str = "scale it down"
) -> None:
    """Refuse images, told by their place, width and height, before they are decoded.

    `cure` is the advice where they are too many, and `cure_of_one` where one alone is too large.

    Raises:
        MediaTooLarge: permanent; one does not fit beside the earlier ones, or is far too long.
    """
    spent = 0
    for place, width, height in sizes:
        check_size(f"{what}: {place}", width, height, max_pixels, cure=cure_of_one)
        spent += width * height
        if spent > max_pixels:
            raise MediaTooLarge(
                f"{what} has {spent} pixels by {place}, which is {width} x {height}; "
                f"media.max_image_pixels allows {max_pixels}: {cure}"
            )
