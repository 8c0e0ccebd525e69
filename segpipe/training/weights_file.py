"""A file of weights that another program may have written, by torch or safetensors: what it is, and its tensors."""

import argparse
import datetime
import pathlib
import re
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segpipe.errors import UserError, printable
from segpipe.runs.checkpoints import problem_of
from segpipe.runs.storage import open_regular

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")  # of files of weights
TEACHER = "teacher"  # of self-distillation (DINO): its weights are those that the authors publish, not the student's
WRAPPERS = ("state_dict", "model", "model_state_dict", "net", TEACHER)  # keys of weights in files of other programs
NO_WEIGHTS = (torch.bool, torch.uint8, torch.int8, torch.int16)  # of buffers that other programs keep, such as masks
LONGEST_HEADER = 2**40  # bytes, of safetensors; eight letters of a text are a larger number
DEEPEST = 4  # dicts within one another in which weights are looked for
PLAIN_DATA: list[Any] = [  # types that many programs store beside the weights; none of them runs code
    argparse.Namespace, types.SimpleNamespace, pathlib.PosixPath, pathlib.PurePosixPath, datetime.datetime,
    datetime.date, datetime.timedelta, np.dtype,
    *(type(np.dtype(kind)) for kind in ("f8", "f4", "f2", "i8", "i4", "?")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]  # fmt: skip
AGAIN = "Remove it and download it again; compare its size with that of the source"
UNPACK = "Unpack it, and give the file of the weights that is in it"
OTHER_FORMAT = "Give a file written by torch.save(model.state_dict(), FILE)"
SIGNATURES = {  # the beginnings of files that are not weights: what they are, and what to do
    b"<": "a page of the web, not weights. Download the file itself: the address may need a login, or 'raw' in it",
    b"version https://git-lfs": "a pointer of Git LFS, not weights. Fetch the file: git lfs pull",
    b"\x1f\x8b": "compressed by gzip. Unpack it: gunzip FILE",
    b"BZh": f"compressed by bzip2. {UNPACK}",
    b"\xfd7zXZ": f"compressed by xz. {UNPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed by zstd. {UNPACK}",
    b"7z\xbc\xaf": f"compressed by 7-Zip. {UNPACK}",
    b"Rar!": f"compressed by RAR. {UNPACK}",
    b"{": "a JSON file, not weights. Give the file of the weights",
    b"[": "a JSON file, not weights. Give the file of the weights",
    b"\x89HDF": f"a file of HDF5 (Keras, MATLAB), not of torch. {OTHER_FORMAT}",
    b"\x93NUMPY": f"an array of numpy, not a state dict. {OTHER_FORMAT}",
    b"GGUF": f"a file of GGUF, not of torch. {OTHER_FORMAT}",
    b"\x89PNG": f"an image, not weights. {OTHER_FORMAT}",
    b"\xff\xd8\xff": f"an image, not weights. {OTHER_FORMAT}",
    b"%PDF": f"a PDF, not weights. {OTHER_FORMAT}",
    b"\x7fELF": f"a program, not weights. {OTHER_FORMAT}",
}


def read_state_dict(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a file with a state dict, or of a checkpoint that contains one. Their types are kept.

    Raises UserError if the file cannot be read; the message begins with ``option``, which named the file.
    """
    if problem := problem_of_file(path):
        raise UserError(f"{option}: {problem}.")
    try:
        by_name = path.suffix == ".safetensors"
        source = load_safetensors(path) if by_name or is_safetensors(first_bytes(path)) else load_pickled(path)
    except ImportError as error:
        raise UserError(f"{option}: a file of safetensors needs this library: pip install safetensors") from error
    except Exception as error:  # torch.load raises many kinds of errors
        raise UserError(f"{option}: {reason_of(error)}.") from error
    found, same = find_tensors(source)
    if len(same) > 1:
        print(printable(f"{option}: several networks are in the file ({', '.join(same)}). {same[0]} is read."))
    state_dict = {name: tensor for name, tensor in found.items() if tensor.dtype not in NO_WEIGHTS} or found
    if problem := next(filter(None, (problem_of(name, tensor) for name, tensor in state_dict.items())), None):
        raise UserError(f"{option}: {problem}. Give a file with finite numbers of 16, 32 or 64 bits.")
    if not state_dict:
        raise UserError(f"{option}: contains no tensors. Give a state dict, from names to tensors.")
    return state_dict


def load_pickled(path: Path) -> Any:
    """What ``torch.save`` wrote; classes that could run code are not loaded."""
    with torch.serialization.safe_globals(PLAIN_DATA), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old formats, which are read as well
        return torch.load(path, map_location="cpu", weights_only=True)


def load_safetensors(path: Path) -> Any:
    """The tensors of a file of safetensors. Raises ImportError without the library."""
    from safetensors.torch import load_file  # a library of the extras timm and export

    return load_file(path)


def first_bytes(path: Path) -> bytes:
    """The beginning of a file, which tells its format. Raises UserError where it is no regular file."""
    with open_regular(path) as file:
        return file.read(4096)


def is_safetensors(beginning: bytes) -> bool:
    """Whether a file that begins so is one of safetensors: the length of a JSON object, and the object."""
    return beginning[8:10] == b'{"' and int.from_bytes(beginning[:8], "little") < LONGEST_HEADER


def problem_of_file(path: Path) -> str | None:
    """What is wrong with a file of weights, by its beginning and its end, and what to do; None if nothing is."""
    if path.is_dir():
        inside = [one.name for one in sorted(path.iterdir()) if one.suffix in SUFFIXES]
        such = f" in it, such as {inside[0]}" if inside else " of weights"
        return f"a folder. Give a file{such}; for a run, give its folder as warm_start"
    if re.match(r"\w+:/", str(path)):
        return "an address, not a file. Download it, and give the path of the file"
    if not path.exists():
        return "a link to a file that does not exist" if path.is_symlink() else "there is no such file"
    beginning = first_bytes(path)
    if is_safetensors(beginning):
        return None
    beginning = beginning.lstrip().removeprefix(b"\xef\xbb\xbf")
    if not beginning:
        return f"the file is empty. {AGAIN}"
    if not beginning.strip(b"\0"):
        return f"the file begins with zeros: its download has not finished. {AGAIN}"
    for signature, words in SIGNATURES.items():
        if beginning.startswith(signature):
            return words
    if beginning.startswith(b"PK"):
        return problem_of_zip(path)
    text = beginning[:80]
    if len(beginning) < 4096 and all(32 <= letter < 127 or letter in b"\t\r\n" for letter in text):
        return f"a text, not weights. It begins with {text[:40].decode().strip()!r}. {AGAIN}"
    return None


def problem_of_zip(path: Path) -> str | None:
    """What is wrong with a zip file, the format of ``torch.save``; None if nothing is. Torch reads no checksums."""
    if not zipfile.is_zipfile(path):
        return f"the file is cut after {path.stat().st_size:,} bytes. {AGAIN}"
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if all(name.endswith(".npy") for name in names):
                return f"arrays of numpy, not a state dict. {OTHER_FORMAT}"
            if not any(name.endswith("data.pkl") for name in names):
                return f"a zip file of other files ({names[0] if names else 'none'}). {UNPACK}"
            if any("/code/" in name for name in names):
                return (
                    "a program of TorchScript. Save its weights: torch.save(torch.jit.load(FILE).state_dict(), 'w.pth')"
                )
            stored = sum(entry.file_size for entry in entries) <= path.stat().st_size
            damaged = archive.testzip() if stored else None
    except Exception as error:  # a damaged header may raise any error in zipfile
        return f"the file is damaged ({error}). {AGAIN}"
    return f"the file is damaged: the checksum of {damaged} is wrong. {AGAIN}" if damaged else None


def reason_of(error: Exception) -> str:
    """Why ``torch.load`` cannot read a file, and what to do."""
    text = str(error)
    first = text.partition("\n")[0].partition(". In PyTorch")[0].rstrip(".")
    if type(error).__name__ == "SafetensorError":
        return f"the file is cut or damaged ({first}). {AGAIN}"
    if isinstance(error, EOFError) or "truncated" in text or "unexpected EOF" in text or "PytorchStream" in text:
        return f"the file is cut or damaged ({first}). {AGAIN}"
    if found := re.search(r"(?i)unsupported (?:global:?|class)(?:\s+GLOBAL)? ([\w.]+)", text):
        return (
            f"the file has objects of classes ({found[1]}), which are not loaded: they could run code. Where "
            "these classes are installed, save the weights alone: torch.save(model.state_dict(), FILE)"
        )
    if "weights_only" in text:
        first = "torch does not know its format"  # its text advises to load it without any protection
    return (
        f"not a state dict that can be read ({first}). Give a file written by torch.save(model.state_dict(), FILE), or "
        f"a run's folder for warm_start"
    )


def find_tensors(source: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of that dict within ``source`` which has most of them; one below a key of WRAPPERS comes first.

    Also the key of this dict, and those of all others with as many tensors.
    """
    found = [(key, part) for key, part in dicts_within(source) if any(isinstance(one, Tensor) for one in part.values())]
    found.sort(key=lambda item: WRAPPERS.index(item[0]) if item[0] in WRAPPERS else len(WRAPPERS))  # stable
    chosen = next((item for item in found if item[0] in WRAPPERS), None)
    if chosen is None:
        chosen = max(found, key=lambda item: count_tensors(item[1]), default=(None, {}))
    key, number = chosen[0] or "its top level", count_tensors(chosen[1])
    others = [str(other) for other, part in found if part is not chosen[1] and count_tensors(part) == number]
    return {str(name): one for name, one in chosen[1].items() if isinstance(one, Tensor)}, [str(key), *others]


def dicts_within(source: Any, key: object = None, depth: int = 0) -> Iterator[tuple[object, dict[Any, Any]]]:
    """Yield each dict within nested dicts, the outer ones first, and its key."""
    if isinstance(source, dict) and depth <= DEEPEST:
        yield key, source
        for name, part in source.items():
            yield from dicts_within(part, name, depth + 1)


def count_tensors(part: dict[Any, Any]) -> int:
    """The number of tensors that are values of a dict."""
    return sum(isinstance(value, Tensor) for value in part.values())
