"""The blocks of a section."""

from typing import NamedTuple, Union

from segpipe.analysis.page.figures import Figure
from segpipe.analysis.page.tables import Table


class Text(NamedTuple):
    """A paragraph. kind: text; heading for a subheading; command for a command line."""

    text: str
    kind: str = "text"


class Items(NamedTuple):
    """A bulleted list."""

    items: list[str]
    kind: str = "items"


class Fold(NamedTuple):
    """A collapsed block."""

    summary: str
    blocks: "list[Block]"
    kind: str = "fold"


class ExampleImage(NamedTuple):
    """An image of the page.

    uri: a data URI. width, height: pixels. exact: a mask, which is enlarged without interpolation.
    """

    label: str
    uri: str
    width: int
    height: int
    exact: bool
    score: str = ""


class Example(NamedTuple):
    """A photo, its ground truth, and the prediction of each network.

    truth: the data URI that is shown beside an enlarged prediction.
    """

    number: int
    name: str
    truth: str
    images: list[ExampleImage]


class ExampleImages(NamedTuple):
    """Examples that can be enlarged. legend: classes with their CSS colours."""

    caption: str
    legend: list[tuple[str, str]]
    examples: list[Example]
    kind: str = "images"


class Pictures(NamedTuple):
    """Images in rows, each with its label and a second line, ``score``. small: of a few pixels each."""

    caption: str
    pictures: list[ExampleImage]
    small: bool = False
    kind: str = "pictures"


class Layer(NamedTuple):
    """What one step computed at a grid of rows x columns points.

    name: ``kernel`` or ``offsets``. height, width: of the image, in rows and columns of the grid; its last row and
    column may lie on the image only in part. depth: numbers of a point. neighbours: ``down,right`` of each number of a
    kernel, separated by spaces. data: the bytes, point by point in reading order, in base64.
    """

    label: str
    name: str
    rows: int
    columns: int
    height: float
    width: float
    depth: int
    neighbours: str
    data: str


class Clickable(NamedTuple):
    """An image of which the user chooses a point; each layer shows what it has there."""

    caption: str
    image: ExampleImage
    layers: list[Layer]
    kind: str = "clickable"


Block = Union[Text, Items, Fold, ExampleImages, Pictures, Clickable, Table, Figure]  # noqa: UP007  (it refers to itself)


class Section(NamedTuple):
    """A section of the page. id: the anchor."""

    id: str
    title: str
    blocks: list[Block]
