"""Choose a learning rate with Optuna, and stop trainings early that are worse than the median of the others.

Run it in a folder of your own: ``python examples/optuna_pruner.py``. It trains small networks on generated scenes.
Needs ``pip install optuna``.
"""

import sys
from pathlib import Path

import optuna
from hydra import compose, initialize_config_dir

from segpipe.config.schema import CONF
from segpipe.train import train


def objective(trial: optuna.Trial, overrides: list[str], folder: Path) -> float:
    """Train with a learning rate that Optuna chooses, and return the validation mIoU."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    run = folder / f"trial-{trial.number}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", [*overrides, f"optimizer.lr={lr}", f"run_dir={run}"])

    def on_validation(epoch: int, scores: dict[str, float]) -> None:
        trial.report(scores["miou"], step=epoch)
        if trial.should_prune():
            raise optuna.TrialPruned(f"pruned after epoch {epoch}: validation mIoU {scores['miou']:.3f}")

    return float(train(cfg, on_validation=on_validation)["val"]["miou"])


def study(overrides: list[str], folder: Path, *, trials: int) -> optuna.Study:
    """Run the trials one after another, and return the study."""
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    sampler = optuna.samplers.TPESampler(seed=0)
    made = optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner)
    made.optimize(lambda trial: objective(trial, overrides, folder), n_trials=trials)
    return made


if __name__ == "__main__":
    given = sys.argv[1:] or ["encoder=small", "trainer=cpu", "trainer.max_epochs=8", "logger=none"]
    result = study(given, Path("outputs/optuna"), trials=10)
    print(f"Best learning rate: {result.best_params['lr']:.2g}, validation mIoU {result.best_value:.3f}")
