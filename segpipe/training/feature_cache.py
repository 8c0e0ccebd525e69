"""The features of a frozen encoder, kept on disk: a sweep of decoders computes them once (``encoder.cache``)."""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from segpipe.data import cache
from segpipe.data.module import SegmentationData
from segpipe.errors import UserError
from segpipe.models import windows
from segpipe.models.encoders import Encoder
from segpipe.models.network import Network
from segpipe.runs.storage import open_regular, write_bytes

IN_WINDOWS = (windows.SIDE / (windows.SIDE - windows.OVERLAP)) ** 2  # of the pixels of a large image, which overlap
Maps = dict[int, Tensor]  # stride: (N, C, H/stride, W/stride)
LIMIT = "SEGPIPE_FEATURES_GIB"  # environment variable: the largest size of all cached features together
DEFAULT_LIMIT = 100  # GiB
SUFFIX = ".features"
LIBRARIES = ("torch", "torchvision", "timm", "segpipe")  # another version may compute other digits
NO_PART_OF_THE_FEATURES = ("name", "weights", "freeze", "cache")  # keys of the encoder's configuration
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.bfloat16, torch.float16)}


class FeatureCache:
    """Reads what ``Encoder.extract`` returns from files of the user's cache, and writes what is not there.

    A file has the map of one image at one stride. Its name is the stride and a digest of the image as the network gets
    it, after all resizing, cropping and augmentation, and of the shape of its batch. So a flipped image is another
    image, and changed data have other names. The name of its folder is a digest of all else that the features depend
    on: the encoder's configuration, weights and revision, the normalisation, the precision, the device and the versions
    of the libraries.

    Only the strides whose values the network reads are kept (``Network.strides_read``). In a batch that is read, the
    maps of all other strides have their shapes, and no values: NaN.

    A batch is read if all its files are there. Otherwise it is computed as without the cache, since a library may
    round differently in a batch of another shape. Several processes may use the files at once. A damaged file is
    computed again; a file that cannot be written is left out.

    network: whose encoder is frozen. config: of the encoder. dtype: of the stored features; None: as computed. need:
    bytes to be written at most; folders of other encoders are removed for it, the longest unused first.
    """

    def __init__(
        self, network: Network, *, config: Mapping[str, Any], dtype: torch.dtype | None = None, need: int = 0
    ) -> None:
        self.network, self.dtype, self.need = network, dtype, need
        self.config = {key: value for key, value in config.items() if key not in NO_PART_OF_THE_FEATURES}
        self.strides = sorted(network.encoder.extracted_strides(network.strides_read()))
        self.state: Any = None  # of the weights and the precision, for which ``folder`` was computed
        self.folder = Path()
        self.read = self.computed = 0  # images

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, image: Tensor, x: Tensor) -> Maps:
        """The result of ``extract`` for a batch. image: (N, 3, H, W), as given to the network. x: the encoder's input.

        Where a gradient of the image is asked for, the features are computed and not kept.
        """
        if x.requires_grad:
            return self.network.encoder.extract(x)
        folder, names = self.current_folder(x), digests(image)
        files = {stride: [path_of(folder, name, stride) for name in names] for stride in self.strides}
        complete = all(path.is_file() for paths in files.values() for path in paths)
        if complete and (maps := read_maps(files)) is not None:
            self.read += len(names)
            return {stride: one.to(x.device) for stride, one in maps.items()}
        self.computed += len(names)
        computed = self.network.encoder.extract(x)
        if self.dtype is not None:  # as they will be read
            computed = {stride: rounded(one, self.dtype, stride) for stride, one in computed.items()}
        for stride, paths in files.items():
            for position, path in enumerate(paths):
                if complete or not path.is_file():  # complete: one of them is damaged
                    with suppress(OSError):
                        write_bytes(path, pack(computed, stride, position, self.dtype))
        return computed

    def current_folder(self, x: Tensor) -> Path:
        """The folder of the features; it is computed again where the weights or the precision have changed."""
        tensors = self.tensors()
        autocast = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else None
        state = (x.device, x.dtype, autocast, *((one.data_ptr(), one._version) for one in tensors.values()))
        if state != self.state:
            encoder, normalise = self.network.encoder, self.network.normalise
            about = {
                "config": self.config,
                "revision": encoder.revision,
                "normalise": [type(normalise).__name__, digest(dict(normalise.named_buffers()))],
                "weights": digest(tensors),
                "device": torch.cuda.get_device_name(x.device) if x.is_cuda else x.device.type,
                "precision": [str(x.dtype), str(autocast), str(self.dtype)],
                "libraries": [version_of(name) for name in LIBRARIES],
            }
            name = hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=8).hexdigest()
            self.state, self.folder = state, features_folder() / name
            with suppress(OSError, RuntimeError):
                self.folder.mkdir(parents=True, exist_ok=True)
                os.utime(self.folder)
                make_room(self.folder, need=self.need, limit=limit_bytes())
        return self.folder

    def tensors(self) -> dict[str, Tensor]:
        """The weights and buffers of the stages that ``extract`` runs."""
        encoder = self.network.encoder
        return {
            f"{number}.{name}": tensor
            for number, stage in enumerate(encoder.stages[: encoder.extracted_stages])
            for name, tensor in stage.state_dict(keep_vars=True).items()
        }


def attach(network: Network, encoder: Encoder, config: Mapping[str, Any], data: SegmentationData) -> str:
    """Give a network a ``FeatureCache``. Return a note that says how large it may become, and where it is.

    encoder: the network's, on the meta device. config: of the encoder; its key ``cache`` is not false.
    Raises UserError where training images are random parts of images, and where the features are too large.
    """
    check_crop(data)
    dtype = DTYPES.get(str(config["cache"]))
    strides = encoder.extracted_strides(network.strides_read())
    need, folder = expected_bytes(encoder, strides, data, dtype), features_folder()
    check_space(folder, need)
    network.extractor = FeatureCache(network, config=config, dtype=dtype, need=need)
    flips = [] if data.overfit else data.augment.flips()
    return (
        f"encoder.cache={str(config['cache']).lower()}: the features of the frozen encoder take up to "
        f"{need / 2**30:.2f} GiB in {folder}"
        + (f", with {2 ** len(flips)} variants of each training image ({', '.join(flips)})." if flips else ".")
    )


def check_crop(data: SegmentationData) -> None:
    """Raise UserError where a crop is smaller than a training image: each epoch would have other features."""
    crop = None if data.overfit else data.augment.crop
    sizes = [tuple(data.size)] if data.size else sorted(set(data.sizes("train")))
    if crop and any(height > crop[0] or width > crop[1] for height, width in sizes):
        several = len(sizes) > 1
        raise UserError(
            f"encoder.cache: training images of up to {sizes[-1][0]} x {sizes[-1][1]} pixels are cropped at random "
            f"(data.crop={list(crop)}), so that each epoch has other features: set data.crop=null"
            f"{' and data.size=[HEIGHT,WIDTH]' if several else ''}, or encoder.cache=false."
        )


def expected_bytes(encoder: Encoder, strides: set[int], data: SegmentationData, dtype: torch.dtype | None) -> int:
    """The size of the features of all splits in bytes at these strides, those of flipped training images included."""
    side = 2 * max(encoder.coarsest, encoder.min_size)
    with torch.no_grad():
        image = torch.zeros(1, getattr(encoder, "in_channels", 3), side, side, device="meta")
        maps = encoder.eval().extract(image)
    each = sum(maps[stride].numel() * (dtype or maps[stride].dtype).itemsize for stride in strides) / side**2  # a pixel
    pixels = 0.0
    for name, train in (("train", True), ("val", False), ("test", False)):
        sizes: Sequence[Any] = data.sizes(name)  # type: ignore[arg-type]
        if data.size:
            sizes = [data.size] * len(sizes)
        elif train and data.augment.crop and not data.overfit:
            sizes = [data.augment.crop] * len(sizes)
        variants = 2 ** len(data.augment.flips()) if train and not data.overfit else 1
        for height, width in sizes:
            by_windows = not train and height * width > windows.LIMIT
            pixels += variants * padded(height, encoder) * padded(width, encoder) * (IN_WINDOWS if by_windows else 1)
    return int(each * pixels)


def padded(side: int, encoder: Encoder) -> int:
    """The side of an image after ``Network.pad``."""
    return -(-side // encoder.coarsest) * encoder.coarsest


def check_space(folder: Path, need: int) -> None:
    """Raise UserError where features of ``need`` bytes are more than the limit, or than the disk has."""
    smaller = "Or take smaller features (encoder.cache=float16 or bfloat16, data.size), or set encoder.cache=false."
    if need > limit_bytes():
        raise UserError(
            f"encoder.cache: the features take up to {need / 2**30:.1f} GiB, more than the {limit_bytes() / 2**30:g} "
            f"GiB that all cached features may have: set {LIMIT}={-(-need // 2**30)} in the environment. {smaller}"
        )
    with suppress(OSError):
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        free = shutil.disk_usage(there).free + sum(sizes_by_folder(folder).values())
        if need > free:
            raise UserError(
                f"encoder.cache: the features take up to {need / 2**30:.1f} GiB, but {there} has {free / 2**30:.1f} "
                f"GiB free: set SEGPIPE_CACHE=FOLDER in the environment, to a folder on a larger disk. {smaller}"
            )


def features_folder() -> Path:
    """The folder of all cached features. Raises UserError where the user has no cache."""
    try:
        return cache.folder() / "features"
    except RuntimeError as error:  # no home folder
        raise UserError(f"encoder.cache: {error}. Set SEGPIPE_CACHE=FOLDER in the environment.") from error


def limit_bytes() -> int:
    """The largest size of all cached features in bytes. Raises UserError where it is no positive number."""
    given = os.environ.get(LIMIT) or DEFAULT_LIMIT
    with suppress(ValueError, OverflowError):
        if (limit := int(float(given) * 2**30)) > 0:
            return limit
    raise UserError(f"{LIMIT}={given}: allowed is a number above 0, in GiB.")


def sizes_by_folder(folder: Path) -> dict[Path, int]:
    """The bytes of the features in each folder of ``folder``, the longest unused first."""
    entries = os.scandir(folder) if folder.is_dir() else ()
    folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    folders.sort(key=lambda path: path.stat().st_mtime)
    return {path: sum(file.stat().st_size for file in features_in(path)) for path in folders}


def features_in(folder: Path) -> list[os.DirEntry[str]]:
    """The files of features in a folder, incomplete ones of processes that were killed included."""
    return [entry for entry in os.scandir(folder) if SUFFIX in entry.name and entry.is_file(follow_symlinks=False)]


def make_room(keep: Path, *, need: int, limit: int) -> None:
    """Remove the features of other encoders, the longest unused first, until ``need`` bytes fit below the limit."""
    sizes = sizes_by_folder(keep.parent)
    sizes.pop(keep, None)
    total = sum(sizes.values())
    for folder, size in sizes.items():
        if total + need <= limit:
            return
        for entry in features_in(folder):
            Path(entry.path).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        total -= size


def rounded(one: Tensor, dtype: torch.dtype, stride: int) -> Tensor:
    """A map with the precision of a type, in its own type. Raises UserError for numbers beyond the type's range."""
    result = one.to(dtype).to(one.dtype)
    if bool(result.isinf().any()) and not bool(one.isinf().any()):
        name = str(dtype).removeprefix("torch.")
        raise UserError(
            f"encoder.cache={name}: the features of stride {stride} reach {one.abs().max().item():.3g}, and {name} "
            f"ends at {torch.finfo(dtype).max:.0f}. Set encoder.cache=true or bfloat16."
        )
    return result


def digests(image: Tensor) -> list[str]:
    """A name for each image of a batch (N, C, H, W): by its values, their type, and the shape of the batch."""
    about = f"{tuple(image.shape)} {image.dtype}".encode()
    rows = image.detach().permute(0, 2, 3, 1).cpu()  # the memory layout of the loader's batches
    return [hashlib.blake2b(about + content(one), digest_size=16).hexdigest() for one in rows]


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A hash of the names, types, shapes and values of tensors."""
    total = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(content(tensor.detach().cpu()))
    return total.hexdigest()


def content(tensor: Tensor) -> bytes:
    """The values of a tensor as bytes."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def path_of(folder: Path, name: str, stride: int) -> Path:
    """The file of the map of one image, which ``digests`` names, at one stride."""
    return folder / f"{name}-{stride}{SUFFIX}"


def pack(maps: Maps, stride: int, position: int, dtype: torch.dtype | None) -> bytes:
    """A map of one image of a batch as the content of a file: its length, a description in JSON, the values."""
    batch = maps[stride]
    one = batch[position].detach()
    stored = one if dtype is None else one.to(dtype)
    interleaved = batch.is_contiguous(memory_format=torch.channels_last) and not batch.is_contiguous()
    values = content((stored.permute(1, 2, 0) if interleaved else stored).cpu())
    about = {
        "shape": list(one.shape),
        "types": [str(kind).removeprefix("torch.") for kind in (one.dtype, stored.dtype)],
        "interleaved": interleaved,
        "maps": {stride: list(maps[stride].shape[1:]) for stride in maps},
        "crc": zlib.crc32(values),
    }
    head = json.dumps(about).encode()
    head += b" " * (-(4 + len(head)) % 64)  # the values begin at a multiple of 64 bytes
    return len(head).to_bytes(4, "big") + head + values


def read_maps(files: Mapping[int, Sequence[Path]]) -> Maps | None:
    """The maps of a batch from ``files``, of each image at each stride that is kept; None if one is missing or damaged.

    The maps of all other strides have their shapes, and no values: NaN.
    """
    unread = torch.full((), torch.nan)
    maps: Maps = {}
    for stride, paths in files.items():
        if (batch := read_batch(paths)) is None:
            return None
        shapes = {other: unread.expand(shape) for other, shape in batch.shapes.items()}
        maps = shapes | maps | {stride: batch.values}
    return maps


class Batch(NamedTuple):
    """The map of one stride for a batch (N, C, H/stride, W/stride), and the shapes of the maps of all strides."""

    values: Tensor
    shapes: dict[int, list[int]]


def read_batch(paths: Sequence[Path]) -> Batch | None:
    """The map of one stride for the images of a batch, as ``extract`` gave it; None if a file is missing or damaged."""
    with suppress(OSError, UserError, ValueError, KeyError, TypeError, RuntimeError, RecursionError):
        number, raw, first = len(paths), torch.empty(0, dtype=torch.uint8), {}
        for position, path in enumerate(paths):
            with open_regular(path) as file:
                head = json.loads(file.read(int.from_bytes(file.read(4), "big")))
                size = os.fstat(file.fileno()).st_size - file.tell()
                if position == 0:
                    first, raw = head, torch.empty(number, size, dtype=torch.uint8)
                elif size != raw.shape[1] or any(head[key] != first[key] for key in first if key != "crc"):
                    return None
                row = memoryview(raw[position].numpy().data)
                if file.readinto(row) != size or zlib.crc32(row) != head["crc"]:  # type: ignore[attr-defined]
                    return None
        kind, stored = (DTYPES[name] for name in first["types"])
        channels, height, width = first["shape"]
        shape = (number, height, width, channels) if first["interleaved"] else (number, channels, height, width)
        values = raw.view(-1).view(stored).to(kind).view(shape)
        shapes = {int(stride): [number, *shape] for stride, shape in first["maps"].items()}
        return Batch(values.permute(0, 3, 1, 2) if first["interleaved"] else values, shapes)
    return None


def version_of(library: str) -> str:
    """The version of an installed library; an empty text if it is not installed."""
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return ""
