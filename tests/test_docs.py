"""What the pages of docs/ show is what comes out; their Python runs as it stands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from inspect import getfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted((ROOT / "docs").glob("*.md"))
#: a command of ours on the examples, and what it printed
_SHOWN = re.compile(r"^\$ (qemushim [^\n]*examples/[^\n]*)\n((?:(?!\$ |```)[^\n]*\n)+)", re.MULTILINE)
#: what a page's Python is about that a test has not, and what stands for it
_STANDS_FOR = {
    'Client("tcp://scheduler:8786")': "Client(n_workers=1, processes=False, dashboard_address=None)"
}
#: pages whose Python needs a libvirt, or a pytest around it
_ELSEWHERE = ("driver.md", "pytest.md")


def shown() -> list[tuple[Path, str, str]]:
    return [(page, *match.groups()) for page in PAGES for match in _SHOWN.finditer(page.read_text())]


@pytest.mark.parametrize(("page", "command", "output"), shown(), ids=[command for _, command, _ in shown()])
def test_commands(page: Path, command: str, output: str, tmp_path: Path, regenerate: bool) -> None:
    script = tmp_path / "qemushim"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m qemushim "$@"\n')
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True)
    real = done.stdout.decode()
    if regenerate:
        page.write_text(page.read_text().replace(f"$ {command}\n{output}", f"$ {command}\n{real}"))
        return
    assert real == output, done.stderr.decode()


def test_there_are_examples_of_each() -> None:
    pages = {page.stem for page, _, _ in shown()}
    assert {"audit", "compare", "explain", "names", "slots", "topology"} <= pages


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in _ELSEWHERE], ids=lambda page: page.stem
)
def test_python(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "guests").mkdir()
    for target in ("web.xml", "guests/web.xml"):
        shutil.copy(ROOT / "examples" / "web-server.xml", tmp_path / target)
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        for words, instead in _STANDS_FOR.items():
            block = block.replace(words, instead)
        if "distributed" in block:
            pytest.importorskip("distributed")
        exec(compile(block, str(page), "exec"), {})
        assert capsys.readouterr().out or list(tmp_path.glob("*.html"))


def test_every_name_of_the_library_page_is_there() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    names = re.findall(r"`(qemushim(?:\.\w+)+)`", page)
    assert len(names) > 20
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(import_module(module), attribute), name
    for row in re.findall(r"^\| `(qemushim\.\w+)` \| (.*) \|$", page, re.MULTILINE):
        source = Path(getfile(getattr(import_module("qemushim"), row[0].partition(".")[2]))).read_text()
        for attribute in re.findall(r"`(\w+)`", row[1]):
            assert re.search(rf"\b{attribute}\b", source), (row, attribute)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "qemushim" / "py.typed").is_file()
