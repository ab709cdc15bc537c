"""Decodes images of any common format, depth and orientation to upright RGB."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from handlers.decoding.children.images import are_few, dpi_of, is_quick, read_in_child
from handlers.decoding.children.processes import Limits
from handlers.decoding.image_metadata import without_metadata
from handlers.decoding.pixel_budget import PixelBudget, check_size
from handlers.errors import InferenceError, InvalidInput, MediaCorrupt
from handlers.file_kinds import misplaced, refusal
from handlers.logger import get_logger
from handlers.media import encoded_file
from handlers.options.spec import shown
from handlers.settings import MediaSettings

log = get_logger(__name__)

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "PPM")
"""The formats that are read, by Pillow's own decoders; not those that start other programs or fetch files."""

_OF_SEVERAL = frozenset({"TIFF", "GIF", "WEBP", "AVIF", "PNG"})
"""Formats of several pages or frames; extra images in a JPEG belong to the first."""

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the image upright. Source: Exif 3.0 (CIPA DC-008), tag 0x0112."""

_A = {name: "an" if name == "AVIF" else "a" for name in FORMATS}

_CURE = f"send a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"


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
        return [
            read_image(one, field="data.image", max_pixels=limits.max_image_pixels, children=limits.children)
        ]
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
    pictures = [
        _picture(value, f"data.images[{index}]", limits.max_image_pixels, limits.children)
        for index, value in enumerate(several)
    ]
    budget = PixelBudget(
        "data.images", limits.max_image_pixels, cure="send fewer of them in one request, or scale them down"
    )
    for picture in pictures:
        budget.spend(picture.what, picture.width, picture.height)
    return [picture.decode() for picture in pictures]


def read_image(value: Any, *, field: str, max_pixels: int, children: Limits | None = None) -> Image.Image:
    """Return the image in `value` upright, in mode RGB; the caller owns it.

    `value` is a Media or bytes (an encoded file), a PIL image, or a numpy
    array (height, width) or (height, width, 1, 3 or 4) of uint8, of uint16 (0..65535) or of floats within
    0..1. What is transparent becomes white. Of a file of several pages or frames, `info["truncated"]` says that only
    the first was read. The limit is checked before anything is decoded. With `children`, files
    that may take long or much memory are decoded in a child process, and refused beyond its limits.

    Raises:
        InvalidInput: permanent; no image at all, or an array of the wrong kind.
        MediaCorrupt: permanent; bytes that are empty, cut short or no image of `FORMATS`.
        MediaTooLarge: permanent; more than `max_pixels` pixels.
    """
    return _picture(value, field, max_pixels, children).decode()


def decoded_file(content: bytes, what: str, max_pixels: int) -> tuple[Image.Image, str | None]:
    """Return the image in an encoded file upright, in the mode that it has there (`as_rgb` makes RGB of it), and what
    of the file is left out."""
    image = _opened(content, what)
    left_out = _left_out(image, what)
    return _sized(
        image.width, image.height, what, max_pixels, partial(_upright, image, what)
    ).decode(), left_out


@dataclass(frozen=True, slots=True)
class _Picture:
    """An image whose size is checked, and whose pixels are not decoded yet."""

    what: str
    width: int
    height: int
    decode: Callable[[], Image.Image]


def _picture(value: Any, field: str, max_pixels: int, children: Limits | None) -> _Picture:
    """Return the image in `value` by its header or shape; raises as `read_image` does."""
    arrays = (Image.Image, np.ndarray)
    if file := encoded_file(value, field, besides=arrays, named=", a PIL image or a numpy array"):
        return _file(*file, max_pixels, children)
    if isinstance(value, np.ndarray):
        return _array(value, field, max_pixels)
    what = f"{field} (a PIL image)"
    return _sized(value.width, value.height, what, max_pixels, partial(_loaded, value, what))


def _sized(
    width: int, height: int, what: str, max_pixels: int, decode: Callable[[], Image.Image]
) -> _Picture:
    if not width * height:
        raise MediaCorrupt(f"{what} is {width} x {height}: it has no pixels; {_CURE}")
    check_size(what, width, height, max_pixels)
    return _Picture(what, width, height, decode)


def _file(content: bytes, what: str, max_pixels: int, children: Limits | None) -> _Picture:
    if children is not None and not is_quick(content):
        decoded = read_in_child(content, what, max_pixels, children)
        return _Picture(what, decoded.width, decoded.height, lambda: decoded)
    image = _opened(content, what)
    width, height = image.size
    if children is not None and not are_few(width, height):
        return _sized(
            width, height, what, max_pixels, partial(read_in_child, content, what, max_pixels, children)
        )

    def decode() -> Image.Image:
        left_out = _left_out(image, what)
        with image:  # its pixels are not kept beside those that are returned
            plain = _loaded(image, what)
        if left_out:
            plain.info["truncated"] = left_out
        return plain

    return _sized(width, height, what, max_pixels, decode)


def _array(array: NDArray[Any], field: str, max_pixels: int) -> _Picture:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        raise InvalidInput(
            f"{field} has shape {array.shape}; it must be (height, width) or (height, width, 1, 3 or 4)"
        )
    height, width = array.shape[:2]
    return _sized(width, height, field, max_pixels, partial(_from_array, array, field))


def _opened(content: bytes, what: str) -> Image.Image:
    """Return the image with its header read and its pixels not.

    Not Image.open: its limit on pixels is one number for the whole process.
    """
    if not content:
        raise MediaCorrupt(f"{what} is empty (0 bytes); {_CURE}")
    Image.init()
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        try:
            if accepts is None or accepts(content[:16]) is True:
                return factory(io.BytesIO(without_metadata(content)), "")
        except MemoryError:
            raise
        except Exception as error:  # decoders raise nearly anything on bytes that are damaged
            log.info("image_header_unreadable", image=what, format=name, error=repr(error))
            if told := misplaced(content, wanted=("image",), cure=_CURE):
                raise MediaCorrupt(f"{what} is {told}") from error
            cause = (
                "cut short" if _is_cut(error) else "damaged at its beginning, or of a kind that is not read"
            )
            raise MediaCorrupt(f"{what} is {_A[name]} {name} image that is {cause}; {_CURE}") from error
    raise MediaCorrupt(f"{what} is {refusal(content, wanted=('image',), cure=_CURE)}")


def _left_out(image: Image.Image, what: str) -> str | None:
    """Return what the file holds beside its first image; for a result's metadata."""
    if image.format not in _OF_SEVERAL:
        return None
    try:
        has_several = bool(getattr(image, "is_animated", False))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - what is behind the first picture is not needed
        log.info("image_end_unreadable", image=what, error=repr(error))
        return None
    return f"{what} has several pages or frames; only the first was read" if has_several else None


def _loaded(image: Image.Image, what: str) -> Image.Image:
    plain = as_rgb(_upright(image, what), what)
    dpi = dpi_of(image)
    plain.info.clear()  # an orientation left in it would be applied twice
    if dpi is not None:
        plain.info["dpi"] = (dpi, dpi)
    return plain


def _upright(image: Image.Image, what: str) -> Image.Image:
    """Return `image` decoded and upright, of 8 bits a channel."""
    with _decoding(what):
        image.load()
        upright = _turned(image, what)
        if upright.mode != "F" and not upright.mode.startswith("I"):
            return upright
        grey = Image.fromarray(_eight_bits(np.asarray(upright), what))
        grey.info["dpi"] = image.info.get("dpi")
        return grey


def as_rgb(image: Image.Image, what: str) -> Image.Image:
    """Return a new image of mode RGB that looks like `image`, of 8 bits a channel, on white paper."""
    with _decoding(what):
        if not image.has_transparency_data:
            return image.convert("RGB")
        rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


@contextmanager
def _decoding(what: str) -> Iterator[None]:
    try:
        yield
    except (InferenceError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything on bytes that are damaged
        log.info("image_undecodable", image=what, error=repr(error))
        cause = "cut short" if _is_cut(error) else "damaged: its pixels do not decode"
        raise MediaCorrupt(f"{what} is {cause}; {_CURE}") from error


def _turned(image: Image.Image, what: str) -> Image.Image:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the pixels are whole; viewers show such images as they lie
        log.warning("image_exif_unreadable", image=what, error=repr(error))
        return image
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _eight_bits(pixels: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return grey values of more than 8 bits as 0..255.

    Integers count from 0 to 65535, floats from 0 to 1 or to 255; a range beyond is stretched to fit.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise MediaCorrupt(f"{what} holds pixels that are not numbers (NaN or infinity); {_CURE}")
    whites = (65535.0,) if np.issubdtype(pixels.dtype, np.integer) else (1.0, 255.0)
    white = next((white for white in whites if high <= white), None)
    if low >= 0 and white is not None:
        low, high = 0.0, white
    scaled = pixels.astype(np.float32)
    scaled -= np.float32(low)  # in place: of 100 megapixels, each copy takes 400 MB
    scaled *= np.float32(255.0 / ((high - low) or 1.0))
    return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def _from_array(array: NDArray[Any], field: str) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint16:
        array = np.rint(array / np.float32(257)).astype(np.uint8)
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise InvalidInput(f"{field} has values from {low:g} to {high:g}; floats must lie within 0..1")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InvalidInput(f"{field} is an array of {array.dtype}; it must be uint8, uint16 or float")
    return as_rgb(Image.fromarray(np.ascontiguousarray(array)), field)


def _is_cut(error: Exception) -> bool:
    """Return whether a decoder met the end of its file too early; decoders say so only in their messages."""
    return any(word in str(error).lower() for word in ("truncated", "not enough", "eof", "end of file"))
