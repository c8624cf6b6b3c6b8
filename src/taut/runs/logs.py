"""The one hook by which a training tells others of its progress: TensorBoard, MLflow, W&B, or a
function of the user's.

It is given each row of the history, where ``history.jsonl`` gets it, by the process that writes.
What is sent beside the numbers are the settings of the model and of the training, and no row, no
name of a column and no folder of the data. A service that fails costs its log and not the training:
one warning, and nothing more is sent. A function of the user's is not guarded so: what it raises
ends the training, with its state saved.
"""

from __future__ import annotations

import dataclasses
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from taut.system import parallel
from taut.system.errors import TautWarning, UsageError, choose_from, shown

if TYPE_CHECKING:
    from taut.runs.folder import Stored

__all__ = ["LOGS", "Log", "check_log", "open_log"]

Row: TypeAlias = Mapping[str, Any]
Log: TypeAlias = Callable[[Row], Any]
LOGS = {  # the module that each is, and how it is installed
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow"),
    "wandb": ("wandb", "wandb"),
}
FOLDER = "tensorboard"  # in a run folder: `tensorboard --logdir runs` finds those of all runs


def check_log(log: str | Log | None) -> None:
    """Refuses, before anything is read, a log that there is not or whose package is missing."""
    if log is None or callable(log):
        return
    if log not in LOGS:
        raise UsageError(f"no log {shown(log)}{choose_from(str(log), LOGS)}")
    module, package = LOGS[log]
    try:
        importlib.import_module(module)
    except ImportError:
        raise UsageError(f"--log {log} needs its package: pip install {package}") from None


@contextmanager
def open_log(log: str | Log | None, run: Stored, step: int) -> Iterator[Log]:
    """Gives a function that is called with each row of the history.

    Args:
        log: The name of a log, a function, or nothing.
        run: The run that is to be trained.
        step: Steps that it has done already.
    """
    if log is None or not parallel.main():
        yield lambda row: None
        return
    if callable(log):
        yield log
        return
    check_log(log)
    guarded = _Guarded(log)
    guarded(lambda: guarded.open(run, step))
    try:
        yield guarded.row
    finally:
        guarded(guarded.close)


class _Guarded:
    """Creates a log whose first failure is a warning and its end.

    Args:
        name: Of the log.
    """

    def __init__(self, name: str) -> None:
        self.name, self.lost = name, False
        self.write: Callable[[dict[str, float], int], Any] = lambda numbers, step: None
        self.close: Callable[[], Any] = lambda: None

    def __call__(self, do: Callable[[], Any]) -> None:
        if self.lost:
            return
        try:
            do()
        except Exception as error:  # of whatever the service stands on
            self.lost = True
            reason = shown(str(error).strip().partition("\n")[0]) or type(error).__name__
            warnings.warn(
                f"{self.name} gets no more rows: {reason}; the training goes on, and "
                "history.jsonl has them all",
                TautWarning,
                stacklevel=2,
            )

    def row(self, row: Row) -> None:
        """Sends the numbers of a row; what is not known is omitted."""
        numbers = {k: float(v) for k, v in row.items() if v is not None and k != "step"}
        self(lambda: self.write(numbers, int(row["step"])))

    def open(self, run: Stored, step: int) -> None:
        module: Any = importlib.import_module(LOGS[self.name][0])
        name = run.path.resolve().name
        if self.name == "tensorboard":
            # what a training that was killed had told beyond its checkpoint is hidden
            purge = step + 1 if step else None
            writer = module.SummaryWriter(str(run.path / FOLDER), purge_step=purge)

            def add(numbers: dict[str, float], step: int) -> None:
                for key, value in numbers.items():
                    writer.add_scalar(key, value, step)
                writer.flush()

            self.write, self.close = add, writer.close
        elif self.name == "mlflow":
            module.start_run(run_name=name, nested=True)
            self.write, self.close = module.log_metrics, module.end_run
            module.log_params(_settings(run))
        else:
            there = module.init(name=name, config=_settings(run), reinit="create_new")
            self.write, self.close = there.log, there.finish


def _settings(run: Stored) -> dict[str, Any]:
    """Returns the settings of the model and of the training."""
    parts: dict[str, Any] = {"model": run.config.model, "training": run.config.training}
    return {
        f"{part}.{name}": value
        for part, settings in parts.items()
        for name, value in dataclasses.asdict(settings).items()
        if value is not None
    }
