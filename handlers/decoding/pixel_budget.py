"""Limits the pixels of all images of a request, which are in memory at the same time."""

from __future__ import annotations

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


class PixelBudget:
    """Counts images before they are decoded. For one thread.

    `cure` is the advice where they are too many, and `cure_of_one` where one alone is too large.
    """

    def __init__(self, what: str, max_pixels: int, *, cure: str, cure_of_one: str = "scale it down") -> None:
        self._what = what
        self._max_pixels = max_pixels
        self._cure = cure
        self._cure_of_one = cure_of_one
        self._spent = 0

    def spend(self, place: str, width: int, height: int) -> None:
        """Count the image at `place`.

        Raises:
            MediaTooLarge: permanent; it does not fit beside the earlier ones, or is far too long.
        """
        check_size(f"{self._what}: {place}", width, height, self._max_pixels, cure=self._cure_of_one)
        self._spent += width * height
        if self._spent > self._max_pixels:
            raise MediaTooLarge(
                f"{self._what} has {self._spent} pixels by {place}, which is {width} x {height}; "
                f"media.max_image_pixels allows {self._max_pixels}: {self._cure}"
            )
