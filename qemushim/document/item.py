"""``Item``: a class over one kind of element, whose declared fields are its schema, in libvirt's writing order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Generic, TypeVar, cast

from qemushim.document.fields import Field, Many, One, Present, Verbatim
from qemushim.document.node import COMMENT, Node
from qemushim.document.sizes import KibUnit, Size
from qemushim.errors import ConfigError, error

T = TypeVar("T")


class Schema:
    """What an element may hold, in the order in which it is written."""

    __slots__ = ("attributes", "children", "closed", "mixed", "opened", "required", "text")

    def __init__(self) -> None:
        self.attributes: dict[str, Field[object]] = {}
        self.children: dict[str, Child] = {}
        self.text: Field[object] | None = None
        self.required: list[Field[object]] = []
        #: how libvirt refuses a child that it does not know (``{}``: its tag); where it is passed over, ""
        self.closed = ""
        #: written with an end tag of its own even where it is empty
        self.opened = False
        #: children of different tags keep the order that they have in the document
        self.mixed = False

    @classmethod
    def of(cls, fields: Iterable[Field[object]]) -> Schema:
        """What an element with these fields may hold."""
        schema = cls()
        for field in fields:
            schema.add(field, field.steps)
        return schema

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


class _Once(Generic[T]):
    """Something of a class of items that is made when it is first asked for: most documents need few of the classes."""

    def __init__(self, name: str, make: Callable[[type[Item]], T]) -> None:
        self.name = name
        self.make = make

    def __get__(self, item: Item | None, owner: type[Item]) -> T:
        made = self.make(owner)
        setattr(owner, self.name, made)
        return made


def _inheritable(kind: type[Item]) -> dict[str, Field[object]]:
    """The fields of a class by name, those of its base class where its ``Tail`` is."""
    base = kind.__mro__[1]
    inherited = dict(base.inheritable) if issubclass(base, Item) else {}
    before: dict[str, Field[object]] = {}
    own = before
    behind: dict[str, Field[object]] = {}
    for name, value in vars(kind).items():
        if isinstance(value, Field):
            inherited.pop(name, None)
            own[name] = value
        elif isinstance(value, Tail):
            own = behind
    return {**before, **inherited, **behind}


def _fields(kind: type[Item]) -> dict[str, Field[object]]:
    unused = {(tag,) for tag in kind.unused}
    return {name: field for name, field in kind.inheritable.items() if field.steps[:1] not in unused}


_FIELDS = _Once("fields", _fields)
_SCHEMA = _Once("schema", lambda kind: kind.make_schema())
_INHERITABLE = _Once("inheritable", _inheritable)


class Item:
    """One element.  Fields are written in the order of their declaration; a base class's after a subclass's own."""

    tag: ClassVar[str] = ""
    #: fields by name, in writing order
    fields = _FIELDS
    schema = _SCHEMA
    #: the fields that a subclass has too, by name: those that are unused here among them
    inheritable = _INHERITABLE
    #: how libvirt refuses a child that it does not know (``{}``: its tag); where it is passed over, ""
    closed: ClassVar[str] = ""
    #: children that the base class knows and this one does not have: they are passed over, whatever is in them
    unused: ClassVar[tuple[str, ...]] = ()
    #: the schemas of elements that may have some of the fields alone, by their names
    _subsets: ClassVar[dict[tuple[str, ...], Schema]]

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        self.node = node

    def __init_subclass__(cls) -> None:
        for once in (_FIELDS, _SCHEMA, _INHERITABLE):
            setattr(cls, once.name, once)

    @classmethod
    def make_schema(cls) -> Schema:
        """What such an element may hold; ``schema`` is what this has made."""
        schema = Schema.of(cls.fields.values())
        schema.closed = cls.closed
        return schema

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        """The schema of one element, for kinds that are written differently by type."""
        return cls.schema

    @classmethod
    def only(cls, *names: str) -> Schema:
        """The schema of an element that may have these fields alone, in this order."""
        known = cls.__dict__.get("_subsets")
        if known is None:
            known = cls._subsets = {}
        schema = known.get(names)
        if schema is None:
            schema = known[names] = Schema.of(cls.fields[name] for name in names)
            schema.opened = cls.schema.opened
        return schema

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
        if declared is not None and not (declared.is_text or raw in declared.allowed or declared.late):
            try:
                declared.read(raw)
            except ValueError:
                report(declared.wrong(raw, node), node, name)
    if (
        schema.text is not None
        and not schema.text.late
        and ((text := node.text.strip()) or schema.text.required)
    ):
        text = node.text if schema.text.exact else text
        try:
            schema.text.canonical(text, node)
        except ValueError:
            report(schema.text.wrong(text, node), node, "")
        except ConfigError as problem:
            report(problem, node, "")
    children = schema.children
    for child in node.children:
        kind = children.get(child.tag)
        if kind is not None and not kind.verbatim:
            check(child, kind.schema(child), report)
        elif kind is None and schema.closed and child.tag != COMMENT:
            hint = f"one of: {', '.join(sorted(children))}"
            report(error.unsupported(schema.closed.format(child.tag), child, hint), child, "")
