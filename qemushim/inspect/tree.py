"""A topology as a tree of lines, and as a graph for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from qemushim.inspect.topology import Bus, Place, Topology


class Line(NamedTuple):
    """One line of the tree."""

    #: the lines that lead here
    branch: str
    #: ``bus``, ``free``, ``hot`` (free, also while the guest runs), or the kind of a device
    kind: str
    #: where it is, and what it is
    place: str
    text: str


def tree_lines(found: Topology) -> Iterator[Line]:
    """The tree from the top: buses, their places, the buses below those."""
    yield Line("", "machine", "", f"{found.name or 'guest'} ({found.machine}, {found.arch})")
    for number, bus in enumerate(found.buses):
        yield from _bus(bus, "", number == len(found.buses) - 1)


def _bus(bus: Bus, prefix: str, is_last: bool) -> Iterator[Line]:
    yield Line(f"{prefix}{'└─ ' if is_last else '├─ '}", "bus", bus.name, bus.words)
    yield from _places(bus, prefix + ("   " if is_last else "│  "))


def _places(bus: Bus, prefix: str) -> Iterator[Line]:
    width = max((len(place.names) for place in bus.places), default=0)
    for number, place in enumerate(bus.places):
        last = number == len(bus.places) - 1
        branch = f"{prefix}{'└─ ' if last else '├─ '}"
        yield Line(branch, _kind(bus, place), place.names.ljust(width), place_text(bus, place))
        below = prefix + ("   " if last else "│  ")
        if len(place.buses) == 1:
            # a controller and its bus are one line
            yield from _places(place.buses[0], below)
            continue
        for nested, child in enumerate(place.buses):
            yield from _bus(child, below, nested == len(place.buses) - 1)


def _kind(bus: Bus, place: Place) -> str:
    if place.free:
        return "hot" if bus.hotplug else "free"
    return place.kind


def place_text(bus: Bus, place: Place) -> str:
    """``disk vda (virtio-disk0)``, ``20 free, hotpluggable``."""
    if place.free:
        how = "free" if place.free == 1 else f"{place.free} free"
        return f"{how}, hotpluggable" if bus.hotplug else f"{how}, not while the guest runs"
    alias = f" ({place.alias})" if place.alias and place.alias not in place.device.split() else ""
    node = next((f", NUMA node {below.node}" for below in place.buses if below.node is not None), "")
    return f"{place.device}{alias}{node}"


def tree_text(found: Topology) -> str:
    """The tree without colours."""
    return "".join(
        f"{line.branch}{'  '.join(filter(None, (line.place, line.text)))}".rstrip() + "\n"
        for line in tree_lines(found)
    )


# -- Graphviz ----------------------------------------------------------------------------------------------


def dot(found: Topology) -> str:
    """A graph for Graphviz: a table for each bus, an edge to each bus below."""
    lines = [
        "digraph topology {",
        f"  label={_quoted(f'{found.name} ({found.machine}, {found.arch})')};",
        "  labelloc=t; rankdir=LR; fontname=sans;",
        "  node [shape=plain, fontname=sans, fontsize=11];",
    ]
    edges: list[str] = []
    for bus in found.every():
        title = f"{bus.name}  {bus.words}".strip()
        rows = [f'<tr><td colspan="2" bgcolor="#dfe6ee"><b>{_html(title)}</b></td></tr>']
        for number, place in enumerate(bus.places):
            colour = ' bgcolor="#e3f4e1"' if place.free and bus.hotplug else ""
            rows.append(
                f'<tr><td align="left"{colour}>{_html(place.names)}</td>'
                f'<td align="left" port="p{number}"{colour}>{_html(place_text(bus, place))}</td></tr>'
            )
            edges += [f"  {_quoted(bus.name)}:p{number} -> {_quoted(below.name)};" for below in place.buses]
        lines.append(
            f'  {_quoted(bus.name)} [label=<<table border="0" cellborder="1" cellspacing="0">{"".join(rows)}</table>>];'
        )
    return "\n".join([*lines, *edges, "}"]) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
