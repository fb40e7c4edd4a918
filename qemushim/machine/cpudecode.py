"""From what an x86 CPU can do to the model of the CPU map that describes it best, and what differs.

The choice must be libvirt's own, so its way of counting is kept, quirk included (see ``_cost``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from qemushim.machine.cpumap import Model, X86Map

#: (family, model) of Intel CPUs whose transactional memory is broken, and below which stepping
_BROKEN_TSX = {(6, 60): 16, (6, 63): 4, (6, 69): 16, (6, 70): 16}
#: what the first disabled feature costs; each further one costs one more
_FIRST_PENALTY = 2


class CpuData(NamedTuple):
    """What a CPU says of itself: feature bits (``X86Map``), its vendor (by the map's name) and signature."""

    bits: int
    vendor: str = ""
    signature: tuple[int, int, int] | None = None


class Described(NamedTuple):
    """A CPU as a model and what differs from it: (feature, policy) in order."""

    model: str
    features: tuple[tuple[str, str], ...]
    vendor: str = ""
    #: whether another model may be taken where QEMU does not have this one
    fallback: bool = False


class _Candidate(NamedTuple):
    model: Model
    #: feature bits that must be added to the model, taken from it, and what it once had of the others
    required: int
    disabled: int
    removed: int
    cost: tuple[int, int]


def decode(x86: X86Map, data: CpuData, models: Mapping[str, Iterable[str]]) -> Described | None:
    """The guest CPU closest to ``data``, or ``None`` where no model is.

    ``models``: those that QEMU has, with the features that keep each from running here (libvirt's names).
    """
    bits = _without_broken_tsx(x86, data)
    best: _Candidate | None = None
    for model in _choice(x86, data, models):
        candidate = _candidate(x86, model, bits, models[model.name])
        if best is None or candidate.cost < best.cost:
            best = candidate
    if best is None:
        return None
    lost = x86.names(best.removed)
    required, disabled = x86.names(best.required), x86.names(best.disabled)
    disabled += [name for name in best.model.removed if name in lost]
    features = [(name, "require") for name in required] + [(name, "disable") for name in disabled]
    return Described(best.model.name, tuple(features), data.vendor)


def _choice(x86: X86Map, data: CpuData, models: Mapping[str, Iterable[str]]) -> list[Model]:
    """The models that come into question, the last of the map first.

    The cost decides among those of the CPU's own signature alone, where there are any.
    """
    found = [
        model
        for model in reversed(tuple(x86.models.values()))
        if model.guest and model.name in models and model.vendor in ("", data.vendor)
    ]
    signature = data.signature
    if signature is None:
        return found
    return [m for m in found if any(s.matches(*signature) for s in m.signatures)] or found


def _without_broken_tsx(x86: X86Map, data: CpuData) -> int:
    if data.vendor == "Intel" and data.signature is not None:
        *kind, stepping = data.signature
        if stepping < _BROKEN_TSX.get((kind[0], kind[1]), 0):
            return data.bits & ~x86.bits(("hle", "rtm"))
    return data.bits


def _candidate(x86: X86Map, model: Model, bits: int, blockers: Iterable[str]) -> _Candidate:
    """One model, with what must be added to it and taken from it."""
    required = bits & ~model.bits
    disabled = (model.bits & ~bits | x86.bits(blockers)) & ~required
    removed = x86.bits(model.removed) & ~(required | disabled)
    # a feature is a bit (``cpumapfile``)
    cost = _cost(required.bit_count(), disabled.bit_count() + removed.bit_count())
    return _Candidate(model, required, disabled, removed, cost)


def _cost(required: int, disabled: int) -> tuple[int, int]:
    """What a candidate costs in all, and the part of it that disabled features make.

    Each required feature costs 1, the disabled ones 2, 3, 4, …; but as libvirt counts the features down while
    it walks them, only the first half of the disabled ones is seen as such, the others cost 1.
    """
    seen = (disabled + 1) // 2
    penalty = sum(range(_FIRST_PENALTY, _FIRST_PENALTY + seen))
    return required + disabled - seen + penalty, penalty
