"""``<throttlegroups>``: limits that several disks share.

https://libvirt.org/formatdomain.html#throttlegroups
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.block_limits import Limit, Limits
from qemushim.document.fields import Many, Text
from qemushim.document.item import Item, Schema, Tail
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


class GroupLimits(Limits):
    """``<throttlegroup>``, whose name is written last."""

    limits = Tail()
    group_name = Text("group_name")

    @classmethod
    def make_schema(cls) -> Schema:
        """As of a disk's; but a wrong limit is the group's."""
        fields = [copy(field) for field in cls.fields.values()]
        for field in fields:
            if isinstance(field, Limit):
                field.whole = "throttle group"
        schema = Schema.of(fields)
        schema.closed = cls.closed
        return schema


class ThrottleGroups(Item):
    """The groups; disks name them in ``<throttlefilters>``."""

    tag = "throttlegroups"
    groups = Many("throttlegroup", GroupLimits)


def throttle_groups(domain: Item) -> list[GroupLimits]:
    """The groups of a domain, in document order."""
    node = domain.node.child("throttlegroups")
    return ThrottleGroups(node).groups if node is not None else []


def check_throttle(d: Define) -> None:
    """Every group has a name of its own and limits that QEMU takes.  Raises ``ConfigError``."""
    seen: set[str] = set()
    for group in throttle_groups(d.domain):
        name = group.group_name
        if not name:
            raise error.xml("missing group name", group.node, "<group_name>slow</group_name>")
        if name in seen:
            raise error.xml(f"duplicate group name '{name}' found", group.node, "give each its own")
        seen.add(name)
        group.check()


def throttle_options(b: Build) -> Iterator[Option]:
    """``-object throttle-group`` for every group that limits anything."""
    for group in throttle_groups(b.domain):
        if group.group_name and group.values():
            properties: dict[str, Value] = {
                "qom-type": "throttle-group",
                "id": f"throttle-{group.group_name}",
                "limits": group.qemu(),
            }
            yield b.object(properties, group.node, "limits that disks share")
