"""Logging to W&B. Its failures never stop a training, and the run's folder contains all that it shows."""

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
import wandb.apis.public  # wandb.init imports it anyway; the import is ten times faster before torch is loaded
from numpy.typing import NDArray
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from segpipe.data.examples import shown_size
from segpipe.data.resize import resize_image, resize_mask
from segpipe.errors import UserError

OVERLAY_SIDE = 512  # longest side of a logged image in pixels
Mode = Literal["online", "offline", "disabled"]
ABSOLUTE = re.compile(r"(?<![\w.~:/-])~?(?:/[^/\s,'\"\]]+)*/([^/\s,'\"\]]+)/?")  # group 1: its last component


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger whose failures lose metrics but do not stop the training.

    images: whether to send example images; None: only of drawn scenes.
    """

    def __init__(self, *, images: bool | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.images = images

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
    images: bool | None = None,
) -> WandbLogger | None:
    """A logger with a started W&B run, without prompts; None if W&B cannot write to disk.

    folder: of the run; W&B writes below it. config: nested and resolved. group: the name of the sweep.
    run_id: the beginning of W&B's id of the run.
    mode: ``auto`` is online if a key is found and the server answers within ``timeout`` seconds, else offline.
        ``online`` raises UserError where ``auto`` would be offline. Starting takes at most five times ``timeout``;
        finishing a run whose server no longer answers takes at most twelve times.
    images: see ``TolerantWandbLogger``. Paths in the configuration and in the tags are sent without their folders.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return TolerantWandbLogger(save_dir=folder)  # Lightning starts no W&B run on other ranks
    folder.mkdir(parents=True, exist_ok=True)
    for name_of in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):  # for tables; the default is in HOME, which may be full
        os.environ[name_of] = str(folder.absolute() / "wandb")
    chosen, reason = choose_mode(mode, timeout)
    if mode == "online" and chosen != "online":
        raise UserError(
            f"logger.mode=online, but {reason}. Fix this, or set logger.mode=offline and upload later "
            f"with `wandb sync`."
        )
    start = partial(
        wandb.init,
        project=project,
        entity=entity,
        dir=folder,
        name=name,
        group=group,
        tags=list(dict.fromkeys(without_folders(tag)[:64] for tag in tags)),  # the maximal length in W&B
        config=without_folders(config),
        resume="allow",
        reinit="create_new",  # do not log to other runs of this process
        settings=quiet_settings(timeout),
    )
    run = None
    try:
        run = start(mode=chosen, id=(online_id(folder) if chosen == "online" else None) or new_run_id(run_id))
    except Exception as error:  # no error of W&B may stop a training
        if mode == "online":
            raise UserError(f"logger.mode=online, but W&B failed: {error}. Set logger.mode=offline.") from error
        chosen, reason = "offline", f"W&B failed ({first_line(error)})"
        with tolerate_wandb_errors("everything"):
            run = start(mode="offline", id=new_run_id(run_id))
    if run is None:
        return None
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    if chosen == "online":
        print(f"W&B: {run.url}")
    if chosen == "offline":
        print(f"W&B: offline, because {reason}. To upload later: {sync_command(run)}")
    return TolerantWandbLogger(experiment=run, save_dir=folder, log_model=False, images=images)


def quiet_settings(timeout: float) -> wandb.Settings:
    """Settings of a run that prints nothing and sends no code, no statistics of the system, and no host name.

    timeout: in seconds.
    """
    return wandb.Settings(
        host="",
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        console="off",
        silent=True,
        save_code=False,
        x_disable_stats=True,
        init_timeout=4 * timeout,
        finish_timeout=12 * timeout,
        finish_timeout_raises=True,
    )


def without_folders(content: Any) -> Any:
    """Copy nested dicts and lists. An absolute path, also one inside a text, is replaced by its last component."""
    if isinstance(content, dict):
        return {key: without_folders(value) for key, value in content.items()}
    if isinstance(content, list):
        return [without_folders(value) for value in content]
    return ABSOLUTE.sub(lambda path: path[1], content) if isinstance(content, str) else content


def no_logger(**unused: Any) -> None:
    """No W&B logger; the run's folder still contains all results."""


def choose_mode(mode: Literal["auto"] | Mode, timeout: float) -> tuple[Mode, str]:
    """The mode to start in, and the reason: online only with a key and a server that answers."""
    if mode in ("offline", "disabled"):
        return mode, "logger.mode is set to it"
    given = {"mode": "online"} if mode == "online" else {}
    try:
        settings = wandb.setup(wandb.Settings(silent=True, **given)).settings  # with files and environment
        if settings.mode in ("offline", "dryrun", "disabled"):
            return "disabled" if settings.mode == "disabled" else "offline", "W&B's settings set this mode"
        if not wandb.login(prompt=False, verify=False):
            return "offline", "no API key was found (`wandb login` stores one)"
    except Exception as error:  # an invalid key, or W&B's service does not start
        return "offline", first_line(error).rstrip(".")
    problem = probe_server(settings.base_url, timeout)
    return ("offline", f"{settings.base_url} {problem}") if problem else ("online", "its server answers")


def probe_server(host: str, timeout: float) -> str:
    """The problem of a server, or an empty string if it answers HTTP within ``timeout`` seconds."""
    problem = [f"did not answer in {timeout:g} s"]

    def request() -> None:
        try:
            urlopen(f"{host}/healthz", timeout=timeout).close()
            problem[0] = ""
        except HTTPError as error:
            problem[0] = f"answered {error.code}" if error.code >= 500 else ""
        except TimeoutError:
            pass
        except URLError as error:  # W&B checks certificates by its own list
            if not isinstance(error.reason, TimeoutError):
                problem[0] = "" if isinstance(error.reason, ssl.SSLError) else f"cannot be reached ({error.reason})"
        except Exception as error:
            problem[0] = f"cannot be reached ({first_line(error)})"

    thread = Thread(target=request, daemon=True)  # name resolution has no timeout
    thread.start()
    thread.join(timeout)
    return problem[0]


def online_id(folder: Path) -> str | None:
    """The W&B id of an earlier online run of this folder, which a resumed training continues; None if there is none."""
    paths = sorted(folder.glob("wandb/run-*/run-*.wandb"))
    return paths[-1].stem.removeprefix("run-") if paths else None


def new_run_id(beginning: str) -> str:
    """A unique id: two runs with one id would overwrite each other on the server."""
    return f"{re.sub('[^A-Za-z0-9._-]', '-', beginning)[-50:]}-{token_hex(4)}"


def sync_command(run: Any) -> str:
    """The command that uploads the files of a run."""
    options = "" if run.settings.mode == "offline" else "--include-online "
    return f"wandb sync {options}{shlex.quote(str(Path(run.dir).parent))}"


@contextmanager
def tolerate_wandb_errors(what: str) -> Iterator[None]:
    """A context in which an error loses ``what`` in W&B and does not stop the training."""
    try:
        yield
    except Exception as error:
        say(f"W&B: lost {what} ({first_line(error)}); the run's folder has all of it.")


@cache
def say(text: str) -> None:
    """Print a line, once per process."""
    print(text)


def first_line(error: Exception) -> str:
    """The first line of an error message."""
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
    """Log images (H, W, 3) with true and predicted masks (H, W), which the W&B page can show or hide.

    Larger ones are reduced to OVERLAY_SIDE pixels: an offline run keeps every image of every epoch.
    """
    labels = dict(enumerate(classes)) | {255: "ignored"}
    with tolerate_wandb_errors(key):
        overlays = []
        for image, truth, prediction, name in zip(images, truths, predictions, names, strict=True):
            size = shown_size(image.shape, OVERLAY_SIDE)
            masks = {
                which: {"mask_data": resize_mask(mask, size), "class_labels": labels}
                for which, mask in (("truth", truth), ("prediction", prediction))
            }
            overlays.append(wandb.Image(resize_image(image, size), caption=name, masks=masks))
        logger.experiment.log({key: overlays}, commit=False)  # together with the epoch's next metrics


def log_image(logger: WandbLogger, *, key: str, image: NDArray[np.uint8]) -> None:
    """Log an image (H, W, 3), together with the epoch's next metrics."""
    with tolerate_wandb_errors(key):
        logger.experiment.log({key: wandb.Image(image)}, commit=False)


def log_confusion(logger: WandbLogger, *, key: str, matrix: NDArray[np.int64], classes: list[str]) -> None:
    """Log a confusion matrix (C, C), rows true, columns predicted, as W&B's chart."""
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
        logger.experiment.log({key: chart})  # it queries the server: 19 s if there is no answer


def finish(logger: WandbLogger | None, *, failed: bool) -> None:
    """Finish the W&B run with its exit status. The waiting time for the server is limited."""
    if logger is None:
        return
    run = logger.experiment
    try:
        run.finish(exit_code=int(failed))
    except Exception as error:
        print(f"W&B: not everything was uploaded ({first_line(error)}). To upload the rest: {sync_command(run)}")
