"""Name, ids, architecture, machine type, emulator.  https://libvirt.org/formatdomain.html#general-metadata"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.command import SecretFile
from qemushim.command.option import Option, escape_commas, to_json
from qemushim.devices.block_secrets import managed_pr_options
from qemushim.document.units import canonical_uuid
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: guest architecture → the other architectures whose emulator runs it too
_RUNS_ON = {
    "i686": ("x86_64",),
    "armv7l": ("aarch64",),
    "armv6l": ("armv7l", "aarch64"),
    "ppc64le": ("ppc64",),
}

#: what a QEMU is told to do where deprecated things are used, by ``<qemu:deprecation behavior=>``
DEPRECATION = {
    "omit": {"deprecated-output": "hide"},
    "reject": {"deprecated-output": "hide", "deprecated-input": "reject"},
    "crash": {"deprecated-output": "hide", "deprecated-input": "crash"},
}


def complete_identity(d: Define) -> None:
    """Name, UUID, architecture, emulator path, machine type (canonical)."""
    domain, root = d.domain, d.domain.node
    if domain.type is None:
        raise error.xml("missing domain type attribute", root, "one of: kvm, qemu, hvf")
    _complete_ids(d)
    os = root.child("os")
    kind = os.child("type") if os is not None else None
    if kind is None or not kind.text.strip():
        raise error.xml("an os <type> must be specified", root, "<os><type>hvm</type></os>")
    attrib = kind.attrib
    attrib["arch"] = attrib.get("arch") or d.host.arch
    _complete_emulator(d)
    machine = attrib.get("machine")
    if machine:
        attrib["machine"] = d.emulator.canonical_machine(machine, domain.virt)
    else:
        default = d.emulator.default_machine(domain.virt)
        if default is not None and _runs(d):
            attrib["machine"] = default.name
    _check_machine(d)


def _check_machine(d: Define) -> None:
    """An unknown machine type is told at once: nothing that follows can be made of it."""
    if not _runs(d) or d.emulator.accelerator(d.domain.virt) is None or d.machine is not None:
        return
    emulator = d.domain.node.value("devices/emulator") or ""
    raise error.unsupported(
        f"Emulator '{emulator}' does not support machine type '{d.domain.machine_type}'",
        d.domain.node.find("os/type"),
        "see the machine types that `qemushim probe` lists",
    )


def _complete_ids(d: Define) -> None:
    domain, root = d.domain, d.domain.node
    name = domain.name
    if not name:
        raise error.plain("missing name information", root, "<name>…</name>")
    if "/" in name:
        raise error.xml(f"name {name} cannot contain '/'", root.child("name"), "a name becomes part of paths")
    if "\n" in name:
        raise error.xml("name contains invalid character: newline", root.child("name"), "a name of one line")
    title = root.child("title")
    if title is not None and "\n" in title.text:
        raise error.xml("Domain title can't contain newlines", title, "<description> may have several lines")
    table = next((s for s in domain.sysinfo if s.kind == "smbios"), None)
    told = table.uuid if table is not None else None
    if told is not None:
        told = _uuid(told, "malformed <sysinfo> uuid element", d)
    if domain.uuid is not None:
        domain.uuid = _uuid(domain.uuid, "malformed uuid element", d)
        if told is not None and told != domain.uuid:
            raise error.plain(
                "UUID mismatch between <uuid> and <sysinfo>",
                root.child("uuid"),
                "the same in both, or in one alone",
            )
    else:
        domain.uuid = told or d.host.new_uuid(f"domain {domain.name}")
    genid = root.child("genid")
    if genid is not None:
        if genid.text.strip():
            genid.text = _uuid(genid.text.strip(), "malformed genid", d)
        else:
            genid.text = d.host.new_uuid(f"genid of {domain.uuid}")


def _uuid(raw: str, message: str, d: Define) -> str:
    found = canonical_uuid(raw)
    if found is None:
        raise error.internal(message, d.domain.node, "32 hexadecimal digits, such as the output of uuidgen")
    return found


def _runs(d: Define) -> bool:
    """Whether the emulator is one of the guest's architecture."""
    arch = d.domain.arch
    return d.emulator.arch == arch or d.emulator.arch in _RUNS_ON.get(arch, ())


def _complete_emulator(d: Define) -> None:
    devices = d.domain.node.ensure("devices")
    given = devices.child("emulator")
    if given is not None and given.text.strip():
        return
    arch = d.domain.arch
    native = _RUNS_ON.get(arch, ())
    # an emulator of the host's own architecture is preferred for its 32-bit guests only where libvirt does so
    first = ("aarch64",) if arch == "armv7l" and d.host.arch == "aarch64" else ()
    path = next((d.host.emulators[a] for a in (*first, arch, *native) if a in d.host.emulators), None)
    path = path or d.emulator.binary
    if not path:
        raise error.unsupported(
            f"No emulator found for arch '{arch}'", devices, "<emulator>/path/of/qemu</emulator>"
        )
    devices.ensure("emulator").text = path


def check_identity(d: Define) -> None:
    """Raise where the emulator can not do the domain type, architecture or machine type."""
    domain = d.domain
    os = domain.node.ensure("os/type")
    emulator = domain.node.value("devices/emulator") or ""
    if os.text.strip() != "hvm":
        raise error.unsupported(
            f"Emulator '{emulator}' does not support os type '{os.text.strip()}'", os, "hvm"
        )
    if not _runs(d):
        raise error.unsupported(
            f"Emulator '{emulator}' does not support arch '{domain.arch}'",
            os,
            f"it emulates {d.emulator.arch}",
        )
    if d.emulator.accelerator(domain.virt) is None:
        names = ", ".join("qemu" if a.name == "tcg" else a.name for a in d.emulator.accelerators)
        raise error.unsupported(
            f"Emulator '{emulator}' does not support virt type '{domain.virt}'",
            domain.node,
            f"one of: {names}",
        )


def identity_options(b: Build) -> Iterator[Option]:
    """``-name``, ``-compat``, ``-S``, the master key, and what else comes first."""
    domain = b.domain
    text = escape_commas(domain.name)
    if b.emulator.option("name", "guest"):
        text = f"guest={text}"
    if b.host.config.set_process_name:
        text += f",process=qemu:{domain.name}"
    if b.emulator.option("name", "debug-threads"):
        text += ",debug-threads=on"
    yield b.option("-name", text, domain.node.child("name"), "the name of the domain")
    deprecation = domain.qemu_deprecation
    behavior = (
        deprecation.behavior if deprecation is not None else None
    ) or b.host.config.deprecation_behavior
    if behavior in DEPRECATION:
        source = deprecation.node if deprecation is not None else None
        yield b.option(
            "-compat", to_json(DEPRECATION[behavior]), source, "what becomes of deprecated commands"
        )
    if b.paused:
        yield b.option("-S", rule="QEMU waits until libvirt has set everything up")
    if not b.alone and b.emulator.has_object("secret"):
        yield _master_key(b)
    yield from managed_pr_options(b)


def _master_key(b: Build) -> Option:
    key = f"{b.domain_dir}/master-key.aes"
    b.command.files.append(SecretFile(key, "master key"))
    properties = {"qom-type": "secret", "id": "masterKey0", "format": "raw", "file": key}
    return b.object(properties, rule="the key that all other secrets are encrypted with")


def uuid_options(b: Build) -> Iterator[Option]:
    """``-uuid``."""
    yield b.option("-uuid", b.domain.uuid, b.domain.node.child("uuid"), "the guest's identity, in its SMBIOS")
