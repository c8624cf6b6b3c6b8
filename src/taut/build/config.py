"""What a person can set, in three sections, with the defaults and what they mean.

A value comes from, in this order of precedence: ``--set section.name=value`` and the flags of the
command, the environment (``TAUT_NAME``), a TOML file (``--config``), the defaults here.
"""

from __future__ import annotations

import dataclasses
import math
import os
import reprlib
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taut.system.errors import UsageError, nearest, shown

__all__ = ["Config", "DataConfig", "ModelConfig", "TrainingConfig", "gather"]


LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class DataConfig:
    """How the data are read.

    Args:
        key: Which array of an .npz file.
        kind: binary, levels, real or count, in place of what is inferred of an array.
        levels: Smallest and largest level, in place of those inferred.
        shape: Shape of one datum, where the file holds it flattened.
        binarize: "none"; "dynamic" (a grey level is the probability of a 1, drawn anew at each use)
            or "threshold" (half or more is a 1).
        schema: A TOML file that says what the columns of a table are (``taut check DATA --out
            FILE`` writes one).
        missing_values: Texts and numbers that mean missing in a table, beside the usual ones.
        condition: Columns of a table that are the context of the others: p(the others | these) is
            modelled.
        delimiter: Of a text table; by default the one that is found.
        decimal: "." or ",", likewise.
        encoding: Of a text table; by default UTF-8, or what its first bytes say.
        header: Whether the first line of a text table names its columns; by default it does, unless
            it looks like a row.
        layer: Which matrix of an .h5ad file: a layer, or raw.
        resize: Height and width that images are scaled to.
        crop: Whether the centre of an image is cut out, in place of changing its proportions.
        alpha: What is done with transparent images: drop or composite.
        skip_bad: Share of unreadable images that may be left out.
        stream: Whether a Parquet file stays on disk; by default where it would fill a quarter of
            the free memory.
        test: An official test set, FILE[:KEY] or FILE; none of the rest is then held out for
            testing.
        validation_fraction: Share held out to watch the training by; 0 for none, and then nothing
            is stopped early.
        test_fraction: Share held out for the final measurement.
        split: "copies" keeps all copies of a row in one part, "rows" splits each by itself; by
            default rows of many copies are divided where a part would otherwise be unlike the data.
    """

    key: str | None = None
    kind: str | None = None
    levels: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None
    binarize: str = "none"
    schema: str | None = None
    missing_values: tuple[str, ...] = ()
    condition: tuple[str, ...] = ()
    delimiter: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    header: bool | None = None
    layer: str | None = None
    resize: tuple[int, int] | None = None
    crop: bool = False
    alpha: str | None = None
    skip_bad: float = 0.0
    stream: bool | None = None
    test: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The parts of the model, each written as its constructor.

    Args:
        latent_dim: D; by default half the number of elements of a datum, of a table as many as
            columns, 2 to 32.
        prior: p(z).
        likelihood: p(x|z); by default what follows from the data.
        posterior: q(z|x).
        encoder: Network of the posterior; by default MLP(), or ConvEncoder() for images of more
            than 1024 elements.
        decoder: Network of the likelihood, likewise.
    """

    latent_dim: int | None = None
    prior: str = "StandardNormal()"
    likelihood: str | None = None
    posterior: str = "DiagonalNormal()"
    encoder: str | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained.

    Args:
        objective: What is maximised; by default ELBO(), and DReG(num_samples=8) where entries of
            the data are missing: the posterior of a row with gaps is broad and skewed.
        batch_size: Data a step.
        max_epochs: Passes over the training data; by default as many as make 20,000 steps, at least
            20 and at most 500 (2000 for tables, whose steps are small).
        minutes: Time for training, anew when it is resumed; the passes that fit in are measured
            before the first step, so that the schedule is known.
        learning_rate: Peak of the schedule: a linear warm-up over the first 2 %, then a cosine to
            zero. By default 2e-3, and 4e-3 for 10,000 training data or more of bits or levels,
            images for the most part (``benchmarks/study.py``).
        weight_decay: AdamW's; 0 maximises the objective and nothing else.
        clip_norm: Largest norm of the gradient of the mean over a batch, in nats per unit; longer
            ones are scaled down to it.
        averaging: Decay of the running average of the weights that is validated and kept; 0 keeps
            the weights themselves.
        simulated: Share of each batch that the model itself draws, for ``taut tighten``: data that
            never repeat, under a decoder that stays as it is. While the decoder is trained it must
            be 0.
        patience: Share of the planned training without a better validation bound after which it
            stops.
        checkpoint_seconds: Seconds between checkpoints.
        device: auto, cpu, cuda, cuda:1, mps.
        compile: Whether a step runs as one compiled graph: on, off, or auto, which measures both in
            a training of minutes.
        precision: Of the networks in training: float32, or bfloat16 for accelerators that have it.
            The bound, the weights and every evaluation stay in float32.
        threads: Threads of the CPU; by default measured, and one in a training of seconds.
        seed: Everything random is derived from it.
    """

    objective: str | None = None
    batch_size: int = 128
    max_epochs: int | None = None
    minutes: float | None = None
    learning_rate: float | None = None
    weight_decay: float = 0.0
    clip_norm: float = 200.0
    averaging: float = 0.999
    simulated: float = 0.0
    patience: float = 0.2
    checkpoint_seconds: float = 30.0
    device: str = "auto"
    compile: str = "auto"
    precision: str = "float32"
    threads: int | None = None
    seed: int = 0

    @property
    def peak(self) -> float:
        """The learning rate; what follows from the data is in the configuration of a run."""
        return LEARNING_RATE if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class EvaluationConfig:
    """How the trained model is measured.

    Args:
        num_samples: K of the importance-weighted estimate of log p(x).
    """

    num_samples: int = 500


@dataclass(frozen=True)
class Config:
    """All of it."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Returns the configuration that a nested mapping describes, defaults filled in.

        Fails:
            UsageError: unknown sections or names, values of the wrong type or out of range; all of
                them at once.
        """
        problems: list[str] = []
        sections = {}
        known = {
            f.name: typing.cast(type, typing.get_type_hints(cls)[f.name])
            for f in dataclasses.fields(cls)
        }
        for name in (n for n in values if n not in known):
            problems.append(
                f"unknown section {name!r}{nearest(name, known)}; there are {', '.join(known)}"
            )
        for name, section in known.items():
            given = values.get(name, {})
            if isinstance(given, Mapping):
                sections[name] = _section(section, name, given, problems)
            else:
                problems.append(f"{name} is a section, not the value {given!r}: write {name}.NAME")
        if problems:
            raise UsageError("\n".join(problems))
        return cls(**sections)

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as nested mappings of plain values."""
        return dataclasses.asdict(self)


def gather(
    flags: Mapping[str, str | None], file: Path | None = None, sets: Sequence[str] = ()
) -> Config:
    """Returns the configuration: --set and flags over the environment over the file over the
    defaults.

    Args:
        flags: Values by name, None where a flag was not given.
        file: A TOML file.
        sets: Texts such as training.patience=0.3.

    Fails:
        UsageError: the file cannot be read, or a name or value is wrong.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in Config().to_dict()}
    if file is not None:
        try:
            given = tomllib.loads(file.read_text("utf-8"))
        except OSError as error:
            raise UsageError(f"cannot read {shown(file)}: {error.strerror or error}") from None
        except (
            ValueError,
            RecursionError,
        ) as error:  # TOMLDecodeError, UnicodeDecodeError, a number of 5000 digits
            raise UsageError(f"{shown(file)} is not valid TOML: {error}") from None
        values |= {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
    names = {
        s.name: f.name
        for f in dataclasses.fields(Config)
        for s in dataclasses.fields(getattr(Config(), f.name))
    }
    variables = [f"TAUT_{name.upper()}" for name in names]
    for variable in sorted(os.environ):
        if variable.startswith("TAUT_") and variable not in variables:
            raise UsageError(
                f"the environment variable {shown(variable)} is no "
                f"setting{nearest(variable, variables)}"
            )
    for name, section_name in names.items():
        section = values[section_name]
        for source in (os.environ.get(f"TAUT_{name.upper()}"), flags.get(name)):
            if source is not None and isinstance(section, dict):
                section[name] = source
    for item in sets:
        path, equals, value = item.partition("=")
        section_name, dot, name = path.partition(".")
        if not (equals and dot):
            raise UsageError(f"--set {item}: write it like --set training.patience=0.3")
        section = values.setdefault(section_name, {})
        if isinstance(section, dict):
            section[name] = value
    return Config.from_dict(values)


_MANY = 2**31 - 1  # a count above it fits neither torch nor any memory
_RANGES: dict[str, tuple[float, float]] = {
    "skip_bad": (0, 1),
    "validation_fraction": (0, 0.9),
    "test_fraction": (0, 0.9),
    "latent_dim": (1, _MANY),
    "batch_size": (1, _MANY),
    "max_epochs": (1, _MANY),
    "minutes": (0, math.inf),
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "clip_norm": (0, math.inf),
    "averaging": (0, 1),
    "simulated": (0, 1),
    "patience": (0, math.inf),
    "checkpoint_seconds": (0, math.inf),
    "threads": (1, 1024),  # torch dies without a word where the system refuses that many
    "num_samples": (1, _MANY),
}
_POSITIVE = {"minutes", "clip_norm"}  # 0 is no time, and no step
_CHOICES = {
    "binarize": ("none", "dynamic", "threshold"),
    "kind": ("binary", "levels", "real", "count"),
    "decimal": (".", ","),
    "alpha": ("drop", "composite"),
    "split": ("rows", "copies"),
    "compile": ("auto", "on", "off"),
    "precision": ("float32", "bfloat16"),
}


def _section(cls: type, section: str, given: Mapping[str, Any], problems: list[str]) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in given.items():
        if name not in hints:
            problems.append(
                f"unknown {section}.{name}{nearest(name, hints)}; there are {', '.join(hints)}"
            )
            continue
        try:
            values[name] = _convert(value, hints[name])
            _check(name, values[name])
        except (TypeError, ValueError) as error:
            problems.append(f"{section}.{name}: {error}")
    return cls(**values)


def _check(name: str, value: Any) -> None:
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int | float) and not (low <= value <= high and abs(value) < math.inf):
        bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ValueError(f"expected a number {bounds}, not {reprlib.repr(value)}")
    if value == 0 and name in _POSITIVE:
        raise ValueError("expected a number above 0, not 0")
    if value is not None and name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(
            f"{value!r} is none of {', '.join(_CHOICES[name])}{nearest(str(value), _CHOICES[name])}"
        )


_WORDS = {int: "a whole number", float: "a number", str: "text"}


def _convert(value: Any, hint: Any) -> Any:
    """Returns a value as the type that a field is annotated with.

    Text is read, as it comes from flags and the environment.
    """
    if isinstance(hint, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None or value == "" else _convert(value, options[0])
    if typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"expected texts, such as a,b, not {reprlib.repr(value)}")
        return tuple(parts)
    if typing.get_origin(hint) is tuple:
        parts = (
            value.replace("x", ",").replace(":", ",").split(",")
            if isinstance(value, str)
            else value
        )
        if not isinstance(parts, list | tuple):
            raise TypeError(
                f"expected whole numbers, such as 28x28 or 0:255, not {reprlib.repr(value)}"
            )
        item, *rest = typing.get_args(hint)
        converted = tuple(_convert(v, item) for v in parts)
        if rest != [...] and len(converted) != 1 + len(rest):
            raise ValueError(f"expected {1 + len(rest)} numbers, not {reprlib.repr(value)}")
        return converted
    if hint is str and isinstance(value, str):
        return value
    if hint is bool:
        if isinstance(value, bool) or (
            isinstance(value, str) and value.lower() in ("true", "false")
        ):
            return value if isinstance(value, bool) else value.lower() == "true"
        raise TypeError(f"expected true or false, not {reprlib.repr(value)}")
    whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
    if not isinstance(value, bool) and (
        (hint is float and isinstance(value, int | float | str)) or (hint is int and whole)
    ):
        with suppress(ValueError, OverflowError):
            return hint(value)
    raise TypeError(f"expected {_WORDS[hint]}, not {reprlib.repr(value)}")
