"""A page as a browser sees it: parsed by html.parser, with nesting and attributes checked on the way."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input", "path"}  # `path` is written as <path .../>


@dataclass
class Element:
    """One element: its tag, attributes, children, and its own and their text."""

    tag: str
    attributes: dict[str, str]
    children: list["Element | str"] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text in it, spaces joined."""
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join(" ".join(parts).split())

    def walk(self) -> Iterator["Element"]:
        """Yield this element and all below."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str, **attributes: str) -> list["Element"]:
        """Return the elements below with this tag and these attributes (`kind` stands for class)."""
        wanted = {("class" if key == "kind" else key): value for key, value in attributes.items()}
        return [
            element for element in self.walk() if element.tag == tag and wanted.items() <= element.attributes.items()
        ]

    def by_id(self, name: str) -> "Element":
        """Return the one element with this id."""
        (found,) = (element for element in self.walk() if element.attributes.get("id") == name)
        return found

    def table(self) -> list[list[str]]:
        """Return the text of a table's cells, by row."""
        return [
            [cell.text for cell in row.walk() if cell.tag in ("td", "th")] for row in self.walk() if row.tag == "tr"
        ]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("document", {})
        self.open = [self.root]
        self.declarations: list[str] = []

    def handle_decl(self, decl: str) -> None:
        self.declarations.append(decl)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> has an attribute twice"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse_page(text: str) -> Element:
    """Return the page's root; a page whose elements do not nest, or whose ids are not unique, is an error."""
    parser = _Parser()
    parser.feed(text)
    parser.close()
    assert parser.open == [parser.root], f"<{parser.open[-1].tag}> is not closed"
    assert [line.lower() for line in parser.declarations] == ["doctype html"]
    ids = [element.attributes["id"] for element in parser.root.walk() if "id" in element.attributes]
    assert len(set(ids)) == len(ids)
    return parser.root
