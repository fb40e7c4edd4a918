"""The QAPI schema of a QEMU (``query-qmp-schema``): whether a path leads somewhere in it.

A path starts with the name of a command and goes on, component by component, through its types:

=============  ==========================================================
``arg-type``   what the command takes
``ret-type``   what the command answers
``name``       a member of an object
``*name``      the same, and the member is optional
``+case``      the type of a union's branch
``^value``     a value of an enumeration
``!type``      a builtin type that is this in JSON (``string``, ``int`` …)
``$feature``   a feature of the command, member or type reached so far
=============  ==========================================================

Arrays are looked through; of an alternate any member will do.
See https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#qmp-introspection
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: The questions that are asked of a schema once, when an emulator is distilled; the schema itself (some 25000
#: lines of JSON) is not kept.  ``Emulator.qapi`` answers these and no others.
QUESTIONS = (
    "block-commit/arg-type/backing-mask-protocol",
    "block-stream/arg-type/backing-mask-protocol",
    "blockdev-add/arg-type/+file/aio/^io_uring",
    "blockdev-add/arg-type/+file/drop-cache",
    "blockdev-add/arg-type/+nbd/tls-hostname",
    "blockdev-add/arg-type/+nvme",
    "blockdev-add/arg-type/+qcow2/discard-no-unref",
    "blockdev-add/arg-type/+rbd/encrypt",
    "blockdev-add/arg-type/+rbd/encrypt/format/^luks-any",
    "blockdev-add/arg-type/+rbd/encrypt/parent",
    "blockdev-add/arg-type/+virtio-blk-vhost-vdpa/$fdset",
    "blockdev-set-active",
    "calc-dirty-rate",
    "calc-dirty-rate/arg-type/mode",
    "chardev-add/arg-type/backend/+qemu-vdagent",
    "chardev-add/arg-type/backend/+socket/data/reconnect",
    "chardev-add/arg-type/backend/+socket/data/reconnect-ms",
    "device_add/$json-cli-hotplug",
    "display-reload",
    "migrate-incoming/arg-type/exit-on-error",
    "nbd-server-start/arg-type/tls-creds",
    "netdev_add/arg-type/+stream",
    "netdev_add/arg-type/+stream/reconnect",
    "netdev_add/arg-type/+stream/reconnect-ms",
    "netdev_add/arg-type/+user",
    "netdev_add/arg-type/+vhost-vdpa",
    "netdev_add/arg-type/type/^dgram",
    "object-add/arg-type/+iothread/thread-pool-max",
    "object-add/arg-type/+sev-guest/kernel-hashes",
    "query-cpu-definitions",
    "query-cpu-model-baseline",
    "query-cpu-model-comparison",
    "query-cpu-model-expansion",
    "query-cpu-model-expansion/ret-type/deprecated-props",
    "query-cpus-fast",
    "query-dirty-rate",
    "query-display-options/ret-type/+dbus",
    "query-display-options/ret-type/+egl-headless",
    "query-display-options/ret-type/+egl-headless/rendernode",
    "query-display-options/ret-type/+sdl",
    "query-hotpluggable-cpus",
    "query-hotpluggable-cpus/ret-type/props/cluster-id",
    "query-hotpluggable-cpus/ret-type/props/die-id",
    "query-migrate/ret-type/blocked-reasons",
    "query-stats",
    "query-stats-schemas",
    "query-vnc",
    "rtc-reset-reinjection",
    "screendump/arg-type/device",
    "screendump/arg-type/format/^png",
    "set-action",
    "set-numa-node/arg-type/+hmat-lb",
    "sev-inject-launch-secret",
)

#: a schema entry, or a member of one
Entity = Mapping[str, Any]


class Schema:
    """A schema as ``query-qmp-schema`` returns it, ready for questions."""

    def __init__(self, entries: Iterable[Entity]) -> None:
        self._entries: dict[str, Entity] = {entry["name"]: entry for entry in entries}

    def has(self, path: str) -> bool:
        """Whether every component of the path is there."""
        name, *parts = path.split("/")
        entry = self._entries.get(name)
        return entry is not None and self._walk(entry, parts)

    def answers(self, questions: Iterable[str] = QUESTIONS) -> frozenset[str]:
        """The questions that are answered with yes."""
        return frozenset(question for question in questions if self.has(question))

    def _walk(self, entity: Entity, parts: list[str]) -> bool:
        if not parts:
            return True
        part, rest = parts[0], parts[1:]
        if part[0] == "$" and part[1:] in entity.get("features", ()):
            return self._walk(entity, rest)
        for kind in self._kinds(entity):
            found = _step(kind, part)
            if isinstance(found, str):
                found = self._entries.get(found)
            if found is not None and self._walk(found, rest):
                return True
        return False

    def _kinds(self, entity: Entity) -> list[Entity]:
        """The entries behind an entity: a member's type, an array's elements, an alternate's members."""
        if "meta-type" not in entity:
            entity = self._entries.get(entity.get("type", ""), {})
        while entity.get("meta-type") == "array":
            entity = self._entries.get(entity["element-type"], {})
        if entity.get("meta-type") == "alternate":
            return [kind for member in entity["members"] for kind in self._kinds(member)]
        return [entity]


def _step(entry: Entity, part: str) -> Entity | str | None:
    """Where one component leads: to a type's name, to a member, to the entry itself, or nowhere."""
    match part[0]:
        case "^":
            return entry if part[1:] in entry.get("values", ()) else None
        case "!":
            return entry if entry.get("json-type") == part[1:] else None
        case "$":
            return entry if part[1:] in entry.get("features", ()) else None
        case "+":
            return next((v["type"] for v in entry.get("variants", ()) if v["case"] == part[1:]), None)
    if entry.get("meta-type") in ("command", "event"):
        return entry.get(part) if part in ("arg-type", "ret-type") else None
    name = part.removeprefix("*")
    member: Entity | None = next((m for m in entry.get("members", ()) if m["name"] == name), None)
    if member is not None and part[0] == "*" and "default" not in member:
        return None
    return member
