"""Random numbers, encryption, TPMs, shared memory, vsock."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.host import Host
from tests.small_guests import ARM, LATEST, PSERIES, S390, guest, refusal, stored, tokens, values


def made(flag: str, devices: str, emulator: Emulator = LATEST) -> Any:
    """The last of the options."""
    return json.loads(values(flag, tokens(devices, emulator))[-1])


# -- randomness ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ("<backend model='random'/>", {"qom-type": "rng-random", "id": "objrng0", "filename": "/dev/random"}),
        (
            "<backend model='random'>/dev/hwrng</backend>",
            {"qom-type": "rng-random", "id": "objrng0", "filename": "/dev/hwrng"},
        ),
        ("<backend model='builtin'/>", {"qom-type": "rng-builtin", "id": "objrng0"}),
        (
            "<backend model='egd' type='unix'><source mode='connect' path='/s'/></backend>",
            {"qom-type": "rng-egd", "id": "objrng0", "chardev": "charrng0"},
        ),
    ],
)
def test_where_randomness_comes_from(backend: str, expected: dict[str, str]) -> None:
    assert made("-object", f"<rng model='virtio'>{backend}</rng>") == expected


def test_a_rate_has_a_period() -> None:
    xml = "<rng model='virtio'><rate bytes='1024'{}/><backend model='builtin'/></rng>"
    assert made("-device", xml.format(""))["period"] == 1000
    assert made("-device", xml.format(" period='200'"))["period"] == 200
    assert made("-device", xml.format(""), S390)["driver"] == "virtio-rng-ccw"


def test_the_default_file_is_stored() -> None:
    text = stored("<rng model='virtio'><backend model='random'/></rng>")
    assert "<backend model='random'>/dev/random</backend>" in text


# -- encryption ------------------------------------------------------------------------------------


def test_crypto() -> None:
    xml = "<crypto model='virtio' type='qemu'><backend model='builtin' queues='2'/></crypto>"
    assert made("-object", xml) == {"qom-type": "cryptodev-backend-builtin", "id": "objcrypto0", "queues": 2}
    assert made("-device", xml)["cryptodev"] == "objcrypto0"


# -- TPM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "model", "version", "driver"),
    [
        (LATEST, "tpm-tis", "1.2", "tpm-tis"),
        (ARM, "tpm-tis", "2.0", "tpm-tis-device"),
        (PSERIES, "tpm-spapr", "2.0", "tpm-spapr"),
    ],
)
def test_default_tpm(emulator: Emulator, model: str, version: str, driver: str) -> None:
    xml = "<tpm><backend type='emulator'/></tpm>"
    text = stored(xml, emulator)
    assert f"<tpm model='{model}'>\n      <backend type='emulator' version='{version}'/>" in text
    assert made("-device", xml, emulator)["driver"] in (driver, "virtio-balloon-pci")
    assert values("-tpmdev", tokens(xml, emulator)) == ["emulator,id=tpm-tpm0,chardev=chrtpm"]


def test_the_hosts_chip_is_opened_for_qemu() -> None:
    xml = "<tpm model='tpm-crb'><backend type='passthrough'><device path='/dev/tpm7'/></backend></tpm>"
    command = guest(xml).command(LATEST, Host.nominal())
    targets = [d.target for d in command.descriptors if d.kind == "tpm"]
    assert targets == ["/dev/tpm7", "/sys/class/misc/tpm7/device/cancel"]
    assert values("-add-fd", command.tokens) == [
        "set=0,fd=24,opaque=tpm0-tpm",
        "set=1,fd=25,opaque=tpm0-cancel",
    ]


def test_an_emulator_that_someone_else_runs() -> None:
    xml = "<tpm><backend type='external'><source type='unix' path='/t,pm'/></backend></tpm>"
    assert "socket,id=chrtpm,path=/t,,pm" in values("-chardev", tokens(xml))


def test_what_the_hosts_emulator_can() -> None:
    host = Host.nominal()._replace(tpm_versions=frozenset({"1.2"}))
    xml = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
    with pytest.raises(ConfigError, match=r"TPM version '2\.0' is not supported"):
        tokens(xml, host=host)


def test_one_tpm_and_one_proxy() -> None:
    tpm = "<tpm model='tpm-spapr'><backend type='emulator'/></tpm>"
    proxy = "<tpm model='spapr-tpm-proxy'><backend type='passthrough'/></tpm>"
    argv = tokens(tpm + proxy, PSERIES)
    assert any('"driver":"spapr-tpm-proxy"' in text for text in values("-device", argv))
    assert refusal(tpm * 2, PSERIES) == (
        "unsupported configuration: only a single TPM non-proxy device is supported"
    )


# -- shared memory ---------------------------------------------------------------------------------


def test_plain_shared_memory() -> None:
    xml = "<shmem name='m' role='peer'><model type='ivshmem-plain'/></shmem>"
    assert "<size unit='M'>4</size>" in stored(xml)
    assert made("-object", xml)["size"] == 4 << 20
    found = made("-device", xml)
    assert (found["driver"], found["memdev"], found["master"]) == ("ivshmem-plain", "shmmem-shmem0", "off")


def test_shared_memory_from_a_server() -> None:
    xml = "<shmem name='m'><model type='ivshmem-doorbell'/><server/><msi vectors='8'/></shmem>"
    assert "<msi vectors='8' ioeventfd='on'/>" in stored(xml)
    argv = tokens(xml)
    at = argv.index("socket,id=charshmem0,path=/var/lib/libvirt/shmem-m-sock")
    found = json.loads(argv[at - 2])
    assert (found["vectors"], found["ioeventfd"]) == (8, True)


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<size unit='K'>3072</size>", "shmem size must be a power of 2 and at least 1 MiB (1024 KiB)"),
        ("<size>4096</size>", "shmem size must be a power of 2 and at least 1 MiB (1024 KiB)"),
        ("<msi/>", "msi option is only supported with a server"),
    ],
)
def test_shared_memory_that_can_not_be(xml: str, message: str) -> None:
    assert refusal(f"<shmem name='m'><model type='ivshmem-plain'/>{xml}</shmem>").endswith(f": {message}")


def test_only_a_doorbell_has_a_server() -> None:
    words = (
        "unsupported configuration: shmem model 'ivshmem-plain' is supported only with server option disabled"
    )
    assert refusal("<shmem name='m'><model type='ivshmem-plain'/><server path='/s'/></shmem>") == words


# -- vsock -----------------------------------------------------------------------------------------


def test_a_vsock_has_a_number_or_gets_one() -> None:
    assert "<vsock model='virtio'>\n      <cid auto='yes'/>" in stored("<vsock/>")
    text = stored("<vsock><cid address='9'/></vsock>")
    assert "<cid auto='no' address='9'/>" in text
    assert '"guest-cid":9,"vhostfd":"24"' in " ".join(tokens("<vsock><cid address='9'/></vsock>"))
    assert '"guest-cid":3,' in " ".join(tokens("<vsock/>"))
    assert refusal("<vsock><cid address='2'/></vsock>") == "XML error: guest CIDs must be >= 3"
