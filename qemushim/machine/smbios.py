"""``<sysinfo>``.  https://libvirt.org/formatdomain.html#smbios-system-information"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.document.fields import Choice, Many, One, Text
from qemushim.document.item import Item
from qemushim.document.units import canonical_uuid
from qemushim.document.writer import escape
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.document.node import Node

#: table → its entries, in the order of libvirt and of QEMU's options
ENTRIES = {
    "bios": ("vendor", "version", "date", "release"),
    "system": ("manufacturer", "product", "version", "serial", "uuid", "sku", "family"),
    "baseBoard": ("manufacturer", "product", "version", "serial", "asset", "location"),
    "chassis": ("manufacturer", "version", "serial", "asset", "sku"),
    "processor": (
        "socket_destination",
        "type",
        "family",
        "manufacturer",
        "signature",
        "version",
        "external_clock",
        "max_speed",
        "status",
        "serial_number",
        "part_number",
    ),
    "memory_device": (
        "size",
        "form_factor",
        "locator",
        "bank_locator",
        "type",
        "type_detail",
        "speed",
        "manufacturer",
        "serial_number",
        "part_number",
    ),
}


class Entry(Item):
    """``<entry>``: one fact, or one file of the firmware's."""

    tag = "entry"
    name = Text("@name")
    file = Text("@file")
    value = Text(".")


class Table(Item):
    """A group of entries."""

    entries = Many("entry", Entry)

    def get(self, name: str) -> str | None:
        """The entry of that name; an empty one is ``""``."""
        for entry in self.entries:
            if entry.name == name:
                return entry.value or ""
        return None


class Sysinfo(Item):
    """``<sysinfo>``: what SMBIOS tables or the firmware configuration tell the guest."""

    tag = "sysinfo"
    kind = Choice("@type", ("smbios", "fwcfg"), required=True)
    bios = One("bios", Table)
    system = One("system", Table)
    base_boards = Many("baseBoard", Table)
    chassis = One("chassis", Table)
    processors = Many("processor", Table)
    memory_devices = Many("memory_device", Table)
    oem_strings = One("oemStrings", Table)
    entries = Many("entry", Entry)

    @property
    def uuid(self) -> str | None:
        """What the system table says of the guest's UUID."""
        return self.system.get("uuid") if self.system is not None else None


def complete_sysinfo(d: Define) -> None:
    """Entries in libvirt's order; tables without any are left out."""
    for sysinfo in d.domain.sysinfo:
        if sysinfo.kind == "fwcfg":
            _check_files(sysinfo)
            continue
        for node in tuple(sysinfo.node.children):
            names = ENTRIES.get(node.tag)
            if names is not None:
                _order(node, names)
            if not node.all("entry"):
                sysinfo.node.remove(node)
        if sysinfo.bios is not None:
            _check_date(sysinfo.bios)


def _order(node: Node, names: tuple[str, ...]) -> None:
    table = Table(node)
    found = {entry.name: entry for entry in reversed(table.entries) if entry.value}
    node.children = [found[name].node for name in names if name in found]
    uuid = found.get("uuid") if node.tag == "system" else None
    if uuid is not None:
        uuid.value = canonical_uuid(uuid.value or "") or uuid.value


def _check_date(bios: Table) -> None:
    """``MM/DD/YY`` or ``MM/DD/YYYY``."""
    date = bios.get("date")
    if not date:
        return
    parts = date.split("/")
    if len(parts) == 3 and all(part.isascii() and part.isdigit() and len(part) <= 4 for part in parts):
        month, day, year = (int(part) for part in parts)
        if 1 <= month <= 12 and 1 <= day <= 31 and (year < 100 or year >= 1900):
            return
    raise error.plain("Invalid BIOS 'date' format", bios.node, "MM/DD/YYYY")


def _check_files(sysinfo: Sysinfo) -> None:
    for entry in sysinfo.entries:
        if not entry.name:
            raise error.xml("Firmware entry is missing 'name' attribute", entry.node, "name='opt/…'")
        if bool(entry.value) == bool(entry.file):
            problem = (
                "can't have both value and file"
                if entry.value
                else "must have either value or 'file' attribute"
            )
            raise error.xml(f"Firmware entry {problem}", entry.node, "a value, or file='…'")


# -- options -----------------------------------------------------------------------------------


def smbios_options(b: Build) -> Iterator[Option]:
    """``-smbios``, ``-fw_cfg``."""
    os = b.domain.os
    if os is not None and os.smbios == "sysinfo":
        table = next((s for s in b.domain.sysinfo if s.kind == "smbios"), None)
        if table is None:
            raise error.xml(
                f"Domain '{b.domain.name}' sysinfo are not available", os.node, "<sysinfo type='smbios'>…"
            )
        yield from _tables(b, table)
    for sysinfo in b.domain.sysinfo:
        if sysinfo.kind == "fwcfg":
            for entry in sysinfo.entries:
                # the value is passed as libvirt would write it into XML
                kind, text = ("file", entry.file) if entry.file else ("string", entry.value)
                given = f"name={entry.name},{kind}={escape(text or '')}"
                yield b.option("-fw_cfg", given, entry.node, "a file for the guest's firmware")


def _tables(b: Build, sysinfo: Sysinfo) -> Iterator[Option]:
    rule = "what SMBIOS tells the guest of its {}"
    if sysinfo.bios is not None:
        yield b.pairs(
            "-smbios", "type=0", _values(sysinfo.bios, "bios"), sysinfo.bios.node, rule.format("firmware")
        )
    system = sysinfo.system
    if system is not None and not _is_sku_alone(system):
        yield b.pairs(
            "-smbios", "type=1", _values(system, "system"), system.node, rule.format("maker and model")
        )
    boards = sysinfo.base_boards
    if len(boards) > 1:
        raise error.unsupported(
            "qemu does not support more than one entry to Type 2 in SMBIOS table",
            boards[1].node,
            "one <baseBoard>",
        )
    for board in boards:
        values = {"manufacturer": "", **_values(board, "baseBoard")}
        yield b.pairs("-smbios", "type=2", values, board.node, rule.format("board"))
    if sysinfo.chassis is not None:
        values = {"manufacturer": "", **_values(sysinfo.chassis, "chassis")}
        yield b.pairs("-smbios", "type=3", values, sysinfo.chassis.node, rule.format("case"))
    strings = sysinfo.oem_strings
    if strings is not None and strings.entries:
        texts: list[tuple[str, Value]] = [("value", entry.value or "") for entry in strings.entries]
        yield b.pairs("-smbios", "type=11", texts, strings.node, "strings of the maker's own, in SMBIOS")


def _is_sku_alone(system: Table) -> bool:
    return [entry.name for entry in system.entries] == ["sku"]


def _values(table: Table, kind: str) -> dict[str, Value]:
    return {name: value for name in ENTRIES[kind] if (value := table.get(name)) is not None}
