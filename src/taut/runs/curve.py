r"""Rate against distortion: of runs trained at several weights beta, and of one decoder.

A *study* is a folder of runs, one for each beta, from the smallest to the largest. Each starts from
the weights of the one before and maximises $\mathbb{E}_q[\log p(x \mid z)] - \beta \,
\mathrm{KL}$; what is told of it is plain: the ELBO at beta 1, log p(x), and where its rate and
distortion stand. A study that was stopped goes on with the runs that are missing. The curve of one
*decoder* needs no training (``evidence.rate_distortion``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from taut.build.config import Config
from taut.data import Dataset
from taut.evidence.rate_distortion import Point, rate_distortion
from taut.evidence.samples import blur, sample_quality
from taut.evidence.text import number, plus_minus
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.runs.assemble import assemble, merge
from taut.runs.audit import training_rows
from taut.runs.carry_out import carry_out
from taut.runs.fit import start
from taut.runs.fitted import Fitted, Source
from taut.runs.folder import Stored, load, read_data
from taut.runs.measure import measured_part
from taut.runs.place import stem
from taut.runs.telling import Telling
from taut.system import storage
from taut.system.errors import UsageError, shown
from taut.system.seeds import generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FILE", "Curve", "betas_of", "decoder_curve", "read_curve", "study"]

FILE = "curve.json"
NO_MATTER = ("device", "threads", "compile", "checkpoint_seconds", "minutes")
POINTS = 6  # of a range of weights
CLIMB = 4  # steps toward the sharpest z, which is not asked for here
COLUMNS = ("elbo", "log_evidence", "rate", "distortion")


@dataclass(frozen=True)
class Curve:
    """Points of rate and distortion, ascending in beta.

    Args:
        runs: Of each run of a study: ``beta``, ``run`` (its folder), the estimates ``rate``,
            ``distortion``, ``elbo`` (at beta 1), ``log_evidence``, of images ``sharpness``
            (high-frequency energy of ``reconstructions`` and ``samples``, relative to the data),
            and ``classifier``: how well trees tell its samples from held-out data (1/2 at best).
        decoder: Points of one decoder.
        of: The run whose decoder it is, or the study.
    """

    runs: tuple[dict[str, Any], ...] = ()
    decoder: tuple[Point, ...] = ()
    of: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return {
            "of": self.of,
            "runs": list(self.runs),
            "decoder": [point.to_dict() for point in self.decoder],
        }

    def figure(self) -> Figure:
        """Returns a figure of matplotlib: distortion over rate, and of images sharpness."""
        from taut.report.latent import curve

        return curve(self.to_dict())

    def __str__(self) -> str:
        if not self.runs:
            return _decoder_table(self.decoder)
        images = any(row["sharpness"] for row in self.runs)
        titles = ["beta", "rate", "distortion", "ELBO at 1", "log p(x)", "classifier"]
        if images:
            titles += ["reconstr.", "samples"]
        lines = [titles]
        for row in self.runs:
            cells = [f"{row['beta']:.3g}"]
            cells += [plus_minus(row[k]) for k in ("rate", "distortion", "elbo", "log_evidence")]
            cells.append(plus_minus(row["classifier"]))
            if images:
                sharp = row["sharpness"]
                cells += [number(sharp[name]) for name in ("reconstructions", "samples")]
            lines.append(cells)
        return _aligned(lines)


def _decoder_table(points: Sequence[Point]) -> str:
    lines = [["beta", "rate", "distortion", "method", "doubtful rows"]]
    for p in points:
        both = [plus_minus(e.to_dict()) for e in (p.rate, p.distortion)]
        lines.append([f"{p.beta:.3g}", *both, p.method, str(p.unreliable)])
    return _aligned(lines)


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ("  ".join(f"{t:>{w}}" for t, w in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(rows)


def betas_of(text: str) -> list[float]:
    """Returns weights from a range such as 0.1..16, six of equal ratios, with 1 in the place of
    the nearest inner one where the range holds it; or from a list such as 0.5,1,4.

    Examples:
        >>> betas_of("0.25..8")
        [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
        >>> betas_of("4,1")
        [1.0, 4.0]
    """
    wrong = UsageError(f"--beta {shown(text)}: write it like --beta 0.1..16 or --beta 0.5,1,4")
    try:
        if ".." in text:
            low, high = (float(part) for part in text.split(".."))
            ratio = (high / low) ** (1 / (POINTS - 1))
            found = [low * ratio**i for i in range(POINTS)]
            if low < 1 < high:
                inner = range(1, POINTS - 1)
                found[min(inner, key=lambda i: abs(math.log(found[i])))] = 1.0
        else:
            found = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise wrong from None
    if not all(0 < beta < float("inf") for beta in found):
        raise wrong
    return sorted({float(f"{beta:.3g}") for beta in found})


def study(
    source: Source,
    betas: Sequence[float],
    out: str | Path | None = None,
    config: Config | None = None,
    *,
    num_data: int = 300,
    verbose: bool | None = None,
) -> Curve:
    """Returns rate and distortion of runs that are trained at several weights, and writes
    ``curve.json`` beside their folders.

    Args:
        source: The data.
        betas: Positive weights of the rate.
        out: The folder of the study; by default the next free one below runs/. Where it holds runs
            of these data already, they are kept, and the missing ones are trained.
        config: Settings of all runs but the objective.
        num_data: Held-out rows that samples and sharpness are measured with, at most.
        verbose: Whether to tell of the progress.

    Raises:
        UsageError: an objective is named, the model has no rate, or the folder holds other things.
    """
    config, tell = config or Config(), Telling(verbose)
    if config.training.objective:
        raise UsageError("a curve trains by ELBO(beta=...): omit the objective")
    data = read_data(source, config)
    folder = _folder(out, data)
    threads, before, rows = torch.get_num_threads(), None, []
    try:
        for beta in sorted(betas):
            run = _run_at(beta, data, folder / f"beta-{beta:.3g}", config, before, tell)
            if isinstance(run.model, ExactModel | StepwiseModel):
                raise UsageError(f"{run.config.model.model} is not trained by a weight of its rate")
            rows.append(_measured(beta, run, data, num_data))
            before = run
    finally:
        torch.set_num_threads(threads)
    found = Curve(tuple(rows), of=str(folder))
    storage.write_json(folder / FILE, storage.fingerprinted(found.to_dict()))
    return found


def read_curve(folder: Path) -> dict[str, Any]:
    """Returns the curve of a study as it was written.

    Raises:
        UsageError: it has none.
        StorageError: it is damaged.
    """
    if not (folder / FILE).is_file():
        raise UsageError(f"{shown(folder)} holds no curve: make one with `taut curve`")
    return storage.read_unbroken_json(folder / FILE)


def _folder(out: str | Path | None, data: Dataset) -> Path:
    """Makes the folder of a study."""
    if out is not None:
        path = Path(out)
        if (path / "run.json").exists():
            raise UsageError(f"{shown(path)} is a run, and a study is a folder of runs")
        path.mkdir(parents=True, exist_ok=True)
        return path
    number = 1
    while (path := Path("runs") / f"{stem(data.name)}-curve-{number}").exists():
        number += 1
    path.mkdir(parents=True)
    return path


def _run_at(
    beta: float, data: Dataset, path: Path, config: Config, before: Stored | None, tell: Telling
) -> Stored:
    """Returns the run of a weight, trained from the weights of the one before it."""
    settings = merge(config, {"objective": f"ELBO(beta={beta:.3g})"})
    if (path / storage.MANIFEST).exists():
        run = load(path)
        same = run.info["fingerprint"] == data.fingerprint
        if not same or run.config.training.objective != settings.training.objective:
            raise UsageError(f"{shown(path)} is a run of other data or aims: choose another --out")
        if differing := _differing(run.config, assemble(data, settings)[0]):
            raise UsageError(
                f"{shown(path)} was trained with {differing}: choose another --out, or give what "
                "it was trained with"
            )
        tell.line(f"{path} is finished and kept")
        return run
    run, data, state = start(data, path, settings, overwrite=path.exists())
    if before is not None:
        run.model.load_state_dict(before.model.state_dict())
        run.model.started = True
    tell.line(f"{path}: beta {beta:.3g}")
    carry_out(run, data, state, tell)
    return load(path)


def _differing(there: Config, wanted: Config) -> str:
    """Returns a setting of a finished run that is not what is asked for, and its value; nothing
    where all are, but those that change no number.
    """
    made, asked = there.to_dict(), wanted.to_dict()
    free: tuple[str, ...] = NO_MATTER
    if wanted.training.minutes is not None:
        free = (*free, "max_epochs")  # follows from the time
    for section in ("model", "training", "evaluation"):
        for name, value in asked[section].items():
            if name not in free and made[section].get(name) != value:
                return f"{section}.{name} = {shown(made[section].get(name))}"
    return ""


def _measured(beta: float, run: Stored, data: Dataset, num_data: int) -> dict[str, Any]:
    """Returns what is known of a run of a study, as plain values."""
    known = run.evaluation()
    row = {"beta": beta, "run": str(run.path), **{name: known[name] for name in COLUMNS}}
    held_out = _drawn(getattr(data, measured_part(data)), num_data, 0)
    x, train = held_out.to(torch.get_default_dtype()), training_rows(data, 10 * num_data, 0)
    quality, sharp = None, None
    if len(x) >= 40 and run.schema.kind != "count":
        found = sample_quality(run.model, train.to(x), x, num_data=num_data)
        quality = found["classifier"]["samples"]
    if run.schema.is_image and run.model.condition is None:
        low, high = run.schema.low, run.schema.high
        energy = blur(run.model, x, low=low, high=high, steps=CLIMB)["high_frequency_energy"]
        sharp = _shares(energy)
    return row | {"classifier": quality, "sharpness": sharp}


def _shares(energy: dict[str, Any]) -> dict[str, float] | None:
    """Returns the energy of means, relative to that of the data."""
    if energy["mean"] is None or not energy["data"]["value"]:
        return None
    names = {"reconstructions": "mean", "samples": "mean_from_prior"}
    whole = energy["data"]["value"]
    return {name: energy[of]["value"] / whole for name, of in names.items()}


def _drawn(x: Any, count: int, seed: int) -> Any:
    """Returns at most so many rows, drawn at random."""
    return x[torch.randperm(len(x), generator=generator(seed, "curve"))[:count]]


def decoder_curve(
    run: Fitted, x: Any, betas: Sequence[float], *, num_data: int = 100, seed: int = 0
) -> Curve:
    """Returns the curve of the decoder of a run.

    Args:
        run: The run.
        x: Rows as the model takes them.
        betas: Positive weights.
        num_data: Rows that it is measured on, at most.
        seed: The same seed gives the same numbers.

    Raises:
        UsageError: the model has no continuous latent variables.
    """
    if isinstance(run.model, ExactModel | StepwiseModel):
        raise UsageError(
            f"{type(run.model).__name__} has no decoder of a latent vector: train a VAE"
        )
    some = _drawn(x, num_data, seed)
    try:
        points = rate_distortion(run.model, some, betas, seed=seed)
    except ValueError as error:
        raise UsageError(str(error)) from None
    name = str(getattr(run, "path", ""))
    return Curve(decoder=tuple(points), of=name)
