"""Shell text, split into commands of words: quotes, comments, assignments and what they are used for.

Nothing is run: of what a shell replaces only variables and arrays that the text itself sets are known.
https://pubs.opengroup.org/onlinepubs/9799919799/utilities/V3_chap02.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qemushim.errors import ConfigError

#: what a text may grow to by its variables
MAX_BYTES = 4 << 20

_CONTINUED = re.compile(r"\\[ \t]*(\n|\Z)")
#: a line that begins with an option belongs to the command above it, whoever lost the backslash
_OPTION_LINE = re.compile(r"[ \t]*--?[a-zA-Z]")
_ARRAY = re.compile(r"([A-Za-z_]\w*)(\+?)=\(")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\+?)=(.*)", re.DOTALL)
#: ``$NAME``, ``${NAME}``, ``${NAME[@]}``, ``${NAME:-default}``
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(\[[@*]\])?(?::?-([^}$`]*))?\})")
#: words before an assignment that leave it one
_DECLARING = frozenset({"declare", "export", "local", "readonly", "typeset", "-a", "-r", "-x", "-g"})
#: what goes to or comes from a file is the shell's
_REDIRECTION = re.compile(r"(?:\d*(?:>>|>&|>\||<<<|<&|<>|>|<)|&>>?)[ \t]*")


@dataclass(frozen=True, slots=True)
class Word:
    text: str
    #: line of the text that it begins on, 0 where there is no text
    line: int = 0


class Splitter:
    """Splits a text.  ``remarks`` says what was not done that a shell would: message, line."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text.replace("\r\n", "\n"), file
        self.position = 0
        self.line = 1
        self.remarks: list[tuple[str, int]] = []
        self.variables: dict[str, list[str]] = {}
        self._grown = 0
        #: the words that are being made: one, or several where a variable holds several
        self._fields: list[list[str]] = []
        self._in_array = False

    def commands(self) -> Iterator[list[Word]]:
        """Simple commands in order.  Raises ``ConfigError`` where a quotation has no end."""
        command: list[Word] = []
        while self.position < len(self.text):
            words = self._next()
            if words is None:
                if command and not self._assigns(command):
                    yield command
                command = []
            else:
                command += words
        if command and not self._assigns(command):
            yield command

    def _assigns(self, command: list[Word]) -> bool:
        """Whether a command does nothing but set variables; they are known from here on."""
        words = [word for word in command if word.text not in _DECLARING]
        found = [_ASSIGNMENT.fullmatch(word.text) for word in words]
        if not all(found):
            return False
        for match in found:
            assert match is not None
            name, more, value = match.groups()
            self.variables[name] = [("".join(self.variables.get(name, [])) if more else "") + value]
        return True

    def _next(self) -> list[Word] | None:
        """The next words; ``None`` for the end of a command."""
        text = self.text
        here = text[self.position]
        if here == "\\" and self._continues():
            return []
        if here == "\n":
            self._step()
            return None if _OPTION_LINE.match(text, self.position) is None else []
        if here.isspace():
            self._step()
            return []
        if here == "#":
            end = text.find("\n", self.position)
            self.position = len(text) if end < 0 else end
            return []
        if here in "|&;" and not text.startswith("&>", self.position):
            while self.position < len(text) and text[self.position] == here:
                self._step()
            return None
        if here in "(){}" and not self._in_array:
            # a subshell, a group, the end of a function
            self._step()
            return []
        redirection = _REDIRECTION.match(text, self.position)
        if redirection is not None:
            self._redirect(redirection)
            return []
        array = _ARRAY.match(text, self.position)
        if array is not None:
            self._array(array)
            return []
        return self._word()

    def _redirect(self, match: re.Match[str]) -> None:
        """``>FILE``, ``2>&1``"""
        line = self.line
        self.position = match.end()
        target = "".join(word.text for word in self._word()) if self.position < len(self.text) else ""
        self.remarks.append((f"the redirection {match[0].strip()}{target} is the shell's", line))

    def _array(self, match: re.Match[str]) -> None:
        """``NAME=(…)``"""
        name, more, start = match[1], match[2], self.line
        self.position = match.end()
        items: list[str] = list(self.variables.get(name, [])) if more else []
        self._in_array = True
        while self.position < len(self.text) and self.text[self.position] != ")":
            words = self._next()
            items += [word.text for word in words or ()]
        self._in_array = False
        if self.position == len(self.text):
            raise ConfigError(
                f"the array {name}=( has no end", file=self.file, line=start, hint="close it with )"
            )
        self._step()
        self.variables[name] = items

    # -- one word ----------------------------------------------------------------------------------

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

    def _put(self, text: str) -> None:
        self._fields[-1].append(text)

    def _word(self) -> list[Word]:
        text, start = self.text, self.line
        self._fields = [[]]
        quoted = False
        while self.position < len(text):
            here = text[self.position]
            if here == "\\":
                if self._continues():
                    continue
                self._step()
                self._put(text[self.position])
                self._step()
            elif here in "'\"":
                quoted = True
                self._quoted(here)
            elif here == "$" and text[self.position + 1 : self.position + 2] == "'":
                self._step()
                self._quoted("$'")
            elif here in "$`" and self._variable(quoted=False):
                continue
            elif here.isspace() or self._ends_word(here):
                break
            else:
                self._put(here)
                self._step()
        fields = ["".join(field) for field in self._fields]
        # an unquoted variable that is empty is no word at all
        return [Word(field, start) for field in fields if field or quoted]

    def _ends_word(self, here: str) -> bool:
        if here == ")" and self._in_array:
            return True
        return here in "|&;<>"

    def _variable(self, *, quoted: bool) -> bool:
        """A variable that the text has set; of any other the dollar sign is told, and stays."""
        match = _VARIABLE.match(self.text, self.position)
        name = (match[1] or match[2]) if match is not None else ""
        values = self.variables.get(name)
        if values is None and match is not None and match[4] is not None:
            values = [match[4]]
        if match is None or values is None:
            remark = (
                "the shell would replace what begins with $ or ` here; it is taken as it stands",
                self.line,
            )
            if remark not in self.remarks:
                self.remarks.append(remark)
            return False
        self._grown += sum(len(value) + 1 for value in values)
        if self._grown > MAX_BYTES:
            raise ConfigError(
                "the variables of the text grow beyond all measure", file=self.file, line=self.line
            )
        self.position = match.end()
        self.line += match[0].count("\n")
        if not quoted:
            values = [part for value in values for part in value.split()]
        elif match[3] is None:
            # of an array without [@] the first
            values = values[:1]
        for number, value in enumerate(values):
            if number:
                self._fields.append([])
            self._put(value)
        return True

    def _quoted(self, quote: str) -> None:
        """What stands between quotes.  Raises ``ConfigError`` where they are not closed."""
        text, start, end = self.text, self.line, quote[-1]
        self._step()
        while self.position < len(text):
            here = text[self.position]
            if here == end:
                self._step()
                return
            if here == "\\" and quote != "'" and self.position + 1 < len(text):
                self._step()
                self._put(_escaped(text[self.position], quote))
            elif here in "$`" and quote == '"' and self._variable(quoted=True):
                continue
            else:
                self._put(here)
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
