"""From text to the words of a command: as a shell would split it, or as /proc/PID/cmdline and JSON have them.

Nothing is run: what a shell would replace (``$HOME``, ``$(…)``) stays as it is, and is told, but for variables and
arrays that the text itself sets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from qemushim.errors import ConfigError
from qemushim.fromargv.shell import MAX_BYTES, Splitter, Word
from qemushim.fromargv.syntax import Place

#: more than anybody types, or any program writes
MAX_WORDS = 20_000


@dataclass(slots=True)
class Words:
    """The words of one command, and what was noticed on the way."""

    words: list[Word] = field(default_factory=list)
    notes: list[tuple[str, int]] = field(default_factory=list)


def words_of(data: str | bytes, file: str = "") -> Words:
    """The words of a command: shell text, NUL-separated words (``/proc/PID/cmdline``), or JSON.

    JSON is a list of words, or an object with ``argv`` (and ``environment``) as ``qemushim argv --format json`` writes.
    Raises ``ConfigError`` (with the line) where the text is too long, no UTF-8, or a quotation has no end.
    """
    if len(data) > MAX_BYTES:
        raise ConfigError(f"the command is longer than {MAX_BYTES} bytes", file=file)
    if isinstance(data, bytes):
        try:
            text = data.decode()
        except UnicodeDecodeError as problem:
            line = data[: problem.start].count(b"\n") + 1
            raise ConfigError(
                f"the command is no UTF-8 text (byte {problem.start + 1})", file=file, line=line
            ) from None
    else:
        text = data
    text = text.removeprefix("\ufeff")
    if "\0" in text:
        found = Words([Word(part) for part in text.removesuffix("\0").split("\0")])
    elif text.lstrip()[:1] in ("[", "{"):
        found = Words(_json_words(text, file))
    else:
        found = _shell_words(text, file)
    if len(found.words) > MAX_WORDS:
        raise ConfigError(f"the command has more than {MAX_WORDS} words", file=file)
    return found


def _json_words(text: str, file: str) -> list[Word]:
    try:
        data = json.loads(text)
    except RecursionError:
        raise ConfigError("the JSON nests too deeply", file=file) from None
    except json.JSONDecodeError as problem:
        raise ConfigError(
            f"the JSON is broken: {problem.msg} (column {problem.colno})", file=file, line=problem.lineno
        ) from None
    environment: list[str] = []
    if isinstance(data, dict):
        given = data.get("environment")
        environment = [f"{k}={v}" for k, v in given.items()] if isinstance(given, dict) else []
        data = data.get("argv")
    if not isinstance(data, list) or not all(isinstance(word, str) for word in data):
        raise ConfigError(
            "no list of words",
            file=file,
            hint='["qemu-system-x86_64", "-m", "4G"], or what “qemushim argv --format json” prints',
        )
    return [Word(word) for word in [*environment, *data]]


def _shell_words(text: str, file: str) -> Words:
    """The words of the first command of a text that names a QEMU."""
    splitter = Splitter(text, file)
    commands = list(splitter.commands())
    out = Words(notes=splitter.remarks)
    chosen = next((command for command in commands if _starts_qemu(command)), None)
    if chosen is None:
        chosen = [word for command in commands for word in command]
    elif len(commands) > 1:
        out.notes.append((f"{len(commands) - 1} other commands of the text are not read", 0))
    out.words = chosen
    return out


def _starts_qemu(command: list[Word]) -> bool:
    """Whether one of the first words is QEMU (``ps`` has ten columns before it), with options behind it."""
    for number, word in enumerate(command[:12]):
        if _names_qemu(word.text) and (number + 1 == len(command) or command[number + 1].text[:1] == "-"):
            return True
    return False


def _names_qemu(text: str) -> bool:
    name = text.rpartition("/")[2]
    return name.startswith(("qemu-system-", "qemu-kvm", "kvm")) or name == "qemu"


def place_of(words: list[Word], number: int, first: int) -> Place:
    """Where a word stands, counted from the emulator."""
    return Place(number - first, words[number].line)
