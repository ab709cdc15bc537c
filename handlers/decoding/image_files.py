"""Opens image files of any common format, and makes upright RGB images of them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from handlers.decoding.pixel_limits import check_size
from handlers.decoding.png_chunks import has_damaged_pixels, without_metadata
from handlers.errors import InferenceError, MediaCorrupt
from handlers.file_kinds import misplaced, refusal
from handlers.logger import get_logger

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

_LEAST_DPI, _MOST_DPI = 10, 20_000
"""Beyond, what a file declares is a place-holder: 1 where a program knows no better."""

Paper = Literal["white", "black"]
"""What lies behind the transparent pixels of an image."""

_FAINT = 16
"""Largest difference from white, of 255, that is as good as none."""

_ROWS = 64
"""Rows that are looked at together."""

_CURE = f"send a whole {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file"


def opened_image(content: bytes, what: str) -> Image.Image:
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
                image = factory(io.BytesIO(without_metadata(content)), "")
                if has_damaged_pixels(content):
                    raise MediaCorrupt(f"{what} is damaged: the checksum of its pixels is wrong; {_CURE}")
                return image
        except (MediaCorrupt, MemoryError):
            raise
        except Exception as error:  # decoders raise nearly anything on bytes that are damaged
            log.info("image_header_unreadable", image=what, format=name, error=repr(error))
            if told := misplaced(content, wanted=("image",), cure=_CURE):
                raise MediaCorrupt(f"{what} is {told}") from error
            cause = "cut short" if _is_cut(error) else "damaged at its beginning, or of a kind that is not read"
            named = "an AVIF" if name == "AVIF" else f"a {name}"
            raise MediaCorrupt(f"{what} is {named} image that is {cause}; {_CURE}") from error
    raise MediaCorrupt(f"{what} is {refusal(content, wanted=('image',), cure=_CURE)}")


def left_out_of(image: Image.Image, what: str) -> str | None:
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


def check_pixels(what: str, width: int, height: int, max_pixels: int) -> None:
    """Refuse an image that has no pixels with MediaCorrupt (permanent), or is too large, as `check_size` does."""
    if not width * height:
        raise MediaCorrupt(f"{what} is {width} x {height}: it has no pixels; {_CURE}")
    check_size(what, width, height, max_pixels)


def upright_rgb(image: Image.Image, what: str) -> Image.Image:
    """Return a new image of mode RGB that looks like `image` upright; of its `info` only a resolution is kept.

    Raises:
        MediaCorrupt: permanent; it does not decode.
    """
    plain = as_rgb(upright(image, what), what)
    dpi = dpi_of(image)
    plain.info.clear()  # an orientation left in it would be applied twice
    if dpi is not None:
        plain.info["dpi"] = (dpi, dpi)
    return plain


def upright(image: Image.Image, what: str) -> Image.Image:
    """Return `image` decoded and upright, of 8 bits a channel."""
    with _decoding(what):
        image.load()
        turned = _turned(image, what)
        if turned.mode != "F" and not turned.mode.startswith("I"):
            return turned
        grey = Image.fromarray(_eight_bits(np.asarray(turned), what))
        grey.info["dpi"] = image.info.get("dpi")
        return grey


def as_rgb(image: Image.Image, what: str, paper: Paper | None = None) -> Image.Image:
    """Return a new image of mode RGB that looks like `image`, of 8 bits a channel, on `paper`, else on what `paper_of`
    tells."""
    with _decoding(what):
        if not image.has_transparency_data:
            return image.convert("RGB")
        rgba = _rgba(image)
        composed = _on(paper or "white", rgba)
        if paper or _is_seen(composed) or not _has_shapes(*_alphas(rgba)):
            return composed
        return _on("black", rgba)


def paper_of(image: Image.Image, what: str) -> Paper:
    """Return on what an image of 8 bits a channel is seen: white, and black where nothing is seen of it on white, as of
    white letters on a transparent ground."""
    with _decoding(what):
        if not image.has_transparency_data:
            return "white"
        alphas: list[int] = []
        for top in range(0, image.height, _ROWS):  # of the whole, each copy of 100 megapixels takes 400 MB
            rows = _rgba(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
            if _is_seen(_on("white", rows)):
                return "white"
            alphas += _alphas(rows)
        return "black" if _has_shapes(min(alphas), max(alphas)) else "white"


def _is_seen(on_white: Image.Image) -> bool:
    return min(int(darkest) for darkest, _ in on_white.getextrema()) < 255 - _FAINT  # type: ignore[misc]


def _alphas(rgba: Image.Image) -> tuple[int, int]:
    least, most = rgba.getextrema()[3]  # type: ignore[misc]
    return int(least), int(most)


def _has_shapes(least_alpha: int, most_alpha: int) -> bool:
    return most_alpha - least_alpha > _FAINT


def _rgba(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _on(paper: Paper, rgba: Image.Image) -> Image.Image:
    return Image.alpha_composite(Image.new("RGBA", rgba.size, paper), rgba).convert("RGB")


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

    They count from 0 to 1 (floats only), to 255 or to 65535 (integers only), whichever the largest reaches first; a
    range beyond is stretched to fit. So 16 bits that hold values of 8 are not nearly black.
    """
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite([low, high]).all():
        raise MediaCorrupt(f"{what} holds pixels that are not numbers (NaN or infinity); {_CURE}")
    whites = (255.0, 65535.0) if np.issubdtype(pixels.dtype, np.integer) else (1.0, 255.0)
    white = next((white for white in whites if high <= white), None)
    if low >= 0 and white is not None:
        low, high = 0.0, white
    scaled = pixels.astype(np.float32)
    scaled -= np.float32(low)  # in place: of 100 megapixels, each copy takes 400 MB
    scaled *= np.float32(255.0 / ((high - low) or 1.0))
    return np.rint(scaled, out=scaled).clip(0, 255, out=scaled).astype(np.uint8)


def _is_cut(error: Exception) -> bool:
    """Return whether a decoder met the end of its file too early; decoders say so only in their messages."""
    return any(word in str(error).lower() for word in ("truncated", "not enough", "eof", "end of file"))


def dpi_of(image: Image.Image) -> float | None:
    """Return the pixels per inch in the file, None where there are none, invalid ones or two different values."""
    try:
        has_jfif = image.format not in ("JPEG", "MPO") or image.info.get("jfif_unit")
        if not has_jfif and ExifTags.Base.XResolution not in image.getexif():
            return None  # the 72 is Pillow's own
        across, down = map(float, image.info["dpi"])
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - the pixels are whole, whatever stands in the place of a resolution
        return None
    is_likely = _LEAST_DPI <= across <= _MOST_DPI
    return across if is_likely and math.isclose(across, down, rel_tol=0.02) else None
