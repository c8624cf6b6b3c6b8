"""The audit: how good is the model, how loose its bound, why, and what would buy the next nat.

Each section is measured on the same data, in the order of importance; a section that was not
measured is None, and ``missing`` says why: an empty reason means that it is for models or data of
another kind. Sections that go block by block stop between two blocks and report on the data that
are done. The result is plain values: ``audit.json``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from taut.evidence import doctor
from taut.evidence.annealing import Annealed, annealing_blocks, simulate
from taut.evidence.gaps import Optima, best_evidence, decompose, optima_blocks
from taut.evidence.importance import curve_sizes, importance, importance_blocks, prior_proposal
from taut.evidence.latents import calibration, latents
from taut.evidence.results import Estimate, Evidence, count_methods, some_rows
from taut.evidence.rows import settle
from taut.evidence.samples import blur, sample_quality
from taut.evidence.scale import scale_check
from taut.model import VAE
from taut.system.defaults import never, silent
from taut.system.parallel import agreed
from taut.system.seeds import derive
from taut.types import Data, PerDatum
from taut.use.door import takes_model_and_data

__all__ = ["Effort", "audit"]

FEW = 9  # data, with which samples are not compared
T = TypeVar("T")
# log p(x), its error, the number of its method, whether it is reliable
Best = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Effort:
    """How much work an audit is.

    Args:
        num_samples: K of importance sampling.
        num_chains: C of annealing.
        max_temperatures: Largest T of annealing.
        optimum_steps: Steps toward the best posterior of each datum.
        simulated: Data that the model makes, to be sandwiched between both directions of annealing.
        naive: Data on which the prior is tried as proposal.
        train: Training data that the prior is fitted to and that overfitting and copies are looked
            for in.
        samples: Samples compared with real data.
        minutes: Time for all of it.
    """

    num_samples: int = 5000
    num_chains: int = 16
    max_temperatures: int = 400
    optimum_steps: int = 200
    simulated: int = 100
    naive: int = 100
    train: int = 10_000
    samples: int = 1000
    minutes: float | None = None


class _Clock:
    """Says when a stage is to stop.

    At a person's word, or when its share of the time and of all before it is over.
    """

    def __init__(
        self, minutes: float | None, stop: Callable[[], bool], report: Callable[[str, float], None]
    ) -> None:
        self.minutes, self.word, self.report = minutes, stop, report
        self.began, self.share, self.cut = time.monotonic(), 0.0, False

    def stage(self, title: str, share: float) -> bool:
        """Begins a stage; returns whether it is to be run at all."""
        over = self.over()
        self.title, self.share = title, self.share + share
        self.report(title, 0.0)
        return not over

    def over(self) -> bool:
        late = self.minutes is not None and time.monotonic() - self.began > 60 * self.minutes * max(
            self.share, 1e-3
        )
        over = agreed(self.word() or late)
        self.cut = self.cut or over
        return over

    def blocks(self, blocks: Iterable[T], size: Callable[[T], int], total: int) -> list[T]:
        """Returns the blocks that the time allows, the first one in any case."""
        done, rows = [], 0
        for block in blocks:
            done.append(block)
            rows += size(block)
            self.report(self.title, rows / total)
            if rows < total and self.over():
                break
        return done


@takes_model_and_data("taut.audit", "audit()")
def audit(
    model: VAE,
    x: Data,
    *,
    train: Tensor | None = None,
    groups: Tensor | None = None,
    baseline: PerDatum | None = None,
    levels: tuple[float, float] | None = None,
    effort: Effort | None = None,
    seed: int = 0,
    stop: Callable[[], bool] = never,
    report: Callable[[str, float], None] = silent,
) -> dict[str, Any]:
    r"""Returns the audit of a model on held-out data as plain values, in nats per datum.

    Args:
        model: The model.
        x: Held-out data, (N, \*event).
        train: Training data, (M, \*event), for what only they can tell; None where they are not at
            hand.
        groups: The group of equal rows of each datum, (N,), where there are copies: see
            ``Estimate.of``.
        baseline: log p(x) under independent marginals, (N,).
        levels: Values shown black and white, where the data are images.
        effort: How much work.
        seed: The same seed gives the same numbers.
        stop: Asked between blocks; true ends the audit with what is done.
        report: Told the stage and how much of it is done.
    """
    if not len(x):
        raise ValueError("an audit needs at least one datum")
    effort = effort or Effort()
    clock = _Clock(effort.minutes, stop, report)
    notes: list[str] = []
    reasons: dict[str, str] = {}
    clock.stage("log p(x) by importance sampling", 0.2)
    parts = clock.blocks(
        importance_blocks(model, x, effort.num_samples, seed=seed), lambda e: len(e.ess), len(x)
    )
    evidence = Evidence.concatenate(parts)
    n = len(evidence.ess)
    x, groups = x[:n], None if groups is None else _renumbered(groups[:n])
    result: dict[str, Any] = {
        "num_data": n,
        "evidence": {**evidence.to_dict(groups), "curve": _curve(evidence, groups)},
        "baseline": None
        if baseline is None
        else Estimate.of(baseline[:n], torch.zeros(n), groups).to_dict(),
        "gain_over_baseline": None
        if baseline is None
        else Estimate.of(
            evidence.log_evidence - baseline[:n], evidence.log_evidence_error, groups
        ).to_dict(),
    }
    over = clock.over()
    result["overfitting"] = (
        _overfitting(model, train, evidence, groups, seed)
        if train is not None and not over
        else None
    )
    result["scale"] = None if over else scale_check(model, x, seed=seed)
    annealed: Annealed | None = None
    result["annealing"], result["sandwich"] = None, None
    if clock.stage("log p(x) by annealing", 0.3):
        try:
            blocks = annealing_blocks(
                model, x, effort.num_chains, max_temperatures=effort.max_temperatures, seed=seed
            )
            annealed = Annealed.concatenate(clock.blocks(blocks, lambda a: len(a.ess), n))
            result["annealing"] = annealed.to_dict()
        except ValueError as error:
            reasons["annealing"] = _line(error)
            notes.append(f"no annealing: {reasons['annealing']}")
    simulates = getattr(model, "condition", None) is None
    if not simulates:
        notes.append(
            "the model is conditioned on a context, which the data give: what needs data of its "
            "own making is left out"
        )
        reasons |= dict.fromkeys(
            ("sandwich", "calibration", "samples"),
            "the model is conditioned and makes no data of its own",
        )
    if clock.stage("sandwich on simulated data", 0.1) and annealed is not None and simulates:
        result["sandwich"] = _sandwich(model, effort, seed)
    optima: list[Optima] = []
    result["gaps"] = None
    if clock.stage("the best posterior of each datum", 0.25):
        try:
            fitted = optima_blocks(model, x, steps=effort.optimum_steps, seed=seed)
            optima = clock.blocks(fitted, lambda o: len(o.own.ess), n)
        except ValueError as error:
            reasons["gaps"] = _line(error)
            notes.append(f"no gaps: {reasons['gaps']}")
    best = _best(evidence, annealed, optima)
    if not clock.over():
        best = _settled(model, x, evidence, best, seed)
    if optima:
        gaps = decompose(evidence, annealed, optima)
        names = ("log_evidence", "log_evidence_error", "method", "reliable")
        gaps = replace(gaps, **dict(zip(names, best, strict=True)))
        result["gaps"] = gaps.to_dict(
            None if groups is None else _renumbered(groups[: len(gaps.elbo)])
        )
    result["log_evidence"] = _log_evidence(evidence, best, groups)
    if not bool(best[0].isfinite().all()):
        notes.append(some_rows(~best[0].isfinite()))
    notes += _more_precise(result["evidence"], result["log_evidence"])
    result["naive"] = None
    if clock.stage("the prior as proposal", 0.03):
        result["naive"] = _naive(model, x[: effort.naive], evidence, effort.num_samples, seed)
    result["latents"], result["calibration"] = None, None
    few = f"{n} data are too few"
    if n < 2:
        reasons |= dict.fromkeys(("latents", "calibration"), few)
    if clock.stage("use of the latent space", 0.04) and n > 1:
        result["latents"] = latents(
            model, x, train=None if train is None else train[: effort.train], seed=seed
        )
        result["calibration"] = calibration(model, seed=seed) if simulates else None
    result["samples"], result["blur"] = None, None
    if levels is None:
        reasons["blur"] = ""
    if train is None:
        reasons |= dict.fromkeys(
            ("baseline", "overfitting", "samples"), "the training data are not at hand"
        )
    elif min(n, len(train)) <= FEW:
        reasons.setdefault(
            "samples", few if n <= FEW else f"{len(train)} training data are too few"
        )
    if clock.stage("samples", 0.08) and "samples" not in reasons and train is not None:
        result["samples"] = sample_quality(
            model, train[: effort.train], x, num_data=effort.samples, seed=seed
        )
        if levels is not None and clock.stage("sharpness", 0.0):
            result["blur"] = blur(
                model, x[: effort.samples], low=levels[0], high=levels[1], seed=seed
            )
    result["stopped"] = None if not clock.cut else "stopped" if agreed(stop()) else "time"
    result["notes"] = notes
    result["missing"] = _missing(result, reasons)
    result = _finite(result)
    result["findings"] = doctor.diagnose(result)
    return result


def _more_precise(sampled: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """Returns a note where importance sampling is reliable and much more precise than what the
    fixed order of methods chose.
    """
    share, one, two = sampled["khat"]["reliable_share"], sampled["log_evidence"], chosen
    errors = one["mc_error"], two["mc_error"]
    if (
        share is None
        or share < doctor.RELIABLE
        or None in errors
        or one["value"] is None
        or errors[0] > errors[1] / 2
    ):
        return []
    return [
        f"importance sampling alone is reliable for {share:.0%} of the data and more precise: it "
        f"says log p(x) "
        f"{one['value']:.4f} ± {errors[0]:.4f} (Monte Carlo), and the first reliable method of "
        f"each {two['value']:.4f} ± "
        f"{errors[1]:.4f}"
    ]


def _missing(result: dict[str, Any], reasons: dict[str, str]) -> dict[str, str]:
    """Returns why each section that is None was not measured.

    An empty text says that it is for something else.
    """
    over = {"time": "the time was up before it", "stopped": "the audit was stopped before it"}.get(
        result["stopped"], ""
    )
    # what is measured only where another section is
    after = {
        "sandwich": "annealing",
        "blur": "samples",
    }
    names = [
        name
        for name, value in result.items()
        if value is None and name not in ("stopped", "gain_over_baseline")
    ]
    return {name: reasons.get(name, reasons.get(after.get(name, ""), over)) for name in names}


def _finite(value: Any) -> Any:
    """Returns plain values with None for every number that is none: JSON has no infinity."""
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _curve(evidence: Evidence, groups: Tensor | None) -> list[dict[str, Any]]:
    values = zip(
        curve_sizes(evidence.num_samples), evidence.curve.T, evidence.curve_error.T, strict=True
    )
    return [{"num_samples": k, **Estimate.of(v, e, groups).to_dict()} for k, v, e in values]


def _overfitting(
    model: VAE, train: Tensor, evidence: Evidence, groups: Tensor | None, seed: int
) -> dict[str, Any]:
    """Returns how much better the training data are off, by the same bound with the same K on both
    sides.
    """
    k = max(size for size in curve_sizes(evidence.num_samples) if size <= 500)
    column = curve_sizes(evidence.num_samples).index(k)
    seen = importance(model, train[: len(evidence.ess)], k, seed=derive(seed, "train"))
    held, held_error = evidence.curve[:, column], evidence.curve_error[:, column]
    pairs = {
        "log_evidence": (
            Estimate.of(seen.log_evidence, seen.log_evidence_error),
            Estimate.of(held, held_error, groups),
        ),
        "elbo": (
            Estimate.of(seen.elbo, seen.elbo_error),
            Estimate.of(evidence.elbo, evidence.elbo_error, groups),
        ),
    }
    return {
        "num_data": len(seen.ess),
        "num_samples": k,
        **{
            name: {"train": a.to_dict(), "held_out": b.to_dict(), "difference": _minus(a, b)}
            for name, (a, b) in pairs.items()
        },
    }


def _minus(a: Estimate, b: Estimate) -> dict[str, float | None]:
    """Returns the difference of means over different data, whose errors are independent."""
    return Estimate(
        a.value - b.value, _both(a.mc_error, b.mc_error), _both(a.test_error, b.test_error)
    ).to_dict()


def _both(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else math.hypot(a, b)


def _sandwich(model: VAE, effort: Effort, seed: int) -> dict[str, Any]:
    """Returns both directions of annealing, and importance sampling, on data whose exact posterior
    draws are known.
    """
    z, x = simulate(model, effort.simulated, seed=seed)
    own = derive(seed, "sandwich")
    both = [
        Annealed.concatenate(
            list(
                annealing_blocks(
                    model,
                    x,
                    effort.num_chains,
                    exact=e,
                    max_temperatures=effort.max_temperatures,
                    seed=own,
                )
            )
        )
        for e in (None, z)
    ]
    lower, upper = (a.log_evidence for a in both)
    sampled = importance(model, x, effort.num_samples, seed=own)
    return {
        "num_data": len(x),
        "lower": Estimate.of(lower, both[0].log_evidence_error).to_dict(),
        "upper": Estimate.of(upper).to_dict(),
        "width": Estimate.of(upper - lower).to_dict(),
        "importance": Estimate.of(sampled.log_evidence, sampled.log_evidence_error).to_dict(),
        "importance_short_by": Estimate.of(upper - sampled.log_evidence).to_dict(),
    }


def _best(evidence: Evidence, annealed: Annealed | None, optima: list[Optima]) -> Best:
    """Returns log p(x) of the first data by the most reliable estimate that there is, its error,
    its method and whether it is.
    """
    if optima:
        gaps = decompose(evidence, annealed, optima)
        return gaps.log_evidence, gaps.log_evidence_error, gaps.method, gaps.reliable
    own = (0, evidence.log_evidence, evidence.log_evidence_error, evidence.reliable)
    if annealed is None:
        return best_evidence([own])
    m = len(annealed.ess)
    other = (2, annealed.log_evidence, annealed.log_evidence_error, annealed.reliable)
    return best_evidence([other, (0, own[1][:m], own[2][:m], own[3][:m])])


def _settled(model: VAE, x: Data, evidence: Evidence, best: Best, seed: int) -> Best:
    """Returns the same where the data that none of these methods can tell have climbed the ladder
    of ``rows``.
    """
    rows = (~best[3]).nonzero()[:, 0]
    if not len(rows):
        return best
    found = settle(model, x[rows], evidence.of(rows), seed=derive(seed, "settle"))
    ladder = (found.log_evidence, found.log_evidence_error, found.method, found.reliable)
    value, error, method, reliable = (column.clone() for column in best)
    taken = found.known & (found.reliable | ~value[rows].isfinite())
    for column, new in zip((value, error, method, reliable), ladder, strict=True):
        column[rows[taken]] = new[taken]
    return value, error, method, reliable


def _log_evidence(evidence: Evidence, best: Best, groups: Tensor | None) -> dict[str, Any]:
    """Returns log p(x) of all data by the best method of each, and which those were.

    Where the better estimates exist for the first data alone, their mean difference to importance
    sampling corrects the rest.
    """
    n = len(evidence.ess)
    value, error, method, reliable = best
    m = len(value)
    # what is not a number is not reliable
    reliable = reliable & value.isfinite() & error.isfinite()
    if m == n:
        estimate = Estimate.of(value, error, groups)
    else:
        correction = Estimate.of(value - evidence.log_evidence[:m], error)
        rest = Estimate.of(evidence.log_evidence, evidence.log_evidence_error, groups)
        # Taken as independent, though they share samples and data: too large rather than too small.
        errors = (
            _both(correction.mc_error, rest.mc_error),
            _both(correction.test_error, rest.test_error),
        )
        estimate = Estimate(rest.value + correction.value, *errors, rest.without)
    return {
        **estimate.to_dict(),
        "num_data": n,
        "num_unknown": int((~torch.cat([value, evidence.log_evidence[m:]]).isfinite()).sum()),
        "by": count_methods(method, value.isfinite()),
        "reliable_share": float(reliable.double().mean()),
        "above_importance": Estimate.of(value - evidence.log_evidence[:m]).to_dict(),
    }


def _naive(model: VAE, x: Data, evidence: Evidence, num_samples: int, seed: int) -> dict[str, Any]:
    """Returns what the prior as proposal finds, and how many samples it would need.

    About exp(KL(p(z|x), p(z))).
    """
    n = len(x)
    naive = importance(model, x, num_samples, seed=seed, proposal=prior_proposal(model))
    information = evidence.information[:n]
    return {
        "num_data": n,
        "num_samples": num_samples,
        "log_evidence": Estimate.of(naive.log_evidence, naive.log_evidence_error).to_dict(),
        "short_by": Estimate.of(evidence.log_evidence[:n] - naive.log_evidence).to_dict(),
        "ess": {"mean": float(naive.ess.mean()), "median": float(naive.ess.median())},
        "reliable_share": None
        if bool(naive.khat.isnan().all())
        else float(naive.reliable.double().mean()),
        "information": Estimate.of(information).to_dict(),
        "samples_needed_log10": {
            "median": float(information.median()) / math.log(10),
            "largest": float(information.max()) / math.log(10),
        },
    }


def _renumbered(groups: Tensor) -> Tensor:
    return groups.unique(return_inverse=True)[1]
