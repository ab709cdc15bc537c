"""An unpacked release of Apache Kafka and the Java that runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from deploy.local.part import StackError

OLDEST_JAVA = 17
"""What the brokers of Kafka 4 need."""

_CURE = f"install a JRE of version {OLDEST_JAVA} or newer (Debian: openjdk-17-jre-headless), or set JAVA_HOME to one"
_ASKING_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class KafkaRelease:
    """The folder of Kafka's jars, and the `java` that starts them; `find` checks both."""

    libs: Path
    java: Path

    @classmethod
    def find(cls, home: Path) -> Self:
        """Return the release unpacked in `home`: a folder whose `libs/` holds the jars of Kafka 4.

        Raises:
            StackError: permanent; `home` is not such a folder, or there is no Java that is new enough.
        """
        libs = home.absolute() / "libs"
        if not any(libs.glob("*.jar")):
            raise StackError(
                f"kafka: {home} is not an unpacked release of Apache Kafka: it has no libs/ with jars in it; "
                "name the folder into which its archive was unpacked"
            )
        return cls(libs, _find_java())

    def command(self, main_class: str, *arguments: str, options: tuple[str, ...] = ()) -> list[str]:
        """Return the command line of one of Kafka's programs, with little memory and a quick start."""
        return [
            *(str(self.java), "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"),
            *("-Djava.net.preferIPv4Stack=true", *options),
            *("-cp", str(self.libs / "*"), main_class, *arguments),
        ]


def _find_java() -> Path:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if found is None:
        where = f"JAVA_HOME={home} has no bin/java" if home else "there is no `java` on the PATH"
        raise StackError(f"kafka: {where}; {_CURE}")
    java = Path(found).absolute()
    version = _version_of(java)
    if version < OLDEST_JAVA:
        raise StackError(f"kafka: {java} is Java {version}, Kafka needs {OLDEST_JAVA} or newer; {_CURE}")
    return java


def _version_of(java: Path) -> int:
    try:
        said = subprocess.run(
            [str(java), "-version"], capture_output=True, text=True, timeout=_ASKING_TIMEOUT_S, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"kafka: {java} does not run: {error}; {_CURE}") from error
    # 17.0.15, 21, 25-ea; before 9 it was 1.8.0_392.
    version = re.search(r'version "(?:1\.)?(\d+)', said)
    if version is None:
        raise StackError(f"kafka: {java} does not say which version it is, but: {said.strip()}; {_CURE}")
    return int(version[1])
