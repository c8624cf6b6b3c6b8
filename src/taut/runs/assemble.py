"""From a source and settings to all that a training needs: data, model and objective, checked."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from taut.build.checks import check_exact, check_gentle, check_parts
from taut.build.config import Config
from taut.build.model import build, build_objective
from taut.build.start import start, start_prior
from taut.build.statistics import summarize
from taut.build.usual import (
    complete,
    exact_of,
    gan_of,
    objective_of,
    of_few_images,
    stepwise_of,
    usual_rate,
)
from taut.data import Dataset
from taut.data.readers import kind_of
from taut.data.tables.parquet_rows import ParquetRows
from taut.model import VAE, Likelihood, Model, Posterior, Prior
from taut.models.exact import ExactModel
from taut.objectives import ELBO, Objective
from taut.runs.fitted import Source
from taut.runs.folder import read_data
from taut.runs.measure import measured_part
from taut.system import parallel
from taut.system.errors import OutOfMemoryError, TautError, UsageError, nearest, shown
from taut.system.memory import out_of_memory
from taut.system.seeds import stream

__all__ = ["assemble", "build_exact", "going_together", "merge", "to_device", "use_threads"]

# what other libraries call a setting, where no spelling leads from one word to the other
OTHER_WORDS = {
    "lr": "learning_rate",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "random_state": "seed",
    "z_dim": "latent_dim",
    "n_latent": "latent_dim",
    "n_components": "latent_dim",
    "loss": "objective",
    "na_values": "missing_values",
    "validation_split": "validation_fraction",
    "early_stopping": "patience",
}


def assemble(
    source: Source,
    config: Config,
    *,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
    test: Source | None = None,
) -> tuple[Config, Dataset, Model, Objective]:
    """Returns the completed configuration, the data, the model and the objective, all checked.

    What a training needs. A model that is exact maximises log p(x) itself, which is what its
    objective says of it.
    """
    if isinstance(source, Dataset):
        data = source
    else:
        data = read_data(source, config, test)
        measured_part(data)  # refused before the training, not after it
    from_file = isinstance(source, str | Path) and kind_of(source).streams
    # Decided once and kept: it sets the order of the batches.
    read = dataclasses.replace(config.data, stream=data.streamed if from_file else None)
    if exact_of(config.model) is not None:
        return _assemble_exact(data, dataclasses.replace(config, data=read), parts)
    stepwise = stepwise_of(config.model)
    aim = objective_of(config, data)
    if stepwise is not None:
        aim = _of_steps(stepwise, config, parts)
    if (gan := gan_of(config.model)) is not None:
        aim = _of_game(gan, config, parts)
    rate = config.training.learning_rate
    if rate is None:
        rate = usual_rate(data)
    config = dataclasses.replace(
        config,
        model=complete(config.model, data.schema, of_few_images(config.model, data)),
        data=read,
        training=dataclasses.replace(config.training, objective=aim, learning_rate=rate),
    )
    objective = build_objective(aim)
    statistics = summarize(data)
    # before the model is made: its first weights follow the seed
    with (
        stream(config.training.seed, "init"),
        going_together(),
    ):
        model = _built(config, data, statistics, parts)
        if isinstance(model, VAE):
            start_prior(model, data)
            if not parts:
                model.started = start(model, data)
    with stream(config.training.seed, "check"), going_together():
        check_parts(model, objective, data, shown(data.name) or "the data")
        check_gentle(model, config.training.gentle)
        parallel.check_divisible(model, objective)
    return config, data, model, objective


def _built(config: Config, data: Dataset, statistics: Any, parts: Any) -> Model:
    """Returns the model of a configuration; one that is larger than memory is refused in a line."""
    try:
        return build(config.model, data.schema, statistics, parts=parts)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise OutOfMemoryError(
            "the model needs more memory than there is: take a smaller --latent-dim (here "
            f"{config.model.latent_dim}), or smaller networks"
        ) from None


def _of_steps(spec: Any, config: Config, parts: Mapping[str, Any] | None) -> str:
    """Returns the objective of a model of many steps."""
    if parts:
        raise UsageError(f"{next(iter(parts))} is of a VAE: omit it, or take --model VAE")
    objective = config.training.objective or "ELBO()"
    if not isinstance(build_objective(objective), ELBO) or build_objective(objective).free_bits:
        raise UsageError(
            f"{objective}: {spec} has no encoder, and what it looks at of a row has no weight: it "
            "is trained by ELBO(), without free bits"
        )
    return objective


def _of_game(spec: Any, config: Config, parts: Mapping[str, Any] | None) -> str:
    """Returns the objective of a generator and its critic."""
    if parts:
        raise UsageError(f"{next(iter(parts))} is of a VAE: omit it, or take --model VAE")
    game = "Adversarial()"
    if config.training.objective not in (None, game):
        raise UsageError(
            f"{config.training.objective}: {spec} has no density, and so no bound: it is trained "
            f"by {game}, and GAN(loss=...) says which game"
        )
    return game


def _assemble_exact(
    data: Dataset, config: Config, parts: Mapping[str, Any] | None
) -> tuple[Config, Dataset, ExactModel, Objective]:
    """Returns the same for a model that is exact; the rest of its settings are of a VAE."""
    model = complete(config.model, data.schema)
    given = [*(parts or {}), *(["objective"] if config.training.objective else [])]
    if given:
        raise UsageError(
            f"{given[0]} is of a VAE, and {model.model} is trained by expectation maximisation: "
            "omit it, or take --model VAE"
        )
    if parallel.world() > 1:
        raise UsageError(
            f"{model.model} is trained in one process: start it without torchrun, or take "
            "--model VAE"
        )
    if isinstance(data.train, ParquetRows):
        raise UsageError(
            f"{model.model} is trained on rows in memory, and these stay in their file: give "
            "--no-stream, or take --model VAE"
        )
    config = dataclasses.replace(config, model=model)
    exact = build_exact(config, data)
    return config, data, exact, build_objective("ELBO()")


def build_exact(config: Config, data: Dataset) -> ExactModel:
    """Returns a model that is exact, checked against the data, with first parameters."""
    with stream(config.training.seed, "init"), going_together():
        model = build(config.model, data.schema, summarize(data))
        assert isinstance(model, ExactModel)
        check_exact(model, data, shown(data.name) or "the data")
    return model


def to_device(data: Dataset, device: torch.device) -> Dataset:
    """Returns the data with their training and validation rows on a device."""
    return dataclasses.replace(
        data, train=data.train.to(device), validation=data.validation.to(device)
    )


def merge(config: Config, settings: Mapping[str, Any]) -> Config:
    """Returns the configuration with settings laid over it by their bare names, which are unique
    across sections.

    Raises:
        UsageError: there is no setting of a name; the nearest right one is named.
    """
    values = config.to_dict()
    sections = {
        f.name: section for section in values for f in dataclasses.fields(getattr(config, section))
    }
    if wrong := [name for name in settings if name not in sections]:
        raise UsageError("\n".join(_unknown(name, sections) for name in wrong))
    for name, value in settings.items():
        values[sections[name]][name] = value
    return Config.from_dict(values)


def _unknown(name: str, known: Iterable[str]) -> str:
    usual = OTHER_WORDS.get(name.lower())
    meant = nearest(name, known)
    if usual:
        meant = f"; did you mean {usual!r}?"
    return f"unknown setting {name!r}{meant or '; see help(taut.fit)'}"


@contextmanager
def going_together() -> Iterator[None]:
    """Turns the complaints of parts that were wrongly put together into an error of usage."""
    try:
        yield
    except TautError:
        raise
    except (
        Exception
    ) as error:  # parts can be the user's own: whatever is wrong with them is theirs to fix
        if "memory" in str(error):
            raise
        line = str(error).partition("\n")[0]
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise UsageError(
            f"these parts do not go together: {type(error).__name__}: {line} "
            f"({Path(where.filename).name}, line {where.lineno})"
        ) from error


def use_threads(config: Config) -> None:
    if config.training.threads is not None:
        torch.set_num_threads(config.training.threads)
