#!/usr/bin/env python3
"""Write docs/commands.md anew: every subcommand with its arguments, as its own --help has them.

usage: reference.py [FILE]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemushim.cli import SUBCOMMANDS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
_HEAD = """\
# The subcommands of qemushim

Every subcommand with its arguments, as `qemushim SUBCOMMAND --help` has them. Where a `FILE` is read, `-` is standard
input. Without a terminal there are no colours, no progress and no line breaks of our own; errors and notes go to
standard error. With `--json` (or `--format json`) a refusal is data too, as `qemushim schema problems` describes it;
`qemushim schema` lists the schemas of all data.
"""


def page() -> str:
    """The page."""
    names = "\n".join(
        f"* [{name}](#qemushim-{name}): {summary}" for name, (_, summary) in SUBCOMMANDS.items()
    )
    return "\n".join([_HEAD, names, "", *(line for name in SUBCOMMANDS for line in _section(name))])


def _section(name: str) -> Iterator[str]:
    module = import_module(f"qemushim.cli.{SUBCOMMANDS[name][0]}")
    parser = argparse.ArgumentParser(prog=f"qemushim {name}", add_help=False)
    module.add_arguments(parser)
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    operands = [_operand(action) for action in actions if not action.option_strings]
    options = ["[OPTION …]"] if len(operands) < len(actions) else []
    yield f"## qemushim {name}\n"
    yield f"`{' '.join([f'qemushim {name}', *options, *operands])}`\n"
    yield f"{_prose(module.__doc__ or SUBCOMMANDS[name][1])}\n"
    if actions:
        yield "| | |\n|---|---|"
        yield from (f"| {_name(action)} | {_cell(action.help or _choices(action))} |" for action in actions)
        yield ""
    yield f"```text\n{module.EPILOG}\n```\n"


def _prose(text: str) -> str:
    """A docstring; what is indented in it is an example of data or of a shell."""
    lines: list[str] = []
    for line in text.strip().splitlines():
        inside = bool(lines) and lines[-1].startswith("    ")
        if line and lines and lines[-1] and line.startswith("  ") != inside:
            lines.append("")
        lines.append(f"  {line}" if line.startswith("  ") else line)
    return "\n".join(lines)


def _operand(action: argparse.Action) -> str:
    name = _value(action) or action.dest.upper()
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(str(action.nargs), name)


def _name(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action) or action.dest.upper()}`"
    value = _value(action) if action.nargs != 0 else ""
    return ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings).replace(
        "|", "\\|"
    )


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, tuple):
        return " ".join(action.metavar)
    return action.metavar or _choices(action) or action.dest.upper()


def _choices(action: argparse.Action) -> str:
    return "|".join(map(str, action.choices)) if action.choices else ""


def _cell(text: str) -> str:
    return text.replace("%%", "%").replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PAGE
    path.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
