"""``xmlns:qemu``: arguments, environment, capabilities and overrides passed straight to QEMU.

https://libvirt.org/drvqemu.html#pass-through-of-arbitrary-qemu-commands
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.document.fields import Choice, Many, One, Text
from qemushim.document.item import Item
from qemushim.document.node import QEMU_NAMESPACE, QEMU_PREFIX, Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.emulator.model import Emulator
    from qemushim.machine.domain import Domain


class Argument(Item):
    """``<qemu:arg>``"""

    tag = "qemu:arg"
    value = Text("@value")


class Variable(Item):
    """``<qemu:env>``"""

    tag = "qemu:env"
    name = Text("@name", "")
    value = Text("@value", "")


class Commandline(Item):
    """``<qemu:commandline>``: arguments and environment variables, verbatim."""

    tag = "qemu:commandline"
    arguments = Many("qemu:arg", Argument)
    variables = Many("qemu:env", Variable)


class Capability(Item):
    """``<qemu:add>`` or ``<qemu:del>``, by libvirt's name of the capability."""

    capability = Text("@capability")


class Capabilities(Item):
    """``<qemu:capabilities>``: abilities of QEMU that are assumed or denied."""

    tag = "qemu:capabilities"
    added = Many("qemu:add", Capability)
    removed = Many("qemu:del", Capability)


class Property(Item):
    """``<qemu:property>``: a property of a device that is set or removed."""

    tag = "qemu:property"
    name = Text("@name")
    type = Choice("@type", ("string", "signed", "unsigned", "bool", "remove"))
    value = Text("@value")


class Frontend(Item):
    """``<qemu:frontend>``"""

    tag = "qemu:frontend"
    properties = Many("qemu:property", Property)


class OverriddenDevice(Item):
    """``<qemu:device>``: which device, by its alias."""

    tag = "qemu:device"
    alias = Text("@alias")
    frontend = One("qemu:frontend", Frontend)


class Override(Item):
    """``<qemu:override>``: properties of devices changed behind libvirt's back."""

    tag = "qemu:override"
    devices = Many("qemu:device", OverriddenDevice)


class Deprecation(Item):
    """``<qemu:deprecation>``"""

    tag = "qemu:deprecation"
    behavior = Text("@behavior")


def complete_namespace(d: Define) -> None:
    """The namespace is declared under its usual prefix where, and only where, it is used."""
    root = d.domain.node
    used = False
    for child in [c for c in root.children if c.tag.startswith(QEMU_PREFIX)]:
        if child.children or (child.tag == Deprecation.tag and child.get("behavior")):
            used = True
        else:
            root.remove(child)
    if used:
        root.attrib["xmlns:qemu"] = QEMU_NAMESPACE
    else:
        root.drop("xmlns:qemu")


def changed_emulator(domain: Domain, emulator: Emulator) -> Emulator:
    """The emulator with the abilities that ``<qemu:capabilities>`` assumes or denies."""
    wanted = domain.qemu_capabilities
    if wanted is None:
        return emulator
    added = [item.capability for item in wanted.added if item.capability]
    removed = [item.capability for item in wanted.removed if item.capability]
    return emulator.with_flags(added, removed)


def complete_metadata(d: Define) -> None:
    """One element for each namespace; what has none is dropped."""
    root = d.domain.node
    metadata = root.child("metadata")
    if metadata is None:
        return
    kept: list[Node] = []
    seen: set[str] = set()
    for child in metadata.children:
        prefix = child.tag.partition(":")[0] if ":" in child.tag else ""
        name = f"xmlns:{prefix}" if prefix else "xmlns"
        uri = child.get(name) or metadata.get(name) or root.get(name)
        if uri is None or uri in seen:
            continue
        seen.add(uri)
        if child.get(name) is None and metadata.get(name) is None:
            # declared on the root, which is written without it
            metadata.set(name, uri)
        kept.append(child)
    metadata.children = kept
    if not kept:
        root.discard("metadata")


_FIRST = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_")
_REST = _FIRST | frozenset("0123456789")


def check_namespace(d: Define) -> None:
    """Environment names, and what an override may name."""
    domain = d.domain
    commandline = domain.qemu_commandline
    if commandline is not None:
        for argument in commandline.arguments:
            if argument.value is None:
                raise error.internal(
                    "No qemu command-line argument specified", argument.node, "<qemu:arg value='…'/>"
                )
        for variable in commandline.variables:
            _check_variable(variable)
    capabilities = domain.qemu_capabilities
    if capabilities is not None:
        for item in (*capabilities.added, *capabilities.removed):
            if not item.capability:
                raise error.internal("Failed to get QEMU capability name", item.node, "capability='…'")
    override = domain.qemu_override
    for device in override.devices if override is not None else ():
        _check_override(device)


def _check_variable(variable: Variable) -> None:
    name = variable.name
    if not name:
        raise error.xml("No qemu environment name specified", variable.node, "<qemu:env name='…'/>")
    if name[0] not in _FIRST:
        raise error.xml(
            "Invalid environment name, it must begin with a letter or underscore",
            variable.node,
            "such as QEMU_AUDIO",
        )
    if not _REST.issuperset(name):
        raise error.xml(
            "Invalid environment name, it must contain only alphanumerics and underscore",
            variable.node,
            "letters, digits and _",
        )


def _check_override(device: OverriddenDevice) -> None:
    if not device.alias:
        raise error.xml("missing 'alias' attribute of qemu:device", device.node, "the id of the device")
    frontend = device.frontend
    for change in frontend.properties if frontend is not None else ():
        name = change.name or ""
        if not name:
            raise error.xml("missing 'name' attribute for 'qemu:property'", change.node, "name='…'")
        if name == "id":
            raise error.xml("'id' property can't be overriden", change.node, "use <alias name='ua-…'/>")
        kind = change.type
        if kind is None:
            raise error.xml(
                "missing 'type' attribute for 'qemu:property'", change.node, "type='string', 'bool', …"
            )
        if kind == "remove":
            if change.value is not None:
                raise error.xml("unexpected 'value' attribute for 'remove' type", change.node, "drop value=")
            continue
        if change.value is None:
            raise error.xml("missing 'value' attribute for 'qemu:property'", change.node, "value='…'")
        _check_property(change, kind, change.value)


def _check_property(change: Property, kind: str, value: str) -> None:
    if kind == "bool":
        good = value in ("true", "false")
    elif kind == "string":
        good = True
    else:
        digits = value[1:] if kind == "signed" and value[:1] == "-" else value
        good = digits.isascii() and digits.isdigit() and len(digits) <= 20
    if not good:
        raise error.xml(
            f"invalid value '{value}' of '{kind}' typed 'qemu:property'", change.node, "a value of that type"
        )


def namespace_options(b: Build) -> Iterator[Option]:
    """``<qemu:arg>``, verbatim."""
    commandline = b.domain.qemu_commandline
    for argument in commandline.arguments if commandline is not None else ():
        yield b.option(argument.value or "", None, argument.node, "given as it is in the document")
