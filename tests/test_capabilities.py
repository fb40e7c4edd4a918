"""Capabilities and domain capabilities: own small emulators, bundled snapshots."""

from __future__ import annotations

from pathlib import Path

import pytest

from qemushim import local
from qemushim.board import Board
from qemushim.capabilities.domain import best_domain_type, check_virt, domain_capabilities
from qemushim.capabilities.guests import ARCHITECTURES, capabilities, domain_types, guest
from qemushim.capabilities.layout import add_enum, text
from qemushim.document.node import Node
from qemushim.emulator.bundled import available, find, recorded
from qemushim.emulator.model import Accelerator, CpuModel, Emulator, Gic, Machine, Sev, Sgx
from qemushim.errors import ConfigError
from qemushim.host import CpuDefinition, Host, PciDevice

NOMINAL = Host.nominal()
OMNI = Emulator(
    "x86_64",
    (9, 0, 0),
    binary="/opt/omni",
    flags=frozenset({"tcg", "kvm"}),
    accelerators=(
        Accelerator(
            "kvm",
            (
                Machine("pc-i440fx-9.0", "pc", is_default=True, max_cpus=255),
                Machine("pc-q35-9.0", "q35", max_cpus=4096),
                Machine("isapc", max_cpus=1, deprecated=True),
                Machine("pc-q35-1.0"),
            ),
        ),
        Accelerator("tcg", (Machine("pc-i440fx-9.0", "pc"),)),
    ),
)


def values(root: Node, path: str, name: str) -> list[str] | None:
    """The values of an enumeration, ``None`` where there is none."""
    node = root.find(path)
    assert node is not None, path
    found = next((e for e in node.all("enum") if e.get("name") == name), None)
    return None if found is None else [value.text for value in found.children]


def supported(root: Node, path: str) -> str | None:
    return root.value(f"{path}/@supported")


# -- layout ------------------------------------------------------------------------------------------------


def test_layout() -> None:
    root = Node("r")
    child = root.add("a", {"k": "<'&"})
    add_enum(child, "empty", ())
    child.add("t", text="x<y")
    assert text(root) == (
        "<r>\n  <a k='&lt;&apos;&amp;'>\n    <enum name='empty'/>\n    <t>x&lt;y</t>\n  </a>\n</r>\n"
    )
    assert text(root, spaced=True).startswith("<r>\n\n  <a k=")
    assert text(root, spaced=True).endswith("  </a>\n\n</r>\n")


# -- capabilities ------------------------------------------------------------------------------------------


def test_machine_types_by_both_names() -> None:
    machines = guest(OMNI, NOMINAL).find("arch")
    assert machines is not None
    assert [(m.text, m.attrib) for m in machines.all("machine")] == [
        ("pc-i440fx-9.0", {"maxCpus": "255"}),
        ("pc", {"canonical": "pc-i440fx-9.0", "maxCpus": "255"}),
        ("pc-q35-9.0", {"maxCpus": "4096"}),
        ("q35", {"canonical": "pc-q35-9.0", "maxCpus": "4096"}),
        ("isapc", {"maxCpus": "1", "deprecated": "yes"}),
        ("pc-q35-1.0", {}),
    ]


def test_machine_type_that_is_listed_under_both_names_comes_once() -> None:
    machines = (Machine("virt-9.0", "virt"), Machine("virt-9.0"))
    arch = guest(OMNI._replace(accelerators=(Accelerator("tcg", machines),)), NOMINAL).find("arch")
    assert arch is not None
    assert [m.text for m in arch.all("machine")] == ["virt", "virt-9.0"]


def test_guests_are_in_libvirts_order_and_one_for_an_architecture() -> None:
    second = OMNI._replace(binary="/opt/second")
    emulators = [OMNI, second, *(recorded("latest", arch) for arch in ("s390x", "ppc64", "aarch64"))]
    root = capabilities([OMNI._replace(arch="z80"), *emulators], NOMINAL)
    arches = [g.value("arch/@name") for g in root.all("guest")]
    assert arches == ["aarch64", "ppc64", "s390x", "x86_64", "z80"]
    assert root.all("guest")[3].value("arch/emulator") == "/opt/omni"


def test_every_bundled_architecture_has_its_place() -> None:
    assert {known.arch for known in available()} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("arch", "wordsize", "features"),
    [
        ("x86_64", "64", {"acpi", "apic"}),
        ("i686", "32", {"pae", "nonpae", "acpi", "apic"}),
        ("aarch64", "64", {"acpi"}),
        ("armv7l", "32", set()),
        ("ppc", "32", set()),
    ],
)
def test_what_an_architecture_can(arch: str, wordsize: str, features: set[str]) -> None:
    root = guest(OMNI._replace(arch=arch), NOMINAL)
    assert root.value("arch/wordsize") == wordsize
    always = {"cpuselection", "deviceboot", "disksnapshot", "externalSnapshot"}
    found = root.child("features")
    assert found is not None
    assert {node.tag for node in found} == features | always


def test_snapshots_of_old_qemus_are_internal() -> None:
    assert guest(OMNI._replace(version=(4, 1, 0)), NOMINAL).find("features/externalSnapshot") is None
    assert guest(find("0.12.3"), NOMINAL).find("features/externalSnapshot") is None


def test_domain_types() -> None:
    assert domain_types(OMNI) == ["qemu", "kvm"]
    assert domain_types(recorded("9.2.0+hvf", "aarch64")) == ["qemu", "hvf"]
    assert domain_types(recorded("9.1.0", "riscv64")) == ["qemu"]
    assert domain_types(find("0.12.3")) == ["qemu"]
    assert domain_types(find("qemu-kvm-0.12.3")) == ["qemu", "kvm"]


def test_host() -> None:
    root = capabilities([], Host(arch="ppc64", pci={"0000:00:01.0": PciDevice(iommu_group=3)}))
    assert root.value("host/cpu/arch") == "ppc64"
    assert root.value("host/iommu/@support") == "yes"
    assert root.value("guest") is None


# -- domain capabilities -----------------------------------------------------------------------------------


def test_machine_type_default_alias_and_unknown() -> None:
    emulator = recorded("10.0.0")
    assert domain_capabilities(emulator, NOMINAL).value("machine") == "pc-i440fx-10.0"
    assert domain_capabilities(emulator, NOMINAL, machine="q35").value("machine") == "pc-q35-10.0"
    with pytest.raises(
        ConfigError, match=r"machine 'q36' is not supported by emulator '/usr/bin/qemu-sys"
    ) as caught:
        domain_capabilities(emulator, NOMINAL, machine="q36")
    assert "q35" in caught.value.hint


def test_domain_type() -> None:
    assert best_domain_type(OMNI) == "kvm"
    assert best_domain_type(recorded("9.2.0+hvf", "aarch64")) == "hvf"
    assert best_domain_type(recorded("9.0.0", "sparc")) == "qemu"
    check_virt(OMNI, "kvm", "/opt/omni")
    with pytest.raises(ConfigError, match="KVM is not supported by '/q' on this host"):
        check_virt(recorded("9.0.0", "sparc"), "kvm", "/q")
    with pytest.raises(ConfigError, match="'hvf' is not supported"):
        check_virt(OMNI, "hvf", "/q")


def test_classic_emulator_is_too_old() -> None:
    with pytest.raises(ConfigError, match=r"QEMU version >= 6\.2\.0 is required, but 0\.12\.3 found"):
        domain_capabilities(find("0.12.3"), NOMINAL)


def test_vcpus_of_machine_and_host() -> None:
    few = NOMINAL._replace(kvm_max_vcpus=100)
    assert domain_capabilities(OMNI, NOMINAL).value("vcpu/@max") == "255"
    assert domain_capabilities(OMNI, few).value("vcpu/@max") == "100"
    assert domain_capabilities(OMNI, few, machine="isapc").value("vcpu/@max") == "1"
    assert domain_capabilities(OMNI, few, virt="qemu").value("vcpu/@max") is None


FIRMWARE = (
    ("10-masked.json", None),
    ("20-odd.json", {"interface-types": ["uefi"]}),
    (
        "30-secure.json",
        {
            "interface-types": ["uefi"],
            "mapping": {
                "device": "flash",
                "executable": {"filename": "/fw/secure.fd", "format": "raw"},
                "nvram-template": {"filename": "/fw/vars.fd", "format": "raw"},
            },
            "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}],
            "features": ["requires-smm"],
        },
    ),
    (
        "40-bios.json",
        {
            "interface-types": ["bios"],
            "mapping": {"device": "memory", "filename": "/fw/bios.bin"},
            "targets": [
                {"architecture": "i386", "machines": ["*"]},
                {"architecture": "x86_64", "machines": ["*"]},
            ],
            "features": [],
        },
    ),
)


def test_firmware_that_suits_the_machine() -> None:
    host = NOMINAL._replace(firmware=FIRMWARE)
    old, new = (domain_capabilities(OMNI, host, machine=m).find("os") for m in ("pc", "q35"))
    assert old is not None
    assert new is not None
    assert values(old, "loader", "secure") == ["no"]
    assert values(new, "loader", "secure") == ["yes", "no"]
    assert [v.text for v in old.ensure("loader").all("value")] == ["/fw/bios.bin"]
    assert [v.text for v in new.ensure("loader").all("value")] == ["/fw/secure.fd", "/fw/bios.bin"]
    root = domain_capabilities(OMNI, host, machine="q35")
    assert values(root, "os", "firmware") == ["bios", "efi"]
    named = domain_capabilities(OMNI, host._replace(loaders=("/etc/own.fd",)))
    assert [v.text for v in named.ensure("os/loader").all("value")] == ["/etc/own.fd"]


CPUS = (
    CpuModel("Haswell", blockers=("hle", "pclmulqdq", "hle")),
    CpuModel("486", blockers=()),
    CpuModel("made-up", blockers=()),
    CpuModel("host", blockers=()),
    CpuModel("Icelake-Client", deprecated=True),
)


def custom(emulator: Emulator, host: Host = NOMINAL) -> list[tuple[str, dict[str, str]]]:
    modes = domain_capabilities(emulator, host).ensure("cpu").all("mode")
    mode = next(m for m in modes if m.get("name") == "custom")
    return [(node.text or " ".join(f.attrib["name"] for f in node), node.attrib) for node in mode]


def test_cpu_models_that_the_map_knows() -> None:
    emulator = OMNI._replace(accelerators=(Accelerator("kvm", OMNI.accelerators[0].machines, CPUS),))
    assert custom(emulator) == [
        ("486", {"usable": "yes", "vendor": "unknown", "canonical": "486-v1"}),
        ("Haswell", {"usable": "no", "vendor": "Intel", "canonical": "Haswell-v1"}),
        ("hle pclmuldq", {"model": "Haswell"}),
        ("Icelake-Client", {"usable": "unknown", "deprecated": "yes", "vendor": "Intel"}),
    ]
    without = custom(emulator, NOMINAL._replace(cpu_map=None))
    assert "made-up" in [name for name, _ in without]
    assert "host" not in [name for name, _ in without]


def test_cpu_models_of_other_architectures() -> None:
    assert ("POWER9", {"usable": "unknown", "vendor": "IBM"}) in custom(recorded("7.1.0", "ppc64"))
    s390 = dict(custom(recorded("10.0.0", "s390x")))
    assert s390["max"]["vendor"] == "unknown"
    assert s390["gen16a"]["vendor"] == "IBM"
    assert dict(custom(recorded("8.2.0", "aarch64")))["cortex-a57"]["vendor"] == "unknown"


def mode(emulator: Emulator, name: str, host: Host, virt: str = "") -> Node:
    modes = domain_capabilities(emulator, host, virt=virt).ensure("cpu").all("mode")
    return next(m for m in modes if m.get("name") == name)


def test_passthrough_needs_the_hosts_architecture() -> None:
    emulator = recorded("10.0.0")
    assert mode(emulator, "host-passthrough", NOMINAL).get("supported") == "yes"
    assert mode(emulator, "host-passthrough", NOMINAL, "qemu").get("supported") == "no"
    assert mode(emulator, "host-passthrough", Host.nominal("aarch64")).get("supported") == "no"
    assert mode(emulator, "host-model", Host.nominal("aarch64")).get("supported") == "no"
    assert mode(emulator, "maximum", Host.nominal("aarch64")).get("supported") == "yes"


def test_host_model() -> None:
    host = NOMINAL._replace(physical_address_bits=46)
    found = mode(recorded("10.0.0"), "host-model", host)
    assert found.value("model/@fallback") == "forbid"
    assert found.value("vendor") == "AMD"
    assert found.value("maxphysaddr/@limit") == "46"
    assert len(found.all("feature")) > 10
    emulated = mode(recorded("10.0.0"), "host-model", host, "qemu")
    assert emulated.find("maxphysaddr") is None
    power = mode(
        recorded("7.1.0", "ppc64"), "host-model", Host.nominal("ppc64")._replace(cpu=CpuDefinition("POWER8"))
    )
    assert (power.value("model"), power.value("model/@fallback")) == ("POWER8", "allow")
    assert mode(recorded("8.2.0", "aarch64"), "host-model", Host.nominal("aarch64")).get("supported") == "no"


def test_disks_follow_machine_and_devices() -> None:
    emulator = recorded("10.0.0")
    root = domain_capabilities(emulator, NOMINAL)
    assert values(root, "devices/disk", "bus") == ["ide", "fdc", "scsi", "virtio", "usb", "sata"]
    assert values(domain_capabilities(emulator, NOMINAL, machine="q35"), "devices/disk", "bus") == [
        *("fdc", "scsi", "virtio", "usb", "sata")
    ]
    less = emulator.with_flags(remove=("usb-storage", "ich9-ahci", "virtio-pci-non-transitional"))
    root = domain_capabilities(less, NOMINAL)
    assert values(root, "devices/disk", "bus") == ["ide", "fdc", "scsi", "virtio"]
    assert values(root, "devices/disk", "model") == ["virtio"]
    pseries = domain_capabilities(recorded("7.1.0", "ppc64"), Host.nominal("ppc64"))
    assert "fdc" not in (values(pseries, "devices/disk", "bus") or [])
    assert "floppy" not in (values(pseries, "devices/disk", "diskDevice") or [])


@pytest.mark.parametrize(
    ("flag", "path", "enum", "value"),
    [
        ("spice", "devices/graphics", "type", "spice"),
        ("display-dbus", "devices/graphics", "type", "rdp"),
        ("qxl", "devices/video", "modelType", "qxl"),
        ("virtio-rng", "devices/rng", "model", "virtio"),
        ("rng-egd", "devices/rng", "backendModel", "egd"),
        ("vhost-user-fs", "devices/filesystem", "driverType", "virtiofs"),
        ("tpm-crb", "devices/tpm", "model", "tpm-crb"),
        ("tpm-emulator", "devices/tpm", "backendModel", "external"),
        ("spice", "devices/channel", "type", "spicevmc"),
        ("cryptodev-backend-lkcf", "devices/crypto", "backendModel", "lkcf"),
        ("netdev.stream", "devices/interface", "backendType", "passt"),
        ("pvpanic", "devices/panic", "model", "isa"),
        ("memory-backend-memfd", "memoryBacking", "sourceType", "memfd"),
    ],
)
def test_a_value_goes_with_its_capability(flag: str, path: str, enum: str, value: str) -> None:
    emulator = recorded("10.0.0")
    assert value in (values(domain_capabilities(emulator, NOMINAL), path, enum) or [])
    less = domain_capabilities(emulator.with_flags(remove=(flag,)), NOMINAL)
    assert value not in (values(less, path, enum) or [])


def test_nothing_of_a_kind_is_told_as_unsupported() -> None:
    less = recorded("10.0.0").with_flags(remove=("tpm-tis", "tpm-crb", "usb-redir"))
    root = domain_capabilities(less, NOMINAL)
    assert [supported(root, f"devices/{tag}") for tag in ("tpm", "redirdev", "panic")] == ["no", "no", "yes"]
    assert root.ensure("devices/tpm").children == []


def test_tpm_versions_are_those_of_swtpm() -> None:
    def tpm(versions: frozenset[str] | None) -> Node:
        return domain_capabilities(recorded("10.0.0"), NOMINAL._replace(tpm_versions=versions))

    assert values(tpm(None), "devices/tpm", "backendVersion") == ["1.2", "2.0"]
    assert values(tpm(frozenset({"2.0"})), "devices/tpm", "backendVersion") == ["2.0"]
    without = tpm(frozenset())
    assert values(without, "devices/tpm", "backendModel") == ["passthrough"]
    assert values(without, "devices/tpm", "backendVersion") is None


def test_helpers_of_the_host() -> None:
    root = domain_capabilities(recorded("10.0.0"), NOMINAL._replace(qemu_rdp=False))
    graphics = values(root, "devices/graphics", "type") or []
    assert "rdp" not in graphics
    assert "dbus" in graphics


def test_gic_of_the_accelerator() -> None:
    arm = recorded("8.2.0", "aarch64")._replace(
        gic=(Gic(2, kernel=False, emulated=True), Gic(3, kernel=True, emulated=True)),
    )
    host = Host.nominal("aarch64")
    assert values(domain_capabilities(arm, host, virt="kvm"), "features/gic", "version") == ["3"]
    assert values(domain_capabilities(arm, host, virt="qemu"), "features/gic", "version") == ["2", "3"]
    assert supported(domain_capabilities(arm, host, virt="hvf"), "features/gic") == "no"
    other = next(m.name for m in arm.accelerators[0].machines if not Board("aarch64", m.name).is_arm_virt)
    assert supported(domain_capabilities(arm, host, machine=other), "features/gic") == "no"


def test_encrypted_memory() -> None:
    emulator = OMNI._replace(sev=Sev(47, 5), sgx=Sgx(True, False, True, 8, ((0, 4), (1, 4)))).with_flags(
        add=("sev-guest",)
    )
    root = domain_capabilities(emulator, NOMINAL._replace(sev_guests=(7, 3)))
    assert [node.text for node in root.ensure("features/sev")] == ["47", "5", "7", "3"]
    assert [node.text for node in domain_capabilities(emulator, NOMINAL).ensure("features/sev")] == [
        "47",
        "5",
    ]
    assert values(root, "features/launchSecurity", "sectype") == ["sev"]
    sgx = root.ensure("features/sgx")
    assert [node.text for node in sgx][:4] == ["yes", "no", "yes", "8"]
    assert [node.attrib for node in sgx.ensure("sections")] == [
        {"node": "0", "size": "4", "unit": "KiB"},
        {"node": "1", "size": "4", "unit": "KiB"},
    ]
    bare = domain_capabilities(OMNI, NOMINAL)
    assert [supported(bare, f"features/{tag}") for tag in ("sev", "sgx", "launchSecurity")] == ["no"] * 3


def test_protected_guests_of_s390() -> None:
    emulator = recorded("10.0.0", "s390x")
    host = Host.nominal("s390x")
    assert supported(domain_capabilities(emulator, host), "features/s390-pv") == "yes"
    assert (
        supported(domain_capabilities(emulator, host._replace(protected_guests=False)), "features/s390-pv")
        == "no"
    )
    assert domain_capabilities(OMNI, NOMINAL).find("features/s390-pv") is None


def test_ps2_belongs_to_machines_that_have_the_controller() -> None:
    emulator = recorded("10.0.0")
    found = {
        m: supported(domain_capabilities(emulator, NOMINAL, machine=m), "features/ps2")
        for m in ("pc", "q35", "microvm")
    }
    assert found == {"pc": "yes", "q35": "yes", "microvm": "no"}


# -- facts of this machine ---------------------------------------------------------------------------------


def test_address_bits() -> None:
    line = "processor\t: 0\naddress sizes\t: 46 bits physical, 48 bits virtual\n"
    assert local.read_address_bits(line) == 46
    assert local.read_address_bits("processor : 0\n") == 0


def test_sev_guests() -> None:
    assert local.read_sev_guests("rdma 3\nsev 59\nsev_es 450\n") == (59, 450)
    assert local.read_sev_guests("sev 7\n") == (7, 0)
    assert local.read_sev_guests("") is None


def test_protection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.isdir", lambda path: path == "/sys/firmware/uv")
    assert [local.read_protection(f"root=/x {word}") for word in ("prot_virt=1", "prot_virt=0", "")] == [
        True,
        False,
        False,
    ]
    monkeypatch.setattr("os.path.isdir", lambda path: False)
    assert not local.read_protection("prot_virt=1")


def test_most_vcpus() -> None:
    found = local.read_max_vcpus()
    assert found == 0 or found >= 1


@pytest.mark.parametrize(
    ("script", "versions"),
    [
        ("""echo '{"features": ["tpm-2.0", "cmdarg-x"]}'""", {"2.0"}),
        ("""echo '{"features": ["tpm-1.2", "tpm-2.0"]}'""", {"1.2", "2.0"}),
        ("exit 1", {"1.2", "2.0"}),
    ],
)
def test_tpm_versions(
    script: str, versions: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("swtpm", "swtpm_setup"):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local.read_tpm_versions() == versions
    (tmp_path / "swtpm_setup").unlink()
    assert local.read_tpm_versions() == frozenset()


def test_domain_capabilities_of_this_machine() -> None:
    root = domain_capabilities(OMNI._replace(arch=local.local_arch()), Host.local())
    assert root.value("arch") == local.local_arch()


@pytest.mark.parametrize("known", [k for k in available() if not k.classic], ids=lambda k: k.name)
def test_every_bundled_emulator_can_be_told_of(known: object) -> None:
    emulator = find(known.name)  # type: ignore[attr-defined]
    host = Host.nominal(emulator.arch)
    for virt in domain_types(emulator):
        accelerator = emulator.accelerator(virt)
        assert accelerator is not None
        for machine in accelerator.machines[:5]:
            written = text(domain_capabilities(emulator, host, machine=machine.name, virt=virt))
            assert f"<machine>{machine.name}</machine>" in written
    assert f"<arch name='{emulator.arch}'>" in text(capabilities([emulator], host), spaced=True)
