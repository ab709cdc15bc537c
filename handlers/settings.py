"""Limits on media, in bytes, seconds, pixels, pages and frames; part of the one settings tree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from handlers.decoding.children.processes import Limits
from handlers.options.spec import Bounds

UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path in which ~ stands for the user's home folder."""


class Section(BaseModel):
    """A section of the settings tree: frozen, and an unknown key is an error; the text below a setting describes it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: object) -> None:
        for field in cls.model_fields.values():
            if field.description:
                field.description = " ".join(field.description.split())


class LimitSettings(Section):
    """The most that one request may ask for; section media limits its media."""

    max_tokens: int = Field(default=32_768, gt=0)
    """Largest max_new_tokens and max_length; a model's own context may allow less."""
    max_beams: int = Field(default=16, gt=0, le=1024)
    """Largest num_beams."""
    max_beam_tokens: int = Field(default=4096, gt=0)
    """Largest num_beams times max_new_tokens, else max_length, of one beam search, which holds its model alone."""

    @property
    def bounds(self) -> Bounds:
        """The largest value of each option that a setting of this section bounds."""
        return {f"limits.{name}": most for name, most in self}


class MediaSettings(Section):
    """Where media may come from and how much of it is accepted."""

    max_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    """Largest media object in bytes, and the most for all media of one request; checked before and while reading."""
    max_audio_s: float = Field(default=4 * 3600.0, gt=0)
    """Longest recording in seconds."""
    max_audio_samples: int = Field(default=1_500_000_000, gt=0)
    """Most samples decoded of one recording, of all channels together, at its own rate; 4 h of 48 kHz in stereo are
    1.4 thousand million."""
    max_image_pixels: int = Field(default=100_000_000, gt=0)
    """Largest image in pixels, and the most for all images of one request or all image pages of one document; checked
    before decoding."""
    max_images: int = Field(default=16, gt=0)
    """Most images of one request."""
    max_video_s: float = Field(default=4 * 3600.0, gt=0)
    """Longest video in seconds."""
    max_frames: int = Field(default=256, gt=0)
    """Most frames taken from one video."""
    max_pages: int = Field(default=100, gt=0)
    """Most pages read of one document."""
    max_document_letters: int = Field(default=1_000_000, gt=0)
    """Most letters in the text layer of one document, on all pages read."""
    decode_processes: int = Field(default=2, gt=0, le=64)
    """Child processes for decoding what may crash, hang or take all memory: so many for documents, and so many for
    videos and for images that are large or of rare formats. Started when needed."""
    decode_memory_bytes: int = Field(default=1024**3, ge=128 * 1024**2)
    """Most private memory, in bytes, of such a process for a file; a file that needs more is refused. For an image it
    is at least 20 bytes for each pixel of max_image_pixels."""
    decode_timeout_s: float = Field(default=60.0, gt=0, le=86_400)
    """Most processor time of such a process for one image or video, in seconds; then the file is refused. On a busy
    machine that may take four times as long by the clock."""
    document_timeout_s: float = Field(default=30.0, gt=0, le=86_400)
    """The same for one document, however many of its pages are read."""
    deadline_s: float = Field(default=60.0, gt=0, le=86_400)
    """Total time to fetch one media value, all its retries included, in seconds."""
    threads: int = Field(default=8, gt=0, le=64)
    """Threads that fetch media side by side."""
    decode_threads: int = Field(default=2, gt=0, le=64)
    """Threads that decode and preprocess."""
    allowed_roots: tuple[UserPath, ...] = ()
    """Folders under which local paths are accepted in requests; empty refuses local paths."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts from which https:// media is fetched."""

    @property
    def children(self) -> Limits:
        """The limits of child processes that decode images and videos."""
        return Limits(self.decode_processes, self.decode_memory_bytes, self.decode_timeout_s)

    @property
    def document_children(self) -> Limits:
        """The limits of child processes that read documents."""
        setting = "media.document_timeout_s"
        return replace(self.children, timeout_s=self.document_timeout_s, timeout_setting=setting)
