"""What subcommands share: reading documents, choosing the emulator, saying what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from qemushim.errors import ConfigError, ShimError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

#: what messages call standard input
STDIN = "<stdin>"
#: columns of what is no terminal
_COLUMNS = 80


def run(name: str, module: ModuleType, words: list[str]) -> int:
    """Parse the arguments of a subcommand and run it; errors become a line on stderr and an exit code."""
    from qemushim.cli import REFUSED, SUBCOMMANDS

    parser = argparse.ArgumentParser(
        prog=f"qemushim {name}",
        description=module.__doc__ or SUBCOMMANDS[name][1],
        epilog=module.EPILOG,
        formatter_class=help_formatter,
    )
    module.add_arguments(parser)
    options = parser.parse_args(words)
    try:
        code: int = module.run(options)
        sys.stdout.flush()
    except ShimError as problem:
        if getattr(options, "format", "") == "json":
            print(as_json({"problems": [problem_data(problem)]}), file=sys.stderr)
        else:
            complain(problem)
        return REFUSED
    except BrokenPipeError:
        # the reader went away: not our failure, and nothing more can be written (Python would complain at exit)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def help_formatter(prog: str) -> argparse.HelpFormatter:
    """Help with the lines of its texts as they are, as wide as the terminal.

    Every argument that is added makes a formatter.  One that is told its width does not load shutil, and with it
    whatever Python can unpack.
    """
    return argparse.RawDescriptionHelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    """How wide the terminal is."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def complaint(problem: ShimError) -> str:
    """``FILE:LINE: message`` and ``hint: …``.  Control characters of the document are not passed on."""
    lines = [printable(f"{problem.where}{problem.message}")]
    lines += [f"hint: {printable(line)}" for line in problem.hint.splitlines()]
    return "\n".join(lines)


def complain(problem: ShimError) -> None:
    """The complaint on stderr."""
    print(complaint(problem), file=sys.stderr)


def problem_data(problem: ShimError) -> dict[str, Any]:
    """An error as data: ``file``, ``line`` (0: not known), ``element`` (its tag), ``message``, ``hint``."""
    return {
        "file": problem.file,
        "line": problem.line,
        "element": problem.element.tag if problem.element is not None else "",
        "message": problem.message,
        "hint": problem.hint,
    }


def as_json(data: object) -> str:
    """Data as text, which plays no tricks on a terminal either: all but ASCII is escaped."""
    import json

    return json.dumps(data, indent=2)


def printable(text: str) -> str:
    """One line that can not play tricks on a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def note(text: str) -> None:
    """A line on stderr that is no error."""
    print(f"note: {printable(text)}", file=sys.stderr)


def add_format(
    parser: argparse.ArgumentParser, formats: Sequence[str], meaning: str, **shorthands: str
) -> None:
    """``--format``, its default first; ``--json`` and other short ways of saying it.

    ``meaning``: of the formats, for the help; ``shorthands``: further options and what they mean.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--format", choices=tuple(formats), default=formats[0], help=meaning)
    for name, words in {"json": "short for --format json", **shorthands}.items():
        group.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=words)


def schema_of(*names: str) -> str:
    """Where the form of the data is written down, for the help of ``--format``."""
    commands = " and ".join(f"“qemushim schema {name}”" for name in names)
    return f"json: data, as {commands} describes it"


def add_document(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", metavar="FILE", help="a domain document, or - for standard input"
    ).complete = {  # type: ignore[attr-defined]
        "bash": "_shtab_compgen_files",
        "zsh": "_files",
        "tcsh": "f",
    }


def add_emulator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        default="latest",
        help="which QEMU: a version that comes with the package (see “qemushim emulators”), a binary, "
        "a snapshot file, a recorded conversation, a help text (default: the newest of the architecture)",
    )
    parser.add_argument(
        "--arch",
        metavar="ARCH",
        help="architecture of the guest, where the document names none (default: x86_64)",
    )


def add_host(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        choices=("nominal", "local"),
        help="nominal: a host that is the same everywhere; local: the facts of this machine (huge pages, NUMA "
        "nodes, firmware, environment, qemu.conf).  Default: local where --qemu is a binary of this machine, else "
        "nominal",
    )


def names_binary(options: argparse.Namespace) -> bool:
    """Whether ``--qemu`` is a binary of this machine."""
    return os.access(options.qemu, os.X_OK) and not os.path.isdir(options.qemu)


def host_for(options: argparse.Namespace, emulator: Emulator) -> Host:
    """The host that ``--host`` names, or that fits the emulator."""
    from qemushim.host import Host

    if options.host == "local" or (options.host is None and names_binary(options)):
        return Host.local()
    return Host.nominal(options.arch or emulator.arch)


def read_bytes(path: str) -> tuple[str, bytes]:
    """What errors call a file (``-``: standard input), and what is in it.  Raises ``ConfigError``."""
    from qemushim.document.parse import MAX_BYTES

    name = STDIN if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with open(path, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"cannot read the document: {reason}", file=name) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"XML error: the document is larger than {MAX_BYTES} bytes",
            file=name,
            hint="a domain document has a few KiB; is this the right file?",
        )
    return name, data


def write_file(path: str, text: str, what: str) -> None:
    """Write a file in one step: it is never half there, and keeps its rights.  Raises ``ConfigError``."""
    import tempfile

    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        # a pipe, a terminal
        with open(target, "w", encoding="utf-8") as file:
            file.write(text)
        return
    name = ""
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=os.path.dirname(target), prefix=".qemushim-", delete=False
        ) as temporary:
            name = temporary.name
            temporary.write(text)
            temporary.flush()
            os.fsync(temporary.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, os.stat(target).st_mode & 0o7777 if os.path.exists(target) else 0o666 & ~umask)
        os.replace(name, target)
    except OSError as problem:
        if name and os.path.exists(name):
            os.unlink(name)
        raise ConfigError(f"cannot write {what}: {problem.strerror}", file=path) from None


def check_writable(path: str) -> None:
    """Tell before a long work that its result can not be written.  Raises ``ConfigError``."""
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise ConfigError("cannot write the report: No such file or directory", file=path)
    if not os.access(folder, os.W_OK):
        raise ConfigError("cannot write the report: Permission denied", file=path)


def read_document(path: str) -> Guest:
    """The guest of a file (``-``: standard input).  Raises ``ConfigError`` where it can not be read or is none."""
    from qemushim.guest import Guest

    name, data = read_bytes(path)
    return Guest.from_xml(data, file=name)


def emulator_for(guest: Guest, options: argparse.Namespace) -> Emulator:
    """The emulator that ``--qemu`` names, for the guest's architecture."""
    from qemushim.emulator.bundled import find

    return find(options.qemu, options.arch or guest.domain.arch or "x86_64", say=note)
