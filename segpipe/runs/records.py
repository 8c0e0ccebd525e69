"""Models of the JSON files of run and sweep folders. A file that does not fit its model counts as damaged."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from segpipe.errors import UserError, printable
from segpipe.runs.storage import check_plain, is_component, read_json, without_nan, write_json

MAX_CLASSES = 65_535  # indices of 16-bit masks
Status = Literal["running", "finished", "failed", "interrupted"]
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Text = Annotated[str, Field(max_length=100_000)]
Digits = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]
Colour = Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


def require_component(name: str) -> str:
    """Return the name of a folder. Raises ValueError for a path."""
    if not is_component(name):
        raise ValueError("not the name of a folder")
    return name


FolderName = Annotated[str, AfterValidator(require_component)]


class Model(BaseModel):
    """Values have exactly the given types. Keys of other versions are allowed."""

    model_config = ConfigDict(strict=True, extra="allow")


class RunRecord(Model):
    """``run.json``. ``version``: of the format; files of the first format have none."""

    version: Literal[1] = 1
    status: Status | None = None
    name: Text | None = None
    seed: Count | None = None
    identity: Digits | None = None
    extended_from: Digits | None = None
    max_epochs: list[int | None] | None = None
    revisions: dict[str, int] = {}
    match: Any = None
    data_fingerprint: dict[str, Text] = {}
    images: dict[str, Count] = {}
    classes: Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=MAX_CLASSES)] = ["?"]
    palette: Annotated[list[Colour], Field(max_length=MAX_CLASSES)] = []
    bands: dict[str, Any] | None = None
    overrides: list[Text] | None = None
    options: list[Text] | None = None
    starts: list[dict[str, Any]] = []
    warm_start: Text | None = None
    lineage: list[dict[str, Any]] = []
    pid: Count | None = None
    error: Text | None = None
    wall_time_s: Seconds = 0.0
    versions: dict[str, Any] = {}
    python: Text | None = None
    git: Any = None


class Scores(Model):
    """The scores of one split. Further scores are numbers, or numbers by class."""

    __pydantic_extra__: dict[str, float | dict[str, float | None] | None]
    images: Count | None = None
    pixels: dict[str, Count] = {}
    loss: float | None = None
    miou: Share | None = None
    per_class_iou: dict[str, Share | None] = {}


class Metrics(Model):
    """``metrics.json`` of a run. cost: null where it could not be measured. checkerboard: later versions measure it."""

    version: Literal[1] = 1
    best_epoch: Count | None = None
    val: Scores | None = None
    test: Scores | None = None
    cost: dict[str, float | list[int] | str | None] | None = None
    checkerboard: float | None = None
    training: dict[str, float | None] = {}


class CellEntry(Model):
    """One cell in ``sweep.json``."""

    model_config = ConfigDict(strict=True, extra="forbid")
    overrides: list[Text]
    choices: dict[str, Text | int | float | None]
    run: FolderName | None = None
    refused: Text | None = None
    error: Text | None = None


class SweepRecord(Model):
    """``sweep.json``."""

    version: Literal[1] = 1
    name: Text | None = None
    tuning_seeds: list[Count] | None = None
    options: list[Text] | None = None
    cells: list[CellEntry] = []


def write_record(path: Path, content: Mapping[str, Any], model: type[Model]) -> None:
    """Write a JSON file that ``read_record`` can read. Raises UserError, and writes nothing, where it could not."""
    try:
        plain = without_nan(content)
        check_plain(plain)
        model.model_validate(plain)
    except ValueError as error:  # pydantic's error is one
        reason = printable(str(error))[:500]
        raise UserError(
            f"{path}: a value could not be read again, so nothing was written. Change it: {reason}"
        ) from error
    write_json(path, plain)


def read_record(path: Path, model: type[Model]) -> dict[str, Any]:
    """Read a JSON file of a folder that may come from a stranger; an empty dict where it is missing or damaged.

    A file that does not fit the model is damaged: it has other types, numbers out of range, or another version.
    """
    content = read_json(path)
    try:
        model.model_validate(content)
    except ValidationError:
        return {}
    return content
