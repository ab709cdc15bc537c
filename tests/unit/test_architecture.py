"""docs/architecture.md names the folders, threads, files and functions that there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
PACKAGES = ("streams", "engines", "handlers", "deploy")
SOURCES = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]

NAMED_BY_CONSTRUCTOR = {
    "ThreadPoolExecutor": (1, ""),
    "GuardedPool": (2, ""),
    "PeriodicTask": (1, ""),
    "SingleFlight": (0, "-*"),
}
"""Where the name of a thread stands among the arguments, and what its class adds to it."""
NAMED_BY_THEIR_OWNER = {"engines/periodic_task.py", "engines/single_flight.py"}
NAMELESS = {"engines/guard.py", "handlers/decoding/children/child.py"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def texts(node: ast.expr, assigned: dict[str, ast.expr]) -> list[str]:
    """Return what a string expression may be, with * for what varies."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.Name) and node.id in assigned:
        return texts(assigned[node.id], {})
    if isinstance(node, ast.IfExp):
        return [*texts(node.body, assigned), *texts(node.orelse, assigned)]
    if isinstance(node, ast.JoinedStr):
        found = [""]
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            found = [start + end for start in found for end in texts(inner, {})]
        return found
    return ["*"]


def thread_names(path: Path) -> Iterator[str | None]:
    """Yield what the threads that are made in a file are called; None for one without a name."""
    for function in ast.walk(tree_of(path)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        assigned = {
            target.id: node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for call in ast.walk(function):
            if not isinstance(call, ast.Call):
                continue
            made = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            if made == "Thread":
                name, added = keywords.get("name"), ""
            elif made in NAMED_BY_CONSTRUCTOR:
                index, added = NAMED_BY_CONSTRUCTOR[made]
                given = call.args[index] if len(call.args) > index else None
                name = keywords.get("thread_name_prefix", given)
            else:
                continue
            if name is None:
                yield None
                continue
            yield from (text + added for text in texts(name, assigned))


def names_in_code() -> set[str]:
    found = set[str]()
    for path in SOURCES:
        where = str(path.relative_to(ROOT))
        for name in thread_names(path):
            if where in NAMED_BY_THEIR_OWNER:
                continue
            assert name != "*", f"{where} makes a thread whose name this test cannot read"
            assert name is not None or where in NAMELESS, f"{where} makes a thread without a name"
            found.update([name] if name else [])
    return found


def names_on_page() -> set[str]:
    section = PAGE.partition("## Threads and loops")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    return {re.sub(r"<\w+>", "*", name) for cell in cells for name in re.findall(r"`(.+?)`", cell)}


def defined_in(path: Path) -> set[str]:
    """Return the names that a module defines: functions, classes, values, and members as Class.member."""
    found = set[str]()

    def collect(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
            if isinstance(node, ast.ClassDef):
                collect(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign):
                found.update(prefix + target.id for target in node.targets if isinstance(target, ast.Name))
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)

    collect(tree_of(path).body, "")
    return found


def test_every_folder_is_on_the_map() -> None:
    folders = {f"{path.parent.relative_to(ROOT)}/" for path in SOURCES if path.name == "__init__.py"}
    section = PAGE.partition("## Map of folders")[2].partition("\n## ")[0]
    on_map = set(re.findall(r"^\| `(.+?/)` \|", section, re.MULTILINE))
    assert on_map == folders


def test_the_threads_on_the_page_are_those_that_the_code_names() -> None:
    assert names_on_page() == names_in_code()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_name_that_a_page_cites_exists(page: Path) -> None:
    for file, name in re.findall(r"`((?:[\w.]+/)+[\w.]+\.(?:py|md|yaml))(?::([\w.]+))?`", page.read_text()):
        assert (ROOT / file).is_file(), f"{page.name} cites {file}, which is not there"
        assert not name or name in defined_in(ROOT / file), f"{page.name} cites {name}, which {file} does not define"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_class_that_a_page_names_occurs_in_the_code(page: Path) -> None:
    """So that a page does not go on with a name that the code has given up."""
    named = re.findall(r"`([A-Z][a-z]+(?:[A-Z][a-z]+)+)(?:\.\w+)?(?:\(\))?`", page.read_text())
    assert [name for name in named if not re.search(rf"\b{name}\b", all_code())] == []


@cache
def all_code() -> str:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    return "".join(path.read_text() for path in (*SOURCES, *tests))
