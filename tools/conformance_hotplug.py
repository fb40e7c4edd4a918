"""Devices that join, change or leave a running guest: libvirt 11.3.0's hotplug cases.

A case names a domain, a device, what is done with it, the commands that the monitor is to be told, and the document
that results.  What QEMU answers is imagined here, and every command is held against the recorded schema.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from qemushim.emulator.model import Emulator
from qemushim.errors import MonitorError, ShimError
from qemushim.host import Host
from qemushim.hotplug import LiveGuest, Plan, QmpCommand, plan_attach, plan_detach, plan_update
from tools.conformance_modern import Runner as ModernRunner
from tools.conformance_modern import recorded, strip_aliases
from tools.qmp_schema import Schema

Case = dict[str, Any]

PLANNERS = {"attach": plan_attach, "detach": plan_detach, "update": plan_update}
#: the number that the running guests have
DOMAIN_ID = 7


@dataclass
class Imagined:
    """A QEMU that agrees to everything; ``stubborn``: but lets no device go."""

    schema: Schema
    terminal: str = ""
    stubborn: bool = False
    said: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    fd_sets: dict[int, str] = field(default_factory=dict)

    def send(self, command: QmpCommand) -> Any:
        self.said.append(command.execute)
        arguments: dict[str, Any] = dict(command.arguments)
        self.wrong.extend(self.schema.problems(command.execute, arguments))
        if command.awaits and self.stubborn:
            raise MonitorError(f"the guest keeps '{command.awaits}'")
        match command.execute:
            case "query-fdsets":
                return [{"fdset-id": n, "fds": [{"fd": n, "opaque": o}]} for n, o in self.fd_sets.items()]
            case "add-fd":
                self.fd_sets[arguments["fdset-id"]] = arguments["opaque"]
            case "remove-fd":
                del self.fd_sets[arguments["fdset-id"]]
            case "chardev-add" if arguments["backend"]["type"] == "pty":
                return {"pty": self.terminal}
        return [] if command.execute.startswith(("query-", "qom-list")) else {}


class Runner:
    """Runs the cases in their order: some go on with the guest that the one before has left."""

    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        self.modern = ModernRunner(corpus)
        self.cases: list[Case] = json.loads((corpus / "hotplug.json").read_text())
        #: the guest as the last case has left it, and the fd sets that its QEMU has
        self.kept: LiveGuest | None = None
        self.fd_sets: dict[int, str] = {}

    @cached_property
    def listed(self) -> frozenset[str]:
        """The commands that the cases speak of at all; they pass over others (``device_add`` …) everywhere."""
        return frozenset(name for case in self.cases for name in case["qmp"])

    def recording(self, arch: str) -> Path:
        """The newest recording of an architecture."""
        found = (self.corpus / "qemucapabilitiesdata").glob(f"caps_*_{arch}.replies")
        return max(found, key=lambda path: tuple(map(int, path.name.split("_")[1].split("."))))

    def host(self, case: Case, emulator: Emulator) -> Host:
        host = self.modern.host({"arch": case["arch"], "config": {"spiceTLS": True}}, emulator)
        return host._replace(domain_id=DOMAIN_ID)

    def run(self, number: int, case: Case) -> dict[str, Any]:
        """The result of one case, from whichever guest it can start."""
        path = self.recording(case["arch"])
        emulator = strip_aliases(recorded(path))
        host = self.host(case, emulator)
        result: dict[str, Any] = {}
        for guest, fd_sets in self.starts(case, emulator, host):
            qemu = Imagined(
                Schema.recorded(path), self.terminal(case), case["expect_failure"], fd_sets=dict(fd_sets)
            )
            result = self.attempt(case, guest, qemu, emulator, host)
            if not result["why"]:
                break
        name = f"{number:02} {case['action']} {case['domain']} {case['device']}"
        return {"id": name, "passed": not result["why"], **result}

    def terminal(self, case: Case) -> str:
        """The terminal that the host gives: the one that the device speaks of."""
        source = ElementTree.parse(self.corpus / case["device_xml"]).getroot().find("source")
        return source.get("path", "") if source is not None else ""

    def starts(
        self, case: Case, emulator: Emulator, host: Host
    ) -> Iterator[tuple[LiveGuest, dict[int, str]]]:
        """The guests that a case may start from; the corpus does not say which."""
        kept = (self.kept, self.fd_sets) if self.kept is not None else None
        documents = [case["domain_xml"]]
        if case["action"] == "detach":
            if kept is not None:
                yield kept
                kept = None
            if case["result_xml"]:
                documents.insert(0, case["result_xml"])
        for document in documents:
            yield LiveGuest.read((self.corpus / document).read_bytes(), emulator, host), {}
        if kept is not None:
            yield kept

    def attempt(
        self, case: Case, guest: LiveGuest, qemu: Imagined, emulator: Emulator, host: Host
    ) -> dict[str, Any]:
        before, error = guest.to_xml(), ""
        try:
            device = (self.corpus / case["device_xml"]).read_bytes()
            plan: Plan = PLANNERS[case["action"]](guest, device, emulator, host)
            guest = plan.carry_out(qemu.send)
        except ShimError as refused:
            error = refused.message
        after = guest.to_xml()
        said = [name for name in qemu.said if name in self.listed]
        why = self.judge(case, qemu, said, after, error)
        if not why:
            self.kept, self.fd_sets = guest, qemu.fd_sets
        if error and after != before:
            why = "a change that failed has changed the guest"
        return {"xml": after, "commands": qemu.said, "error": error, "why": why}

    def judge(self, case: Case, qemu: Imagined, said: list[str], xml: str, error: str) -> str:
        """What is wrong, ``""`` for nothing."""
        if qemu.wrong:
            return f"schema: {qemu.wrong[0]}"
        if case["expect_failure"] != bool(error):
            return f"refused: {error}" if error else "not refused"
        if said != case["qmp"]:
            return f"commands: want {case['qmp']} got {said} (of {qemu.said})"
        if error:
            return ""
        wanted = case["domain_xml"] if case["action"] == "detach" else case["result_xml"]
        return difference(ElementTree.parse(self.corpus / wanted).getroot(), ElementTree.fromstring(xml))


def difference(want: ElementTree.Element, got: ElementTree.Element, path: str = "") -> str:
    """The first difference of two trees; children are compared in order among those of their tag."""
    path += f"/{want.tag}"
    if want.attrib != got.attrib:
        return f"{path}: want {want.attrib} got {got.attrib}"
    if (want.text or "").strip() != (got.text or "").strip():
        return f"{path}: want {want.text!r} got {got.text!r}"
    ours, theirs = _by_tag(want), _by_tag(got)
    for tag in {**ours, **theirs}:
        if len(ours[tag]) != len(theirs[tag]):
            return f"{path}: want {len(ours[tag])} <{tag}>, got {len(theirs[tag])}"
        for one, other in zip(ours[tag], theirs[tag], strict=True):
            found = difference(one, other, path)
            if found:
                return found
    return ""


def _by_tag(element: ElementTree.Element) -> defaultdict[str, list[ElementTree.Element]]:
    groups: defaultdict[str, list[ElementTree.Element]] = defaultdict(list)
    for child in element:
        groups[str(child.tag)].append(child)
    return groups


def run_all(corpus: Path, only: str = "") -> list[dict[str, Any]]:
    """The results of all cases whose name holds a text; the others are run too, for the guests that they leave."""
    runner = Runner(corpus)
    results = [runner.run(number, case) for number, case in enumerate(runner.cases)]
    return [result for result in results if only in result["id"]]
