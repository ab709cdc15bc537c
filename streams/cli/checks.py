"""The checks of `inferstream doctor` for broker, topics, rights, S3 and disk."""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engines.configuration import ConfigurationError
from handlers.errors import counted
from streams.settings import Settings

if TYPE_CHECKING:
    from streams.kafka.topic_admin import Rights

_COMFORTABLE_BYTES = 5 * 1024**3
_REFUSED_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"})

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis; `cure` says what to do where `status` is not ok."""

    name: str
    status: Status
    detail: str
    cure: str = ""

    @classmethod
    def of_error(cls, name: str, message: object) -> Finding:
        """Return the finding of an error message, which ends with "; " and the cure."""
        detail, _, cure = str(message).partition("; ")
        return cls(name, "error", detail, cure)


def check_broker(settings: Settings, tasks: list[str]) -> list[Finding]:
    """Check that a broker answers and has every topic of `tasks` as the settings require."""
    from streams.kafka.connection import BrokerUnavailable
    from streams.kafka.topic_admin import check_rights, check_topics
    from streams.kafka.topics import Topics

    kafka = settings.kafka
    try:
        problems = asyncio.run(check_topics(kafka, tasks))
        rights = asyncio.run(check_rights(kafka, tasks))
    except (BrokerUnavailable, ConfigurationError) as error:  # the latter of a file that the settings name
        return [Finding.of_error("broker", error)]
    findings = [Finding("broker", "ok", f"{kafka.bootstrap_servers} answers")]
    by_cure = defaultdict(list)
    for problem in problems:
        by_cure[problem.cure].append(problem)
    for cure, same in by_cure.items():
        names = ", ".join(problem.topic for problem in same)
        findings.append(Finding("topics", "error", f"{names}: {same[0].problem}", cure))
    if not problems:
        count = len(Topics(kafka.topic_prefix).all_of(tasks))
        detail = f"all {count} are there, {counted(kafka.partitions, 'partition')} each, for {', '.join(tasks)}"
        findings.append(Finding("topics", "ok", detail))
    known = {problem.topic for problem in problems}
    return [*findings, *_rights(settings, rights, known), *_workers(kafka.group_id, rights.members)]


def _workers(group: str, members: int | None) -> list[Finding]:
    """Return whether the group has workers, nothing where the broker did not tell."""
    if members is None:
        return []
    if members:
        return [Finding("workers", "ok", f"group {group} has {counted(members, 'worker')}")]
    cure = "start one: inferstream worker, with the same kafka.group_id"
    return [Finding("workers", "warning", f"group {group} has none, so requests wait", cure)]


def _rights(settings: Settings, rights: Rights, known: set[str]) -> list[Finding]:
    """Return the rights that the worker lacks, except for topics that are `known` to be wrong already."""
    findings = [
        Finding("rights", "error", f"topic {one.topic} {one.problem}", one.cure)
        for one in rights.topics
        if one.topic not in known
    ]
    if rights.group:
        findings.append(Finding.of_error("rights", rights.group))
    if findings:
        return findings
    group, has_login = settings.kafka.group_id, settings.kafka.security_protocol != "PLAINTEXT"
    if not rights.is_told:
        detail = f"not checked: this broker does not tell what a client may do with topics and group {group}"
        cure = "see that the login may read the group and the request topics, and write the others"
        return [Finding("rights", "warning", detail, cure) if has_login else Finding("rights", "ok", detail)]
    detail = f"this client may read group {group} and the request topics, and write the others"
    return [Finding("rights", "ok", detail)]


def check_s3(settings: Settings, bucket: str | None = None) -> list[Finding]:
    """Check that the store answers and takes the credentials; `bucket`, where given, must be readable."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ParamValidationError

    from streams.media.s3 import make_s3_client

    place = settings.s3.endpoint_url or "AWS"
    client = make_s3_client(settings.s3, connections=1)
    try:
        if bucket is not None:
            client.head_bucket(Bucket=bucket)
            return [Finding("s3", "ok", f"{place} lets us into bucket {bucket}")]
        buckets = [one["Name"] for one in client.list_buckets()["Buckets"]]
    except NoCredentialsError:
        cure = "set s3.access_key and s3.secret_key, or give this machine a role; only s3:// media needs them"
        return [Finding("s3", "warning", f"no credentials for {place}", cure)]
    except ParamValidationError:
        cure = "correct --bucket: letters, digits, '.', '-' and '_'"
        return [Finding("s3", "error", f"{bucket!r} is not a valid name of a bucket", cure)]
    except ClientError as error:
        return [_refusal(error.response, place, bucket)]
    except BotoCoreError as error:
        cure = f"start the store, or correct s3.endpoint_url (now {place})"
        return [Finding("s3", "error", f"{place} does not answer: {error}", cure)]
    finally:
        client.close()
    seen = ", ".join(sorted(buckets)[:5]) or "none yet"
    return [Finding("s3", "ok", f"{place} accepts the credentials; buckets: {seen}")]


def _refusal(response: Mapping[str, Any], place: str, bucket: str | None) -> Finding:
    code = str(response["Error"].get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code in _REFUSED_KEYS:
        cure = "correct s3.access_key and s3.secret_key"
        return Finding("s3", "error", f"{place} refuses the credentials: {code}", cure)
    if bucket is None and status == 403:
        return Finding("s3", "ok", f"{place} accepts the credentials, which may not list buckets")
    if status == 404:
        return Finding("s3", "error", f"{place} has no bucket {bucket}", "create it, or check the name")
    if status == 403:
        cure = f"let s3.access_key read the bucket: s3:GetObject on {bucket}/*"
        return Finding("s3", "error", f"{place} does not let us into bucket {bucket}", cure)
    return Finding("s3", "error", f"{place} answers with {code or status}", "look at the store's own log")


def check_disk(directory: Path, health: Callable[[], Mapping[str, Any]]) -> list[Finding]:
    """Check that model files can be kept in `directory`."""
    answer = health()
    if answer["status"] != "ok":
        cure = f"free some space, or set cache.directory to another disk (now {directory})"
        return [Finding("disk", "error", str(answer["error"]), cure)]
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        cure = "set cache.directory to a folder that this user may write to"
        return [Finding("disk", "error", f"{existing} is not writable, so {directory} cannot be used", cure)]
    free = int(answer["free_bytes"])
    detail = f"{free / 1024**3:.1f} GiB free for model files in {directory}"
    if free < _COMFORTABLE_BYTES:
        return [Finding("disk", "warning", detail, "free some space, or set cache.directory to another disk")]
    return [Finding("disk", "ok", detail)]
