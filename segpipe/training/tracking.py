"""Logging to W&B. Its failures never stop a training, and the run's folder contains all that it shows."""

import glob
import os
import re
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from secrets import token_hex
from threading import Thread
from typing import Any, Literal, NamedTuple, cast
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
from segpipe.runs.run import shell_line

OVERLAY_SIDE = 512  # longest side of a logged image in pixels
Mode = Literal["online", "offline", "disabled"]
LONGEST_ID = 64  # characters, in W&B
ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
ABSOLUTE = re.compile(r"(?<![\w.~:/-])~?(?:/[^/\s,'\"\]]+)*/([^/\s,'\"\]]+)/?")  # group 1: its last component


class TolerantWandbLogger(WandbLogger):
    """A WandbLogger whose failures lose metrics but do not stop the training.

    images: whether to send example images; None: only of drawn scenes. send_model: see ``log_model``.
    """

    def __init__(self, *, images: bool | None = None, send_model: bool = False, **options: Any) -> None:
        super().__init__(log_model=False, **options)  # Lightning would upload paths and the optimizer's state too
        self.images, self.send_model = images, send_model

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """See WandbLogger."""
        with tolerate_wandb_errors("some metrics"):
            super().log_metrics(metrics, step)


def wandb_logger(
    *,
    folder: Path,
    config: dict[str, Any],
    name: str,
    run_id: str,
    group: str | None = None,
    tags: list[str] | None = None,
    notes: str | None = None,
    project: str | None = None,
    entity: str | None = None,
    mode: Literal["auto"] | Mode = "auto",
    timeout: float = 5.0,
    images: bool | None = None,
    log_model: bool = False,
    stats: bool = False,
) -> WandbLogger | None:
    """A logger with a started W&B run, without prompts; None if W&B cannot write to disk.

    folder: of the run; W&B writes below it. config: nested and resolved. name, run_id, group, tags: see
    ``identify``. notes: a text on the run. project: null is WANDB_PROJECT, else segpipe. W&B itself reads WANDB_ENTITY,
    WANDB_NOTES and WANDB_JOB_TYPE. A resumed run keeps the id of the W&B run in its folder, also offline.
    mode: ``auto`` is online if a key is found and the server answers within ``timeout`` seconds, else offline.
        ``online`` raises UserError where ``auto`` would be offline. Starting takes at most five times ``timeout``;
        finishing a run whose server no longer answers takes at most twelve times.
    images: see ``TolerantWandbLogger``. log_model: upload the best weights as an artifact. stats: send the use of the
        processor, memory and GPU. Paths in the configuration and in the tags are sent without their folders.
    """
    if rank_zero_only.rank > 0:  # type: ignore[attr-defined]
        return TolerantWandbLogger(save_dir=folder)  # Lightning starts no W&B run on other ranks
    keep_files_in(folder)
    chosen, reason = choose_mode(mode, timeout)
    if mode == "online" and chosen != "online":
        raise UserError(
            f"logger.mode=online, but {reason}. Fix this, or set logger.mode=offline and upload later "
            f"with `wandb sync`."
        )
    wanted = earlier_id(folder) or (run_id if os.environ.get("WANDB_RUN_ID") else new_run_id(run_id))
    start = partial(
        wandb.init,
        project=project or os.environ.get("WANDB_PROJECT") or "segpipe",
        entity=entity,
        dir=folder,
        name=name,
        group=group,
        tags=list(dict.fromkeys(without_folders(tag)[:64] for tag in tags or ())),  # the maximal length in W&B
        notes=notes,
        config=without_folders(config),
        resume=cast(Any, os.environ.get("WANDB_RESUME") or "allow"),
        reinit="create_new",  # do not log to other runs of this process
        settings=quiet_settings(timeout, stats=stats),
    )
    run = None
    try:
        run = start(mode=chosen, id=wanted)
    except Exception as error:  # no error of W&B may stop a training
        if mode == "online":
            raise UserError(f"logger.mode=online, but W&B failed: {error}. Set logger.mode=offline.") from error
        chosen, reason = "offline", f"W&B failed ({first_line(error)})"
        with tolerate_wandb_errors("everything"):
            run = start(mode="offline", id=new_run_id(run_id), resume="allow")  # wandb keeps the error of an id
    if run is None:
        return None
    begin(run, chosen, reason)
    return TolerantWandbLogger(experiment=run, save_dir=folder, images=images, send_model=log_model)


def keep_files_in(folder: Path) -> None:
    """Let W&B write its tables below a run's folder. The default is in HOME, which may be full."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        os.environ[name] = str(folder.absolute() / "wandb")


def begin(run: Any, mode: Mode, reason: str) -> None:
    """Draw all charts of a run over the epoch, and print where it is. reason: for the mode."""
    run.define_metric("epoch")
    run.define_metric("*", step_metric="epoch")
    if mode == "online":
        print(f"W&B: {run.url}")
    if mode == "offline":
        print(f"W&B: offline, because {reason}. To upload later: {sync_command(run)}")


class Identification(NamedTuple):
    """How a run is called on W&B. run_id: W&B's id if WANDB_RUN_ID is set, else the beginning of one."""

    name: str
    run_id: str
    group: str | None
    tags: list[str]


def identify(
    name: str, overrides: Iterable[str], *, group: str | None, tags: Iterable[str], sweep: str | None, single: bool
) -> Identification:
    """Return how a run is called on W&B, by its options, then W&B's environment variables, then its name and sweep.

    name: of the run. overrides: of its command line, which are tags. group, tags: the options. sweep: the name of its
    sweep. single: whether the command trains one run; else WANDB_NAME and WANDB_RUN_ID are the beginnings of the names
    and ids of several.
    """
    names = {key: os.environ.get(f"WANDB_{key}", "").strip() for key in ("NAME", "RUN_ID", "RUN_GROUP", "TAGS")}
    given = [tag.strip() for tag in names["TAGS"].split(",") if tag.strip()]
    shown = name if not names["NAME"] else names["NAME"] if single else f"{names['NAME']}-{name}"
    run_id = names["RUN_ID"]
    if run_id and not single:
        run_id = fit_id(f"{run_id}-{name}")
    return Identification(shown, run_id or name, group or names["RUN_GROUP"] or sweep, [*tags, *given, *overrides])


def quiet_settings(timeout: float, *, stats: bool = False) -> wandb.Settings:
    """Settings of a run that prints nothing and sends no code and no host name.

    timeout: in seconds. stats: send statistics of the system.
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
        x_disable_stats=not stats,
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


def earlier_id(folder: Path) -> str | None:
    """The W&B id of an earlier start of this folder's run, which a resumed training continues; None if there is none.

    The files of an offline run and of its continuation have one id, so ``wandb sync`` makes one run of them.
    """
    paths = sorted(folder.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))
    ids = [path.stem.removeprefix("run-") for path in paths]
    known = [found for found in ids if ID.fullmatch(found)]
    return known[-1] if known else None


def new_run_id(name: str) -> str:
    """A unique id: two runs with one id would overwrite each other on the server."""
    return f"{fit_id(name, LONGEST_ID - 9)}-{token_hex(4)}"


def fit_id(text: str, longest: int = LONGEST_ID) -> str:
    """A text as a W&B id. If it is too long, whole words are left out before the last one, which is the identity."""
    words = re.sub("[^A-Za-z0-9._-]", "-", text).split("-")
    while len("-".join(words)) > longest and len(words) > 2:
        del words[-2]
    return "-".join(words)[-longest:].strip("-")


def sync_command(run: Any) -> str:
    """The command that uploads the files of a run, and of the earlier starts that it continues."""
    options = "" if run.settings.mode == "offline" else "--include-online "
    here = Path(run.dir).parent
    starts = sorted({*here.parent.glob(f"offline-run-*-{glob.escape(run.id)}"), here}, key=lambda path: path.name)
    return f"wandb sync {options}{shell_line(starts)}"


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


def log_model(logger: WandbLogger, checkpoint: Path, metadata: dict[str, Any]) -> None:
    """Upload a checkpoint as an artifact of type ``model``. It has weights only, and no paths."""
    run = logger.experiment
    with tolerate_wandb_errors("the model"):
        artifact = wandb.Artifact(f"model-{run.id}", type="model", metadata=without_folders(metadata))
        artifact.add_file(str(checkpoint), name="best.ckpt")
        run.log_artifact(artifact, aliases=["best"])


def finish(logger: WandbLogger | None, *, failed: bool) -> None:
    """Finish the W&B run with its exit status. The waiting time for the server is limited."""
    if logger is None:
        return
    run = logger.experiment
    try:
        run.finish(exit_code=int(failed))
    except Exception as error:
        print(f"W&B: not everything was uploaded ({first_line(error)}). To upload the rest: {sync_command(run)}")
