"""What can go wrong, for people: every error says what was wrong, where, and what would be right.

A programming mistake is an assertion, never one of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qemushim.document.node import Node


class ShimError(Exception):
    """The root of all errors of this package.

    ``message`` is one line, in libvirt's words where libvirt has words for it; ``hint`` says in plain words what would
    be right; ``file`` and ``line`` say where in the document (``line`` 0: nowhere in particular).
    """

    def __init__(
        self, message: str, *, element: Node | None = None, hint: str = "", file: str = "", line: int = 0
    ) -> None:
        super().__init__(message)
        self.message = message
        self.element = element
        self.hint = hint
        self.file = file
        self.line = line or (element.line if element is not None else 0)

    def __str__(self) -> str:
        return self.message

    @property
    def where(self) -> str:
        """``FILE:LINE: `` as far as known, for a message on the terminal."""
        if self.file and self.line:
            return f"{self.file}:{self.line}: "
        return f"{self.file}: " if self.file else ""


class ConfigError(ShimError):
    """The document is wrong, or asks for what this QEMU or this host can not do."""


class AddressError(ConfigError):
    """An address is taken, malformed, or none is left; the hint shows the map of the bus."""


class EmulatorError(ShimError):
    """A QEMU binary, recording or snapshot could not be asked what it can do."""


class MonitorError(ShimError):
    """A monitor said no, said something unreadable, or said nothing in time."""

    #: QEMU's class of its refusal (``DeviceNotFound``, ``GenericError`` …), ``""`` where it did not come to that
    kind = ""


class DriverError(ShimError):
    """A running guest or a libvirt connection did not do what was asked."""


class _Kinds:
    """libvirt's message prefixes (``virterror.h`` texts as users see them), one constructor each."""

    @staticmethod
    def xml(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"XML error: {message}", element=element, hint=hint)

    @staticmethod
    def unsupported(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"unsupported configuration: {message}", element=element, hint=hint)

    @staticmethod
    def internal(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"internal error: {message}", element=element, hint=hint)

    @staticmethod
    def argument(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"invalid argument: {message}", element=element, hint=hint)

    @staticmethod
    def failed(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"operation failed: {message}", element=element, hint=hint)

    @staticmethod
    def not_supported(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(f"Operation not supported: {message}", element=element, hint=hint)

    @staticmethod
    def cpu(message: str = "", element: Node | None = None, hint: str = "") -> ConfigError:
        text = "the CPU is incompatible with host CPU" + (f": {message}" if message else "")
        return ConfigError(text, element=element, hint=hint)

    @staticmethod
    def plain(message: str, element: Node | None = None, hint: str = "") -> ConfigError:
        return ConfigError(message, element=element, hint=hint)


#: ``raise error.unsupported("…", element)``
error = _Kinds()
