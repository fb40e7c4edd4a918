"""What libvirt and QEMU call features of x86 CPUs, where they differ."""

from __future__ import annotations

from collections.abc import Mapping

#: features that QEMU calls otherwise than libvirt does, beside those below
_RENAMED = {
    "pclmuldq": "pclmulqdq",
    "vmx-invvpid-single-context-noglobals": "vmx-invept-single-context-noglobals",
}
#: features that libvirt writes with ``_`` and QEMU with ``-``
_DASHED = (
    "cmp_legacy",
    "ds_cpl",
    "fxsr_opt",
    "hv-emsr_bitmap",
    "hv-vendor_id",
    "hv-xmm_input",
    "kvm_pv_eoi",
    "kvm_pv_unhalt",
    "lahf_lm",
    "nodeid_msr",
    "perfctr_core",
    "perfctr_nb",
    "tsc_adjust",
)
TO_QEMU: Mapping[str, str] = {**_RENAMED, **{name: name.replace("_", "-") for name in _DASHED}}
FROM_QEMU: Mapping[str, str] = {theirs: ours for ours, theirs in TO_QEMU.items()}
