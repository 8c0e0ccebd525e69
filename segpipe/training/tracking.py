"""W&B: always there, never in the way. What it shows is in the run's folder as well."""

import os
import re
import shlex
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import numpy as np
import wandb
import wandb.apis.public  # wandb.init does it whatever happens, and ten times as fast while torch is not loaded
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from segpipe.errors import UserError

Mode = Literal["online", "offline", "disabled"]


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger whose failures cost numbers, not the training."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See WandbLogger."""
        with tolerate_wandb_errors("some metrics"):
            super().log_metrics(metrics, step)


def wandb_logger(
    *,
    folder: Path,
    config: dict[str, Any],
    name: str,
    group: str | None,
    tags: list[str],
    run_id: str,
    project: str = "segpipe",
    entity: str | None = None,
    mode: Literal["auto"] | Mode = "auto",
    timeout: float = 5.0,
) -> WandbLogger | None:
    """A logger with a run that was started without a question asked; None where W&B cannot even write to disk.

    folder: of the run; W&B writes below it. config: nested and resolved. group: the sweep's name.
    run_id: what W&B's id of the run begins with.
    mode: ``auto`` goes online if a key is found and the server answers within ``timeout`` seconds, else offline;
    ``online`` refuses where ``auto`` would go offline. Starting takes at most five times, ending a run whose server
    has gone twelve times ``timeout``.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return TolerantWandbLogger(save_dir=folder)  # one run a training: on other ranks Lightning never starts it
    folder.mkdir(parents=True, exist_ok=True)
    for name_of in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # tables on their way; by default in HOME, which may be full
        os.environ[name_of] = str(folder.absolute() / "wandb")
    chosen, reason = choose_mode(mode, timeout)
    if mode == "online" and chosen != "online":
        raise UserError(
            f"logger.mode=online, but {reason}. Mend that, or take logger.mode=offline and upload later "
            f"with `wandb sync`."
        )
    start = partial(
        wandb.init,
        project=project,
        entity=entity,
        dir=folder,
        name=name,
        group=group,
        tags=list(dict.fromkeys(tag[:64] for tag in tags)),  # W&B takes no longer ones
        config=config,
        resume="allow",
        reinit="create_new",  # what else may run in this process is not ours to log to
        settings=wandb.Settings(
            console="off",
            silent=True,
            save_code=False,
            x_disable_stats=True,
            init_timeout=4 * timeout,
            finish_timeout=12 * timeout,
            finish_timeout_raises=True,
        ),
    )
    run = None
    try:
        run = start(mode=chosen, id=(online_id(folder) if chosen == "online" else None) or new_run_id(run_id))
    except Exception as error:  # of whatever kind: it is not to stop a training
        if mode == "online":
            raise UserError(f"logger.mode=online, but W&B refused: {error}. Take logger.mode=offline.") from error
        chosen, reason = "offline", f"W&B refused ({first_line(error)})"
        with tolerate_wandb_errors("everything"):
            run = start(mode="offline", id=new_run_id(run_id))
    if run is None:
        return None
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    if chosen == "online":
        print(f"W&B: {run.url}")
    if chosen == "offline":
        print(f"W&B: offline, since {reason}. To upload later: {sync_command(run)}")
    return TolerantWandbLogger(experiment=run, save_dir=folder, log_model=False)


def no_logger(**unused: Any) -> None:
    """No W&B at all; the run's folder still says everything."""


def choose_mode(mode: Literal["auto"] | Mode, timeout: float) -> tuple[Mode, str]:
    """The mode to start in, and why: online only with a key and a server that answers."""
    if mode in ("offline", "disabled"):
        return mode, "it was asked for"
    given = {"mode": "online"} if mode == "online" else {}
    try:
        settings = wandb.setup(wandb.Settings(silent=True, **given)).settings  # with its files' and the environment's
        if settings.mode in ("offline", "dryrun", "disabled"):
            return "disabled" if settings.mode == "disabled" else "offline", "W&B's own settings say so"
        if not wandb.login(prompt=False, verify=False):
            return "offline", "no API key was found (`wandb login` stores one)"
    except Exception as error:  # a key that cannot be one, or W&B's service does not start
        return "offline", first_line(error).rstrip(".")
    problem = probe_server(settings.base_url, timeout)
    return ("offline", f"{settings.base_url} {problem}") if problem else ("online", "its server answers")


def probe_server(host: str, timeout: float) -> str:
    """What is wrong with a server; nothing if it answers HTTP within ``timeout`` seconds, through a proxy or not."""
    found = [f"did not answer in {timeout:g} s"]

    def request() -> None:
        try:
            urlopen(f"{host}/healthz", timeout=timeout).close()
            found[0] = ""
        except HTTPError as error:
            found[0] = f"answered {error.code}" if error.code >= 500 else ""
        except TimeoutError:
            pass
        except URLError as error:  # W&B has certificates of its own to judge by
            if not isinstance(error.reason, TimeoutError):
                found[0] = "" if isinstance(error.reason, ssl.SSLError) else f"cannot be reached ({error.reason})"
        except Exception as error:
            found[0] = f"cannot be reached ({first_line(error)})"

    thread = Thread(target=request, daemon=True)  # to look a name up knows no timeout
    thread.start()
    thread.join(timeout)
    return found[0]


def online_id(folder: Path) -> str | None:
    """The id of the run that went online from this folder before; a training that is gone on with goes on in it."""
    paths = sorted(folder.glob("wandb/run-*/run-*.wandb"))
    return paths[-1].stem.removeprefix("run-") if paths else None


def new_run_id(beginning: str) -> str:
    """An id that no other run has: two that shared one would overwrite each other on the server."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', beginning)[-50:]}-{token_hex(4)}"


def sync_command(run: Any) -> str:
    """The command that uploads what a run has written."""
    options = "" if run.settings.mode == "offline" else "--include-online "
    return f"wandb sync {options}{shlex.quote(str(Path(run.dir).parent))}"


@contextmanager
def tolerate_wandb_errors(what: str) -> Iterator[None]:
    """Inside, an error costs W&B ``what``, and not the run its training."""
    try:
        yield
    except Exception as error:
        say(f"W&B: it lost {what} ({first_line(error)}); the run's folder has it all.")


@cache
def say(text: str) -> None:
    """Print a line, once."""
    print(text)


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def log_overlays(
    logger: WandbLogger,
    *,
    key: str,
    images: list[NDArray[np.uint8]],
    truths: list[NDArray[np.uint8]],
    predictions: list[NDArray[np.uint8]],
    names: list[str],
    classes: list[str],
) -> None:
    """Log pictures with two masks each, true and predicted, that W&B lets one switch on and off."""
    labels = dict(enumerate(classes)) | {255: "ignored"}
    with tolerate_wandb_errors(key):
        overlays = [
            wandb.Image(
                image,
                caption=name,
                masks={
                    "truth": {"mask_data": truth, "class_labels": labels},
                    "prediction": {"mask_data": prediction, "class_labels": labels},
                },
            )
            for image, truth, prediction, name in zip(images, truths, predictions, names, strict=True)
        ]
        logger.experiment.log({key: overlays}, commit=False)  # with the epoch's next numbers


def log_confusion(logger: WandbLogger, *, key: str, matrix: NDArray[np.int64], classes: list[str]) -> None:
    """Log a (C, C) confusion matrix as W&B's own chart, drawn from a table of counts."""
    rows = [
        [true, predicted, int(matrix[i, j])] for i, true in enumerate(classes) for j, predicted in enumerate(classes)
    ]
    columns = ["Actual", "Predicted", "nPredictions"]
    with tolerate_wandb_errors(key):
        chart = wandb.plot_table(
            "wandb/confusion_matrix/v1",
            wandb.Table(columns=columns, data=rows),
            {column: column for column in columns},
            {"title": key},
        )
        logger.experiment.log({key: chart})  # asks the server first: 19 s where it has gone


def finish(logger: WandbLogger | None, *, failed: bool) -> None:
    """End the W&B run with its true status; a server that is gone does not hold up the end for long."""
    if logger is None:
        return
    run = logger.experiment
    try:
        run.finish(exit_code=int(failed))
    except Exception as error:
        print(f"W&B: not everything was uploaded ({first_line(error)}). To upload the rest: {sync_command(run)}")
