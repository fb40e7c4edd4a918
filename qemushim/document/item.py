"""``Item``: a class over one kind of element, whose declared fields are its schema, in libvirt's writing order."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

from qemushim.document.fields import Field, KibUnit, Many, One, Present, Size, Verbatim
from qemushim.document.node import Node
from qemushim.errors import ConfigError


class Schema:
    """What an element may hold, in the order in which it is written."""

    __slots__ = ("attributes", "children", "mixed", "opened", "required", "text")

    def __init__(self) -> None:
        self.attributes: dict[str, Field[object]] = {}
        self.children: dict[str, Child] = {}
        self.text: Field[object] | None = None
        self.required: list[Field[object]] = []
        #: written with an end tag of its own even where it is empty
        self.opened = False
        #: children of different tags keep the order that they have in the document
        self.mixed = False

    def add(self, field: Field[object], steps: tuple[str, ...]) -> None:
        """Give a field its place ``steps`` below this element."""
        if not steps:
            if field.attribute:
                self.attributes.setdefault(field.attribute, field)
                if field.required:
                    self.required.append(field)
            else:
                self.text = field
                if isinstance(field, Size):
                    self.attributes.setdefault("unit", cast(Field[object], KibUnit("@unit")))
            return
        child = self.children.get(steps[0])
        if child is None:
            child = self.children[steps[0]] = Child()
        if len(steps) == 1 and isinstance(field, One | Many):
            child.field = field
            child.many = isinstance(field, Many)
            child.keep_empty = child.many or (isinstance(field, One) and field.keep_empty)
        elif len(steps) == 1 and isinstance(field, Verbatim):
            child.verbatim = True
        elif len(steps) == 1 and isinstance(field, Present):
            child.keep_empty = True
        else:
            assert child.field is None, f"{field.path}: <{steps[0]}> has a class of its own"
            child.own.add(field, steps[1:])


class Child:
    """One kind of child element: with a class of its own, or with fields of its parent's."""

    __slots__ = ("field", "keep_empty", "many", "own", "verbatim")

    def __init__(self) -> None:
        self.own = Schema()
        self.field: One[Item] | Many[Item] | None = None
        self.many = False
        self.keep_empty = False
        self.verbatim = False

    def schema(self, node: Node) -> Schema:
        return self.own if self.field is None else self.field.item_class().schema_for(node)


class Tail:
    """Marks where the fields of the base class are written; without it they come last."""


class Item:
    """One element.  Fields are written in the order of their declaration; a base class's after a subclass's own."""

    tag: ClassVar[str] = ""
    schema: ClassVar[Schema]
    #: fields by name, in writing order
    fields: ClassVar[dict[str, Field[object]]] = {}
    #: children that the base class knows and this one does not have: they are passed over, whatever is in them
    unused: ClassVar[tuple[str, ...]] = ()
    _inheritable: ClassVar[dict[str, Field[object]]] = {}

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def __init_subclass__(cls) -> None:
        inherited = dict(cls.__mro__[1]._inheritable) if issubclass(cls.__mro__[1], Item) else {}
        own: dict[str, Field[object]] = {}
        at = None
        for name, value in vars(cls).items():
            if isinstance(value, Field):
                inherited.pop(name, None)
                own[name] = value
            elif isinstance(value, Tail):
                at = len(own)
        names = list(own.items())
        unused = {(tag,) for tag in cls.unused}
        at = len(names) if at is None else at
        cls._inheritable = dict([*names[:at], *inherited.items(), *names[at:]])
        cls.fields = {
            name: field for name, field in cls._inheritable.items() if field.steps[:1] not in unused
        }
        cls.schema = Schema()
        for field in cls.fields.values():
            cls.schema.add(field, field.steps)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        """The schema of one element, for kinds that are written differently by type."""
        return cls.schema

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Item) and other.node is self.node

    def __hash__(self) -> int:
        return id(self.node)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.node!r})"


#: is told of a wrong value: the error, its element, the name of the attribute (``""``: the text)
Report = Callable[[ConfigError, Node, str], None]


def _raise(problem: ConfigError, _node: Node, _attribute: str) -> None:
    raise problem from None


def check(node: Node, schema: Schema, report: Report = _raise) -> None:
    """Read every declared value once.

    Raises ``ConfigError`` at the first that is wrong or missing, unless ``report`` takes them all.
    """
    for field in schema.required:
        if field.attribute not in node.attrib:
            report(field.missing(node), node, field.attribute)
    attributes = schema.attributes
    for name, raw in node.attrib.items():
        declared = attributes.get(name)
        if declared is not None and not declared.is_text:
            try:
                declared.read(raw)
            except ValueError:
                report(declared.wrong(raw, node), node, name)
    if schema.text is not None and node.text.strip():
        try:
            schema.text.canonical(node.text.strip(), node)
        except ValueError:
            report(schema.text.wrong(node.text.strip(), node), node, "")
        except ConfigError as problem:
            report(problem, node, "")
    children = schema.children
    for child in node.children:
        kind = children.get(child.tag)
        if kind is not None and not kind.verbatim:
            check(child, kind.schema(child), report)
