"""``<features>`` of ``<domainCapabilities>``: what else a guest can have."""

from __future__ import annotations

from qemushim.capabilities.layout import add_enum, add_supported, yes_no
from qemushim.context import Context
from qemushim.document.node import Node


def add_features(root: Node, c: Context) -> None:
    features = root.add("features")
    e = c.emulator
    versions = _gic(c)
    gic = add_supported(features, "gic", bool(versions))
    if versions:
        add_enum(gic, "version", versions)
    add_supported(features, "vmcoreinfo", e.flag("vmcoreinfo"))
    add_supported(features, "genid", e.flag("vmgenid"))
    add_supported(features, "backingStoreInput")
    add_supported(features, "backup")
    add_supported(features, "async-teardown", e.flag("run-with.async-teardown"))
    protected = e.flag("confidential-guest-support") and e.flag("s390-pv-guest")
    if c.board.is_s390:
        add_supported(features, "s390-pv", protected and c.host.protected_guests)
    add_supported(features, "ps2", e.flag("machine-i8042-opt") and _has_i8042(c))
    _add_sev(features, c)
    _add_sgx(features, c)
    if e.hyperv:
        add_enum(add_supported(features, "hyperv"), "features", e.hyperv)
    kinds = (("sev", e.flag("sev-guest")), ("sev-snp", e.flag("sev-snp-guest")), ("s390-pv", protected))
    offered = [kind for kind, there in kinds if there]
    security = add_supported(features, "launchSecurity", bool(offered))
    if offered:
        add_enum(security, "sectype", offered)


def _gic(c: Context) -> list[str]:
    """Versions of ARM's interrupt controller that QEMU, or the host through KVM, can give to the machine."""
    if not c.board.is_arm_virt:
        return []
    virt = c.domain.virt
    return [
        str(gic.version)
        for gic in c.emulator.gic
        if (virt == "kvm" and gic.kernel) or (virt == "qemu" and gic.emulated)
    ]


def _has_i8042(c: Context) -> bool:
    board = c.board
    return board.is_i440fx or board.is_q35 or board.is_xenfv or board.is_isapc


def _add_sev(features: Node, c: Context) -> None:
    found = c.emulator.sev
    sev = add_supported(features, "sev", found is not None)
    if found is None:
        return
    sev.add("cbitpos", text=str(found.cbitpos))
    sev.add("reducedPhysBits", text=str(found.reduced_phys_bits))
    if c.host.sev_guests is not None:
        plain, encrypted_state = c.host.sev_guests
        sev.add("maxGuests", text=str(plain))
        sev.add("maxESGuests", text=str(encrypted_state))
    if found.cpu0_id:
        sev.add("cpu0Id", text=found.cpu0_id)


def _add_sgx(features: Node, c: Context) -> None:
    found = c.emulator.sgx
    sgx = add_supported(features, "sgx", found is not None)
    if found is None:
        return
    for name in ("flc", "sgx1", "sgx2"):
        sgx.add(name, text=yes_no(getattr(found, name)))
    sgx.add("section_size", {"unit": "KiB"}, text=str(found.section_size))
    sections = sgx.add("sections") if found.sections else sgx
    for node, size in found.sections:
        sections.add("section", {"node": str(node), "size": str(size), "unit": "KiB"})
