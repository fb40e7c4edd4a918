#!/usr/bin/env python3
"""Compare what is said of recorded emulators with libvirt's own words: capability flags, machine types and CPUs,
capabilities, domain capabilities.

usage: conformance_capabilities.py CORPUS [--show]

Prints a line a figure: flags, data (of recordings), caps, domcaps (same XML tree), bytes (same text).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemushim.capabilities.domain import domain_capabilities
from qemushim.capabilities.guests import capabilities
from qemushim.capabilities.layout import text
from qemushim.emulator.flags import ordered
from qemushim.emulator.model import Accelerator, Emulator, HostCpu, Machine
from qemushim.host import CpuDefinition, Host
from tools.conformance_modern import Runner, recorded

_RECORDING = re.compile(r"caps_(?P<version>[^_]+)_(?P<kind>(?P<arch>[^+]+)(?:\+.+)?)")
#: the kind of accelerator or else the machine type, in the name of a case
_CASE = re.compile(
    r"qemu_(?P<version>[\d.]+)(?P<virt>-tcg|-hvf)?(?:-(?P<machine>\w+))?\.(?P<kind>(?P<arch>\w+)(?:\+.+)?)"
)

#: the host's CPU as the domain capabilities assume it
_HOST_CPUS = {"x86_64": CpuDefinition("Broadwell"), "ppc64": CpuDefinition("POWER8")}
_LOADERS = ("/obviously/fake/firmware1.fd", "/obviously/fake/firmware2.fd")
#: major version of QEMU → versions of TPM that swtpm was made to have
_TPM = {"6": frozenset({"1.2", "2.0"})}
_TPM_LATER = frozenset({"2.0"})
#: the last QEMU for which there was an expectation, of an architecture of which there is no recording
_UNRECORDED = {"riscv32": Emulator("riscv32", (4, 0, 0), flags=frozenset({"tcg"}))}


@dataclass(frozen=True)
class Result:
    name: str
    want: Any
    got: Any
    #: whether the text is the same as well
    same_text: bool = True

    @property
    def equal(self) -> bool:
        return bool(self.want == self.got)


def tree(element: ElementTree.Element) -> Any:
    """Tag, attributes, text, children in order."""
    return element.tag, dict(element.attrib), (element.text or "").strip(), [tree(child) for child in element]


class Comparison:
    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        self.recordings = sorted((corpus / "qemucapabilitiesdata").glob("*.replies"))

    @cached_property
    def host(self) -> Host:
        return Runner(self.corpus).base_host

    # -- recordings ----------------------------------------------------------------------------------------

    def flags(self) -> Iterator[Result]:
        for file in self.recordings:
            root = ElementTree.parse(file.with_suffix(".xml")).getroot()
            want = [flag.get("name") for flag in root.findall("flag")]
            yield Result(file.stem, want, ordered(recorded(file).flags))

    def data(self) -> Iterator[Result]:
        """Host CPU, CPU models and machine types of every accelerator."""
        for file in self.recordings:
            root = ElementTree.parse(file.with_suffix(".xml")).getroot()
            want = [
                tree(root_child) for root_child in root if root_child.tag in ("hostCPU", "cpu", "machine")
            ]
            accelerators = recorded(file).accelerators
            yield Result(file.stem, want, [item for a in accelerators for item in _accelerator(a)])

    # -- capabilities --------------------------------------------------------------------------------------

    def caps(self) -> Iterator[Result]:
        for file in sorted((self.corpus / "qemucaps2xmloutdata").glob("caps.*.xml")):
            kind = file.stem.removeprefix("caps.")
            arch = kind.partition("+")[0]
            emulators = [recorded(f) for f in self.recordings if _RECORDING.fullmatch(f.stem)["kind"] == kind]  # type: ignore[index]
            for emulator in emulators or [_UNRECORDED[arch]]:
                # only the flags are known there, not the machine types
                bare = emulator._replace(accelerators=(), binary=f"/usr/bin/qemu-system-{arch}")
                yield _result(
                    f"{file.stem} of {emulator.version}",
                    file,
                    text(capabilities([bare], Host(arch=arch)), spaced=True),
                )

    def domcaps(self) -> Iterator[Result]:
        for file in sorted((self.corpus / "domaincapsdata").glob("*.xml")):
            case = _CASE.fullmatch(file.stem)
            if case is None:
                continue
            recording = (
                self.corpus / "qemucapabilitiesdata" / f"caps_{case['version']}_{case['kind']}.replies"
            )
            if not recording.exists():
                continue
            arch = case["arch"]
            emulator = recorded(recording).with_binary(f"/usr/bin/qemu-system-{arch}")
            host = self.host._replace(
                arch=arch,
                cpu=_HOST_CPUS.get(arch),
                loaders=_LOADERS,
                tpm_versions=_TPM.get(case["version"].partition(".")[0], _TPM_LATER),
                sev_guests=(59, 450),
                physical_address_bits=0 if arch == "s390x" else 64,
            )
            virt = {"-tcg": "qemu", "-hvf": "hvf"}.get(case["virt"] or "", "kvm")
            root = domain_capabilities(emulator, host, machine=case["machine"] or "", virt=virt)
            yield _result(file.stem, file, text(root))


def _result(name: str, file: Path, got: str) -> Result:
    want = file.read_text()
    return Result(name, tree(ElementTree.fromstring(want)), tree(ElementTree.fromstring(got)), want == got)


# -- how libvirt keeps what a recording says ---------------------------------------------------------------


def _accelerator(accelerator: Accelerator) -> Iterator[Any]:
    kind = {"type": accelerator.name}
    if accelerator.host_cpu is not None:
        yield _host_cpu(accelerator.host_cpu, kind)
    for cpu in accelerator.cpus:
        given = {**kind, "name": cpu.name, "typename": cpu.typename}
        if cpu.blockers is not None:
            given["usable"] = "no" if cpu.blockers else "yes"
        if cpu.deprecated:
            given["deprecated"] = "yes"
        yield "cpu", _there(given), "", [("blocker", {"name": name}, "", []) for name in cpu.blockers or ()]
    for machine in accelerator.machines:
        yield "machine", _there({**kind, **_machine(machine)}), "", []


def _host_cpu(cpu: HostCpu, kind: dict[str, str]) -> Any:
    children: list[Any] = []
    for item in cpu.properties:
        value = item.value
        name = "boolean" if isinstance(value, bool) else "number" if isinstance(value, int) else "string"
        given = {
            "name": item.name,
            "type": name,
            "value": str(value).lower() if name == "boolean" else str(value),
        }
        if item.migratable is not None:
            given["migratable"] = "yes" if item.migratable else "no"
        children.append(("property", given, "", []))
    if cpu.deprecated:
        names: list[Any] = [("property", {"name": name}, "", []) for name in cpu.deprecated]
        children.append(("deprecatedFeatures", {}, "", names))
    migratability = "yes" if cpu.migratability else "no"
    return "hostCPU", {**kind, "model": cpu.model, "migratability": migratability}, "", children


def _machine(machine: Machine) -> dict[str, str]:
    given = {
        "name": machine.name,
        "alias": machine.alias,
        "hotplugCpus": "yes" if machine.hotplug_cpus else "",
        "maxCpus": str(machine.max_cpus),
        "default": "yes" if machine.is_default else "",
        "defaultCPU": machine.default_cpu_type,
        "numaMemSupported": "yes" if machine.numa_mem_supported else "",
        "defaultRAMid": machine.default_ram_id,
        "deprecated": "yes" if machine.deprecated else "",
    }
    if machine.acpi is not None:
        given["acpi"] = "yes" if machine.acpi else "no"
    return given


def _there(attributes: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--show", action="store_true", help="name the cases that differ")
    options = parser.parse_args()
    comparison = Comparison(options.corpus.resolve())
    differ = 0
    for name in ("flags", "data", "caps", "domcaps"):
        results = list(getattr(comparison, name)())
        equal = sum(result.equal for result in results)
        same = sum(result.same_text for result in results)
        print(f"{name:8} {equal:3}/{len(results):<3} bytes {same}/{len(results)}")
        differ += len(results) - equal
        for result in results if options.show else ():
            if not result.equal:
                print(f"    {result.name}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
