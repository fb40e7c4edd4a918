"""Typed attributes, declared once: one declaration serves reading, checking, writing and documenting an element.

A field is a descriptor on an ``Item`` class.  Its path says where the value is: ``@model`` (attribute of the element),
``driver/@name`` (of a child), ``serial`` (text of a child), ``.`` (the element's own text).  Reading gives the typed
value or the default; assigning writes the canonical text; assigning ``None`` removes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from qemushim.document.node import Node
from qemushim.document.units import (
    format_set,
    parse_integer,
    parse_set,
    parse_unsigned,
)
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.document.item import Item

T = TypeVar("T")
Element = TypeVar("Element", bound="Item")


class Field(Generic[T]):
    """One value at one place of an element."""

    #: what libvirt appends to its message about a wrong value
    expected = ""
    #: known while the guest runs, and written in the document of a running guest alone
    live = False
    #: blanks around the text of an element belong to the value
    exact = False
    #: a text of nothing but blanks is one too, and stays as it is
    verbatim = False
    #: not read before it is used: it may belong to another kind of its element, and is no mistake there
    late = False

    #: words that are right, and are the value themselves
    allowed: frozenset[str] = frozenset()

    def __init__(self, path: str, default: object = None, *, required: bool = False) -> None:
        self.path = path
        head, at, name = path.rpartition("@")
        if at:
            self.steps = tuple(head.split("/")[:-1])
        else:
            self.steps = () if path == "." else tuple(path.split("/"))
        #: name of the attribute, ``""`` for text
        self.attribute = name if at else ""
        #: of the type T; what a subclass takes says so
        self.default: Any = default
        self.required = required
        self.name = ""
        #: how libvirt refuses a value here, and that there is none, where it does not say it in its usual way
        self.words = ""
        self.lack = ""
        #: any text will do, and is the value
        self.is_text = type(self).read is Field.read

    def says(self, words: str, prefix: str = "unsupported configuration") -> Self:
        """The field, with words of its own for a value that is refused (``{}``: the value)."""
        self.words = f"{prefix}: {words}"
        return self

    def as_written(self) -> Self:
        """The field, whose blanks belong to the value."""
        self.verbatim = True
        return self

    def later(self) -> Self:
        """The field, looked at when it is used alone."""
        self.late = True
        return self

    def needs(self, words: str, prefix: str = "XML error") -> Self:
        """The field, required, with words of its own for an element that lacks it."""
        self.required = True
        self.lack = f"{prefix}: {words}"
        return self

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def read(self, raw: str) -> Any:
        """The typed value.  Raises ``ValueError``."""
        return raw

    def write(self, value: Any) -> str:
        """The canonical text of a value."""
        return str(value)

    def canonical(self, raw: str, node: Node) -> str | None:
        """What is written for the text of a document; ``None``: nothing."""
        return self.write(self.read(raw))

    def final(self, raw: str, node: Node) -> str | None:
        """The same for the text of a definition, whose ``late`` fields may not have been looked at."""
        try:
            return self.canonical(raw, node)
        except ValueError:
            raise self.wrong(raw, node) from None

    def place(self, node: Node) -> Node | None:
        """The element that holds the value."""
        return node.descend(self.steps)

    @overload
    def __get__(self, item: None, owner: type) -> Field[T]: ...
    @overload
    def __get__(self, item: Item, owner: type) -> T: ...
    def __get__(self, item: Item | None, owner: type) -> Any:
        if item is None:
            return self
        # the most frequent call of all: the way to the place is written out, and a text is its own value
        node = item.node
        for tag in self.steps:
            for child in node.children:
                if child.tag == tag:
                    node = child
                    break
            else:
                return self.default
        raw = node.attrib.get(self.attribute) if self.attribute else node.text.strip() or None
        if raw is None:
            return self.default
        if self.is_text or raw in self.allowed:
            return raw
        try:
            return self.read(raw)
        except ValueError:
            raise self.wrong(raw, node) from None

    def __set__(self, item: Item, value: Any) -> None:
        if value is None:
            self.remove(item.node)
            return
        node = item.node.ensure("/".join(self.steps)) if self.steps else item.node
        if self.attribute:
            node.attrib[self.attribute] = self.write(value)
        else:
            node.text = self.write(value)

    def remove(self, node: Node) -> None:
        found = self.place(node)
        if found is None:
            return
        if self.attribute:
            found.attrib.pop(self.attribute, None)
        elif self.steps:
            parent = node.descend(self.steps[:-1]) if len(self.steps) > 1 else node
            assert parent is not None
            # of several the first counts: the others are not to take its place
            parent.children = [child for child in parent.children if child.tag != found.tag]
        else:
            found.text = ""

    def wrong(self, raw: str, place: Node) -> ConfigError:
        """libvirt's message for a value that can not be read; ``place`` is the element that holds it."""
        if self.words:
            return error.plain(self.words.format(raw), place, self.advice())
        if not self.attribute:
            return error.xml(f"Invalid value for element '{place.tag}': '{raw}'", place, self.advice())
        tail = f" {self.expected}" if self.expected else ""
        return error.xml(
            f"Invalid value for attribute '{self.attribute}' in element '{place.tag}': '{raw}'.{tail}",
            place,
            self.advice(),
        )

    def missing(self, node: Node) -> ConfigError:
        hint = self.advice() or f"add {self.attribute}='…'"
        if self.lack:
            return error.plain(self.lack, node, hint)
        return error.xml(f"Missing required attribute '{self.attribute}' in element '{node.tag}'", node, hint)

    def advice(self) -> str:
        """What would be right, in plain words."""
        return ""


class Text(Field[T]):
    """Any text."""

    @overload
    def __init__(self: Text[str], path: str, default: str, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Text[str | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: str | None = None, *, required: bool = False) -> None:
        super().__init__(path, default, required=required)


class LiveText(Field["str | None"]):
    """What a guest has while it runs; whatever a stored document says of it is passed over."""

    live = True


class Choice(Field[T]):
    """One of a closed list of words."""

    @overload
    def __init__(
        self: Choice[str], path: str, values: Iterable[str], default: str, *, required: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self: Choice[str | None],
        path: str,
        values: Iterable[str],
        default: None = None,
        *,
        required: bool = False,
    ) -> None: ...
    def __init__(
        self, path: str, values: Iterable[str], default: str | None = None, *, required: bool = False
    ) -> None:
        super().__init__(path, default, required=required)
        self.values = tuple(values)
        self.allowed = frozenset(self.values)

    def read(self, raw: str) -> Any:
        if raw not in self.allowed:
            raise ValueError(raw)
        return raw

    def advice(self) -> str:
        return f"one of: {', '.join(filter(None, self.values))}"


class Switch(Field[T]):
    """Two words for yes and no: ``yes``/``no`` here, ``on``/``off`` in ``OnOff``."""

    true, false = "yes", "no"

    @overload
    def __init__(self: Switch[bool], path: str, default: bool, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Switch[bool | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: bool | None = None, *, required: bool = False) -> None:
        super().__init__(path, default, required=required)

    def read(self, raw: str) -> Any:
        if raw == self.true:
            return True
        if raw == self.false:
            return False
        raise ValueError(raw)

    def write(self, value: Any) -> str:
        return self.true if value else self.false

    def advice(self) -> str:
        return f"'{self.true}' or '{self.false}'"


class OnOff(Switch[T]):
    true, false = "on", "off"

    @overload
    def __init__(self: OnOff[bool], path: str, default: bool, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: OnOff[bool | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: bool | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)


class Present(Field[bool]):
    """An element whose being there is the value: ``<readonly/>``."""

    def __init__(self, path: str) -> None:
        super().__init__(path, False)

    def __get__(self, item: Any, owner: type) -> Any:
        return self if item is None else item.node.descend(self.steps) is not None

    def read(self, raw: str) -> Any:
        return True

    def __set__(self, item: Item, value: Any) -> None:
        if value:
            item.node.ensure("/".join(self.steps))
        else:
            self.remove(item.node)


class Integer(Field[T]):
    """A whole number, which may be negative: of 32 bits in an attribute, of 64 in a text."""

    expected = "Expected integer value"

    @overload
    def __init__(self: Integer[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Integer[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        super().__init__(path, default, required=required)

    #: of C's strtol: 0 takes ``0x1f`` and octal ``037`` too
    base = 10
    exact = True

    def read(self, raw: str) -> Any:
        number = parse_integer(raw, self.base)
        most = 1 << (31 if self.attribute else 63)
        if not -most <= number < most:
            raise ValueError(raw)
        return number

    def advice(self) -> str:
        return "a number"


class Natural(Integer[T]):
    """A whole number from 0, of 31 bits: one that has a sign in libvirt, and may not be negative."""

    @overload
    def __init__(self: Natural[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Natural[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)

    def read(self, raw: str) -> Any:
        number = parse_integer(raw, self.base)
        if not 0 <= number < 1 << 31:
            raise ValueError(raw)
        return number

    def wrong(self, raw: str, place: Node) -> ConfigError:
        self.expected = Integer.expected
        try:
            if -1 << 31 <= parse_integer(raw, self.base) < 0:
                self.expected = "Expected non-negative value"
        except ValueError:
            pass
        return super().wrong(raw, place)

    def advice(self) -> str:
        return "a number from 0"


class Unsigned(Integer[T]):
    """A whole number from 0: of 32 bits in an attribute, of 64 in a text (see ``Long`` for attributes of 64)."""

    bits = 32

    expected = "Expected non-negative integer value"

    @overload
    def __init__(self: Unsigned[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Unsigned[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)

    def read(self, raw: str) -> Any:
        return self.bounded(parse_unsigned(raw, self.base))

    def bounded(self, number: int) -> int:
        """The number.  Raises ``ValueError`` where it is too large for its place."""
        if number >> (self.bits if self.attribute else 64):
            raise ValueError(number)
        return number

    def advice(self) -> str:
        return "a number from 0"


class Long(Unsigned[T]):
    """A whole number from 0, of 64 bits."""

    bits = 64

    @overload
    def __init__(self: Long[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Long[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)


class Positive(Unsigned[T]):
    """A whole number from 1."""

    @overload
    def __init__(self: Positive[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Positive[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)

    def read(self, raw: str) -> Any:
        number = self.bounded(parse_unsigned(raw, self.base))
        if number == 0:
            raise ValueError(raw)
        return number

    def wrong(self, raw: str, place: Node) -> ConfigError:
        try:
            number = parse_unsigned(raw, self.base)
        except ValueError:
            number = -1
        if number:
            return super().wrong(raw, place)
        return error.xml(
            f"Invalid value for attribute '{self.attribute}' in element '{place.tag}': Zero is not permitted",
            place,
            self.advice(),
        )

    def advice(self) -> str:
        return "a number from 1"


class LongPositive(Positive[T]):
    """The same, of 64 bits."""

    bits = 64

    @overload
    def __init__(self: LongPositive[int], path: str, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: LongPositive[int | None], path: str, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)


class Hex(Unsigned[T]):
    """A number written as ``0x`` and so many digits, whichever way the document wrote it."""

    base = 0

    @overload
    def __init__(self: Hex[int], path: str, digits: int, default: int, *, required: bool = False) -> None: ...
    @overload
    def __init__(
        self: Hex[int | None], path: str, digits: int, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, digits: int, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)
        self.digits = digits

    def write(self, value: Any) -> str:
        return f"0x{value:0{self.digits}x}"


class LongHex(Hex[T]):
    """The same, of 64 bits."""

    bits = 64

    @overload
    def __init__(
        self: LongHex[int], path: str, digits: int, default: int, *, required: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self: LongHex[int | None], path: str, digits: int, default: None = None, *, required: bool = False
    ) -> None: ...
    def __init__(self, path: str, digits: int, default: int | None = None, *, required: bool = False) -> None:
        Field.__init__(self, path, default, required=required)
        self.digits = digits


class NumberSet(Field[T]):
    """A set of small numbers: ``0-3,7,^2``."""

    @overload
    def __init__(self: NumberSet[list[int]], path: str, default: list[int]) -> None: ...
    @overload
    def __init__(self: NumberSet[list[int] | None], path: str, default: None = None) -> None: ...
    def __init__(self, path: str, default: list[int] | None = None) -> None:
        super().__init__(path, default)

    def read(self, raw: str) -> Any:
        return parse_set(raw)

    def write(self, value: Any) -> str:
        return format_set(value)

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.argument(
            f"Failed to parse bitmap '{raw}'", place, "numbers and ranges, such as 0-3,7,^2"
        )


class One(Field["Element | None"], Generic[Element]):
    """A child element with a class of its own; ``None`` where it is not there."""

    def __init__(
        self, path: str, kind: type[Element] | Callable[[], type[Element]], *, keep_empty: bool = False
    ) -> None:
        super().__init__(path)
        self.kind = kind
        self.keep_empty = keep_empty

    def item_class(self) -> type[Element]:
        if not isinstance(self.kind, type):
            # a class that was not there yet when the field was declared
            self.kind = self.kind()
        return self.kind

    def __get__(self, item: Any, owner: type) -> Any:
        if item is None:
            return self
        node = item.node
        for tag in self.steps:
            for child in node.children:
                if child.tag == tag:
                    node = child
                    break
            else:
                return None
        return self.item_class()(node)

    def ensure(self, item: Item) -> Element:
        """The child's item, made where missing."""
        return self.item_class()(item.node.ensure("/".join(self.steps)))


class Many(Field["list[Element]"], Generic[Element]):
    """Child elements of one tag, each with a class of its own, in document order."""

    def __init__(self, path: str, kind: type[Element] | Callable[[], type[Element]]) -> None:
        super().__init__(path)
        self.kind = kind

    def item_class(self) -> type[Element]:
        if not isinstance(self.kind, type):
            self.kind = self.kind()
        return self.kind

    def __get__(self, item: Any, owner: type) -> Any:
        if item is None:
            return self
        parent = item.node.descend(self.steps[:-1]) if len(self.steps) > 1 else item.node
        if parent is None:
            return []
        kind = self.item_class()
        return [kind(node) for node in parent.all(self.steps[-1])]


class Verbatim(Field["Node | None"]):
    """A child element that is written as it is, with all that is in it (``<metadata>``)."""

    def __get__(self, item: Any, owner: type) -> Any:
        return self if item is None else item.node.descend(self.steps)
