"""The linters are tests: formatter, linter, type checker, import layers, and the project's own limits."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted(p for folder in ("qemushim", "tools", "tests", ".ci") for p in (ROOT / folder).rglob("*.py"))
#: lines of a module, lines of a function
MODULE_LIMIT, FUNCTION_LIMIT = 600, 60


def run(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff_format() -> None:
    run("ruff", "format", "--check", "--quiet", ".")


def test_ruff_check() -> None:
    run("ruff", "check", "--quiet", ".")


def test_mypy() -> None:
    run("mypy")


def test_import_layers() -> None:
    script = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(ROOT)) for p in SOURCES])
def test_limits(path: Path) -> None:
    """Modules and functions stay small enough to be read."""
    text = path.read_text()
    assert len(text.splitlines()) <= MODULE_LIMIT, "split by meaning"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LIMIT, f"{node.name} has {length} lines"


def test_core_is_pure() -> None:
    """What parses, defines and commands opens no file, starts no process, reads no clock and no environment."""
    impure = {
        "os",
        "subprocess",
        "socket",
        "time",
        "pathlib",
        "shutil",
        "tempfile",
        "asyncio",
        "random",
        "datetime",
    }
    #: bundled data, read once on demand at the edge
    excused = {"cpumap.py"}
    for room in (
        "document",
        "devices",
        "machine",
        "address",
        "command",
        "classic",
        "capabilities",
        "hotplug",
        "fromargv",
    ):
        for path in (ROOT / "qemushim" / room).glob("*.py"):
            if path.name in excused:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name.split(".")[0] for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [(node.module or "").split(".")[0]]
                assert not impure & set(names), f"{path.name} imports {names}"
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id != "open", f"{path.name} opens a file"


def test_shell_scripts() -> None:
    for script in ("tools/demo", "tools/test", "tools/python", ".ci/run"):
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
