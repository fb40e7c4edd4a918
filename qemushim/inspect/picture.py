"""A topology as a picture: a room for each bus, a row for each place, lines from a controller to its room.

A port that takes one device is a small room in the row of its controller: twenty of them are a list and no tangle.

SVG with nothing but text and shapes: it scales, can be searched, has words for a screen reader, and follows the
reader's choice of light or dark.
"""

from __future__ import annotations

from dataclasses import dataclass

from qemushim.inspect.topology import Bus, Place, Topology

ROW, TITLE, GAP, PAD = 24, 30, 18, 12
#: between columns of rooms, where the lines run
LANE = 84
#: width of a character of the text, and of one in a room's title
CHAR, TITLE_CHAR = 7.0, 7.6
#: where the legend begins, and the height of a line of it
HEAD, LINE = 68, 20
#: squares that show free places, at most so many in a row
SQUARE, SQUARES = 11, 32

#: kind of device → class of its colour
_CLASSES = {
    **dict.fromkeys(("disk", "filesystem", "nvram"), "storage"),
    **dict.fromkeys(("interface", "vsock"), "network"),
    **dict.fromkeys(("video", "sound", "input", "redirdev"), "seat"),
    **dict.fromkeys(("controller", "hub", "smartcard"), "bus"),
    **dict.fromkeys(("hostdev", "shmem"), "host"),
    "chipset": "chipset",
}
_LEGEND = (
    ("storage", "disks"),
    ("network", "network"),
    ("seat", "screen, sound, input"),
    ("bus", "controllers"),
    ("host", "host devices"),
    ("other", "others"),
    ("chipset", "of the board"),
    ("hot", "free, also while the guest runs"),
    ("free", "free for the next start"),
)
#: role → colour on light and on dark paper.  No CSS variables: viewers beside browsers do not know them
_COLOURS = {
    "storage": ("#b35900", "#ffab5e"),
    "network": ("#0b6bcb", "#6cb6ff"),
    "seat": ("#7a3fb8", "#c9a0f5"),
    "bus": ("#475467", "#b4bfcc"),
    "host": ("#b3261e", "#ff8a80"),
    "other": ("#0f766e", "#5fd3c6"),
    "chipset": ("#98a2b0", "#7a8594"),
    "paper": ("#ffffff", "#12161c"),
    "dot": ("#8d98a7", "#6b7787"),
    "dim": ("#5b6675", "#a3adba"),
    "name": ("#5b6675", "#a3adba"),
    "words": ("#1a7f37", "#56d364"),
    "ink": ("#1b2330", "#e8ecf1"),
}
_SHAPES = """\
text { font: 12px system-ui, "DejaVu Sans", sans-serif; }
.title { font-weight: 600; } .head { font-size: 18px; font-weight: 600; }
.name { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 11px; }
.room { fill: #f6f7f9; stroke: #c3c9d1; } .rule { stroke: #c3c9d1; }
.wire { fill: none; stroke: #8d98a7; stroke-width: 1.5; }
.free { fill: none; stroke: #5b6675; stroke-dasharray: 2 2; }
.hot { fill: #e6f6e9; stroke: #1a7f37; stroke-width: 1.4; }
.port { fill: #ffffff; stroke: #c3c9d1; }
"""
_DARK = """\
.room { fill: #1b212a; stroke: #3a4350; } .rule { stroke: #3a4350; } .wire { stroke: #6b7787; }
.free { stroke: #a3adba; } .hot { fill: #17301d; stroke: #56d364; }
.port { fill: #12161c; stroke: #3a4350; }
"""


def _style() -> str:
    light = " ".join(f".{role} {{ fill: {colours[0]}; }}" for role, colours in _COLOURS.items())
    dark = " ".join(f".{role} {{ fill: {colours[1]}; }}" for role, colours in _COLOURS.items())
    return f"{_SHAPES}{light}\n@media (prefers-color-scheme: dark) {{\n{_DARK}{dark}\n}}\n"


@dataclass(slots=True)
class Room:
    """A bus with its place in the picture."""

    bus: Bus
    column: int
    #: the row of the room that it hangs from
    above: tuple[Room, int] | None
    x: float = 0
    y: float = 0
    width: float = 0

    @property
    def height(self) -> float:
        return TITLE + max(1, len(self.bus.places)) * ROW + PAD / 2

    def row(self, number: int) -> float:
        """The middle of a row."""
        return self.y + TITLE + number * ROW + ROW / 2


def svg(found: Topology) -> str:
    """The picture, as the text of an SVG file."""
    title = f"{found.name or 'guest'}: {found.machine}, {found.arch}"
    words = _summary(found)
    width = max([520.0, PAD * 4 + len(words) * CHAR])
    rooms = _arrange(found)
    width = max([width, *(room.x + room.width + PAD * 2 for room in rooms)])
    legend, below = _legend(width)
    for room in rooms:
        room.y += below
    height = max([below, *(room.y + room.height for room in rooms)]) + PAD * 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-labelledby="title desc">',
        f'<title id="title">{_text(title)}</title><desc id="desc">{_text(words)}</desc>',
        f"<style>\n{_style()}</style>",
        f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
        f'<text class="head ink" x="{PAD * 2}" y="32">{_text(title)}</text>',
        f'<text class="dim" x="{PAD * 2}" y="52">{_text(words)}</text>',
        *legend,
        *(_wire(room) for room in rooms if room.above is not None),
        *(_room(room) for room in rooms),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _summary(found: Topology) -> str:
    buses = list(found.every())
    ccw = any(bus.type == "ccw" for bus in buses)
    free = sum(bus.free for bus in buses if bus.hotplug and bus.type == ("ccw" if ccw else "pci"))
    kind = "CCW device numbers" if ccw else "PCI slots"
    return f"{len(buses)} buses. {free or 'No'} {kind} are free for what is plugged in while the guest runs."


# -- where everything goes ---------------------------------------------------------------------------------


def _arrange(found: Topology) -> list[Room]:
    """Rooms in columns by depth; each as high up as the row that it hangs from, if the column has room there."""
    rooms: list[Room] = []

    def collect(bus: Bus, column: int, above: tuple[Room, int] | None) -> None:
        room = Room(bus, column, above, width=_width(bus))
        rooms.append(room)
        for number, place in enumerate(bus.places):
            for below in _below(place):
                collect(below, column + 1, (room, number))

    for bus in found.buses:
        collect(bus, 0, None)
    columns = max((room.column for room in rooms), default=0) + 1
    widths = [
        max((room.width for room in rooms if room.column == column), default=0) for column in range(columns)
    ]
    free = [0.0] * columns
    for room in rooms:
        column = room.column
        room.x = PAD * 2 + sum(widths[:column]) + LANE * column
        room.width = widths[column]
        wanted = room.above[0].row(room.above[1]) - TITLE / 2 if room.above is not None else 0
        room.y = max(free[column], wanted)
        free[column] = room.y + room.height + GAP
    return rooms


def _port(place: Place) -> Bus | None:
    """The bus of a port that takes one device, and so needs no room of its own."""
    if len(place.buses) != 1 or place.buses[0].type != "pci":
        return None
    bus = place.buses[0]
    return bus if len(bus.places) == 1 and bus.places[0].free < 2 else None


def _below(place: Place) -> list[Bus]:
    """The rooms that hang from a row."""
    port = _port(place)
    return port.places[0].buses if port is not None else place.buses


def _width(bus: Bus) -> float:
    ports = _ports_at(bus)
    rows = []
    for place in bus.places:
        port = _port(place)
        if port is not None:
            rows.append(ports + PAD + _seat_width(port.places[0]))
        else:
            rows.append(_name_width(bus) + _seat_width(place))
    return max([PAD * 2 + len(f"{bus.name}  {bus.words}") * TITLE_CHAR, 150.0, *(r + PAD * 2 for r in rows)])


def _seat_width(place: Place) -> float:
    return 20 + (_squares_width(place) if place.free else len(_who(place)) * CHAR)


def _ports_at(bus: Bus) -> float:
    """Where the small rooms of ports begin in a room, from the left of its names; 0: there are none."""
    found = [_seat_width(place) for place in bus.places if _port(place) is not None]
    return _name_width(bus) + max(found) + PAD if found else 0


def _name_width(bus: Bus) -> float:
    return max((len(place.names) for place in bus.places), default=0) * CHAR + 8


def _squares_width(place: Place) -> float:
    return min(place.free, SQUARES) * (SQUARE + 3) + len(_free_words(place)) * CHAR + 10


def _device(place: Place) -> str:
    """Who sits there: of a controller the colour says already that it is one."""
    return place.device.removeprefix("controller ")


def _who(place: Place) -> str:
    alias = _alias(place)
    return f"{_device(place)}  {alias}" if alias else _device(place)


def _alias(place: Place) -> str:
    return "" if place.alias in place.device.split() else place.alias


def _free_words(place: Place) -> str:
    return f"{place.free} free" if place.free > 1 else "free"


# -- shapes ------------------------------------------------------------------------------------------------


def _room(room: Room) -> str:
    bus = room.bus
    name = _text(bus.name)
    words = f"{bus.name}: {bus.used} in use, {bus.free} free"
    parts = [
        f"<g><title>{_text(words)}</title>",
        f'<rect class="room" x="{room.x:.1f}" y="{room.y:.1f}" width="{room.width:.1f}" '
        f'height="{room.height:.1f}" rx="8"/>',
        f'<text x="{room.x + PAD:.1f}" y="{room.y + TITLE / 2 + 4:.1f}"><tspan class="title ink">{name}</tspan>'
        f'<tspan class="dim" dx="8">{_text(bus.words)}</tspan></text>',
        f'<line class="rule" x1="{room.x:.1f}" x2="{room.x + room.width:.1f}" y1="{room.y + TITLE - 2:.1f}" '
        f'y2="{room.y + TITLE - 2:.1f}"/>',
    ]
    left = room.x + PAD + _name_width(bus)
    for number, place in enumerate(bus.places):
        parts += _row(room, number, place, left)
    if not bus.places:
        parts.append(f'<text class="dim" x="{room.x + PAD:.1f}" y="{room.row(0) + 4:.1f}">nothing</text>')
    return "".join([*parts, "</g>"])


def _row(room: Room, number: int, place: Place, left: float) -> list[str]:
    y = room.row(number)
    name = f'<text class="name" x="{room.x + PAD:.1f}" y="{y + 4:.1f}">{_text(place.names)}</text>'
    parts = [name, *_seat(place, left, y, hot=room.bus.hotplug)]
    port = _port(place)
    if port is not None:
        x = room.x + PAD + _ports_at(room.bus)
        [inside] = port.places
        words = f"{port.name}: {'free' if inside.free else inside.device}"
        parts += [
            f'<g><title>{_text(words)}</title><rect class="port" x="{x:.1f}" y="{y - ROW / 2 + 1.5:.1f}" '
            f'width="{room.x + room.width - PAD / 2 - x:.1f}" height="{ROW - 3}" rx="5"/>',
            *_seat(inside, x + PAD / 2, y, hot=port.hotplug),
            "</g>",
        ]
    return parts


def _seat(place: Place, left: float, y: float, *, hot: bool) -> list[str]:
    """Who sits there, or squares for what is free."""
    if not place.free:
        colour = _CLASSES.get(place.kind, "other")
        who = f'<text class="ink" x="{left + 20:.1f}" y="{y + 4:.1f}">{_text(_device(place))}'
        if _alias(place):
            who += f'<tspan class="dim" dx="7">{_text(place.alias)}</tspan>'
        square = f'<rect class="{colour}" x="{left:.1f}" y="{y - 6:.1f}" width="12" height="12" rx="3"/>'
        return [square, f"{who}</text>"]
    parts = []
    for square_number in range(min(place.free, SQUARES)):
        x = left + square_number * (SQUARE + 3)
        parts.append(
            f'<rect class="{"hot" if hot else "free"}" x="{x:.1f}" y="{y - 5.5:.1f}" width="{SQUARE}" '
            f'height="{SQUARE}" rx="2.5"/>'
        )
    end = left + min(place.free, SQUARES) * (SQUARE + 3) + 6
    style = "words" if hot else "dim"
    parts.append(f'<text class="{style}" x="{end:.1f}" y="{y + 4:.1f}">{_free_words(place)}</text>')
    return parts


def _wire(room: Room) -> str:
    """From the row of the controller to the room's title."""
    assert room.above is not None
    above, number = room.above
    x1, y1 = above.x + above.width, above.row(number)
    x2, y2 = room.x, room.y + TITLE / 2
    # a lane for each row, the upper ones farther out: so no line crosses another
    wired = [n for n, place in enumerate(above.bus.places) if _below(place)]
    lane = (len(wired) - 1 - wired.index(number)) / max(len(wired) - 1, 1)
    turn = x1 + 14 + (LANE - 28) * lane
    return (
        f'<path class="wire" d="M{x1:.1f} {y1:.1f}H{turn:.1f}V{y2:.1f}H{x2:.1f}"/>'
        f'<circle class="dot" cx="{x1:.1f}" cy="{y1:.1f}" r="3"/>'
    )


def _legend(width: float) -> tuple[list[str], float]:
    """What the colours and squares mean, in as many lines as that takes; and what is below them."""
    parts, x, y = [], float(PAD * 2), float(HEAD)
    for style, words in _LEGEND:
        wide = 18 + len(words) * CHAR + 14
        if x > PAD * 2 and x + wide > width:
            x, y = float(PAD * 2), y + LINE
        side, round_ = (SQUARE, 2.5) if style in ("hot", "free") else (12, 3)
        parts.append(
            f'<rect class="{style}" x="{x:.1f}" y="{y:.1f}" width="{side}" height="{side}" rx="{round_}"/>'
            f'<text class="dim" x="{x + 18:.1f}" y="{y + 10:.1f}">{words}</text>'
        )
        x += wide
    return parts, y + LINE + PAD


def _text(text: str) -> str:
    plain = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
