"""A command as text: for a shell, a line each, or as JSON data."""

from __future__ import annotations

import json

from qemushim.command.command import Command

#: a word with none of these needs no quotes in a shell
_SPECIAL = frozenset("\r\n\t !\"#$&'()*;<>?[\\]^`{|}~")


def quote(word: str) -> str:
    """A word for a POSIX shell, quoted only where it must be."""
    if not word:
        return "''"
    if _SPECIAL.isdisjoint(word):
        return word
    return "'" + word.replace("'", "'\\''") + "'"


def shell(command: Command) -> str:
    """An option with its value a line, continued by backslashes, the environment first; ready to paste."""
    lines = [f"{name}={quote(value)}" for name, value in command.environment.items()]
    words = [quote(command.binary)]
    options = False
    remaining = command.argv
    last = max((i for i, word in enumerate(remaining) if word.startswith("-")), default=0)
    for i, word in enumerate(remaining[1:], 1):
        is_option = word.startswith("-")
        # a value stays on the line of its option; behind the last option of all, only the first does
        if is_option or not options or i - 1 > last:
            lines.append(" ".join(words))
            words = []
        options = options or is_option
        words.append(quote(word))
    lines.append(" ".join(words))
    return " \\\n".join(lines) + "\n"


def lines(command: Command) -> str:
    """A token a line, unquoted."""
    return "".join(token + "\n" for token in command.tokens)


def data(command: Command) -> str:
    """``{"environment": {NAME: value}, "argv": [binary, option, …]}``"""
    document = {"environment": command.environment, "argv": command.argv}
    return json.dumps(document, ensure_ascii=False, indent=2) + "\n"


FORMATS = {"shell": shell, "lines": lines, "json": data}
