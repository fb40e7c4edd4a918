"""Fields that hold an amount of memory, in KiB.

Units: https://libvirt.org/formatdomain.html#memory-allocation
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from qemushim.document.fields import Field
from qemushim.document.node import Node
from qemushim.document.units import TooLargeError, parse_unsigned, to_kib
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.document.item import Item

T = TypeVar("T")


class Size(Field[T]):
    """An amount of memory in KiB: text of an element with a ``unit`` attribute, always written in KiB."""

    exact = True

    @overload
    def __init__(self: Size[int], path: str, default: int) -> None: ...
    @overload
    def __init__(self: Size[int | None], path: str, default: None = None) -> None: ...
    def __init__(self, path: str, default: int | None = None) -> None:
        super().__init__(path, default)

    def __get__(self, item: Any, owner: type) -> Any:
        if item is None:
            return self
        node = item.node.descend(self.steps) if self.steps else item.node
        if node is None or not node.text.strip():
            return self.default
        return self.of(node)

    def of(self, node: Node) -> int:
        try:
            return to_kib(node.text, node.attrib.get("unit"))
        except TooLargeError as reason:
            raise error.plain(f"numerical overflow: {reason}", node, "less than 16 EiB") from None
        except ValueError as reason:
            if "unknown suffix" in str(reason):
                raise error.argument(str(reason), node, "KiB, MiB, GiB, …") from None
            first = "[1]" if node.tag in ("memory", "maxMemory", "currentMemory") else ""
            raise error.xml(
                f"Invalid value '{node.text}' for element or attribute './{node.tag}{first}'",
                node,
                "a number",
            ) from None

    def __set__(self, item: Item, value: Any) -> None:
        if value is None:
            self.remove(item.node)
            return
        node = item.node.ensure("/".join(self.steps)) if self.steps else item.node
        node.text = str(value)
        node.attrib["unit"] = "KiB"

    def canonical(self, raw: str, node: Node) -> str | None:
        return str(self.of(node))


class SizeAttribute(Field[T]):
    """An amount of memory in KiB in an attribute, with its unit in another attribute of the element."""

    expected = "Expected non-negative integer value"

    @overload
    def __init__(self: SizeAttribute[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: SizeAttribute[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        super().__init__(path, default, required=required)

    def read(self, raw: str) -> Any:
        return parse_unsigned(raw)

    def __get__(self, item: Any, owner: type) -> Any:
        if item is None:
            return self
        node = self.place(item.node)
        raw = node.attrib.get(self.attribute) if node is not None else None
        return self.default if raw is None or node is None else self.of(raw, node)

    def of(self, raw: str, node: Node) -> int:
        try:
            return to_kib(raw, node.attrib.get("unit"))
        except TooLargeError as reason:
            raise error.plain(f"numerical overflow: {reason}", node, "less than 16 EiB") from None
        except ValueError as reason:
            if "unknown suffix" in str(reason):
                raise error.argument(str(reason), node, "KiB, MiB, GiB, …") from None
            raise self.wrong(raw, node) from None

    def canonical(self, raw: str, node: Node) -> str | None:
        return str(self.of(raw, node))

    def __set__(self, item: Item, value: Any) -> None:
        super().__set__(item, value)
        node = self.place(item.node)
        if node is not None and value is not None:
            node.attrib["unit"] = "KiB"


class KibUnit(Field[str]):
    """The unit beside a ``SizeAttribute``, which is written in KiB."""

    def canonical(self, raw: str, node: Node) -> str | None:
        return "KiB"
