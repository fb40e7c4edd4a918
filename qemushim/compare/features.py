"""What of ``<features>`` has to stay.  https://libvirt.org/formatdomain.html#hypervisor-features"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qemushim.compare.checks import NO_SWITCH, Difference
from qemushim.document.node import COMMENT, Node
from qemushim.machine.domain import Domain

_STATE = "State of feature '{what}' differs: source: '{old}', destination: '{new}'"
_HYPERV = "State of HyperV enlightenment feature '{what}' differs: source: '{old}', destination: '{new}'"
_KVM = "State of KVM feature '{what}' differs: source: '{old}', destination: '{new}'"
_XEN = "State of Xen feature '{what}' differs: source: '{old}', destination: '{new}'"
#: features that change nothing for the guest
_IGNORED = frozenset({"async-teardown", "msrs", "tcg"})
#: features with something beside their state, or in its place: ``driver=kvm``; what it is where nobody says
_KEYED = {
    "aia": ("value", "none"),
    "capabilities": ("policy", "default"),
    "cfpc": ("value", "none"),
    "ibs": ("value", "none"),
    "ioapic": ("driver", "none"),
    "sbbc": ("value", "none"),
}
_STATEFUL = {"apic": (("eoi", "default"),), "gic": (("version", "0"),)}
_HPT = (("resizing", "none"), ("maxpagesize", "0"))
#: a feature below one of these → how libvirt words its state
_GROUPS = {"hyperv": _HYPERV, "kvm": _KVM, "xen": _XEN}
#: (group, feature, attribute) → how libvirt words that value
_VALUES = {
    (
        "hyperv",
        "spinlocks",
        "retries",
    ): "HyperV spinlock retry count differs: source: '{old}', destination: '{new}'",
    ("hyperv", "vendor_id", "value"): "HyperV vendor_id differs: source: '{old}', destination: '{new}'",
    ("kvm", "dirty-ring", "size"): (
        "dirty ring size of KVM feature '{what}' differs: source: '{old}', destination: '{new}'"
    ),
    ("xen", "passthrough", "mode"): (
        "'mode' of Xen passthrough feature differs: source: '{old}', destination: '{new}'"
    ),
}


def compare_features(old: Domain, new: Domain) -> Iterator[Difference]:
    """Feature by feature, and what is below those that are groups."""
    before, after = _features(old), _features(new)
    for name in dict.fromkeys((*before, *after)):
        if name in _IGNORED:
            continue
        one, other = before.get(name), after.get(name)
        yield from _differs(name, _text(name, one), _text(name, other), _STATE)
        if name in _GROUPS and one is not None and other is not None:
            yield from _group(name, one, other)
        elif name == "smm":
            yield from _tseg(one, other)


def _features(domain: Domain) -> dict[str, Node]:
    features = domain.node.child("features")
    children = features.children if features is not None else ()
    return {node.tag: node for node in children if node.tag != COMMENT}


def _differs(name: str, old: str, new: str, words: str) -> Iterator[Difference]:
    if old != new:
        text = words.format(what=name.partition("/@")[0].rpartition("/")[2], old=old, new=new)
        yield Difference(f"features/{name}", _shown(old), _shown(new), text)


def _shown(value: str) -> str:
    return "" if value == NO_SWITCH else value


def _text(name: str, node: Node | None) -> str:
    """A feature as libvirt writes it: ``on``, ``driver=kvm``, ``on,eoi=default``."""
    if name in _KEYED:
        key, absent = _KEYED[name]
        return f"{key}={absent if node is None else node.get(key) or absent}"
    state = _state(name, node)
    if name == "hpt":
        values = {"resizing": _of(node, "resizing"), "maxpagesize": _of(node, "maxpagesize", child=True)}
        return ",".join((state, *(f"{key}={values[key] or absent}" for key, absent in _HPT)))
    extra = _STATEFUL.get(name, ())
    return ",".join((state, *(f"{key}={_of(node, key) or absent}" for key, absent in extra)))


def _of(node: Node | None, name: str, *, child: bool = False) -> str:
    if node is None:
        return ""
    return (node.value(name) if child else node.get(name)) or ""


def _state(name: str, node: Node | None) -> str:
    if node is None:
        return NO_SWITCH
    if name == "hyperv" and node.get("mode") == "passthrough":
        return "off"
    return node.get("state") or "on"


def _group(group: str, old: Node, new: Node) -> Iterator[Difference]:
    before, after = ({n.tag: n for n in side.children if n.tag != COMMENT} for side in (old, new))
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name), after.get(name)
        path = f"{group}/{name}"
        yield from _differs(path, _state(name, one), _state(name, other), _GROUPS[group])
        for (of, feature, attribute), words in _VALUES.items():
            if (of, feature) == (group, name) and one is not None and other is not None:
                yield from _differs(f"{path}/@{attribute}", _of(one, attribute), _of(other, attribute), words)
        if name == "stimer":
            theirs, ours = (side.child("direct") if side is not None else None for side in (one, other))
            words = "State of HyperV stimer direct feature differs: source: '{old}', destination: '{new}'"
            yield from _differs(f"{path}/direct", _state("direct", theirs), _state("direct", ours), words)


def _tseg(old: Node | None, new: Node | None) -> Iterator[Difference]:
    one, other = (side.child("tseg") if side is not None else None for side in (old, new))
    if (one is None) != (other is None):
        said = ["not specified" if side is None else "specified" for side in (one, other)]
        text = f"SMM TSEG differs: source: {said[0]}, destination: '{said[1]}'"
        yield Difference("features/smm/tseg", _size(one), _size(other), text)
    elif _size(one) != _size(other):
        text = f"Size of SMM TSEG size differs: source: '{_size(one)}', destination: '{_size(other)}'"
        yield Difference("features/smm/tseg", _size(one), _size(other), text)


def _size(node: Node | None) -> str:
    return f"{node.text.strip()} {node.get('unit') or 'MiB'}" if node is not None else ""


Compare = Callable[[Domain, Domain], Iterator[Difference]]

__all__ = ["Compare", "compare_features"]
