"""W&B: always there, never in the way. What it shows is in the run's folder as well."""

import netrc
import os
import socket
import warnings
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

import numpy as np  # noqa: E402
import wandb  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from pytorch_lightning.loggers import WandbLogger  # noqa: E402
from wandb.errors import CommError, UsageError  # noqa: E402

from segpipe.errors import UserError  # noqa: E402

Mode = Literal["auto", "online", "offline", "disabled"]


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
    mode: Mode = "auto",
    timeout: float = 5.0,
) -> WandbLogger:
    """A logger with a run that was started without a question asked.

    folder: of the run; W&B writes below it. config: nested and resolved. group: the sweep's name.
    mode: ``auto`` goes online if a key is found and the server answers within ``timeout`` seconds, else offline;
    ``online`` refuses where ``auto`` would go offline.
    """
    chosen, reason = choose(mode, timeout)
    if mode == "online" and chosen != "online":
        raise UserError(
            f"logger.mode=online, but {reason}. Log in with `wandb login`, or take logger.mode=offline "
            f"and upload later with `wandb sync`."
        )
    settings: dict[str, Any] = {
        "console": "off",
        "silent": True,
        "save_code": False,
        "x_disable_stats": True,
        "init_timeout": 4 * timeout,  # seconds that wandb.init may take
        "finish_timeout": 60.0,  # and that the upload may hold up the end
    }

    def start(how: str) -> Any:
        return wandb.init(
            project=project,
            entity=entity,
            dir=folder,
            id=run_id,
            resume="allow" if how == "online" else None,
            name=name,
            group=group,
            tags=[tag[:64] for tag in tags],
            config=config,
            mode=how,  # type: ignore[arg-type]
            settings=wandb.Settings(**settings),
        )

    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = start(chosen)
    except (CommError, UsageError, TimeoutError) as error:
        if mode == "online":
            raise UserError(f"logger.mode=online, but W&B refused: {error}. Take logger.mode=offline.") from error
        wandb.teardown()
        chosen, reason = "offline", f"W&B refused ({str(error).splitlines()[0]})"
        run = start(chosen)
    run.define_metric("*", step_metric="epoch")
    if chosen == "offline" and mode == "auto":
        print(f"W&B: offline, since {reason}. To upload later: wandb sync {Path(run.dir).parent}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Lightning warns that a run is already in progress: it is ours
        return WandbLogger(experiment=run, save_dir=folder, log_model=False)


def no_logger(**unused: Any) -> None:
    """No W&B at all; the run's folder still says everything."""


def choose(mode: Mode, timeout: float) -> tuple[str, str]:
    """The mode to start in, and why: online only with a key and a server that answers."""
    if mode in ("offline", "disabled"):
        return mode, "it was asked for"
    host = wandb.Settings().base_url
    if not has_key(host):
        return "offline", "no API key was found"
    address = urlsplit(host)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=timeout).close()
    except OSError as error:
        return "offline", f"{address.hostname} did not answer in {timeout:g} s ({error})"
    return "online", ""


def has_key(host: str) -> bool:
    """Whether an API key is in the environment or in the netrc file, where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(urlsplit(host).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


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
    logger.experiment.log(
        {
            key: [
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
        },
        commit=False,
    )


def log_confusion(logger: WandbLogger, *, key: str, matrix: NDArray[np.int64], classes: list[str]) -> None:
    """Log a (C, C) confusion matrix as W&B's own chart, drawn from a table of counts."""
    rows = [
        [true, predicted, int(matrix[i, j])] for i, true in enumerate(classes) for j, predicted in enumerate(classes)
    ]
    columns = ["Actual", "Predicted", "nPredictions"]
    chart = wandb.plot_table(
        "wandb/confusion_matrix/v1",
        wandb.Table(columns=columns, data=rows),
        {column: column for column in columns},
        {"title": key},
    )
    logger.experiment.log({key: chart})


def finish(logger: WandbLogger | None, *, failed: bool) -> None:
    """End the W&B run with its true status; a server that is gone does not hold up the end for long."""
    if logger is not None:
        logger.experiment.finish(exit_code=int(failed), quiet=True)
