"""All settings, in four sections, with the defaults and what they mean.

A value comes from, in this order of precedence: ``--set section.name=value`` and the flags of the
command, the environment (``TAUT_NAME``), a TOML file (``--config``), the defaults here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from taut.system.errors import UsageError, choose_from, nearest, shown
from taut.system.reading import Options

__all__ = ["Config", "DataConfig", "ModelConfig", "Setting", "TrainingConfig", "gather", "settings"]


LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class DataConfig(Options):
    """How the data are read: the options of the source, and these.

    Args:
        key: Which array of an .npz file.
        kind: What an array holds, instead of what is inferred.
        levels: Smallest and largest level of an array, instead of those inferred.
        shape: Shape of one row that the file holds flattened.
        binarize: Make bits of grey levels: dynamic (a level is the probability of a 1, drawn again
            at each use) or threshold (half or more is a 1).
        schema: A TOML file that says what the columns of a table are; `taut check DATA --out FILE`
            writes one.
        missing_values: A text or number that means missing in a table, next to the usual ones.
        condition: A column of a table that the others are modelled given, p(the others | these), or
            of obs of an .h5ad file that its counts are modelled given, such as batch.
        test: An official test set, FILE or FILE.npz:KEY; no other rows are then held out for
            testing.
        validation_fraction: Share of the rows held out to watch the training; with 0 nothing is
            stopped early.
        test_fraction: Share of the rows held out for the final measurement.
        split: rows splits each row by itself, copies keeps all copies of a row in one part; by
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
    test: str | None = None
    validation_fraction: float = 0.1
    test_fraction: float = 0.1
    split: str | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The model and the parts of a VAE, each written as its constructor.

    Args:
        model: VAE, or a model whose log p(x) is exact, such as HiddenTree(num_states=64). By
            default a table is given to hidden trees and to a VAE, rows of real numbers to factor
            analysers and to a VAE, and what is better on the validation rows is kept, unless a part
            of a VAE is named; all else is given to a VAE.
        latent_dim: Dimensions of the latent space; by default half the number of elements of a row,
            as many as the columns of a table, 2 to 32; 10 for counts of 100 columns or more.
        prior: p(z); by default StandardNormal().
        likelihood: p(x|z); by default what follows from the data.
        posterior: q(z|x); by default DiagonalNormal(), or FullCovarianceNormal() where training
            starts at factor analysis: for an array of real numbers or a table of numbers, at most
            128 columns.
        encoder: Network of the posterior; by default MLP(), ConvEncoder() for images of more than
            1024 elements, or Residual() where training starts at factor analysis; an MLP with
            dropout for counts of 100 columns or more.
        decoder: Network of the likelihood; by default MLP(), ConvDecoder() or Residual() likewise,
            and MLP(dropout=0.2) for images of bits or levels, at most 1024 elements and fewer than
            10,000 for training.
    """

    model: str | None = None
    latent_dim: int | None = None
    prior: str | None = None
    likelihood: str | None = None
    posterior: str | None = None
    encoder: str | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained.

    Args:
        objective: What is maximised; by default ELBO(), DReG(num_samples=8) where entries are
            missing, since the posterior of a row with gaps is broad and skewed,
            ELBO(warmup=0.6) for counts of 100 columns or more, whose code then says more, and
            ELBO(warmup=0.2) for a VAE of few images (see ``decoder``), which overfits less then.
        batch_size: Rows per step.
        max_epochs: Passes over the training data; by default as many as make 20,000 steps (1,000
            for counts of 100 columns or more), at least 20 and at most 500 (1000 under the usual
            objective of few images, 2000 for tables, whose steps are small).
        minutes: Time for training, counted again when it is resumed; the passes that fit in are
            measured before the first step, so that the schedule is known.
        learning_rate: Peak of the schedule, which warms up over the first 2 % and falls to zero as
            a cosine. By default 2e-3, and 4e-3 for 10,000 training rows or more of bits or levels
            (`benchmarks/study.py`), and for counts of 100 columns or more.
        weight_decay: AdamW's; 0 maximises the objective and nothing else.
        clip_norm: Largest norm of the gradient of the mean over a batch, in nats per unit; longer
            ones are scaled down to it.
        averaging: Decay of the running average of the weights that is validated and kept; 0 keeps
            the weights themselves.
        simulated: Share of each batch that the model itself draws, for `taut tighten`: rows that
            never repeat, under a decoder that stays as it is. While the decoder is trained it must
            be 0.
        gentle: Parts of the model that are trained at a fifth of the learning rate, such as
            posterior.encoder: those that `taut tighten` takes over, which the full rate would
            first undo, while what is new learns at the full rate.
        patience: Share of the planned training without a better validation bound after which it
            stops.
        checkpoint_seconds: Seconds between checkpoints.
        device: auto, cpu, cuda, cuda:1 or mps.
        compile: Whether a step runs as one compiled graph; auto measures both in a training of
            minutes.
        precision: Of the networks in training; bfloat16 is for accelerators that have it. The
            bound, the weights and every evaluation stay in float32.
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
    gentle: tuple[str, ...] = ()
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
        num_samples: Samples per row (K) of the importance-weighted estimate of log p(x).
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
    def from_dict(cls, values: Mapping[str, Any], typed: Mapping[str, str] | None = None) -> Config:
        """Returns the configuration that a nested mapping describes, defaults filled in.

        Args:
            values: Sections, of values by their names.
            typed: What was typed for a setting where that is not SECTION.NAME, such as
                --latent-dim: an error speaks of that.

        Raises:
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
            problems.append(f"unknown section {name!r}{choose_from(name, known)}")
        for name, section in known.items():
            given = values.get(name, {})
            if isinstance(given, Mapping):
                sections[name] = _section(section, name, given, typed or {}, problems)
            else:
                problems.append(f"{name} is a section, not the value {given!r}: write {name}.NAME")
        if problems:
            raise UsageError("\n".join(problems))
        return cls(**sections)

    def to_dict(self) -> dict[str, Any]:
        """Returns the configuration as nested mappings of plain values."""
        return dataclasses.asdict(self)


class Setting(NamedTuple):
    """What the help of a command says of a setting."""

    section: str
    type: str  # as the help writes it: int, float, text, 28x28, none|dynamic
    default: Any
    range: str  # "at least 1", or nothing
    help: str


def settings() -> dict[str, Setting]:
    """Returns all settings by name, described by their fields and the docstrings of the sections.

    Examples:
        >>> settings()["averaging"][:4]
        ('training', 'float', 0.999, 'from 0 to 1')
    """
    found = {}
    for section in dataclasses.fields(Config):
        cls = typing.cast(type, typing.get_type_hints(Config)[section.name])
        words, hints = _meanings(cls), typing.get_type_hints(cls)
        for item in dataclasses.fields(cls):
            found[item.name] = Setting(
                section.name,
                _type_of(item.name, hints[item.name]),
                item.default,
                _range_of(item.name),
                words.get(item.name, ""),
            )
    return found


def _meanings(cls: type) -> dict[str, str]:
    """Returns what the docstrings of a section and its base say of each of its settings."""
    items = []
    for part in cls.__mro__:
        _, _, text = inspect.cleandoc(part.__doc__ or "").partition("Args:\n")
        items += re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(words.split()).replace("``", "`") for name, words in items}


def _type_of(name: str, hint: Any) -> str:
    if name in _CHOICES:
        return "|".join(_CHOICES[name])
    if name in _WRITTEN:
        return _WRITTEN[name]
    kinds = [h for h in typing.get_args(hint) if h is not type(None)] or [hint]
    return {int: "int", float: "float"}.get(kinds[0], "text")


def _range_of(name: str) -> str:
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if name in _POSITIVE:
        return "above 0"
    if low == -math.inf:
        return ""
    if high in (_MANY, math.inf):
        return f"at least {low:g}"
    return f"from {low:g} to {high:g}"


def gather(
    flags: Mapping[str, str | None], file: Path | None = None, sets: Sequence[str] = ()
) -> Config:
    """Returns the configuration: --set and flags over the environment over the file over the
    defaults.

    Args:
        flags: Values by name, None where a flag was not given.
        file: A TOML file.
        sets: Texts such as training.patience=0.3.

    Raises:
        UsageError: the file cannot be read, or a name or value is wrong.
    """
    values: dict[str, dict[str, Any]] = {name: {} for name in Config().to_dict()}
    if file is not None:
        given = _read_toml(file)
        values |= {k: dict(v) if isinstance(v, Mapping) else v for k, v in given.items()}
    names, typed = {name: setting.section for name, setting in settings().items()}, {}
    _check_environment(names)
    for name, section_name in names.items():
        section, variable = values[section_name], f"TAUT_{name.upper()}"
        flag = f"--{name.replace('_', '-')}"
        for source, words in ((os.environ.get(variable), variable), (flags.get(name), flag)):
            if source is not None and isinstance(section, dict):
                section[name], typed[f"{section_name}.{name}"] = source, words
    for item in sets:
        path, equals, value = item.partition("=")
        section_name, dot, name = path.partition(".")
        if not (equals and dot):
            raise UsageError(f"--set {item}: write it like --set training.patience=0.3")
        section = values.setdefault(section_name, {})
        if isinstance(section, dict):
            section[name] = value
            typed.pop(path, None)
    return Config.from_dict(values, typed)


def _read_toml(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {shown(file)}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # a number of 5000 digits among them
        raise UsageError(f"{shown(file)} is not valid TOML: {error}") from None


def _check_environment(names: Iterable[str]) -> None:
    """Refuses a variable that begins as ours do and is none of them."""
    variables = [f"TAUT_{name.upper()}" for name in names]
    for variable in sorted(os.environ):
        if variable.startswith("TAUT_") and variable not in variables:
            raise UsageError(
                f"the environment variable {shown(variable)} is not a "
                f"setting{nearest(variable, variables)}"
            )


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


_WRITTEN = {  # types that an example says best
    "levels": "0:255",
    "shape": "28x28",
    "resize": "64x64",
    "header": "true|false",
    "crop": "true|false",
    "stream": "true|false",
    "schema": "file",
    "test": "file",
}


def _section(
    cls: type,
    section: str,
    given: Mapping[str, Any],
    typed: Mapping[str, str],
    problems: list[str],
) -> Any:
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in given.items():
        if name not in hints:
            problems.append(f"unknown {section}.{name}{choose_from(name, hints)}")
            continue
        try:
            values[name] = _convert(value, hints[name])
            _check(name, values[name])
        except (TypeError, ValueError) as error:
            place = f"{section}.{name}"
            problems.append(f"{typed.get(place, place)}: {error}")
    return cls(**values)


def _check(name: str, value: Any) -> None:
    low, high = _RANGES.get(name, (-math.inf, math.inf))
    if isinstance(value, int | float) and not (low <= value <= high and abs(value) < math.inf):
        if high == _MANY and value > high:
            bounds = f"of at most {_MANY:,}"
        elif high in (_MANY, math.inf):
            bounds = f"of at least {low:g}"
        else:
            bounds = f"from {low:g} to {high:g}"
        raise ValueError(f"expected a number {bounds}, not {reprlib.repr(value)}")
    if value == 0 and name in _POSITIVE:
        raise ValueError("expected a number above 0, not 0")
    if value is not None and name in _CHOICES and value not in _CHOICES[name]:
        raise ValueError(f"unknown {value!r}{choose_from(str(value), _CHOICES[name])}")


_WORDS = {int: "a whole number", float: "a number", str: "text"}


def _convert(value: Any, hint: Any) -> Any:
    """Returns a value as the type that a field is annotated with.

    Text is read, as it comes from flags and the environment.
    """
    if isinstance(hint, types.UnionType):
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None or value == "" else _convert(value, options[0])
    if typing.get_origin(hint) is tuple:
        item, *rest = typing.get_args(hint)
        if item is str:
            return _texts(value)
        return _numbers(value, item, rest)
    if hint is str and isinstance(value, str):
        return value
    if hint is bool:
        return _truth(value)
    return _number(value, hint)


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(value.split(","))
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise TypeError(f"expected texts, such as a,b, not {reprlib.repr(value)}")
    return tuple(value)


def _numbers(value: Any, item: Any, rest: Sequence[Any]) -> tuple[Any, ...]:
    """Returns as many numbers as a type has, or any number of them where it ends in dots."""
    parts = re.split("[x:,]", value) if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise TypeError(
            f"expected whole numbers, such as 28x28 or 0:255, not {reprlib.repr(value)}"
        )
    converted = tuple(_convert(part, item) for part in parts)
    if rest != [...] and len(converted) != 1 + len(rest):
        raise ValueError(f"expected {1 + len(rest)} numbers, not {reprlib.repr(value)}")
    return converted


def _truth(value: Any) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if not isinstance(value, bool):
        raise TypeError(f"expected true or false, not {reprlib.repr(value)}")
    return value


def _number(value: Any, hint: Any) -> Any:
    whole = isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())
    real = isinstance(value, int | float | str)
    if not isinstance(value, bool) and ((hint is float and real) or (hint is int and whole)):
        with suppress(ValueError, OverflowError):
            return hint(value)
    raise TypeError(f"expected {_WORDS[hint]}, not {reprlib.repr(value)}")
