"""Decodes recordings of any format, rate and channel count to 16 kHz mono samples."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from handlers.decoding.audio_containers import SoundTrack, gather_track
from handlers.decoding.audio_parts import MOST_PARTS, has_several_streams, parts_of, with_known_size
from handlers.decoding.audio_samples import MAX_CHANNELS, RATES, Gathering, Samples, mixed
from handlers.decoding.audio_samples import SAMPLE_RATE as SAMPLE_RATE
from handlers.decoding.damage import ENOUGH, damage_of, missing_end
from handlers.decoding.declared_length import is_short
from handlers.errors import InvalidInput, MediaCorrupt, MediaTooLarge, counted
from handlers.file_kinds import misplaced, refusal
from handlers.logger import get_logger
from handlers.media import encoded_file
from handlers.options.spec import shown

log = get_logger(__name__)

_BLOCK_SAMPLES = 1 << 20
"""Samples decoded at a time, all channels together: 4 MB, whatever a header claims."""

_PLAIN_STARTS = (
    *(b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS"),
    *(b".snd", b"dns.", b"caff", b"NIST_1A"),
)
"""First bytes of files for libsndfile: wav, w64, aiff, flac, ogg, au, caf, sphere. Its readers of other kinds accept
nearly anything, and those of MP3 and MIDI dumps print a line for each damaged frame or sample."""

_UNTOLD_FRAMES = 1 << 60
"""The length, or more, that libsndfile reports where a header has none."""

_MOST_TRACKS = 8
"""How many tracks are tried where earlier ones are silent."""

_NEARLY_S = 0.1
"""Lengths by a header and of the samples differ by so much in whole files."""

_CURE = "send a whole wav, flac, ogg, mp3, m4a or webm file"


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded recording; `truncated` says what is missing of it, None where it is complete.

    `track` says which of several tracks was taken, as `containers.about_track` does.
    """

    samples: Samples
    truncated: str | None = None
    track: dict[str, Any] | None = None


def read_sound(
    value: Any, *, field: str, sampling_rate: Any = None, max_s: float, max_samples: int | None = None
) -> Sound:
    """Return the recording in `value` as float32 mono samples at 16 kHz within -1..1, shape (samples,).

    `value` is a Media or bytes (an encoded file; its own rate counts), or a numpy array (samples,) or (samples,
    channels) of int16, or of float32 or float64 within -1..1, at `sampling_rate` (default 16000). Channels are
    averaged, unless they cancel each other. Concatenated files are read to the end of the last. A file that lost less
    than half, by its own header, is used. Memory is bounded by the length at 16 kHz, and time by `max_samples` to
    decode, all channels together, whatever a header claims.

    Raises:
        InvalidInput: permanent; no recording at all, or an array of the wrong kind.
        MediaCorrupt: permanent; bytes that are empty, cut short or no recording.
        MediaTooLarge: permanent; longer than `max_s` seconds or `max_samples`, by the header before anything is
            decoded.
    """
    if (file := encoded_file(value, field, besides=np.ndarray)) is None:
        return Sound(_from_array(value, field, sampling_rate, Gathering(max_s)))
    return _decode(*file, Gathering(max_s, max_samples))


def _decode(content: bytes, what: str, gathering: Gathering) -> Sound:
    if not content:
        raise MediaCorrupt(f"{what} is empty (0 bytes); {_CURE}")
    parts = parts_of(content)
    if len(parts) > MOST_PARTS:
        raise MediaTooLarge(
            f"{what} consists of more than {MOST_PARTS} concatenated files; send them in several requests"
        )
    missing, track = [], None
    for number, part in enumerate(parts, start=1):
        is_one = len(parts) == 1
        named = what if is_one else f"{what}, file {number} of {len(parts)} in it,"
        truncated, about = _decode_one(part, named, gathering)
        track = track or about
        if truncated:
            missing.append(truncated if is_one else f"file {number}: {truncated}")
    return Sound(gathering.samples, "; ".join(missing) or None, track)


def _decode_one(content: bytes, what: str, gathering: Gathering) -> tuple[str | None, dict[str, Any] | None]:
    """Decode one file; return what is missing of it, and which of several tracks was taken."""
    missing = missing_end(content)
    if missing and not missing.is_little:
        cut = f"cut short: {missing.text}; {_CURE}"
        raise MediaCorrupt(f"{what} is {refusal(content, wanted=('sound', 'video'), cure=_CURE, cut=cut)}")
    before_s = gathering.duration_s
    lost, track = [missing.text] if missing else [], None
    damage = damage_of(content)
    # libsndfile repeats the end of an Ogg in place of damaged pages.
    if damage or not _decode_plain(content, what, gathering):
        track = _decode_container(content, what, gathering, before_s, is_cut=missing is not None)
        if track.damaged_frames:
            lost.append(f"{counted(track.damaged_frames, 'damaged frame')} of it cannot be decoded")
    length_s = gathering.duration_s - before_s
    if not length_s:
        raise MediaCorrupt(f"{what} holds no samples (0 s); {_CURE}")
    there = f"{length_s:.1f} s"
    is_shorter = track is not None and not missing and is_short(length_s, track.declared_s)
    if track and (damage or is_shorter or (track.is_gapless and track.gaps_s)):
        gaps = "sound is missing in its middle, so that later times are too early" if track.gaps_s else None
        short = "sound is missing, so that later times may be too early" if is_shorter else None
        lost.append(": ".join(filter(None, (damage, gaps or short))))
        if (whole_s := track.claimed_s or track.declared_s or length_s + track.gaps_s) > length_s + _NEARLY_S:
            there += f" of {whole_s:.1f} s"
        if length_s < ENOUGH * whole_s:
            raise MediaCorrupt(f"{what} is damaged: {lost[-1]}; only {there} are there; {_CURE}")
    truncated = f"{'; '.join(lost)}; {there} are there" if lost else None
    if truncated:
        log.warning("sound_cut_short", sound=what, missing=truncated)
    return truncated, track.about if track else None


def _decode_plain(content: bytes, what: str, gathering: Gathering) -> bool:
    """Decode by libsndfile; return whether it could read everything."""
    raw: dict[str, Any] = {}
    if _is_raw_gsm(content):
        raw = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": "GSM610"}
    elif not content.startswith(_PLAIN_STARTS) or has_several_streams(content):
        return False
    try:
        with soundfile.SoundFile(_File(with_known_size(content)), **raw) as file:
            claimed = file.frames if file.frames < _UNTOLD_FRAMES else None
            blocks, rate = _mono_blocks(file), file.samplerate
            gathering.add(blocks, rate=rate, channels=file.channels, claimed=claimed, what=what, cure=_CURE)
    except soundfile.LibsndfileError as error:
        log.debug("not_read_by_libsndfile", sound=what, error=str(error.error_string).strip())
        return False
    return True


class _File(io.BytesIO):
    """What libsndfile reads; where a damaged header sends it before the start, it stays where it is.

    An exception would be printed by its callback, with a stack trace each time.
    """

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except ValueError:
            return self.tell()


def _is_raw_gsm(content: bytes) -> bool:
    """Return whether `content` is GSM 06.10 without a header: frames of 33 bytes that begin with the bits 1101."""
    return len(content) >= 66 and len(content) % 33 == 0 and {byte >> 4 for byte in content[::33]} == {0xD}


def _decode_container(content: bytes, what: str, gathering: Gathering, before_s: float, *, is_cut: bool) -> SoundTrack:
    """Decode what soundfile could not read, after the first `before_s`; return the track that was taken.

    That is the preferred track, or another one where it is silent.
    """
    if told := misplaced(content, wanted=("sound", "video"), cure=_CURE):
        raise MediaCorrupt(f"{what} is {told}")
    gather = partial(gather_track, content, what, gathering, before_s, cure=_CURE, is_cut=is_cut)
    track = gather(choice=0)
    others = [*range(1, min(track.count, _MOST_TRACKS)), 0] if track.count > 1 else []
    for choice in others:
        if gathering.is_heard(before_s):
            break
        track = gather(choice=choice)
    return track


def _mono_blocks(file: soundfile.SoundFile) -> Iterator[Samples]:
    if file.frames >= _UNTOLD_FRAMES:
        # soundfile seeks after each block, which fails in a FLAC without a length.
        file.seekable = lambda: False
    size = max(1, _BLOCK_SAMPLES // file.channels)
    while len(block := file.read(size, dtype="float32", always_2d=True)):
        yield mixed(block)


def _from_array(array: NDArray[Any], field: str, sampling_rate: Any, gathering: Gathering) -> Samples:
    rate = SAMPLE_RATE if sampling_rate is None else sampling_rate
    if type(rate) is not int or rate not in RATES:
        allowed = f"an integer from {RATES.start} to {RATES.stop - 1} Hz"
        raise InvalidInput(f"data.sampling_rate is {shown(rate)}; it must be {allowed}")
    if array.dtype not in (np.float32, np.float64, np.int16):
        raise InvalidInput(f"{field} is an array of {array.dtype}; it must be float32, float64 or int16")
    if array.ndim not in (1, 2) or (array.ndim == 2 and not 0 < array.shape[1] <= MAX_CHANNELS):
        raise InvalidInput(
            f"{field} has shape {array.shape}; it must be (samples,) or (samples, channels), "
            f"with at most {MAX_CHANNELS} channels"
        )
    if not len(array):
        raise MediaCorrupt(f"{field} holds no samples (0 s); send a recording")
    gathering.add(_array_block(array, field), rate=rate, channels=1, claimed=len(array), what=field, cure=_CURE)
    return gathering.samples


def _array_block(array: NDArray[Any], field: str) -> Iterator[Samples]:
    floats = array.astype(np.float32) / np.float32(32768 if array.dtype == np.int16 else 1)
    mono = mixed(floats) if array.ndim == 2 else floats
    if not np.isfinite(mono).all() or np.abs(mono).max() > 2.0:
        raise InvalidInput(f"{field} has samples beyond -1..1, or no numbers; divide by the largest value first")
    yield mono
