"""Damage in the middle of a file, which decoders pass over: it is told, and no whole file is called damaged."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import soundfile

from handlers.decoding import asf, matroska, ogg
from handlers.decoding.audio import SAMPLE_RATE, Sound, read_sound
from handlers.decoding.damage import damage_of
from handlers.decoding.video import Video, read_video
from handlers.errors import MediaCorrupt
from handlers.media import Media
from handlers.settings import MediaSettings
from tests.containers import encoded_sound, encoded_video
from tests.recordings import Recording
from tests.unit.handlers.decoding.test_audio import encoded, tone
from tests.unit.handlers.decoding.test_video import noisy

pytestmark = pytest.mark.processes

SOUNDS = {
    "webm of opus": ("webm", "libopus"),
    "mka of opus": ("matroska", "libopus"),
    "mka of mp3": ("matroska", "libmp3lame"),
    "ogg of opus": ("ogg", "libopus"),
    "ogg of flac": ("ogg", "flac"),
    "wma": ("asf", "wmav2"),
}
BY_SOUNDFILE = {"ogg by vorbis": "VORBIS", "ogg by opus": "OPUS"}
VIDEOS = {
    "mkv of vp9": ("matroska", "libvpx-vp9", {"g": "10", "deadline": "realtime"}),
    "webm of vp9": ("webm", "libvpx-vp9", {"g": "10", "deadline": "realtime"}),
    "mkv of ffv1": ("matroska", "ffv1", {}),
    "mkv of mjpeg": ("matroska", "mjpeg", {}),
    "mkv of h264": ("matroska", "libx264", {"g": "10"}),
}


@pytest.fixture(scope="module")
def sounds(librivox_clips: tuple[Recording, ...]) -> dict[str, bytes]:
    """Return the same speech of 8.6 s in each kind of file."""
    speech = np.concatenate([soundfile.read(clip.path, dtype="float32")[0] for clip in librivox_clips])
    kinds = {
        name: encoded_sound(np.repeat(speech, 3), container=container, codec=codec, rate=48_000)
        for name, (container, codec) in SOUNDS.items()
    }
    return kinds | {name: encoded(speech, container="OGG", subtype=subtype) for name, subtype in BY_SOUNDFILE.items()}


def heard(content: bytes) -> Sound:
    return read_sound(Media(content, "s3://clips/a"), field="data.audio", max_s=600.0)


def seen(content: bytes, **options: Any) -> Video:
    return read_video(Media(content, "s3://clips/a"), field="data.video", limits=MediaSettings(), **options)


def zeroed(content: bytes, *, at: float, count: int = 500) -> bytes:
    start = int(len(content) * at)
    return content[:start] + bytes(count) + content[start + count :]


def told_or_refused(content: bytes) -> str:
    try:
        return heard(content).truncated or ""
    except MediaCorrupt as error:
        return error.message


@pytest.mark.parametrize("kind", [*SOUNDS, *BY_SOUNDFILE])
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7, 0.9])
def test_sound_that_damage_leaves_out_is_told(sounds: dict[str, bytes], kind: str, at: float) -> None:
    whole = heard(sounds[kind])
    assert whole.truncated is None
    count = 2500 if kind == "wma" else 500  # of wma, a loss of less than 0.1 s is not seen
    damaged = zeroed(sounds[kind], at=at, count=count)
    assert re.search("damaged|later times are too early", told_or_refused(damaged))


@pytest.mark.parametrize("kind", ["ogg of opus", "ogg of flac", *BY_SOUNDFILE])
def test_a_changed_byte_of_an_ogg_costs_its_page_and_repeats_nothing(sounds: dict[str, bytes], kind: str) -> None:
    content = bytearray(sounds[kind])
    content[len(content) // 2] ^= 0xFF
    sound = heard(bytes(content))
    whole_s = len(heard(sounds[kind]).samples) / SAMPLE_RATE
    left_s = len(sound.samples) / SAMPLE_RATE
    assert whole_s - 1.5 < left_s < whole_s - 0.3
    assert sound.truncated == (
        f"1 of its {ogg.damaged_pages(sounds[kind])[1]} pages is damaged: sound is missing in its middle, "
        f"so that later times are too early; {left_s:.1f} s of {whole_s:.1f} s are there"
    )


def test_sound_of_which_damage_leaves_less_than_half_is_refused(sounds: dict[str, bytes]) -> None:
    with pytest.raises(MediaCorrupt, match=r"1 of its 2 clusters is damaged.*; only \d\.\d s of 8\.6 s are there"):
        heard(zeroed(sounds["webm of opus"], at=0.05))


def test_a_checksum_finds_damage_within_a_block() -> None:
    content = bytearray(encoded_sound(tone(440), container="matroska", codec="pcm_s16le", rate=SAMPLE_RATE))
    content[len(content) // 2] ^= 1
    assert heard(bytes(content)).truncated == "1 of its 1 cluster is damaged; 1.0 s are there"


def test_a_wma_without_its_end_is_told_and_one_without_most_is_refused(sounds: dict[str, bytes]) -> None:
    content = sounds["wma"]
    sound = heard(content[: len(content) * 7 // 10])
    assert re.fullmatch(r"its header promises \d+ bytes and \d+ came; \d\.\d s are there", sound.truncated or "")
    with pytest.raises(MediaCorrupt, match="cut short"):
        heard(content[: len(content) * 4 // 10])


@pytest.mark.parametrize("kind", ["wma", "mka of opus", "ogg of opus"])
def test_whole_files_one_behind_the_other_are_not_damaged(sounds: dict[str, bytes], kind: str) -> None:
    sound = heard(sounds[kind] + sounds[kind])
    assert sound.truncated is None
    assert len(sound.samples) == 2 * len(heard(sounds[kind]).samples)


@pytest.mark.parametrize("kind", [*SOUNDS, *BY_SOUNDFILE])
@pytest.mark.parametrize("part", [0.55, 0.8, 0.999])
def test_a_missing_end_is_no_damage_in_the_middle(sounds: dict[str, bytes], kind: str, part: float) -> None:
    assert damage_of(sounds[kind][: int(len(sounds[kind]) * part)]) is None


def test_a_live_recording_without_sizes_is_whole_and_damage_in_it_is_found(sounds: dict[str, bytes]) -> None:
    content = sounds["webm of opus"]
    unknown = b"\x01" + b"\xff" * 7
    segment = content.index(matroska._SEGMENT)
    live = content[: segment + 4] + unknown + content[segment + 12 :]
    first, second = (found.start() for found in re.finditer(rb"\x1f\x43\xb6\x75", live))
    lengths = [9 - live[start + 4].bit_length() for start in (first, second)]
    live = (
        live[: first + 4]
        + unknown
        + live[first + 4 + lengths[0] : second + 4]
        + unknown
        + live[second + 4 + lengths[1] :]
    )
    assert damage_of(live) is None
    assert heard(live).truncated is None
    assert damage_of(zeroed(live, at=0.3)) == "1 of its 2 clusters is damaged"
    assert damage_of(live + bytes(100)) is None


def test_tags_between_ogg_files_are_no_damage(sounds: dict[str, bytes]) -> None:
    one = sounds["ogg by vorbis"]
    assert damage_of(one + b"ID3" + bytes(200) + one) is None
    assert damage_of(one + b"TAG" + bytes(125)) is None


def test_a_page_that_is_gone_with_its_header_is_counted(sounds: dict[str, bytes]) -> None:
    one = sounds["ogg by vorbis"]
    pages = [found.start() for found in re.finditer(rb"OggS\0", one)]
    count = len(pages)
    for gone in (pages[3], pages[-1]):
        assert damage_of(one[:gone] + b"\0" + one[gone + 1 :]) == f"1 of its {count} pages is damaged"


def test_many_elements_take_little_work() -> None:
    start = matroska.EBML + b"\x80" + matroska._SEGMENT + b"\x01" + b"\xff" * 7
    voids = b"\x1f\x43\xb6\x75\x01" + b"\xff" * 7 + b"\xec\x80" * 2_000_000
    assert matroska.damaged_clusters(start + voids)[0] == 0
    pages = (b"OggS" + bytes(23)) * 600_000
    assert ogg.damaged_pages(pages)[1] == 500_000


def test_an_asf_that_does_not_know_its_size_is_read_to_its_end(sounds: dict[str, bytes]) -> None:
    content = bytearray(sounds["wma"])
    flags = content.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")) + 88
    content[flags] |= 1
    assert asf.end_of(bytes(content)) is None
    assert heard(bytes(content)).truncated is None


@pytest.mark.parametrize("kind", VIDEOS)
@pytest.mark.parametrize("at", [0.3, 0.5, 0.7])
def test_a_video_with_damage_in_its_middle_says_so(kind: str, at: float) -> None:
    container, codec, options = VIDEOS[kind]
    content = encoded_video(noisy(), container=container, codec=codec, options=options)
    assert seen(content).truncated is None
    damaged = zeroed(content, at=at, count=min(3000, len(content) // 8))
    video = seen(damaged)
    assert re.search(
        r"\d+ of its \d+ clusters? (is|are) damaged; \d\.\d s of 6\.0 s can be read", video.truncated or ""
    )


def test_sound_of_an_avi_that_is_shorter_than_its_header_says_is_told(sounds: dict[str, bytes]) -> None:
    speech = heard(sounds["ogg of flac"]).samples
    content = encoded_sound(np.repeat(speech, 3), container="avi", codec="libmp3lame", rate=48_000)
    assert heard(content).truncated is None
    told = heard(zeroed(content, at=0.3, count=len(content) // 6)).truncated
    assert told is not None
    assert re.fullmatch(r"sound is missing, so that later times may be too early; 7\.\d s of 8\.\d s are there", told)


@pytest.mark.parametrize(("container", "codec"), [("avi", "mpeg4"), ("flv", "flv"), ("asf", "wmv2")])
def test_a_video_that_is_shorter_than_its_header_says_is_told(container: str, codec: str) -> None:
    content = encoded_video(noisy(), container=container, codec=codec)
    assert seen(content).truncated is None
    try:
        told = seen(zeroed(content, at=0.6, count=len(content) // 2)).truncated or ""
    except MediaCorrupt as error:
        told = error.message
    assert re.search(r"only \d\.\d s of 6\.0 s can be read|\d\.\d s of \d\.\d s can be read", told), told
