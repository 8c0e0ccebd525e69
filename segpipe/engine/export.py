"""A finished run as one file: an ONNX model, a program of ``torch.export``, or weights as safetensors."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim

from segpipe.engine import shared
from segpipe.engine.exported import KEY, Facts, first, is_program, open_program, require
from segpipe.engine.predictor import Predictor
from segpipe.errors import UserError
from segpipe.models.network import Network
from segpipe.runs.storage import atomic_write, check_can_write, is_component

Format = Literal["onnx", "torch_export", "safetensors"]
Input = Literal["uint8", "float32"]
SUFFIX = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
LIBRARIES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": (), "safetensors": ("safetensors",)}
AXES = {0: "batch", 2: "height", 3: "width"}  # of a program, which may have any size
TRACED = (77, 101)  # height and width, larger where the encoder needs it, with which the program is recorded
CLOSE = 1e-2  # difference of logits, relative to the largest one, above which a file is not kept
NAMESPACES = frozenset({"aten", "prims", "higher_order"})  # of operations that have ONNX counterparts


class Parity(NamedTuple):
    """How a file agrees with its run, over all compared images.

    difference: the largest difference of two logits. scale: the largest absolute value of a logit. equal: the share of
    pixels with the same class, 0 to 1. sizes: number of images, height and width of each batch.
    """

    difference: float
    scale: float
    equal: float
    sizes: list[tuple[int, int, int]]

    def __str__(self) -> str:
        """As it is printed."""
        sizes = ", ".join("x".join(map(str, size)) for size in self.sizes)
        return (
            f"largest difference of logits {self.difference:.2g} (largest logit {self.scale:.3g}), equal classes at "
            f"{self.equal:.4%} of the pixels; batches of {sizes}"
        )


class ExportedNetwork(nn.Module):
    """A network for images of any height and width: the same as ``Network``, without conditions on sizes.

    Rows and columns are padded and cropped by indices, so that a recorded program holds for all sizes. An image smaller
    than the encoder needs is padded, too.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W), values 0 to 255, to logits (N, K, H, W)."""
        network, stride = self.network, self.network.encoder.coarsest
        height, width = image.shape[-2:]
        x = network.normalise(image.float())
        x = x.index_select(2, self.padded(height, x)).index_select(3, self.padded(width, x))
        features = {1: x} | network.encoder(x)
        logits = network.decode(network.neck(features[stride]), features)
        rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
        return logits.index_select(2, rows).index_select(3, columns)

    def padded(self, side: int, x: Tensor) -> Tensor:
        """The indices of an axis whose end is repeated, up to a multiple of the coarsest stride."""
        encoder = self.network.encoder
        blocks, least = (side + encoder.coarsest - 1) // encoder.coarsest, -(-encoder.min_size // encoder.coarsest)
        padded: Any = encoder.coarsest * (torch.sym_max(blocks, least) if least > 1 else blocks)
        return torch.arange(padded, device=x.device).clamp(max=side - 1)


def export(
    run: Path,
    *,
    form: Format,
    out: Path | None = None,
    given: Input | None = None,
    trust: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> tuple[Path, Parity]:
    """Write the best checkpoint of a run as one file. Returns the file, and how it agrees with the run.

    form: of the file. out: None takes NAME in the working folder, with the suffix of the format. given: the type of the
    image tensor of a program; None: uint8, or float32 for images that are not 8-bit RGB. trust: see ``Predictor``.
    report: prints a line about the progress.
    Raises UserError for a network that cannot be exported, for a missing library, and for a file that does not agree
    with the run; then nothing is written.
    """
    if form not in get_args(Format):
        raise UserError(f"--format {form}: allowed is {', '.join(get_args(Format))}.")
    require(*LIBRARIES[form])
    if is_program(run):
        raise UserError(f"{run}: an exported file. Give the folder of the run, or its shared archive.")
    predictor = Predictor(run, device="cpu", trust=trust)
    facts = facts_of(predictor, given)
    if predictor.run.unfinished:
        report(predictor.run.unfinished)
    if out is None:
        out = Path((facts.name if is_component(facts.name) else "model") + SUFFIX[form])  # type: ignore[operator]
    if out.is_dir():
        raise UserError(f"--out {out}: this is a folder. Give a name, for example {out / 'model'}{SUFFIX[form]}.")
    if out.suffix.lower() != SUFFIX[form]:
        raise UserError(f"--out {out}: the name of a {form} file has to end with {SUFFIX[form]}.")
    check_can_write(out.parent, f"--out {out}")
    parity: list[Parity] = []

    def write(temporary: Path) -> None:
        if form == "safetensors":
            shared.write_safetensors(predictor, facts, temporary)
            with shared.opened(temporary, name=".safetensors") as folder:
                other: nn.Module = Predictor(folder, device="cpu", trust=trust).network
        else:
            program = record(predictor.network, facts)
            report(f"Recorded {len(program.graph.nodes)} operations; writing the {form} file.")
            (write_onnx if form == "onnx" else write_torch)(program, facts, temporary)
            other = open_program(temporary, device=torch.device("cpu"), trust=("torch",), form=form).network
        parity.append(compare(predictor.network, other, facts))
        check(parity[0])

    atomic_write(out, write)
    return out, parity[0]


def facts_of(predictor: Predictor, given: Input | None) -> Facts:
    """Return what the file says of its model."""
    encoder = predictor.network.encoder
    facts = shared.facts_of(predictor)
    facts.input = given or ("uint8" if facts.bands is None else "float32")
    facts.min_size, facts.stride = encoder.min_size, encoder.coarsest
    return facts


def record(network: Network, facts: Facts) -> Any:
    """Return the program of a network for any number of images of any size, as ``torch.export`` records it.

    ``facts.min_size`` is set to a larger number if the recorded operations need larger images. Raises UserError where
    torch cannot record the network.
    """
    symbolic: Any = importlib.import_module("torch.fx.experimental._config")
    side = max(facts.min_size, *TRACED)
    image = torch.zeros(2, facts.channels, max(TRACED[0], facts.min_size), side, dtype=getattr(torch, facts.input))
    sizes = dict.fromkeys(AXES, Dim.DYNAMIC)
    try:
        with symbolic.patch(backed_size_oblivious=True), torch.no_grad(), quiet():
            program = torch.export.export(
                ExportedNetwork(network).eval(),
                (image,),
                dynamic_shapes=(sizes,),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # any kind, from any operation of a part
        raise UserError(
            f"This network cannot be recorded as a program for images of any size ({first(error)}). Take "
            f"--format safetensors, which needs no program."
        ) from error
    # These conditions are of memory layouts for sizes of 1, which the operations do not have.
    for node in [*program.graph.nodes]:
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
    facts.min_size = max(facts.min_size, *smallest_sides(program))
    return program


def smallest_sides(program: Any) -> list[int]:
    """Return the least height and width that a recorded program accepts: operations may exclude maps of one cell."""
    (image,) = (node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs)
    sides = (side.node.expr for side in image.meta["val"].shape[2:])
    return [int(program.range_constraints[side].lower) for side in sides]


def write_onnx(program: Any, facts: Facts, path: Path) -> None:
    """Write a program as an ONNX file. Raises UserError where an operation has no ONNX counterpart."""
    unknown = {
        str(node.target)
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in NAMESPACES
    }
    if unknown:
        raise UserError(f"{no_counterpart(', '.join(sorted(unknown)))}")
    try:
        with torch.no_grad(), quiet():
            made = torch.onnx.export(
                program, (), dynamo=True, verbose=False, input_names=["image"], output_names=["logits"]
            )
    except Exception as error:  # the exporter raises errors of its own for an operation that it does not know
        raise UserError(no_counterpart(first(error))) from error
    assert made is not None
    model = made.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, facts.text()
    if model.ByteSize() >= 2**31:
        raise UserError(
            f"The ONNX file would have {model.ByteSize():,} bytes; at most 2 GiB are possible. Take safetensors."
        )
    for node in model.graph.node:  # they hold the paths of source files of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        del value.metadata_props[:]
        for axis, name in AXES.items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    path.write_bytes(model.SerializeToString())


def no_counterpart(what: str) -> str:
    """Return the message for a network that ONNX cannot express."""
    return f"This network has no ONNX form ({what}). Take --format torch_export or --format safetensors."


def write_torch(program: Any, facts: Facts, path: Path) -> None:
    """Write a program as a file of ``torch.export``."""
    for node in program.graph.nodes:  # they hold the paths of source files of this machine
        node.meta.pop("stack_trace", None)
    with quiet(), path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{KEY}.json": facts.text()})


@contextmanager
def quiet() -> Iterator[None]:
    """Context manager that leaves out the notes of torch and onnxscript on their own work."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def compared_sizes(facts: Facts) -> list[tuple[int, int, int]]:
    """Return numbers of images, heights and widths to compare: multiples of the stride and others, odd ones too."""
    stride, least = facts.stride, facts.min_size
    sides = [(least, least), (least + 1, 2 * least + 3), (2 * stride, 3 * stride), (3 * stride - 1, 2 * stride + 1)]
    return [(1 + index % 2, max(height, least), max(width, least)) for index, (height, width) in enumerate(sides)]


def compare(network: nn.Module, other: nn.Module, facts: Facts) -> Parity:
    """Compare the logits of a run and its file on drawn images of several sizes."""
    draw = torch.Generator().manual_seed(0)
    difference = scale = equal = 0.0
    pixels, sizes = 0, compared_sizes(facts)
    for count, height, width in sizes:
        coarse = torch.rand(count, facts.channels, height // 8 + 2, width // 8 + 2, generator=draw)
        smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
        noise = torch.rand(count, facts.channels, height, width, generator=draw)
        image = (255 * (0.7 * smooth + 0.3 * noise)).round()
        image = image.byte() if facts.bands is None else image
        with torch.inference_mode():
            expected, found = network(image).float(), other(image).float()
        difference = max(difference, float((expected - found).abs().max()))
        scale = max(scale, float(expected.abs().max()))
        equal += float((expected.argmax(1) == found.argmax(1)).sum())
        pixels += count * height * width
    return Parity(difference, scale, equal / pixels, sizes)


def check(parity: Parity) -> None:
    """Raise UserError where a file computes something else than its run."""
    if not parity.difference <= CLOSE * max(parity.scale, 1.0):
        raise UserError(
            f"The file does not compute what the run does: {parity}. It is not kept. Take --format safetensors, and "
            f"please report this with the run's config.yaml."
        )


def size_text(path: Path) -> str:
    """Return the size of a file for a message."""
    with suppress(OSError):
        return f"{path.stat().st_size / 1e6:.1f} MB"
    return "unknown size"
