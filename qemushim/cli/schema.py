"""Print the JSON Schema of what a subcommand prints with --json, or the names of all schemas."""

from __future__ import annotations

import argparse
import sys

from qemushim import schemas

EPILOG = """\
examples:
  qemushim schema                              which there are
  qemushim schema compare > compare.schema.json

exit codes: 0, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", choices=schemas.names(), help="which schema")


def run(options: argparse.Namespace) -> int:
    sys.stdout.write(
        schemas.text(options.name) if options.name else "".join(f"{n}\n" for n in schemas.names())
    )
    return 0
