"""Errors that the user can fix, in one line."""

import errno
import os
import shlex
import sys
from pathlib import Path

import cv2
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segpipe.config.messages import REASONS, TAKES_NO_FILES, explain, user_errors
from segpipe.config.schema import CONF
from segpipe.errors import UserError, one_line, printable
from segpipe.runs.storage import atomic_write


def write_there(path):
    atomic_write(Path(path), lambda temporary: None)


@pytest.mark.parametrize("number", sorted(REASONS))
def test_an_error_of_the_file_system_names_the_file_and_what_to_do(number):
    said = explain(OSError(number, os.strerror(number), "some/file"))
    assert said.startswith("some/file: ")
    assert said.endswith(".")


def test_a_real_one(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as ended, user_errors():
        (tmp_path / "file" / "x").write_text("")
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="it has no /proc")
@pytest.mark.parametrize("make", [os.makedirs, lambda path: Path(path).mkdir(parents=True), write_there])
def test_a_place_that_takes_no_files_is_said_to_be_one(make):
    with pytest.raises(FileNotFoundError) as caught:
        make("/proc/segpipe")
    assert explain(caught.value) == f"/proc/segpipe: {TAKES_NO_FILES}"


def test_a_file_that_is_not_there_is_not_a_place_that_takes_none(tmp_path):
    for path in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(FileNotFoundError) as caught:
            path.read_bytes()
        assert "there is no such file or folder" in explain(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "a" / "b").mkdir()
    assert "there is no such file or folder" in explain(caught.value)


def test_a_long_path_is_shortened():
    assert len(explain(OSError(errno.ENAMETOOLONG, "File name too long", 5000 * "x"))) < 400


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ETIMEDOUT, "Connection timed out", "some/file"), "some/file: Connection timed out. Check this"),
        (OSError(errno.EINVAL, "Invalid argument", b"a\xff"), "Check this place"),
        (OSError(errno.EFBIG, "File too large", "x"), "Free some space"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "ulimit -u"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Out of memory"),
        (OSError(errno.ENOSYS, "Function not implemented"), "data.workers=0"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "the folder of this command"),
        (OSError("AF_UNIX path too long"), "data.workers=0"),
        (
            PermissionError(
                "Caught PermissionError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
                "PermissionError: [Errno 13] Permission denied: 'masks/a.png'\n"
            ),
            "masks/a.png: no permission",
        ),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), "memory of the machine"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "memory of the machine"),
        (RuntimeError("unable to open shared memory object </torch_7> in read-write mode"), "data.workers=0"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("CUDA error: out of memory"), "Out of memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "Out of memory"),
        (MemoryError(), "Out of memory (MemoryError)"),
        (
            MemoryError("Caught MemoryError in DataLoader worker process 0.\nOriginal Traceback\nMemoryError: 7 GiB"),
            "Out of memory (MemoryError: 7 GiB)",
        ),
        (cv2.error("OpenCV(5.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate"), "Out of memory"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "trainer=cpu"),
        (RuntimeError("The NVIDIA driver on your system is too old (found version 1)."), "trainer=cpu"),
        (AssertionError("Torch not compiled with CUDA enabled"), "trainer=cpu"),
        (RuntimeError("Failed to find C compiler. Please specify via CC environment variable."), "task.compile=false"),
        (ValueError("Error initializing torch.distributed using env:// rendezvous: no MASTER_ADDR"), "MASTER_ADDR"),
        (torch.distributed.DistNetworkError("The server socket has failed to listen on any port"), "MASTER_PORT"),
    ],
)
def test_errors_of_the_system_and_of_libraries_are_one_line_with_advice(error, says):
    text = explain(error)
    assert says in text
    assert "\n" not in text


def raised_in(name):
    """A memory error that a function of this name raises."""
    scope = {}
    exec(f"def {name}(): raise MemoryError('7 GiB')", scope)
    with pytest.raises(MemoryError) as caught:
        scope[name]()
    return caught.value


@pytest.mark.parametrize(
    ("function", "advised", "not_advised"),
    [
        ("training_step", "data.batch_size", "eval_batch_size"),
        ("backward", "task.accumulate", "eval_batch_size"),
        ("validation_step", "data.eval_batch_size", "accumulate"),
        ("test_step", "data.eval_batch_size", "data.crop"),
        ("evaluate", "after --data", "accumulate"),
        ("logits", "tiles", "batch_size"),
    ],
)
def test_the_advice_for_memory_fits_the_place(function, advised, not_advised):
    text = explain(raised_in(function))
    assert advised in text
    assert not_advised not in text


def refusal(*overrides):
    """The message for overrides that cannot be composed."""
    with initialize_config_dir(str(CONF), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("train", list(overrides))
    return explain(caught.value)


@pytest.mark.parametrize(
    ("override", "quoted"),
    [
        ("data.root=photos (1)", "photos (1)"),
        ("data.root=a=b", "a=b"),
        ("data.root=a,b", "a,b"),
        ("data.root=a#b", "a#b"),
        ("data.root=a&b", "a&b"),
        ("data.root=it's", "it's"),
        ("data.root=\u0444\u043e\u0442\u043e", "\u0444\u043e\u0442\u043e"),
        ("resume=runs/epoch=3", "runs/epoch=3"),
    ],
)
def test_a_text_that_hydra_cannot_read_is_shown_as_it_has_to_be_typed(override, quoted):
    text = refusal("data=folder", override)
    assert text.startswith(override)
    typed = shlex.split(text[text.index(f"{override.partition('=')[0]}=", 5) - 1 :].lstrip())[0].rstrip(".")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["data=folder", typed])
    assert OmegaConf.select(cfg, override.partition("=")[0]) == quoted


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("data.root=~/x", "$HOME"),
        ("data.crop=[32,32", "Write 'data.crop=[32,32]'"),
        ("data.root='x", "' is not closed"),
        ("decoder", "Write KEY=VALUE"),
        ("encoder.widths=(8,8)", "Write 'encoder.widths=[8,8]'"),
        ("encoder.widths=8,8", "For a list, write encoder.widths=[8,8]"),
        ("seed=range(3", "Write 'seed=range(3)'"),
        ("decoder:deconv", "Write decoder=deconv"),
        ("decoder==deconv", "Write decoder=deconv"),
        ("optimizer.lr=1e-3, seed=2", "Write a word for each: optimizer.lr=1e-3 seed=2"),
        ("seed=range(0,3)", "add -m"),
        ("decoder=deconv,unpool", "add -m"),
        ("hydra/launcher=jblib", "hydra/launcher=jblib: allowed is one of basic"),
        ("decoder=deconvv", "Did you mean 'deconv'?"),
        ("encoderr=small", "encoderr: there is no such key. Did you mean 'encoder'?"),
        ("encoder.width=[8]", "Did you mean 'encoder.widths'?"),
        ("data.side=64", "Did you mean 'data.dataset.side'?"),
        ("trainer.max_epoch=3", "Did you mean 'trainer.max_epochs'?"),
    ],
)
def test_what_hydra_rejects_is_one_line_with_advice(override, says):
    text = refusal(override)
    assert says in text
    assert "\n" not in text


def test_a_reference_to_a_key_that_does_not_exist_is_one_line():
    with pytest.raises(OmegaConfBaseException) as found:
        OmegaConf.select(OmegaConf.create({"seed": "${nowhere}"}), "seed")
    text = explain(found.value)
    assert "is another key of the configuration" in text
    assert "\n" not in text


def test_an_error_inside_hydra_is_one_line():
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises(ValueError, match="group override") as found,
    ):
        compose("train", ["=3"])
    assert explain(found.value).startswith("A config group needs the name of one of its choices")


def test_a_key_of_another_choice_is_not_suggested():
    text = refusal("data=camvid", "data.dataset.side=64")
    assert text.startswith("data.dataset.side: there is no such key with data=camvid.")
    assert "Did you mean 'data.dataset.side'" not in text


def test_an_error_in_the_program_is_not_explained():
    assert explain(OSError(errno.EBADF, "bad file descriptor")) is None
    assert explain(KeyError("x")) is None


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\rb", "\u202egnp.exe", "\x9b0m", "bytes \udcff", "bell \x07", "\0"])
def test_what_a_terminal_would_obey_is_written_out(text, capsys):
    shown = printable(text)
    assert "\\" in shown
    assert shown.isprintable()
    with pytest.raises(SystemExit), user_errors():
        raise UserError(text)
    assert capsys.readouterr().err == f"segpipe: {shown}\n"


@pytest.mark.parametrize("text", ["straße", "नमस्ते", "a\nb\tc", "👩\u200d🚀"])
def test_other_texts_stay_as_they_are(text):
    assert printable(text) == text


def test_a_name_with_a_newline_is_written_on_one_line():
    assert one_line("a\nb\x1b") == r"a\nb\x1b"
