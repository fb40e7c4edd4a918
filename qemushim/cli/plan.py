"""Say what defining a guest through libvirt would do: what is added to the document, what stays as the guest has it,
what the guest would see of the change.  Nothing is changed, unless --define is given.

A guest that exists keeps every address that the document does not name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qemushim.cli.common import add_document, add_format, as_json, note, printable, read_bytes, schema_of
from qemushim.errors import DriverError, ShimError

if TYPE_CHECKING:
    from qemushim.driver.plan import Plan

EPILOG = """\
examples:
  qemushim plan web.xml                                   on the libvirt that virsh would use
  qemushim plan web.xml --connect qemu+ssh://host/system  on another host
  qemushim plan web.xml --format diff                     the difference to the stored definition
  qemushim plan web.xml --define --strict                 define it, unless it would be another machine

exit codes: 0 planned or defined, 1 refused, 2 wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument(
        "--connect",
        metavar="URI",
        help="libvirt to ask (default: LIBVIRT_DEFAULT_URI, or libvirt's own choice)",
    )
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        help="which QEMU runs the guest, where libvirt is not to be asked (see “qemushim argv --help”)",
    )
    add_format(
        parser,
        ("text", "xml", "diff", "json"),
        f"text: a line each (default); xml: the definition; diff: against the stored one; {schema_of('plan')}",
    )
    parser.add_argument(
        "--strict", action="store_true", help="refuse what would be another machine for the guest"
    )
    parser.add_argument("--define", action="store_true", help="define the guest as planned")


def run(options: argparse.Namespace) -> int:
    from qemushim.document.keep import as_utf8
    from qemushim.driver.around import open as connect

    name, data = read_bytes(options.file)
    with _libvirt_errors(), connect(options.connect, emulator=options.qemu) as connection:
        plan = connection.plan(as_utf8(data), file=name)
        if options.strict:
            plan.require_same_machine()
        if options.define:
            connection.define(plan)
    sys.stdout.write(_FORMATS[options.format](plan))
    if options.define:
        note(f"guest '{plan.guest.name}' is defined")
    return 0


def _text(plan: Plan) -> str:
    return "".join(f"{printable(line)}\n" for line in str(plan).splitlines())


def _json(plan: Plan) -> str:
    data = {
        "name": plan.guest.name,
        "verdict": plan.verdict,
        "added": plan.added,
        "kept": plan.kept,
        "changes": [change._asdict() for change in plan.changes],
        "xml": plan.xml,
    }
    return as_json(data) + "\n"


_FORMATS = {
    "text": _text,
    "xml": lambda plan: plan.xml if plan.xml.endswith("\n") else f"{plan.xml}\n",
    "diff": lambda plan: plan.diff,
    "json": _json,
}


@contextmanager
def _libvirt_errors() -> Iterator[None]:
    """libvirt's errors as ours: a line, no traceback; and not said by libvirt itself."""
    try:
        import libvirt
    except ModuleNotFoundError:
        yield  # the connection says what is missing
        return
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        yield
    except ShimError:
        raise
    except libvirt.libvirtError as problem:
        raise DriverError(str(problem)) from problem
