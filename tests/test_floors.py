"""Each floor imports only the floors below it (docs/architecture.md), and `import qseq` stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "qseq"
LONGEST_FILE = 400


def floor_table() -> dict[str, int]:
    """{package or module: floor}, read from the table in the architecture, so that it cannot go stale."""
    floors: dict[str, int] = {}
    for row in re.finditer(r"^\| (\d) \| ([^|]+) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", row[2]):
            floors[name] = int(row[1])
    return floors


FLOORS = floor_table()
MODULES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path, package: Path = PACKAGE) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import: absolute, relative, in functions, under TYPE_CHECKING."""
    here = ["qseq", *path.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            parts = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                yield node.lineno, ".".join([*parts, alias.name])


def owner(name: str) -> str | None:
    """The package or module of the floor table that a dotted name lies in."""
    parts = name.split(".")
    return parts[1] if parts[0] == "qseq" and len(parts) > 1 and parts[1] in FLOORS else None


def violations(path: Path, package: Path = PACKAGE) -> list[str]:
    first = path.relative_to(package).parts[0].removesuffix(".py")
    if first not in FLOORS:
        return []
    found = []
    for line, name in imports(path, package):
        other = owner(name)
        if other is None or other == first:
            continue
        beneath = FLOORS[other] < FLOORS[first]
        beside = FLOORS[other] == FLOORS[first] and FLOORS[first] == 0  # the modules of floor 0 are one floor
        if not (beneath or beside):
            found.append(f"{path.relative_to(package)}:{line} imports {name} (floor {FLOORS[other]})")
    return found


def test_the_table_is_read() -> None:
    assert FLOORS["cli"] == 9
    assert FLOORS["training"] == 4
    assert FLOORS["robot"] == FLOORS["language"] == FLOORS["planner"] == FLOORS["imitation"] == 6
    assert FLOORS["errors"] == 0


def test_every_package_has_a_floor() -> None:
    names = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert names - FLOORS.keys() - {"__init__", "__main__"} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_lower_floors(path: Path) -> None:
    assert violations(path) == []


def test_environments_import_no_torch() -> None:
    for path in (PACKAGE / "environments").rglob("*.py"):
        assert not [name for _, name in imports(path) if name.split(".")[0] == "torch"], path


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("values/a.py", "from qseq.training import Trainer"),
        ("values/a.py", "import qseq.networks.heads"),
        ("values/a.py", "from ..networks import heads"),
        ("values/a.py", "from .. import networks"),
        ("values/a.py", "from qseq import networks"),
        ("values/a.py", "def f():\n    from qseq.policies import Policy"),
        ("values/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from qseq.cli import main"),
        ("robot/deep/a.py", "from ...language import model"),
        ("robot/a.py", "import qseq.imitation"),
        ("actions/a.py", "from qseq.episodes import Episode"),
        ("errors.py", "from qseq.values import backup"),
    ],
)
def test_the_checker_sees_imports_of_every_shape(tmp_path: Path, module: str, source: str) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert len(violations(path, tmp_path)) == 1


@pytest.mark.parametrize(
    "source", ["from qseq.errors import DataError", "from . import b", "import torch", "import qseq"]
)
def test_the_checker_allows_lower_floors(tmp_path: Path, source: str) -> None:
    (tmp_path / "values").mkdir()
    (tmp_path / "values" / "a.py").write_text(source)
    assert violations(tmp_path / "values" / "a.py", tmp_path) == []


def test_files_are_short() -> None:
    long = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}


def test_no_pickles() -> None:
    for path in MODULES:
        names = {name.split(".")[0] for _, name in imports(path)}
        assert not names & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        assert not re.search(r"torch\.(save|load)\(|allow_pickle=True", path.read_text()), path


def test_import_loads_no_other_library() -> None:
    """What makes `import qseq` quick, said without a clock: nothing but Python's own modules comes with it."""
    code = "import sys, qseq; print(*{name.split('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'qseq'})"
    bare = code.replace(", qseq;", ";")  # what the interpreter's own start brings (.pth files)
    loaded, before = (
        set(subprocess.run([sys.executable, "-c", c], capture_output=True, text=True, check=True).stdout.split())
        for c in (code, bare)
    )
    assert loaded == before
