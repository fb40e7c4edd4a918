"""``<seclabel>``, ``<keywrap>``, ``<launchSecurity>``.  https://libvirt.org/formatdomain.html#launch-security"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from qemushim.command.option import Option, Value
from qemushim.document.fields import Choice, Hex, Many, OnOff, Switch, Text, Unsigned
from qemushim.document.item import Item, Schema
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.document.node import Node


class Seclabel(Item):
    """``<seclabel>``: how the guest's process and files are labelled."""

    tag = "seclabel"
    type = Choice("@type", ("none", "dynamic", "static"))
    model = Text("@model")
    relabel = Switch("@relabel")
    label = Text("label")
    baselabel = Text("baselabel")


class Cipher(Item):
    """``<cipher>``: whether a guest may wrap keys of one kind."""

    tag = "cipher"
    name = Choice("@name", ("aes", "dea"), required=True)
    state = OnOff("@state", required=True)


class Keywrap(Item):
    """``<keywrap>`` of s390 guests."""

    tag = "keywrap"
    ciphers = Many("cipher", Cipher)


class LaunchSecurity(Item):
    """``<launchSecurity>``: memory that the host can not read."""

    tag = "launchSecurity"
    type = Choice("@type", ("sev", "sev-snp", "s390-pv"), required=True)
    kernel_hashes = Switch("@kernelHashes")
    author_key = Switch("@authorKey")
    vcek = Switch("@vcek")
    cbitpos = Unsigned("cbitpos")
    reduced_phys_bits = Unsigned("reducedPhysBits")
    policy = Hex("policy", 4)
    snp_policy = Hex("policy", 8)
    certificate = Text("dhCert")
    session = Text("session")
    workarounds = Text("guestVisibleWorkarounds")
    id_block = Text("idBlock")
    id_auth = Text("idAuth")
    host_data = Text("hostData")
    _schemas: ClassVar[dict[str, Schema]] = {}

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        kind = node.attrib.get("type", "")
        found = cls._schemas.get(kind)
        if found is None:
            names = _FIELDS.get(kind, tuple(cls.fields))
            found = cls._schemas[kind] = Schema.of(cls.fields[name] for name in names)
        return found

    def firmware_features(self) -> tuple[str, ...]:
        """What the firmware must be able to do."""
        if self.type == "sev":
            # bit 2 of the policy asks for encrypted register state
            return ("amd-sev", "amd-sev-es") if (self.policy or 0) & 4 else ("amd-sev",)
        return ("amd-sev-snp",) if self.type == "sev-snp" else ()


_COMMON = ("type", "kernel_hashes")
_FIELDS = {
    "sev": (*_COMMON, "cbitpos", "reduced_phys_bits", "policy", "certificate", "session"),
    "sev-snp": (
        *_COMMON,
        "author_key",
        "vcek",
        "cbitpos",
        "reduced_phys_bits",
        "snp_policy",
        "workarounds",
        "id_block",
        "id_auth",
        "host_data",
    ),
    "s390-pv": ("type",),
}


# -- defaults -----------------------------------------------------------------------------------


def complete_security(d: Define) -> None:
    """Security labels, key wrap, launch security."""
    labels = d.domain.seclabels
    seen: set[str] = set()
    for label in labels:
        model = label.model
        if model is not None and model in seen:
            raise error.plain(
                f"seclabel for model {model} is already provided", label.node, "keep one of them"
            )
        seen.add(model or "")
    for label in labels:
        if label.model is None and len(labels) > 1:
            raise error.xml(
                "missing security model when using multiple labels", label.node, "model='selinux'"
            )
        _complete_label(label, d)
    if any(label.type is None for label in labels):
        # said to be of no type: left to the host, so there is nothing to store
        d.domain.node.children = [
            child for child in d.domain.node.children if child.tag != "seclabel" or child.get("type")
        ]
    security = d.domain.launch_security
    if security is not None and security.type in ("sev", "sev-snp") and security.policy is None:
        raise error.xml("failed to get launch security policy", security.node, "<policy>0x0003</policy>")


def _complete_label(label: Seclabel, d: Define) -> None:
    kind = label.type
    if label.model is None and kind != "none" and (kind != "dynamic" or label.baselabel is not None):
        if kind == "static" and label.label is None:
            raise error.xml("security label is missing", label.node, "<label>…</label>")
        raise error.xml("missing security model in domain seclabel", label.node, "model='selinux'")
    if kind is None:
        return
    if label.model is None:
        label.model = d.host.security_model
        if label.model == "none":
            # the host labels nothing
            label.type = kind = "none"
            label.relabel = None
    if kind == "none":
        if label.relabel:
            raise error.xml(
                "resource relabeling is not compatible with 'none' label type", label.node, "relabel='no'"
            )
        label.relabel = None
        label.label = label.baselabel = None
    elif kind == "static":
        if label.label is None:
            raise error.xml("security label is missing", label.node, "<label>…</label>")
        label.relabel = bool(label.relabel)
        label.baselabel = None
    else:
        if label.relabel is False:
            raise error.xml("dynamic label type must use resource relabeling", label.node, "drop relabel=")
        label.relabel = True
        label.label = None


# -- checks -----------------------------------------------------------------------------------


def check_security(d: Define) -> None:
    """Whether this QEMU can keep the guest's memory secret, and wrap its keys."""
    security = d.domain.launch_security
    if security is None:
        return
    kind, known = security.type, d.emulator.flag
    if kind == "sev":
        if not known("sev-guest"):
            raise error.unsupported(
                "'sev' launch security is not supported with this QEMU binary",
                security.node,
                "a QEMU and a host that have it",
            )
        hashes = known("sev-guest-kernel-hashes")
        if security.kernel_hashes is not None and not hashes:
            raise error.unsupported(
                "SEV measured direct kernel boot is not supported with this QEMU binary",
                security.node,
                "QEMU 6.2 or newer",
            )
    elif kind == "sev-snp":
        if not known("sev-snp-guest"):
            raise error.unsupported(
                "'sev-snp' launch security is not supported with this QEMU binary",
                security.node,
                "a QEMU and a host that have it",
            )
    elif not (known("s390-pv-guest") and d.board.is_s390):
        raise error.unsupported(
            "'s390-pv' launch security is not supported with this QEMU binary",
            security.node,
            "a QEMU and a host that have it",
        )


# -- options -----------------------------------------------------------------------------------


def launch_security_options(b: Build) -> Iterator[Option]:
    """``-object sev-guest`` and its like."""
    security = b.domain.launch_security
    if security is None:
        return
    make = {"sev": _sev, "sev-snp": _snp}.get(security.type or "")
    kind = {"sev": "sev-guest", "sev-snp": "sev-snp-guest"}.get(security.type or "", "s390-pv-guest")
    properties = make(security, b) if make is not None else {}
    yield b.object(
        {"qom-type": kind, "id": "lsec0", **properties}, security.node, "the host can not read the guest"
    )


def _memory(security: LaunchSecurity, b: Build) -> dict[str, Value]:
    """How the processor marks encrypted memory: as the document says, or the host."""
    known = b.emulator.sev
    bit, bits = security.cbitpos, security.reduced_phys_bits
    return {
        "cbitpos": bit if bit is not None else (known.cbitpos if known is not None else 0),
        "reduced-phys-bits": bits
        if bits is not None
        else (known.reduced_phys_bits if known is not None else 0),
    }


def _sev(security: LaunchSecurity, b: Build) -> dict[str, Value]:
    folder = b.domain_dir
    return {
        **_memory(security, b),
        "policy": security.policy or 0,
        "dh-cert-file": f"{folder}/dh_cert.base64" if security.certificate is not None else None,
        "session-file": f"{folder}/session.base64" if security.session is not None else None,
        "kernel-hashes": security.kernel_hashes,
    }


def _snp(security: LaunchSecurity, b: Build) -> dict[str, Value]:
    return {
        **_memory(security, b),
        "kernel-hashes": security.kernel_hashes,
        "policy": security.policy or 0,
        "guest-visible-workarounds": security.workarounds,
        "id-block": security.id_block,
        "id-auth": security.id_auth,
        "host-data": security.host_data,
        "author-key-enabled": security.author_key,
        "vcek-disabled": None if security.vcek is None else not security.vcek,
    }
