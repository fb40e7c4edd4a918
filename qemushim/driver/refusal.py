"""Errors of this package as callers of libvirt know errors: each is a ``libvirt.libvirtError`` too."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import libvirt

from qemushim.document.parse import MalformedError
from qemushim.errors import DriverError, ShimError

#: what a message begins with → libvirt's number for such an error
_CODES: tuple[tuple[str, int], ...] = (
    ("XML error:", libvirt.VIR_ERR_XML_ERROR),
    ("unsupported configuration:", libvirt.VIR_ERR_CONFIG_UNSUPPORTED),
    ("internal error:", libvirt.VIR_ERR_INTERNAL_ERROR),
    ("invalid argument:", libvirt.VIR_ERR_INVALID_ARG),
    ("operation failed:", libvirt.VIR_ERR_OPERATION_FAILED),
    ("device not found:", libvirt.VIR_ERR_DEVICE_MISSING),
    ("Operation not supported:", libvirt.VIR_ERR_OPERATION_UNSUPPORTED),
    ("Requested operation is not valid:", libvirt.VIR_ERR_OPERATION_INVALID),
    ("unsupported flags", libvirt.VIR_ERR_INVALID_ARG),
    ("the CPU is incompatible", libvirt.VIR_ERR_CPU_INCOMPATIBLE),
)

#: the same for kinds of error whose messages begin with no such words
_KINDS: tuple[tuple[type[ShimError], int], ...] = (
    (MalformedError, libvirt.VIR_ERR_XML_DETAIL),
    (DriverError, libvirt.VIR_ERR_OPERATION_FAILED),
)

#: a driver says with these that it can not do something at all
_UNABLE = frozenset(
    (
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED,
    )
)


@cache
def _both(kind: Hashable) -> Any:
    """The class of errors that are of that kind and libvirt's."""
    assert isinstance(kind, type)
    return type(kind.__name__, (kind, libvirt.libvirtError), {"__module__": kind.__module__})


def as_libvirt(problem: ShimError) -> Exception:
    """The same error, to be caught either way.  ``get_error_code()`` tells the number that libvirt would give."""
    if issubclass(type(problem), libvirt.libvirtError):
        return problem
    kind = _both(cast(Hashable, type(problem)))
    twin: Any = kind.__new__(kind)
    twin.args = (problem.message,)
    twin.__dict__.update(problem.__dict__)
    words = problem.message
    kinds = (number for known, number in _KINDS if isinstance(problem, known))
    default = next(kinds, libvirt.VIR_ERR_CONFIG_UNSUPPORTED)
    code = next((number for prefix, number in _CODES if words.startswith(prefix)), default)
    level = libvirt.VIR_ERR_ERROR
    twin.err = (
        code,
        libvirt.VIR_FROM_DOMAIN,
        problem.message,
        level,
        problem.hint or None,
        None,
        None,
        -1,
        -1,
    )
    error: Exception = twin
    return error


@contextmanager
def libvirt_errors() -> Iterator[None]:
    """What is raised inside can be caught as ``libvirt.libvirtError``."""
    try:
        yield
    except ShimError as problem:
        raise as_libvirt(problem) from problem


def is_unable(problem: Any) -> bool:
    """Whether a driver has no way to do what it was asked, rather than a reason not to."""
    code = problem.get_error_code()
    return code in _UNABLE or (code == libvirt.VIR_ERR_INVALID_ARG and "unsupported flags" in str(problem))
