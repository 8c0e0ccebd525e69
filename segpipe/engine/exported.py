"""Models that ``segpipe.export`` has written as a program: ONNX files and files of ``torch.export``.

A file may come from a stranger. An ONNX file is data: it is checked before onnxruntime sees it, so that it reads no
other file and has no loop. Reading a file of ``torch.export`` can execute code, so it needs ``trust``.
"""

import importlib
import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from segpipe.config.sizes import MAX_PIXELS
from segpipe.data.bands import Bands
from segpipe.errors import UserError, printable
from segpipe.runs.records import Colour, Count, Digits, Model, Text
from segpipe.runs.run import display_path
from segpipe.runs.storage import check_plain, open_regular, read_bytes

KEY = "segpipe"  # of the facts among the metadata of a file; KEY.json in a file of torch.export
SUFFIXES = {".onnx": "onnx", ".pt2": "torch_export"}  # of files that hold a program, and their format
MAX_FILE = 2**31 - 1  # bytes of an ONNX file; protobuf has this limit
MAX_NODES = 100_000
LOOPS = frozenset({"If", "Loop", "Scan", "SequenceMap"})  # operators with a graph of their own; segpipe writes none
Side = Annotated[int, Field(ge=1, le=65_536)]


class Facts(Model):
    """What a file says of its model, beside the weights.

    segpipe: the version that wrote it. size: [height, width] to which images are resized before; None: they keep their
    size. channels, bands: of the images. input: the type of the image tensor. min_size: the smallest side of an image.
    stride: of the coarsest map. epoch, global_step: of the checkpoint.
    """

    format: Literal["segpipe model"] = "segpipe model"
    version: Literal[1] = 1
    segpipe: Text
    name: Text | None = None
    identity: Digits | None = None
    classes: Annotated[list[Annotated[str, Field(max_length=200)]], Field(min_length=1, max_length=256)]
    palette: Annotated[list[Colour], Field(max_length=256)]
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    channels: Annotated[int, Field(ge=1, le=512)] = 3
    bands: dict[str, Any] | None = None
    input: Literal["uint8", "float32"] = "uint8"
    min_size: Side = 1
    stride: Side = 1
    epoch: Count = 0
    global_step: Count = 0

    @model_validator(mode="after")
    def check(self) -> Self:
        """Raise ValueError where values do not fit one another."""
        if len(self.palette) != len(self.classes):
            raise ValueError("palette and classes differ in length")
        if self.size and self.size[0] * self.size[1] > MAX_PIXELS:
            raise ValueError(f"size has more than {MAX_PIXELS:,} pixels")
        return self

    def text(self) -> str:
        """Return them as JSON."""
        return json.dumps(self.model_dump(), ensure_ascii=False)

    @classmethod
    def from_text(cls, text: str | bytes | None) -> Self:
        """Read them. Raises ValueError where they are missing or damaged."""
        if not text:
            raise ValueError(f"it has no metadata of the name {KEY}: segpipe.export has not written it")
        try:
            content = json.loads(text)
            check_plain(content)
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its content"
            raise ValueError(f"its metadata is damaged: {where}: {first['msg']}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its metadata is damaged: {error}") from error


class Program:
    """A model of a file. It has the attributes that ``Predictor`` has for a run, but for the run itself."""

    def __init__(self, facts: Facts, network: "ProgramNetwork") -> None:
        self.facts, self.network, self.device = facts, network, network.place
        self.classes, self.size = facts.classes, facts.size
        self.palette = [(red, green, blue) for red, green, blue in facts.palette]
        self.bands = None if facts.bands is None else Bands.from_record(facts.bands)


class ProgramNetwork(nn.Module):
    """The network of a file. ``encoder`` has the sizes that others ask of a network's encoder."""

    def __init__(self, facts: Facts, device: torch.device) -> None:
        super().__init__()
        self.encoder: Any = SimpleNamespace(min_size=facts.min_size, coarsest=facts.stride)
        self.facts, self.place = facts, device
        self.here = nn.Parameter(torch.empty(0, device=device), requires_grad=False)  # its device is the network's

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W), values 0 to 255, to logits (N, K, H, W). Raises UserError where the program fails.

        Values that are not finite are refused: a program of integers, and runtimes with their own maximum, do not hand
        them on, so ``models.windows.reach`` could not measure by them how far pixels act.
        """
        if image.is_floating_point() and not image.isfinite().all():
            raise UserError("The image has values that are not finite (NaN or infinite). Replace them by numbers.")
        image = image.round().clamp(0, 255) if image.is_floating_point() and self.facts.input == "uint8" else image
        try:
            logits = self.run(image.to(getattr(torch, self.facts.input)))
        except Exception as error:  # the program of a stranger may raise any error
            raise UserError(
                f"The model's file cannot compute a batch of {tuple(image.shape)}: {first(error)}"
            ) from error
        wanted = (len(image), len(self.facts.classes), *image.shape[-2:])
        if tuple(logits.shape) != wanted or not logits.is_floating_point():
            raise UserError(
                f"The model's file gives {logits.dtype} {tuple(logits.shape)} for an image of {tuple(image.shape)}; "
                f"needed are scores of {wanted}. It is no model that segpipe has written: export the run again."
            )
        return logits

    def run(self, image: Tensor) -> Tensor:
        """Compute the program."""
        raise NotImplementedError


class OnnxNetwork(ProgramNetwork):
    """A network that onnxruntime computes."""

    def __init__(self, facts: Facts, session: Any, device: torch.device) -> None:
        super().__init__(facts, device)
        self.session = session
        self.name = session.get_inputs()[0].name

    def run(self, image: Tensor) -> Tensor:
        """See ``ProgramNetwork``."""
        return torch.from_numpy(self.session.run(None, {self.name: image.cpu().numpy()})[0]).to(self.place)


class TorchNetwork(ProgramNetwork):
    """A network that torch computes."""

    def __init__(self, facts: Facts, module: nn.Module, device: torch.device) -> None:
        super().__init__(facts, device)
        self.module: Any = module

    def run(self, image: Tensor) -> Tensor:
        """See ``ProgramNetwork``."""
        return self.module(image.to(self.place))  # type: ignore[no-any-return]


def is_program(path: str | Path) -> bool:
    """Return whether a path is that of a file with a program, by its name."""
    return Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir()


def open_program(path: Path, *, device: torch.device, trust: Iterable[str] = (), form: str | None = None) -> Program:
    """Open a file that ``segpipe.export`` has written as ONNX or as a program of torch.

    trust: has to contain ``torch`` for a program of torch. form: ``onnx`` or ``torch_export``; None: by the file's
    name. Raises UserError for a file that is missing, damaged, refused, or of another program.
    """
    form = form or SUFFIXES[path.suffix.lower()]
    with naming(path):
        return open_onnx(path, device) if form == "onnx" else open_torch(path, device, trust)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn every error of reading a model's file into a UserError that names the file."""
    try:
        yield
    except UserError as error:
        named = str(error) if printable(path) in str(error) else f"{display_path(path)}: {error}"
        raise UserError(named) from error
    except FileNotFoundError as error:
        raise UserError(f"{display_path(path)}: no such file. Give a file that segpipe.export has written.") from error
    except OSError:
        raise
    except Exception as error:  # parsers raise many kinds of errors
        raise UserError(
            f"{display_path(path)}: this is not a model that segpipe.export has written, or it is damaged "
            f"({first(error)}). Export the run again."
        ) from error


def first(error: Exception) -> str:
    """Return the first line of an error's text, printable."""
    return printable(str(error).strip().partition("\n")[0][:300] or type(error).__name__)


def require(*modules: str) -> list[Any]:
    """Import libraries of the extra ``export``. Raises UserError with the command that installs them."""
    found = []
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            raise UserError(f"This needs the library {name}: pip install 'segpipe[export]'") from error
    return found


def open_onnx(path: Path, device: torch.device) -> Program:
    """See ``open_program``."""
    onnx, runtime = require("onnx", "onnxruntime")
    content = read_bytes(path, limit=MAX_FILE)
    model = onnx.load_model_from_string(content)
    check_onnx(model, onnx)
    facts = Facts.from_text({entry.key: entry.value for entry in model.metadata_props}.get(KEY))
    del model
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; they need not be printed, too
    provider = "CUDAExecutionProvider" if device.type == "cuda" else "CPUExecutionProvider"
    if provider not in runtime.get_available_providers():
        raise UserError(
            f"device={device}: this onnxruntime has no {provider}. Take cpu, or: pip install onnxruntime-gpu"
        )
    session = runtime.InferenceSession(content, options, providers=[provider])
    given, made = session.get_inputs(), session.get_outputs()
    kind = "tensor(uint8)" if facts.input == "uint8" else "tensor(float)"
    if len(given) != 1 or len(made) != 1 or given[0].type != kind or len(given[0].shape) != 4:
        raise ValueError(f"it does not take one image of {facts.input}")
    if given[0].shape[1] != facts.channels:
        raise ValueError(f"it does not take images of {facts.channels} channels")
    return Program(facts, OnnxNetwork(facts, session, device))


def check_onnx(model: Any, onnx: Any) -> None:
    """Raise UserError or ValueError for an ONNX model that could read other files, run without end, or need plugins."""
    graph = model.graph
    if len(graph.node) > MAX_NODES or len(model.functions) > 0 or len(model.training_info) > 0:
        raise ValueError(f"it has more than {MAX_NODES:,} nodes, or functions, which segpipe does not write")
    tensors = [*graph.initializer]
    for sparse in graph.sparse_initializer:
        tensors += [sparse.values, sparse.indices]
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type in LOOPS:
            name = f"{node.domain}.{node.op_type}".lstrip(".")
            raise ValueError(f"it has the operator {name[:100]}, which segpipe does not write")
        for attribute in node.attribute:
            if attribute.HasField("g") or len(attribute.graphs):
                raise ValueError("it has a graph inside an operator, which segpipe does not write")
            tensors += [attribute.t, *attribute.tensors]
            for part in (attribute.sparse_tensor, *attribute.sparse_tensors):
                tensors += [part.values, part.indices]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.external_data) for tensor in tensors):
        raise UserError(
            "its weights lie in other files (external data), which are not read: the file could name any file of this "
            "machine. Give a file that segpipe.export has written, which holds its weights."
        )


def open_torch(path: Path, device: torch.device, trust: Iterable[str]) -> Program:
    """See ``open_program``."""
    if "torch" not in trust:
        raise UserError(
            f"{display_path(path)}: a program of torch.export, which can execute code when it is read. If you trust "
            f"where it comes from, give --trust torch (predict) or segpipe.load(FILE, trust=['torch']). ONNX and "
            f"safetensors files need no trust."
        )
    open_regular(path, limit=2 * MAX_FILE).close()
    extra = {f"{KEY}.json": ""}
    log = logging.getLogger("torch.export")
    level = log.level
    log.setLevel(logging.CRITICAL)  # its text is in the error
    try:
        program = torch.export.load(str(path), extra_files=extra)
    finally:
        log.setLevel(level)
    facts = Facts.from_text(extra[f"{KEY}.json"])
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return Program(facts, TorchNetwork(facts, program.module(), device))
