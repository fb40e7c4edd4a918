"""From text to the words of a command: as a shell would split it, or as /proc/PID/cmdline and JSON have them.

Nothing is expanded: what a shell would replace (``$HOME``, ``$(…)``) stays as it is, and is told.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from qemushim.errors import ConfigError
from qemushim.fromargv.syntax import Place

#: what is longer was not typed, and no kernel starts it (Linux takes 128 KiB a word, and 2 MiB in all)
MAX_BYTES = 4 << 20
MAX_WORDS = 20_000

#: words that end the command: what follows is another one
_ENDS = frozenset({"|", "||", "&&", ";", "&"})


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    #: line of the text that it begins on, 0 where there is no text
    line: int = 0


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
        found = _Splitter(text, file).split()
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


_CONTINUED = re.compile(r"\\[ \t]*(\n|\Z)")
#: a line that begins with an option belongs to the command above it, whoever lost the backslash
_OPTION_LINE = re.compile(r"[ \t]*--?[a-zA-Z]")


class _Splitter:
    """Splits shell text: quotes, backslashes, comments, the first simple command that names a QEMU."""

    def __init__(self, text: str, file: str) -> None:
        # a line that ends in a backslash goes on, also where an editor or a forum left blanks behind it
        self.text, self.file = text.replace("\r\n", "\n"), file
        self.position = 0
        self.line = 1
        self.out = Words()

    def split(self) -> Words:
        commands: list[list[Word]] = [[]]
        while (word := self._next()) is not None:
            if word.text == "\n" or (word.text in _ENDS and not word.line):
                if commands[-1]:
                    commands.append([])
            else:
                commands[-1].append(word)
        commands = [command for command in commands if command]
        chosen = next((c for c in commands if any(_names_qemu(w.text) for w in c[:8])), None)
        if chosen is None:
            chosen = [word for command in commands for word in command]
        elif len(commands) > 1:
            self.out.notes.append((f"{len(commands) - 1} other commands of the text are not read", 0))
        self.out.words = _without_redirections(chosen, self.out)
        return self.out

    # -- one word ----------------------------------------------------------------------------------

    def _next(self) -> Word | None:
        """The next word; ``\\n`` for the end of a line, an operator without a line."""
        text = self.text
        while self.position < len(text):
            here = text[self.position]
            if here == "\\" and self._continues():
                continue
            if here == "\n":
                self._step()
                if _OPTION_LINE.match(text, self.position) is None:
                    return Word("\n")
                continue
            if here.isspace():
                self._step()
            elif here == "#":
                end = text.find("\n", self.position)
                self.position = len(text) if end < 0 else end
            elif here in "|&;":
                start = self.position
                while self.position < len(text) and text[self.position] == here:
                    self._step()
                return Word(text[start : self.position])
            else:
                return self._word()
        return None

    def _step(self) -> None:
        if self.text[self.position] == "\n":
            self.line += 1
        self.position += 1

    def _continues(self) -> bool:
        """A backslash at the end of a line, blanks behind it forgiven: the line goes on."""
        found = _CONTINUED.match(self.text, self.position)
        if found is not None:
            self.line += found.group().count("\n")
            self.position = found.end()
        return found is not None

    def _word(self) -> Word:
        text, start = self.text, self.line
        parts: list[str] = []
        while self.position < len(text):
            here = text[self.position]
            if here == "\\":
                if self._continues():
                    continue
                self._step()
                parts.append(text[self.position])
                self._step()
            elif here in "'\"":
                parts.append(self._quoted(here))
            elif here == "$" and text[self.position + 1 : self.position + 2] == "'":
                self._step()
                parts.append(self._quoted("$'"))
            elif here.isspace() or (here in "|&;" and not (here == "&" and parts and parts[-1] == ">")):
                break
            else:
                if here in "$`":
                    self._expansion()
                parts.append(here)
                self._step()
        return Word("".join(parts), start)

    def _expansion(self) -> None:
        note = (
            "the shell would replace what begins with $ or ` here; it is taken as it stands",
            self.line,
        )
        if note not in self.out.notes:
            self.out.notes.append(note)

    def _quoted(self, quote: str) -> str:
        """What stands between quotes.  Raises ``ConfigError`` where they are not closed."""
        text, start, end = self.text, self.line, quote[-1]
        self._step()
        parts: list[str] = []
        while self.position < len(text):
            here = text[self.position]
            if here == end:
                self._step()
                return "".join(parts)
            if here == "\\" and quote != "'" and self.position + 1 < len(text):
                self._step()
                parts.append(_escaped(text[self.position], quote))
            else:
                if here in "$`" and quote == '"':
                    self._expansion()
                parts.append(here)
            self._step()
        raise ConfigError(
            f"a quotation ({end}) has no end", file=self.file, line=start, hint=f"close it with {end}"
        )


_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def _escaped(letter: str, quote: str) -> str:
    """A backslash and a letter between quotes."""
    if quote == "$'":
        return _ANSI.get(letter, f"\\{letter}")
    if letter == "\n":
        return ""
    return letter if letter in '"\\$`' else f"\\{letter}"


def _names_qemu(text: str) -> bool:
    name = text.rpartition("/")[2]
    return name.startswith(("qemu-system-", "qemu-kvm", "kvm")) or name == "qemu"


def _without_redirections(words: list[Word], out: Words) -> list[Word]:
    """``>file``, ``2>&1`` and the like are the shell's, not QEMU's."""
    kept: list[Word] = []
    skip = False
    for word in words:
        if skip:
            skip = False
            continue
        bare = word.text.lstrip("0123456789")
        if word.line and bare[:1] in ("<", ">") and not word.text.startswith("-"):
            out.notes.append((f"the redirection {word.text} is the shell's", word.line))
            skip = not bare.lstrip("<>&|")
            continue
        kept.append(word)
    return kept


def place_of(words: list[Word], number: int, first: int) -> Place:
    """Where a word stands, counted from the emulator."""
    return Place(number - first, words[number].line)
