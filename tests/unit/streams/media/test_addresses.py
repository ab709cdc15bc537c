from __future__ import annotations

import pytest

from handlers.errors import InvalidInput
from streams.media.addresses import S3Address, parse_file_uri, parse_s3_address, scheme_of, shown


@pytest.mark.parametrize(
    "key",
    [
        "clip.wav",
        "a folder/clip 1.wav",
        "Ärger/日本語 😀.wav",
        "what?.wav",
        "take#2.wav",
        "100%.wav",
        "a%20b.wav",
        "a+b&c=d.wav",
        "/leading/slash",
        "no//name",
        "...three dots",
        "k?versionid=lower",
    ],
)
def test_any_key_is_taken_as_it_is_stored(key: str) -> None:
    assert parse_s3_address(f"s3://media/{key}") == S3Address("media", key)


def test_a_last_version_id_pins_the_version() -> None:
    assert parse_s3_address("s3://media/what?.wav?versionId=3L4k+/=") == S3Address("media", "what?.wav", "3L4k+/=")
    # A key that ends in what reads as a version has an empty version behind it.
    assert parse_s3_address("s3://media/a?versionId=7?versionId=") == S3Address("media", "a?versionId=7")
    assert parse_s3_address("s3://media/a?versionId=?versionId=") == S3Address("media", "a?versionId=")
    assert parse_s3_address("s3://media/a?versionId=7?versionId=8") == S3Address("media", "a?versionId=7", "8")
    assert parse_s3_address("S3://media/a?versionId=null") == S3Address("media", "a", "null")


@pytest.mark.parametrize(
    ("address", "cure"),
    [
        ("s3://", "s3://bucket/key"),
        ("s3:media/key", "s3://bucket/key"),
        ("s3://media", "s3://bucket/key"),
        ("s3://media/", "s3://bucket/key"),
        ("s3:///key", "s3://bucket/key"),
        ("s3://media/key?versionId=", "versionId=ID"),
        ("s3://me dia/key", "no valid bucket"),
        ("s3://media/../private/key", "'..' segment"),
        ("s3://media/a/./key", "'.' or '..' segment"),
        ("s3://media/" + "ä" * 513, "1026 bytes; S3 allows 1024"),
    ],
)
def test_a_wrong_s3_address_says_what_is_wrong(address: str, cure: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_s3_address(address)
    assert cure in refused.value.message
    assert address[:20] in refused.value.message


@pytest.mark.parametrize(
    ("address", "scheme"),
    [
        ("s3://b/k", "s3"),
        ("HTTPS://host/a", "https"),
        ("data:,x", "data"),
        ("file:///a", "file"),
        ("/a/b:c", ""),
        ("gs://b/k", "gs"),
    ],
)
def test_the_scheme_is_read_in_any_case(address: str, scheme: str) -> None:
    assert scheme_of(address) == scheme


@pytest.mark.parametrize("address", ["", "hello", "a/b.wav", "~/a.wav", "../a.wav", "://x", "iVBORw0KGgo=", "1x:y"])
def test_what_is_no_address_is_told_the_four_kinds(address: str) -> None:
    with pytest.raises(InvalidInput, match=r"s3://bucket/key, https://host/path, data:.* or an absolute path"):
        scheme_of(address)


@pytest.mark.parametrize("address", ["s3://media/a\x00b", "/tmp/\ud800.wav"])
def test_characters_without_bytes_are_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="holds characters that no address can") as refused:
        scheme_of(address)
    refused.value.message.encode()


def test_a_file_uri_is_percent_decoded() -> None:
    assert str(parse_file_uri("file:///media/a%20b%3F.wav")) == "/media/a b?.wav"
    assert str(parse_file_uri("file://localhost/media/a")) == "/media/a"


@pytest.mark.parametrize("address", ["file://elsewhere/a", "file:a", "file:///a?b", "file:///a#b", "file://"])
def test_a_file_uri_of_another_host_or_with_a_query_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput, match="file:///absolute/path"):
        parse_file_uri(address)


@pytest.mark.parametrize(
    "address",
    [
        "https://host/clip.wav?X-Amz-Signature=SECRET",
        "https://host/clip.wav#SECRET",
        "https://user:SECRET@host/clip.wav",
        "s3://key:SECRET@media/clip.wav",
        "s3://media/clip.wav?X-Amz-Credential=a&X-Amz-Signature=SECRET",
        "s3://media/clip.wav?AWSAccessKeyId=a&Signature=SECRET&Expires=1",
        "data:audio/wav;base64,SECRET",
    ],
)
def test_a_shown_address_holds_no_secret_and_no_payload(address: str) -> None:
    assert "SECRET" not in shown(address)
    assert shown(address)[:4] == address[:4]


def test_a_shown_address_keeps_what_names_the_object() -> None:
    assert shown("s3://media/what?.wav?versionId=7") == "s3://media/what?.wav?versionId=7"
    assert shown("https://host:8443/a/b.wav") == "https://host:8443/a/b.wav"
    assert len(shown("s3://media/" + "x" * 5000)) == 300
