"""Say everything that is wrong with domain documents, at once: in their values, with their devices, across them.

Nothing is started, and nothing is printed of a document that is right.  Exit code: 0 where all are right, 1 otherwise.

With --format json standard output is one object:
  {"documents": [{"file": "web.xml", "ok": false, "problems": [PROBLEM, …]}, …],
   "summary": {"documents": 1, "refused": 1, "problems": 2}}
where a PROBLEM is {"file": …, "line": 7 (0: not known), "element": "disk", "message": …, "hint": …}.
“qemushim argv” and “qemushim define” with --format json print {"problems": [PROBLEM]} on standard error."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import (
    add_emulator,
    add_format,
    add_host,
    as_json,
    complaint,
    emulator_for,
    host_for,
    problem_data,
    read_bytes,
    schema_of,
)
from qemushim.errors import ShimError

EPILOG = """\
examples:
  qemushim check guests/*.xml                       before they are defined
  qemushim check web.xml --qemu 6.2                 what an older QEMU minds
  qemushim check web.xml --json | jq '.documents[].problems[].message'

exit codes: 0 where all are right, 1 where one is refused, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", metavar="FILE", nargs="+", help="a domain document, or - for standard input"
    ).complete = {  # type: ignore[attr-defined]
        "bash": "_shtab_compgen_files",
        "zsh": "_files",
        "tcsh": "f",
    }
    add_emulator(parser)
    add_host(parser)
    parser.add_argument(
        "--existing", action="store_true", help="the guests exist already: no newer defaults are taken"
    )
    add_format(
        parser,
        ("text", "json"),
        f"text: FILE:LINE: message, a hint below it, a summary (default); {schema_of('check')}",
    )


def check_file(path: str, options: argparse.Namespace) -> list[ShimError]:
    """What is wrong with a document."""
    from qemushim.document.parse import parse
    from qemushim.guest import Guest

    try:
        name, data = read_bytes(path)
        # the values are looked at by ``problems``, all of them
        guest = Guest(parse(data, name), name)
        emulator = emulator_for(guest, options)
        host = host_for(options, emulator)
    except ShimError as problem:
        problem.file = problem.file or path
        return [problem]
    return [*guest.problems(emulator, host, update=not options.existing)]


def run(options: argparse.Namespace) -> int:
    documents = []
    count = refused = 0
    for path in options.files:
        problems = check_file(path, options)
        count += len(problems)
        refused += bool(problems)
        if options.format == "text":
            for problem in problems:
                print(complaint(problem))
        else:
            described = [problem_data(problem) for problem in problems]
            documents.append({"file": path, "ok": not problems, "problems": described})
    if options.format == "json":
        summary = {"documents": len(options.files), "refused": refused, "problems": count}
        print(as_json({"documents": documents, "summary": summary}))
    else:
        plural = "" if len(options.files) == 1 else "s"
        text = f"{len(options.files)} document{plural} checked, "
        text += f"{refused} refused, {count} problem{'' if count == 1 else 's'}" if refused else "all right"
        print(text, file=sys.stderr)
    return 1 if refused else 0
