"""Show the buses of a guest: who sits where, what is free, and what can be plugged while it runs."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_format,
    add_host,
    as_json,
    emulator_for,
    host_for,
    printable,
    read_document,
    schema_of,
)
from qemushim.inspect.survey import survey
from qemushim.inspect.topology import Topology, topology, topology_data
from qemushim.inspect.tree import dot, tree_lines, tree_text

EPILOG = """\
examples:
  qemushim topology web.xml                      a tree
  qemushim topology web.xml --svg > web.svg      a picture, for any browser
  qemushim topology web.xml --dot | dot -Tpdf    a graph, for Graphviz

exit codes: 0, 1 where the guest is refused, 2 for wrong usage"""

#: kind of line → its colour on a terminal
_COLOURS = {
    "bus": "bold",
    "chipset": "dim",
    "controller": "blue",
    "disk": "yellow",
    "free": "dim",
    "hostdev": "red",
    "hot": "green",
    "interface": "cyan",
    "machine": "bold",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    add_format(
        parser,
        ("text", "svg", "dot", "json"),
        f"text: a tree (default); svg: a picture; dot: a graph for Graphviz; {schema_of('topology')}",
        svg="short for --format svg",
        dot="short for --format dot",
    )
    add_emulator(parser)
    add_host(parser)


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    found = topology(survey(guest, emulator, host_for(options, emulator)))
    if options.format == "svg":
        from qemushim.inspect.picture import svg

        sys.stdout.write(svg(found))
    elif options.format == "dot":
        sys.stdout.write(dot(found))
    elif options.format == "json":
        print(as_json(topology_data(found)))
    elif sys.stdout.isatty():
        _coloured(found)
    else:
        sys.stdout.write("".join(f"{printable(line)}\n" for line in tree_text(found).splitlines()))
    return 0


def _coloured(found: Topology) -> None:
    # takes longer to load than the rest of the work takes
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in tree_lines(found):
        colour = _COLOURS.get(line.kind, "")
        place = f"{printable(line.place)}  " if line.place else ""
        text = Text.assemble((line.branch, "dim"), (place, "dim"), (printable(line.text), colour))
        if line.kind == "bus":
            text = Text.assemble((line.branch, "dim"), (place, "bold"), (printable(line.text), "dim"))
        console.print(text)
