"""What holds for every subcommand: help with examples, data by its schema, exit codes, silence where nobody looks."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jsonschema
import pytest

from qemushim import schemas
from qemushim.cli import SUBCOMMANDS, main
from tests.conftest import ROOT
from tools.reference import PAGE, page

WEB = str(ROOT / "examples" / "web-server.xml")
NIC = str(ROOT / "examples" / "old-nic.xml")
#: subcommands that read a domain document
READERS = (
    "argv",
    "define",
    "check",
    "explain",
    "topology",
    "slots",
    "names",
    "compare",
    "audit",
    "plan",
    "run",
)
#: words, the schema of what they print, the exit code
DATA: list[tuple[tuple[str, ...], str, int]] = [
    (("argv", WEB), "argv", 0),
    (("define", WEB), "define", 0),
    (("check", WEB), "check", 0),
    (("check", "REFUSED"), "check", 1),
    (("explain", WEB), "explain", 0),
    (("explain", WEB, "net0"), "explain", 0),
    (("explain", WEB, "--line", "18"), "explain-line", 0),
    (("topology", WEB), "topology", 0),
    (("slots", WEB), "slots", 0),
    (("slots", WEB, "--want", "4", "nic"), "slots-plan", 0),
    (("slots", WEB, "--want", "4", "disk-sata", "--cold"), "slots-plan", 0),
    (("names", NIC), "names", 0),
    (("names", NIC, "--machine", "pc-q35-6.2"), "names-change", 1),
    (("compare", WEB, NIC), "compare", 3),
    (("compare", WEB, "--qemu", "7.1", "--qemu", "10.0"), "compare", 0),
    (("audit", WEB, NIC, "REFUSED", "--qemu", "10.0"), "audit", 1),
    (("from-argv", "qemu-system-x86_64 -machine pc -m 256 -hda /srv/a.img"), "from-argv", 0),
    (("emulators",), "emulators", 0),
    (("probe", "10.0"), "probe", 0),
    (("probe", "0.10.5"), "probe", 0),
    (("list",), "list", 0),
]


@pytest.fixture
def refused(tmp_path: Path) -> str:
    file = tmp_path / "refused.xml"
    file.write_text(Path(NIC).read_text().replace("<model type='virtio'/>", "<model type='no such thing'/>"))
    return str(file)


def parser_of(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    import_module(f"qemushim.cli.{SUBCOMMANDS[name][0]}").add_arguments(parser)
    return parser


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    examples, _, codes = text.partition("\nexamples:\n")[2].partition("\nexit codes:")
    assert f"qemushim {name}" in examples
    assert "2 " in codes or "2:" in codes
    assert max(map(len, text.splitlines())) <= 120
    missing = [action.dest for action in parser_of(name)._actions if not action.help and not action.choices]
    assert not missing


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_wrong_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--no-such-option"])
    assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_data_is_asked_for_in_one_way(name: str) -> None:
    options = parser_of(name)._option_string_actions
    assert ("--json" in options) == ("--format" in options)
    if "--format" in options:
        assert "json" in (options["--format"].choices or ())
    if "--qemu" in options and name != "run":
        assert options["--qemu"].metavar == "VERSION|PATH|SNAPSHOT"


def test_every_schema_is_one_and_is_used() -> None:
    for name in schemas.names():
        jsonschema.Draft202012Validator.check_schema(schemas.schema(name))
    assert {name for _, name, _ in DATA} | {"problems", "plan"} >= set(schemas.names())
    with pytest.raises(KeyError):
        schemas.schema("no-such-thing")


@pytest.mark.parametrize(
    ("words", "name", "code"),
    DATA,
    ids=[" ".join((words[0], *words[2:])) for words, *_ in DATA],
)
def test_data_is_what_its_schema_says(
    words: tuple[str, ...],
    name: str,
    code: int,
    refused: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    asked = [refused if word == "REFUSED" else word for word in words]
    assert main([*asked, "--json"]) == code
    captured = capsys.readouterr()
    jsonschema.validate(json.loads(captured.out), schemas.schema(name))
    # all but ASCII is escaped: it plays no tricks on a terminal
    assert captured.out.isascii()
    assert main([*asked, "--format", "json"]) == code
    assert capsys.readouterr().out == captured.out


@pytest.mark.parametrize("name", [name for name in READERS if name not in ("check", "audit", "run", "plan")])
def test_a_refusal_is_data_too(name: str, refused: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [name, refused, *([WEB] if name == "compare" else [])]
    assert main([*words, "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    problems = json.loads(captured.err)
    jsonschema.validate(problems, schemas.schema("problems"))
    assert problems["problems"][0]["file"] == refused
    assert problems["problems"][0]["line"] > 0
    assert main(words) == 1
    assert capsys.readouterr().err.startswith(f"{refused}:{problems['problems'][0]['line']}: ")


@pytest.mark.parametrize("name", [name for name in READERS if name != "plan"])
def test_a_file_that_is_not_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--qemu", "10.0"] if name == "compare" else []
    assert main([name, "/no/such/file.xml", *more]) == 1
    captured = capsys.readouterr()
    assert "/no/such/file.xml: " in captured.out + captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "words",
    [
        *([name, WEB] for name in ("argv", "define", "check", "explain", "topology", "slots", "names")),
        ["topology", WEB, "--svg"],
        ["compare", WEB, NIC],
        ["audit", WEB, NIC],
        ["emulators"],
        ["probe", "10.0"],
        ["capabilities", "--qemu", "10.0"],
        ["domcapabilities"],
        ["schema"],
        ["completion", "bash"],
    ],
    ids=" ".join,
)
def test_silence_in_a_pipe(words: list[str], tmp_path: Path) -> None:
    """No colours and no progress, even where the environment asks for some; nothing beside the result."""
    environment = {**os.environ, "TERM": "xterm-256color", "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "qemushim", *words], capture_output=True, env=environment, cwd=ROOT
    )
    assert done.returncode in (0, 3)
    assert b"\x1b" not in done.stdout + done.stderr
    assert bool(done.stdout) == (words[0] != "check")
    assert done.stderr == (b"1 document checked, all right\n" if words[0] == "check" else b"")


def test_the_page_of_all_subcommands(regenerate: bool) -> None:
    if regenerate:
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "docs/commands.md: tools/reference.py writes it anew"
