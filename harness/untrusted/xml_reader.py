"""XML that comes from outside."""

from __future__ import annotations

import dataclasses
from typing import NoReturn
from xml.parsers import expat

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown


@dataclasses.dataclass(frozen=True)
class XmlLimits:
    """Most that an XML text may hold."""

    size: int = 128 << 20
    """Bytes."""
    depth: int = 32
    """Levels of elements."""
    elements: int = 200_000


XML_LIMITS = XmlLimits()


@dataclasses.dataclass
class XmlElement:
    """An element: ``text`` is the text in it, without that of its children."""

    name: str
    attributes: dict[str, str]
    children: list[XmlElement] = dataclasses.field(default_factory=list)
    text: str = ""


class _XmlTree:
    """Handlers of the parser. They build a tree, and refuse what a report does not need: a document type, and entities with it."""

    def __init__(self, what: str, limits: XmlLimits, error: type[SlipwayError]) -> None:
        self.root: XmlElement | None = None
        self._what, self._limits, self._error = what, limits, error
        self._open: list[tuple[XmlElement, list[str]]] = []
        self._count = 0

    def fail(self, problem: str) -> NoReturn:
        raise self._error(message(self._what, f"is not usable XML: {problem}"))

    def doctype(self, *_: object) -> None:
        self.fail("it has a document type")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > self._limits.elements:
            self.fail(f"it has more than {self._limits.elements} elements")
        if len(self._open) >= self._limits.depth:
            self.fail(f"it is nested more than {self._limits.depth} levels deep")
        element = XmlElement(name, attributes)
        if self._open:
            self._open[-1][0].children.append(element)
        else:
            self.root = element
        self._open.append((element, []))

    def data(self, text: str) -> None:
        self._open[-1][1].append(text)

    def end(self, _: str) -> None:
        element, pieces = self._open.pop()
        element.text = "".join(pieces)


def xml_document(data: bytes, *, what: str, limits: XmlLimits = XML_LIMITS, error: type[SlipwayError] = StoreError) -> XmlElement:
    """Parse XML within ``limits`` and return its root. A document type is refused: only with one are there entities that grow."""
    tree = _XmlTree(what, limits, error)
    if len(data) > limits.size:
        tree.fail(f"it is larger than {limits.size} bytes")
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = tree.doctype
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.data
    try:
        parser.Parse(data, True)
    except (expat.ExpatError, ValueError, LookupError) as wrong:
        tree.fail(shown(str(wrong)))
    if tree.root is None:
        tree.fail("it has no element")
    return tree.root
