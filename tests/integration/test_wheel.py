"""What a user installs: the wheel carries the packages and the marks that their types may be relied on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

PROJECT = Path(__file__).parents[2]


def test_the_wheel_carries_every_package_and_says_that_it_is_typed(tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    build = [str(uv), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path), "--python", sys.executable]
    subprocess.run([*build, str(PROJECT)], check=True)
    [wheel] = tmp_path.glob("*.whl")
    with ZipFile(wheel) as files:
        names = set(files.namelist())
    for package in ("deploy", "engines", "handlers", "streams"):
        assert {f"{package}/__init__.py", f"{package}/py.typed"} <= names
    # What `inferstream up` makes its models from.
    assert {"deploy/models/SHA256SUMS", "deploy/models/licences/whisper-MIT.txt"} <= names
    assert not [name for name in names if name.startswith(("examples/", "tests/"))]
