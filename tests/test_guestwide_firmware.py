"""Firmware: which build a guest gets, what is filled in, how it is passed to QEMU."""

from __future__ import annotations

from typing import Any

import pytest

from qemushim.guest import Guest
from qemushim.machine.firmware import read_descriptor
from tests.guestwide import (
    ARM,
    HOST,
    LATEST,
    SEVEN,
    element,
    guest,
    refusal,
    stored,
    tokens,
    value,
    values,
)

ACPI = "<features><acpi/></features>"
KEYS = "<feature enabled='yes' name='enrolled-keys'/>"
WITHOUT_BOOT = (
    "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is disabled"
)
NONE_FITS = "Unable to find 'efi' firmware that is compatible with the current configuration"
NVRAM = "/var/lib/libvirt/qemu/nvram/g_VARS"


def build(
    name: str, *features: str, form: str = "raw", mode: str = "split", machines: str = "pc-q35-*"
) -> dict[str, Any]:
    """A descriptor of an UEFI build in flash."""
    mapping: dict[str, Any] = {
        "device": "flash",
        "mode": mode,
        "executable": {"filename": f"/fw/{name}.fd", "format": form},
    }
    if mode == "split":
        mapping["nvram-template"] = {"filename": f"/fw/{name}.vars", "format": form}
    return {
        "interface-types": ["uefi"],
        "mapping": mapping,
        "targets": [{"architecture": "x86_64", "machines": machines.split()}],
        "features": list(features),
    }


ROM = {
    "interface-types": ["bios"],
    "mapping": {"device": "memory", "filename": "/fw/bios.bin"},
    "targets": [{"architecture": "x86_64", "machines": ["*"]}],
    "features": ["acpi-s3"],
}

FIRMWARE = (
    ("10-secure.json", build("secure", "secure-boot", "enrolled-keys", "requires-smm", form="qcow2")),
    ("20-secure-raw.json", build("secure-raw", "secure-boot", "enrolled-keys", "requires-smm")),
    ("30-plain.json", build("plain", "acpi-s3", "something-new", machines="pc-q35-* pc-i440fx-*")),
    ("40-masked.json", None),
    ("50-broken.json", {"interface-types": ["uefi"]}),
    ("60-combined.json", build("combined", mode="combined")),
    ("70-stateless.json", build("stateless", "amd-sev", mode="stateless")),
    ("80-rom.json", ROM),
)
FW = HOST._replace(firmware=FIRMWARE)


def os_of(inside: str = "", machine: str = "q35", update: bool = True, **parts: object) -> str:
    parts.setdefault("os_attributes", "firmware='efi'")
    return element(stored(ACPI, host=FW, update=update, os=inside, machine=machine, **parts), "os")


def start(inside: str = "", machine: str = "q35", **parts: object) -> list[str]:
    parts.setdefault("os_attributes", "firmware='efi'")
    return tokens(ACPI, host=FW, os=inside, machine=machine, **parts)  # type: ignore[arg-type]


def test_first_that_fits() -> None:
    assert os_of().endswith(
        "<firmware><feature enabled='yes' name='enrolled-keys'/><feature enabled='yes' name='secure-boot'/>"
        "</firmware>"
        "<loader readonly='yes' secure='yes' type='pflash' format='qcow2'>/fw/secure.fd</loader>"
        "<nvram template='/fw/secure.vars' templateFormat='qcow2' format='qcow2'>"
        f"{NVRAM}.qcow2</nvram><boot dev='hd'/></os>"
    )
    assert "<smm state='on'/>" in stored(ACPI, host=FW, os_attributes="firmware='efi'", machine="q35")


def test_guests_that_exist_stay_raw() -> None:
    assert "format='raw'>/fw/secure-raw.fd</loader>" in os_of(update=False)


@pytest.mark.parametrize(
    ("inside", "path"),
    [
        ("<loader secure='no'/>", "/fw/plain.fd"),
        ("<firmware><feature enabled='no' name='secure-boot'/></firmware>", "/fw/plain.fd"),
        ("<loader format='raw'/>", "/fw/secure-raw.fd"),
        ("<nvram template='/fw/plain.vars'/>", "/fw/plain.fd"),
        ("<loader stateless='yes'/>", "/fw/stateless.fd"),
        ("<loader>/fw/secure-raw.fd</loader>", "/fw/secure-raw.fd"),
        ("<nvram format='raw'/>", "/fw/secure-raw.fd"),
    ],
)
def test_wishes(inside: str, path: str) -> None:
    assert f">{path}</loader>" in os_of(inside)


def test_sleep_asks_for_firmware_that_can() -> None:
    power = ACPI + "<pm><suspend-to-mem enabled='yes'/></pm>"
    text = stored(power, host=FW, os_attributes="firmware='efi'", machine="q35")
    assert ">/fw/plain.fd</loader>" in text


def test_board_without_smm_firmware() -> None:
    assert ">/fw/plain.fd</loader>" in os_of(machine="pc")


def test_stateless_has_no_variables() -> None:
    text = os_of("<loader stateless='yes'/>")
    assert "<nvram" not in text
    assert "pflash1" not in value("-machine", start("<loader stateless='yes'/>"))


def test_bios() -> None:
    text = stored(host=FW, os_attributes="firmware='bios'")
    assert "<loader type='rom'>/fw/bios.bin</loader>" in text
    assert value("-bios", tokens(host=FW, os_attributes="firmware='bios'")) == "/fw/bios.bin"


def test_path_tells_the_firmware() -> None:
    loader = "<loader readonly='yes' type='pflash'>/fw/plain.fd</loader>"
    text = os_of(loader, os_attributes="")
    assert text.startswith("<os firmware='efi'>")
    assert "<feature enabled='no' name='secure-boot'/>" in text
    unknown = os_of(loader.replace("plain", "own"), os_attributes="")
    assert unknown.startswith("<os><type")
    assert f"<nvram format='raw'>{NVRAM}.fd</nvram>" in unknown


def test_builds_from_before_descriptors() -> None:
    loader = "<loader readonly='yes' type='pflash'>/usr/share/AAVMF/AAVMF_CODE.fd</loader>"
    text = element(stored(emulator=ARM, host=FW._replace(arch="aarch64"), os=loader), "os")
    assert "template='/usr/share/AAVMF/AAVMF_VARS.fd' templateFormat='raw' format='raw'" in text


def test_writable_code_has_no_variables() -> None:
    loader = "<loader readonly='no' type='pflash'>/fw/plain.fd</loader>"
    text = os_of(loader, os_attributes="")
    assert "<loader readonly='no' type='pflash' format='raw'>/fw/plain.fd</loader><boot" in text


def test_rom_is_what_a_bare_path_is() -> None:
    text = os_of("<loader>/fw/own.bin</loader>", os_attributes="")
    assert "<loader type='rom' format='raw'>/fw/own.bin</loader>" in text


def test_variables_elsewhere() -> None:
    nvram = "<nvram type='network'><source protocol='nbd' name='v'><host name='192.0.2.7'/></source></nvram>"
    text = os_of("<loader format='raw'/>" + nvram)
    assert "enrolled-keys" not in text
    assert "<nvram type='network' format='raw'><source protocol='nbd' name='v'>" in text
    made = next(v for v in values("-blockdev", start("<loader format='raw'/>" + nvram)) if "pflash1" in v)
    assert made.startswith('{"driver":"nbd","server":{"type":"inet","host":"192.0.2.7"')


def test_flash_nodes_by_version() -> None:
    loader = "<loader format='raw'/>"
    new = start(loader)
    assert "pflash0=libvirt-pflash0-format,pflash1=libvirt-pflash1-storage" in value("-machine", new)
    assert "driver=cfi.pflash01,property=secure,value=on" in values("-global", new)
    code, variables = values("-blockdev", new)[1:3]
    assert code == (
        '{"node-name":"libvirt-pflash0-format","read-only":true,"driver":"raw","file":"libvirt-pflash0-storage"}'
    )
    assert variables.endswith('"node-name":"libvirt-pflash1-storage","read-only":false}')
    old = tokens(ACPI, SEVEN, host=FW, os=loader, os_attributes="firmware='efi'", machine="q35")
    assert "pflash1=libvirt-pflash1-format" in value("-machine", old)


@pytest.mark.parametrize(
    ("inside", "attributes", "message"),
    [
        ("<loader stateless='no'/>", "firmware='bios'", "Only EFI firmware permits NVRAM"),
        ("<nvram/>", "firmware='bios'", "firmware type 'bios' does not support nvram"),
        (
            "<loader stateless='yes' type='pflash' readonly='yes'>/fw/x</loader><nvram>/v</nvram>",
            "",
            "NVRAM is not permitted when loader is stateless",
        ),
        (
            "<loader stateless='yes' type='pflash' readonly='yes'>/fw/x</loader><nvram template='/v'/>",
            "",
            "NVRAM template is not permitted when loader is stateless",
        ),
        ("<loader stateless='no'>/fw/x</loader>", "", "Only pflash loader type permits NVRAM"),
        ("<loader readonly='yes'/>", "", "no loader path specified and firmware auto selection disabled"),
        (
            f"<firmware>{KEYS}<feature enabled='no' name='secure-boot'/></firmware>",
            "firmware='efi'",
            WITHOUT_BOOT,
        ),
        (
            "<loader readonly='no'/>",
            "firmware='efi'",
            "operation failed: " + NONE_FITS,
        ),
    ],
)
def test_refusals(inside: str, attributes: str, message: str) -> None:
    assert refusal(ACPI, host=FW, os=inside, os_attributes=attributes, machine="q35") == message


def test_feature_without_firmware() -> None:
    feature = "<firmware><feature enabled='yes' name='secure-boot'/></firmware>"
    message = "cannot use feature-based firmware autoselection when firmware autoselection is disabled"
    assert refusal(os=feature) == message
    assert "<firmware>" not in stored(os=feature, update=False)


def test_a_guest_that_exists_is_told_when_it_starts() -> None:
    host = HOST._replace(firmware=())
    text = stored(ACPI, host=host, update=False, os_attributes="firmware='efi'", machine="q35")
    assert "<loader format='raw'/>" in text
    with pytest.raises(Exception, match="Unable to find 'efi' firmware"):
        guest(ACPI, os_attributes="firmware='efi'", machine="q35").command(LATEST, host, update=False)


def test_acpi_and_uefi_belong_together() -> None:
    assert refusal(host=FW, os_attributes="firmware='efi'", machine="q35") == (
        "unsupported configuration: UEFI requires ACPI on this architecture"
    )
    assert refusal(ACPI, ARM) == "unsupported configuration: ACPI requires UEFI on this architecture"


@pytest.mark.parametrize(
    "content", [{}, {"mapping": []}, {"mapping": {"device": "flash"}}, {"mapping": None}]
)
def test_broken_descriptors_are_none(content: dict[str, Any]) -> None:
    assert read_descriptor(content) is None


# -- what boots -----------------------------------------------------------------------------------


def test_boot_options() -> None:
    inside = (
        "<kernel>/k</kernel><cmdline>a=b,c </cmdline><initrd>/i</initrd><dtb>/d</dtb><boot dev='network'/>"
        "<bootmenu enable='yes' timeout='7'/><bios rebootTimeout='-1' useserial='yes'/>"
        "<acpi><table type='slic'>/a,b</table><table type='raw'>/c</table></acpi>"
    )
    argv = tokens(os=inside)
    assert value("-boot", argv) == "menu=on,reboot-timeout=-1,splash-time=7,strict=on"
    assert [value(flag, argv) for flag in ("-kernel", "-initrd", "-append", "-dtb")] == [
        "/k",
        "/i",
        "a=b,c ",
        "/d",
    ]
    assert values("-acpitable", argv) == ["sig=SLIC,file=/a,,b", "file=/c"]
    assert "graphics=off" in value("-machine", argv)
    text = element(stored(os="<boot dev='fd'/><bootmenu enable='no' timeout='7'/>"), "os")
    assert text.endswith("<boot dev='fd'/><bootmenu enable='no'/></os>")


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("<bootmenu enable='yes' timeout='70000'/>", "invalid value for boot menu timeout"),
        ("<bios rebootTimeout='70000'/>", "invalid value for rebootTimeout"),
    ],
)
def test_boot_refusals(inside: str, words: str) -> None:
    assert words in refusal(os=inside)


@pytest.mark.parametrize("blanks", ["", "\n"])
def test_variables_without_a_type_are_in_no_source(blanks: str) -> None:
    text = guest("").to_xml()
    start, rest = text.split("</os>", 1)
    loader = "<loader readonly='yes' type='pflash'>/srv/firmware/code.fd</loader>"
    source = f"<nvram>{blanks}<source file='/srv/vars.fd'/>{blanks}</nvram>"
    defined = Guest.from_xml(f"{start}{loader}{source}</os>{ACPI}{rest}").define(LATEST, HOST).to_xml()
    assert f"<nvram format='raw'>{NVRAM}.fd</nvram>" in defined
