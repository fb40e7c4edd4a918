"""List the QEMU versions that come with this package: what --qemu takes."""

from __future__ import annotations

import argparse

from qemushim.cli.common import add_format, as_json, schema_of
from qemushim.emulator.bundled import available

EPILOG = """\
examples:
  qemushim emulators                                all of them
  qemushim emulators --arch s390x
  qemushim emulators --json | jq -r '.[].name'

exit codes: 0, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", metavar="ARCH", help="only those of this architecture")
    add_format(parser, ("table", "json"), f"a table (default); {schema_of('emulators')}")


def run(options: argparse.Namespace) -> int:
    known = [e for e in available() if options.arch in (None, e.arch)]
    if options.format == "json":
        print(as_json([e._asdict() for e in known]))
        return 0
    rows = [("NAME", "QEMU", "ARCHITECTURE", "KNOWN BY")]
    rows += [(e.name, e.version, e.arch, "help text" if e.classic else "QMP") for e in known]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
