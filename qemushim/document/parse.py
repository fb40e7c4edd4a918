"""XML text from strangers to ``Node``: bounded in size, depth and number of elements, no DTD, no entities.

The standard library's expat does the reading: it streams, so the limits hold while the text is read, it knows every
line, and loading it costs a twentieth of lxml.  Where a text is no XML, lxml (libxml2, the parser that libvirt uses)
is asked for its words.
"""

from __future__ import annotations

from typing import NoReturn
from xml.parsers import expat

from qemushim.document.node import COMMENT, QEMU_NAMESPACE, QEMU_PREFIX, Node
from qemushim.errors import ConfigError

#: bytes of a document; libvirt's own RPC limit for a domain XML is 32 MiB (VIR_SECURITY and string limits)
MAX_BYTES = 32 * 1024 * 1024
#: elements nested in one another; libxml2 stops at 256 too
MAX_DEPTH = 256
#: elements in all
MAX_ELEMENTS = 200_000
#: characters of one attribute value (libxml2: 10,000,000)
MAX_VALUE = 10_000_000


class MalformedError(ConfigError):
    """The text is no XML.  ``message`` has libxml2's words, ``context`` the line with a pointer below it."""

    def __init__(self, message: str, file: str, line: int, context: str) -> None:
        super().__init__(message, file=file, line=line, hint="the text is not well-formed XML")
        self.context = context

    def __reduce__(self) -> tuple[type[MalformedError], tuple[str, str, int, str]]:
        return MalformedError, (self.message, self.file, self.line, self.context)


class _Builder:
    """expat's events to a tree."""

    def __init__(self, file: str, encoding: str | None, *, plain: bool, short: bool) -> None:
        self.file = file
        #: the text speaks of no namespace
        self.plain = plain
        #: no value can be too long
        self.short = short
        self.root: Node | None = None
        self.stack: list[Node] = []
        self.last: Node | None = None
        self.count = 0
        self.words: list[str] = []
        #: prefixes that stand for QEMU's namespace; the usual one is taken without declaration nowhere
        self.prefixes: dict[str, str] = {}
        #: namespaces of elements without a prefix, with the depth of the element that says so
        self.defaults: list[tuple[int, str]] = []
        self.parser = parser = expat.ParserCreate(encoding)
        parser.buffer_text = True
        parser.buffer_size = 64 * 1024
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.words.append
        parser.CommentHandler = self.comment
        parser.StartDoctypeDeclHandler = self.doctype

    def fail(self, message: str, hint: str = "") -> NoReturn:
        line = self.parser.CurrentLineNumber
        raise ConfigError(f"XML error: {message}", file=self.file, line=line, hint=hint)

    def doctype(self, *_: object) -> None:
        self.fail(
            "document type declarations are not accepted",
            "remove <!DOCTYPE …>: a domain document needs no DTD and no entities",
        )

    def flush(self) -> None:
        """Text read so far belongs to the open element, or behind its last child."""
        text = "".join(self.words)
        self.words.clear()
        if self.last is not None:
            self.last.tail += text
        elif self.stack:
            self.stack[-1].text += text

    def start(self, tag: str, attrib: dict[str, str]) -> None:
        if self.words:
            self.flush()
        stack = self.stack
        if self.count >= MAX_ELEMENTS:
            self.fail(
                f"more than {MAX_ELEMENTS} elements", "no domain has so many: split or shorten the document"
            )
        if len(stack) >= MAX_DEPTH:
            self.fail(f"elements nested deeper than {MAX_DEPTH}", "no domain is nested so deep")
        if not self.short and max(map(len, attrib.values()), default=0) > MAX_VALUE:
            self.fail(f"attribute value longer than {MAX_VALUE} characters in <{tag}>")
        if not self.plain:
            tag = self.named(tag, attrib)
        node = Node(tag, attrib, line=self.parser.CurrentLineNumber)
        node.origin = self.count
        self.count += 1
        if stack:
            stack[-1].children.append(node)
        else:
            self.root = node
        stack.append(node)
        self.last = None

    def named(self, tag: str, attrib: dict[str, str]) -> str:
        """The tag as it is known here; declarations of namespaces are noted."""
        if "xmlns" in attrib:
            self.defaults.append((len(self.stack), attrib["xmlns"]))
        if self.defaults and ":" not in tag and self.defaults[-1][1] == QEMU_NAMESPACE:
            if attrib.pop("xmlns", None) is not None:
                attrib["xmlns:qemu"] = QEMU_NAMESPACE
            return QEMU_PREFIX + tag
        if ":" in tag or not self.stack:
            return self.resolve(tag, attrib)
        if any(name.startswith("xmlns:") for name in attrib):
            self.declare(attrib)
        return tag

    def declare(self, attrib: dict[str, str]) -> None:
        for name, value in attrib.items():
            if name.startswith("xmlns:"):
                self.prefixes[name[6:]] = value

    def resolve(self, tag: str, attrib: dict[str, str]) -> str:
        """The tag with ``qemu:`` for QEMU's namespace, whatever prefix the document calls it by."""
        self.declare(attrib)
        prefix, colon, local = tag.partition(":")
        if not colon:
            return tag
        uri = self.prefixes.get(prefix)
        if uri == QEMU_NAMESPACE:
            if prefix + ":" != QEMU_PREFIX:
                # the element goes by another name from here on, which it has to declare
                attrib["xmlns:qemu"] = QEMU_NAMESPACE
            return QEMU_PREFIX + local
        # somebody else's element, or nobody's: kept as it is, and never mistaken for ours
        return tag if prefix + ":" != QEMU_PREFIX else f"{{{uri or ''}}}{local}"

    def end(self, _tag: str) -> None:
        if self.words:
            self.flush()
        self.last = self.stack.pop()
        if self.defaults and self.defaults[-1][0] == len(self.stack):
            self.defaults.pop()

    def comment(self, text: str) -> None:
        self.flush()
        node = Node(COMMENT, text=text, line=self.parser.CurrentLineNumber)
        if self.stack:
            self.stack[-1].children.append(node)
            self.last = node


def parse(text: str | bytes, file: str = "") -> Node:
    """The root element of an XML text.

    ``file`` is what errors call the text.  Raises ``ConfigError`` where the text is no XML, is larger, deeper or fuller
    than a domain document can be, or declares a document type.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"XML error: document of {len(data)} bytes is larger than {MAX_BYTES}",
            file=file,
            hint="a domain document has a few KiB; is this the right file?",
        )
    if not data.strip():
        raise ConfigError(
            "XML error: the document is empty",
            file=file,
            line=1,
            hint="a domain document begins with <domain>",
        )
    # a str is already decoded: its encoding declaration no longer speaks of what we hold
    builder = _Builder(
        file,
        "utf-8" if isinstance(text, str) else None,
        plain=isinstance(text, str) and not ("xmlns" in text or QEMU_PREFIX in text),
        short=len(data) <= MAX_VALUE,
    )
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as broken:
        raise _malformed(data, file, broken) from None
    except (LookupError, ValueError) as reason:
        # an encoding that Python does not have, or has for other things than text of one byte a character
        raise ConfigError(
            f"XML error: {reason}", file=file, line=1, hint="save the document as UTF-8"
        ) from None
    finally:
        # the two hold each other: the tree would be there until the garbage collector came by
        del builder.parser
    assert builder.root is not None, "expat accepts no document without a root"
    return builder.root


def _malformed(data: bytes, file: str, broken: expat.ExpatError) -> MalformedError:
    """libxml2's words for what is wrong, as libvirt prints them; expat's where it sees nothing wrong."""
    line, column, message = broken.lineno, broken.offset, expat.ErrorString(broken.code)
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    try:
        etree.fromstring(data, parser)
    except etree.XMLSyntaxError:
        # the exception's own log is of the whole thread, and goes on from the first broken document there was
        entry = parser.error_log[0] if len(parser.error_log) else None
        if entry is not None and entry.message:
            line, column, message = entry.line, entry.column, entry.message.strip()
    except ValueError as reason:
        message = str(reason)
    return MalformedError(message, file, line, _context(data, line, column))


def _context(data: bytes, line: int, column: int) -> str:
    """The line that was being read and a pointer to the place, as libxml2 draws them."""
    lines = data.decode("utf-8", "replace").splitlines()[:line]
    column = max(column - 1, 0)
    if len(lines) < line or not lines[-1]:
        # the end of a line belongs to the line that ended there
        while lines and not lines[-1]:
            lines.pop()
        column = len(lines[-1]) if lines else 0
    if not lines:
        return ""
    start = max(column - 79, 0)
    return f"{lines[-1][start : start + 80]}\n{'-' * (column - start)}^"
