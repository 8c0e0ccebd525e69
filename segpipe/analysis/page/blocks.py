"""What a section of the page is made of."""

from typing import NamedTuple, Union

from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.tables import Table


class Text(NamedTuple):
    """A paragraph; kind heading: the title of a part; command: as it is typed."""

    text: str
    kind: str = "text"


class Items(NamedTuple):
    """A list."""

    items: list[str]
    kind: str = "items"


class Fold(NamedTuple):
    """What is there when it is asked for."""

    summary: str
    blocks: "list[Block]"
    kind: str = "fold"


class Picture(NamedTuple):
    """uri: with the picture in it. exact: of classes, so that pixels are kept apart when it is enlarged."""

    label: str
    uri: str
    width: int
    height: int
    exact: bool
    score: str = ""


class Example(NamedTuple):
    """One photo, its truth, and what each network says of it. truth: what stands beside an opened prediction."""

    number: int
    name: str
    truth: str
    pictures: list[Picture]


class Pictures(NamedTuple):
    """Examples, to click through. legend: classes with their colours."""

    caption: str
    legend: list[tuple[str, str]]
    examples: list[Example]
    kind: str = "pictures"


Block = Union[Text, Items, Fold, Pictures, Table, Figure]  # noqa: UP007  (it refers to itself)


class Section(NamedTuple):
    """A part of the page with a heading."""

    id: str
    title: str
    blocks: list[Block]
