"""Reads the images of a request, from files of any common format or arrays, to upright RGB."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from handlers.decoding.children import processes
from handlers.decoding.children.processes import ChildEnded
from handlers.decoding.image_files import as_rgb, check_pixels, left_out_of, opened_image, upright_rgb
from handlers.decoding.pixel_limits import check_sizes
from handlers.errors import InvalidInput
from handlers.media import encoded_file
from handlers.options.spec import shown
from handlers.settings import MediaSettings

_QUICK_STARTS = (b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF8", b"BM")
"""JPEG, PNG, WebP, GIF, BMP: within the limit of pixels they take seconds at most."""

_QUICK_BYTES = 8 << 20
"""Larger files may hold hundreds of thousands of parts, each of which takes time."""

_MOST_SCANS = 50
"""Scans that a JPEG takes one by one over all its pixels; progressive ones have about ten."""

_MOST_MARKERS = 50_000
"""Segments of a JPEG, each of which takes some microseconds; so many restart markers are rare."""

_QUICK_PIXELS = 25_000_000
"""Larger images take seconds, and up to 16 bytes a pixel."""


def read_images(data: dict[str, Any], limits: MediaSettings) -> list[Image.Image]:
    """Return the images in `data`, one in `image` or several in `images`, each as `read_image` does.

    Raises:
        InvalidInput: permanent; none, both fields at once, or more than `limits.max_images`.
        MediaCorrupt, MediaTooLarge: permanent; as `read_image`, or all together have more than
            `limits.max_image_pixels` pixels; found before any is decoded.
    """
    one, several = data.get("image"), data.get("images")
    if one is not None and several is not None:
        raise InvalidInput("data.image and data.images are both given; put every image in data.images")
    if one is not None:
        return [read_image(one, field="data.image", limits=limits)]
    if several is None:
        came = ", ".join(sorted(map(str, data))) or "nothing"
        raise InvalidInput(f"data.image (one image) or data.images (a list) is required; got {came}")
    if not isinstance(several, list | tuple) or not several:
        raise InvalidInput(f"data.images is {shown(several)}; it must be a list of at least one image")
    if len(several) > limits.max_images:
        raise InvalidInput(
            f"data.images holds {len(several)} images; media.max_images allows {limits.max_images}: "
            "send several requests"
        )
    pictures = [_picture(value, f"data.images[{index}]", limits) for index, value in enumerate(several)]
    check_sizes(
        "data.images",
        ((picture.what, picture.width, picture.height) for picture in pictures),
        limits.max_image_pixels,
        cure="send fewer of them in one request, or scale them down",
    )
    return [picture.decode() for picture in pictures]


def read_image(value: Any, *, field: str, limits: MediaSettings) -> Image.Image:
    """Return the image in `value` upright, in mode RGB; the caller owns it.

    `value` is a Media or bytes (an encoded file), a PIL image, or a numpy array (height, width) or (height, width, 1, 3
    or 4) of uint8, of uint16 (0..65535, or 0..255 where none is larger) or of floats within 0..1. What is transparent
    becomes white, or black where nothing is seen on white. Of a file of several pages or frames, `info["truncated"]`
    says that only the first was read. The limit on pixels is checked before anything is decoded. Files that may take
    long or much memory are decoded in a child process, and refused beyond its limits.

    Raises:
        InvalidInput: permanent; no image at all, or an array of the wrong kind.
        MediaCorrupt: permanent; bytes that are empty, cut short or no image of a format that is read.
        MediaTooLarge: permanent; more than `limits.max_image_pixels` pixels.
    """
    return _picture(value, field, limits).decode()


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image whose size is checked, and whose pixels are not decoded yet."""

    what: str
    width: int
    height: int
    decode: Callable[[], Image.Image]


def _picture(value: Any, field: str, limits: MediaSettings) -> _Picture:
    """Return the image in `value` by its header or shape; raises as `read_image` does."""
    arrays = (Image.Image, np.ndarray)
    if file := encoded_file(value, field, besides=arrays, named=", a PIL image or a numpy array"):
        return _file(*file, limits)
    if isinstance(value, np.ndarray):
        return _array(value, field, limits.max_image_pixels)
    what = f"{field} (a PIL image)"
    return _sized(value.width, value.height, what, limits.max_image_pixels, partial(upright_rgb, value, what))


def _sized(width: int, height: int, what: str, max_pixels: int, decode: Callable[[], Image.Image]) -> _Picture:
    check_pixels(what, width, height, max_pixels)
    return _Picture(what, width, height, decode)


def _file(content: bytes, what: str, limits: MediaSettings) -> _Picture:
    in_child = partial(_read_in_child, content, what, limits)
    if not is_quick(content):
        decoded = in_child()
        return _Picture(what, *decoded.size, lambda: decoded)
    image = opened_image(content, what)

    def decode() -> Image.Image:
        left_out = left_out_of(image, what)
        with image:  # its pixels are not kept beside those that are returned
            plain = upright_rgb(image, what)
        if left_out:
            plain.info["truncated"] = left_out
        return plain

    is_small = image.width * image.height <= _QUICK_PIXELS
    return _sized(*image.size, what, limits.max_image_pixels, decode if is_small else in_child)


def is_quick(content: bytes) -> bool:
    """Tell whether an image of few pixels is surely decoded in seconds."""
    if len(content) > _QUICK_BYTES or not content.startswith(_QUICK_STARTS):
        return False
    if not content.startswith(b"\xff\xd8"):
        return True
    markers = content.count(b"\xff") - content.count(b"\xff\0")
    return markers <= _MOST_MARKERS and content.count(b"\xff\xda") <= _MOST_SCANS


def _read_in_child(content: bytes, what: str, limits: MediaSettings) -> Image.Image:
    arguments = {"what": what, "max_pixels": limits.max_image_pixels}
    children = limits.children.for_images(limits.max_image_pixels)
    try:
        function = "handlers.decoding.children.images:image"
        with closing(processes.pictures.call(function, content, arguments, children)) as answers:
            about, _ = next(answers)
            image, top = Image.new("RGB", tuple(about["size"])), 0
            for _, block in answers:
                rows = len(block) // (3 * image.width)
                image.paste(Image.frombytes("RGB", (image.width, rows), block), (0, top))
                top += rows
    except ChildEnded as ended:
        raise ended.refusal(what, children, cure="save it again as an ordinary JPEG or PNG") from ended
    image.info |= {name: value for name, value in about.items() if name != "size" and value}
    return image


def _array(array: NDArray[Any], field: str, max_pixels: int) -> _Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise InvalidInput(f"{field} has shape {array.shape}; it must be (height, width) or (height, width, 1, 3 or 4)")
    height, width = array.shape[:2]
    return _sized(width, height, field, max_pixels, partial(_from_array, array, field))


def _from_array(array: NDArray[Any], field: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16:
        white = np.float32(255 if array.max() <= 255 else 65535)
        array = np.rint(array * (np.float32(255) / white)).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise InvalidInput(f"{field} has values from {low:g} to {high:g}; floats must lie within 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InvalidInput(f"{field} is an array of {array.dtype}; it must be uint8, uint16 or float")
    return as_rgb(Image.fromarray(np.ascontiguousarray(array)), field)
