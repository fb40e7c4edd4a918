"""The command line of qemushim: one module a subcommand, loaded only when it is called."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from qemushim import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

#: subcommand → (module, what it does in a line)
SUBCOMMANDS = {
    "argv": ("argv", "print the QEMU command line of a domain document"),
    "define": ("define", "print the definition: defaults, controllers and addresses filled in"),
    "check": ("check", "say everything that is wrong with domain documents, at once"),
    "from-argv": ("from_argv", "print the domain document of a QEMU command line"),
    "emulators": ("emulators", "list the QEMU versions that come with this package"),
    "probe": ("probe", "say what QEMU binaries can do"),
    "capabilities": ("capabilities", "print which guests can be run, as virsh capabilities"),
    "domcapabilities": ("domcapabilities", "print what a guest can have, as virsh domcapabilities"),
    "explain": ("explain", "say where every argument comes from, or what a line of the document does"),
    "topology": ("topology", "show the buses of a guest: who sits where, and what is free"),
    "slots": ("slots", "count how many more devices can be plugged, and say what to add for more"),
    "names": ("names", "say what Linux calls the guest's network cards and disks, also after a change"),
    "compare": ("compare", "say what a guest notices of another document, QEMU or machine type"),
    "audit": ("audit", "say which guests of a directory or a connection survive another QEMU"),
    "plan": ("plan", "say what defining a guest through libvirt would change, or define it"),
    "run": ("run", "start a guest on a QEMU of this machine, without libvirt"),
    "list": ("list", "list the guests that were started so"),
    "show": ("show", "print the document of one, live or stored"),
    "attach": ("attach", "give one a device more"),
    "detach": ("detach", "take a device from one"),
    "stop": ("stop", "shut one down"),
    "pause": ("pause", "stop the processors of one"),
    "resume": ("resume", "let one go on"),
    "log": ("log", "print what the QEMU of one has said"),
    "forget": ("forget", "remove what is kept of one that is off"),
    "schema": ("schema", "print the JSON Schema of what another prints with --json"),
    "completion": ("completion", "print a completion script for your shell"),
}

EPILOG = """\
examples:
  qemushim argv web.xml                        for the newest QEMU known
  qemushim argv web.xml --qemu 6.2             for an older one
  qemushim argv web.xml --qemu qemu-kvm-0.12.3 for one of 2010
  virsh dumpxml web | qemushim argv -          from a pipe
  qemushim define web.xml > defined.xml        give every device an address, for ever

No guest is started but by “run”, and no QEMU is asked but one that you name by its path (“probe” and “capabilities”
ask all that are installed where you name none): neither QEMU nor libvirt need be there.
“qemushim SUBCOMMAND --help” says more of each."""

#: exit codes: refused (the document, the emulator), wrong usage
REFUSED, USAGE = 1, 2


def overview_parser(*, complete: bool = False) -> argparse.ArgumentParser:
    """The parser of everything; ``complete`` loads every subcommand (for completion scripts)."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="qemushim",
        description="From libvirt domain XML to stable device addresses and the exact QEMU command line.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version of qemushim")
    subparsers = parser.add_subparsers(dest="subcommand", metavar="SUBCOMMAND", title="subcommands")
    for name, (module, summary) in SUBCOMMANDS.items():
        sub = subparsers.add_parser(name, help=summary)
        if complete:
            import_module(f"qemushim.cli.{module}").add_arguments(sub)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; the exit code."""
    # not list(): a subcommand has that name
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if not words or words[0] not in SUBCOMMANDS:
        if words == ["--version"]:
            print(f"qemushim {__version__}")
            return 0
        parser = overview_parser()
        parser.parse_args(words)
        parser.print_help()
        return 0 if not words else USAGE
    from qemushim.cli.common import run

    return run(words[0], import_module(f"qemushim.cli.{SUBCOMMANDS[words[0]][0]}"), words[1:])


def program() -> int:
    """``main`` as a process of its own."""
    # what is loaded stays to the end: to look through it while it grows, and once more at the exit, took a sixth of a
    # short run
    gc.set_threshold(100_000)
    try:
        return main()
    finally:
        gc.freeze()
