r"""Results carry their error.

Two errors belong to a mean over data, and they are different things: the *Monte Carlo error* would
vanish with more samples for the same data, the *test-set error* with more data. The second is the
scatter of the values over the data, $s / \sqrt{N}$; it holds the Monte Carlo scatter too, because
each data point has its own samples, and so it is the error of the number as an estimate for new
data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from taut.data.rows import Rows, blocks
from taut.evidence.pareto import threshold
from taut.system import html
from taut.types import PerDatum
from taut.use.blocks import some_of

__all__ = [
    "METHODS", "WEIGHTLESS", "Estimate", "Evidence", "bits_per_dimension", "both", "count_methods",
    "in_html", "never_rows", "observed_elements", "some_rows",
]  # fmt: skip

# of log p(x), by their numbers
METHODS = (
    "importance",
    "importance_from_optimum",
    "annealing",
    "defensive",
    "enumeration",
    "exact",
)

WEIGHTLESS = (
    "a whole draw of this model takes so many network passes that none was made: what stands for "
    "log p(x) is its lower bound, the ELBO; fewer steps, or more samples (--num-samples), give it"
)
ACTIVE = 0.01  # Burda et al.'s threshold on the variance of the posterior mean over the data


def finite(value: float) -> float | None:
    """Returns a number as JSON can hold it: None for NaN and infinity."""
    if math.isfinite(value):
        return value
    return None


def both(a: float | None, b: float | None) -> float | None:
    """Returns the error of a sum of two independent numbers."""
    if a is None or b is None:
        return None
    return math.hypot(a, b)


@dataclass(frozen=True)
class Estimate:
    r"""A mean over data, with its errors (one standard error each).

    Args:
        value: The mean, in nats per datum unless said otherwise, over the data that have a number;
            NaN where none has.
        mc_error: Standard error for these data, from the finite number of samples; None where one
            sample cannot tell.
        test_error: Standard error for new data, $s / \sqrt{N}$; None for a single data point.
        without: Data that have no number and are not in the mean.
    """

    value: float
    mc_error: float | None
    test_error: float | None
    without: int = 0

    @classmethod
    def of(
        cls, values: PerDatum, mc_errors: PerDatum | None = None, groups: Tensor | None = None
    ) -> Estimate:
        """Returns the mean of values whose Monte Carlo errors are independent, (N,) each.

        Args:
            values: The values; one that is not finite is not in the mean, and counted.
            mc_errors: Their Monte Carlo standard errors.
            groups: The group of each data point, (N,), numbered from 0: copies of a row are one
                observation and not several, so deviations from the mean are added within a group
                before they are squared.
        """
        known = values.isfinite()
        without = int((~known).sum())
        if without:
            values, mc_errors = values[known], some_of(mc_errors, known)
        if without and groups is not None:
            groups = groups[known].unique(return_inverse=True)[1]
        n = len(values)
        if not n:
            return cls(math.nan, None, None, without)
        mc = None
        if mc_errors is not None and bool(mc_errors.isfinite().all()):
            mc = float(mc_errors.square().sum().sqrt() / n)
        deviation = values - values.mean()
        if groups is not None:
            deviation = torch.zeros(int(groups.max()) + 1, dtype=values.dtype).index_add(
                0, groups, deviation
            )
        count, spread = len(deviation), math.nan
        if count > 1:
            spread = float(deviation.square().sum().sqrt() / n * math.sqrt(count / (count - 1)))
        return cls(float(values.mean()), mc, finite(spread), without)

    def to_dict(self) -> dict[str, float | None]:
        """Returns plain values for JSON, which has no infinity."""
        result: dict[str, float | None] = {
            "value": finite(self.value),
            "mc_error": self.mc_error,
            "test_error": self.test_error,
        }
        if self.without:
            result["without_number"] = self.without
        return result


@dataclass(frozen=True, eq=False)
class Evidence:
    r"""What K samples of a proposal say about each of N data. A tensor is (N,), unless said
    otherwise, float64, in nats.

    Args:
        num_samples: K.
        log_evidence: $\log \frac1K \sum_k w_k$: in expectation a lower bound of log p(x), tight as
            K grows.
        log_evidence_error: Its Monte Carlo standard error by the delta method; NaN for K = 1.
        elbo: $\frac1K \sum_k \log w_k$, an unbiased estimate of the ELBO.
        elbo_error: Its Monte Carlo standard error.
        gap_error: Monte Carlo standard error of ``log_evidence`` - ``elbo``, which share their
            samples.
        rate: Mean of log q(z|x) - log p(z): an unbiased estimate of KL(q, prior).
        rate_error: Its Monte Carlo standard error.
        distortion: Mean of -log p(x|z); ELBO = -(rate + distortion).
        distortion_error: Its Monte Carlo standard error.
        ess: Effective number of samples, $(\sum_k w_k)^2 / \sum_k w_k^2$, between 1 and K.
        khat: Pareto k-hat of the weights: reliable up to ``pareto.threshold(K)``; -inf for equal
            weights of different samples (the exact posterior), inf where the samples are equal or
            their density cannot be believed, NaN where K is too small to tell.
        information: KL of the exact posterior p(z|x) to the prior, by the weighted samples. Naive
            Monte Carlo needs about its exponential many samples for this data point.
        curve: Unbiased estimates of the bounds $\mathcal{L}_k$ for k in
            ``importance.curve_sizes(K)``, (N, J).
        curve_error: Their Monte Carlo standard errors, (N, J).
        posterior_mean: Mean of the proposal, (N, D); of its samples where the distribution has no
            mean.
    """

    num_samples: int
    log_evidence: Tensor
    log_evidence_error: Tensor
    elbo: Tensor
    elbo_error: Tensor
    gap_error: Tensor
    rate: Tensor
    rate_error: Tensor
    distortion: Tensor
    distortion_error: Tensor
    ess: Tensor
    khat: Tensor
    information: Tensor
    curve: Tensor
    curve_error: Tensor
    posterior_mean: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Evidence]) -> Evidence:
        """Returns the evidence of several blocks of data as one."""
        names = [f.name for f in fields(cls) if f.name != "num_samples"]
        return cls(
            parts[0].num_samples, *(torch.cat([getattr(p, name) for p in parts]) for name in names)
        )

    def cpu(self) -> Evidence:
        """Returns the evidence with its tensors in main memory, so that results do not fill an
        accelerator.
        """
        tensors = (f.name for f in fields(self) if f.name != "num_samples")
        return replace(self, **{name: getattr(self, name).cpu() for name in tensors})

    @property
    def gap(self) -> Tensor:
        r"""$\log p(x)$ - ELBO, the inference gap, (N,): an estimate of KL(q(z|x), p(z|x));
        NaN where no weight is known.
        """
        return torch.where(self.ess > 0, self.log_evidence - self.elbo, math.nan)

    @property
    def active_units(self) -> int:
        """Latent dimensions whose posterior mean varies over the data by more than 0.01 (variance.

        Burda et al. 2016).
        """
        if not self.posterior_mean.numel():  # of a path or an order nobody keeps the mean
            return 0
        return int((self.posterior_mean.var(0, correction=0) > ACTIVE).sum())

    @property
    def reliable(self) -> Tensor:
        """Whether the estimate of each data point and its error can be believed, (N,).

        By its k-hat; or because the weights hardly differ (an ESS of at least K / 2): the shape of
        their tail says nothing then.
        """
        even = (self.ess >= self.num_samples / 2) & (self.khat < math.inf)
        return (
            self.khat <= threshold(self.num_samples)
        ) | even  # false for NaN: too few samples to tell

    @property
    def weightless(self) -> bool:
        """Whether the bound is known and no weight of any data point was drawn."""
        return bool((self.ess == 0).all() & self.elbo.isfinite().any())

    @property
    def warnings(self) -> list[str]:
        """What keeps the numbers from being believed, a line each."""
        lines = []
        doubtful = int((~self.reliable).sum())
        if self.weightless:
            lines.append(WEIGHTLESS)
        elif self.num_samples == 1:
            lines.append(
                "one sample: log p(x) is the ELBO itself and no Monte Carlo error is known; use "
                "more samples"
            )
        elif doubtful and bool(self.khat.isnan().all()):
            lines.append(
                f"{self.num_samples} samples are too few to tell by k-hat if log p(x) and its "
                f"error can be believed"
            )
        elif doubtful:
            lines.append(
                f"{doubtful} of {len(self.khat)} rows have a Pareto k-hat above "
                f"{threshold(self.num_samples):.2f}: few samples "
                "carry their weight, so log p(x) is a lower bound, maybe a loose one, and its "
                "error too small"
            )
        known = self.log_evidence.isfinite() & self.elbo.isfinite()
        if not bool(known.all()):
            lines.append(some_rows(~known))
        return lines + no_error(self.log_evidence_error[known], self.num_samples)

    def of(self, rows: Tensor) -> Evidence:
        """Returns the evidence of some of the data."""
        tensors = (f.name for f in fields(self) if f.name != "num_samples")
        return replace(self, **{name: getattr(self, name)[rows] for name in tensors})

    def summary(self, groups: Tensor | None = None) -> dict[str, Estimate]:
        """Returns the means over the data, by name; for ``groups`` see ``Estimate.of``."""
        known = self.elbo.isfinite()
        rate, distortion = (
            torch.where(known, values, math.nan) for values in (self.rate, self.distortion)
        )
        return {
            "elbo": Estimate.of(self.elbo, self.elbo_error, groups),
            "rate": Estimate.of(rate, self.rate_error, groups),
            "distortion": Estimate.of(distortion, self.distortion_error, groups),
            "log_evidence": Estimate.of(self.log_evidence, self.log_evidence_error, groups),
            "inference_gap": Estimate.of(self.gap, self.gap_error, groups),
        }

    def to_dict(self, groups: Tensor | None = None) -> dict[str, Any]:
        """Returns the summary as plain values for JSON; for ``groups`` see ``Estimate.of``."""
        ess = self.ess
        known_threshold = threshold(self.num_samples) if self.num_samples > 1 else None
        reliable_share = None
        if not bool(self.khat.isnan().all()):
            reliable_share = float(self.reliable.double().mean())
        return {
            "method": "importance sampling with the posterior as proposal",
            "direction": "lower bound in expectation",
            "unit": "nats per datum",
            "num_data": len(ess),
            "num_samples": self.num_samples,
            **{name: estimate.to_dict() for name, estimate in self.summary(groups).items()},
            "ess": {
                "mean": float(ess.mean()),
                "median": float(ess.median()),
                "smallest": float(ess.min()),
            },
            "khat": {
                "threshold": known_threshold,
                "reliable_share": reliable_share,
            },
            "active_units": self.active_units,
            "latent_dim": self.posterior_mean.shape[1],
            "warnings": self.warnings,
        }

    def _repr_html_(self) -> str:
        caption = f"Importance sampling, {len(self.ess)} rows, K = {self.num_samples}"
        return in_html(caption, self.summary(), self.warnings)


def in_parts(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Returns row numbers in parts of at most a size; none where there are no rows."""
    if not len(rows):
        return ()
    return rows.split(max(1, size))


def in_html(caption: str, summary: Mapping[str, Estimate], warnings: Sequence[str]) -> str:
    """Returns means with their errors as a table for notebooks."""

    def text(value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "unknown"
        return f"{value:.3f}"

    rows = [
        (name.replace("_", " "), text(e.value), text(e.mc_error), text(e.test_error))
        for name, e in summary.items()
    ]
    header = ("nats a row", "mean", "± Monte Carlo", "± test set")
    return html.table(caption, header, rows, warnings)


def bits_per_dimension(
    nats: dict[str, float | None], num_elements: float
) -> dict[str, float | None]:
    """Returns an estimate of log p(x), as ``Estimate.to_dict`` gives it, in bits for each element:
    there less is better.

    Args:
        nats: The estimate, a mean over rows.
        num_elements: Observed elements of a row, a mean over the same rows: what is missing has no
            part in log p(x).
    """
    unit = num_elements * math.log(2)
    bits: dict[str, float | None] = dict.fromkeys(("value", "mc_error", "test_error"))
    for name in bits:
        number = nats[name]
        if number is not None and unit:
            bits[name] = number / unit
    if bits["value"] is not None:
        bits["value"] = -bits["value"]
    return bits


def observed_elements(x: Rows) -> float:
    """Returns the number of elements of a row that are observed, a mean over the rows."""
    return float(sum((~block.isnan()).sum() for block in blocks(x))) / max(1, len(x))


def count_methods(method: Tensor, known: Tensor) -> dict[str, int]:
    """Returns how many rows each method gave, of those with a number, and how many have none.

    The usual methods always.
    """
    counts = {name: int(((method == i) & known).sum()) for i, name in enumerate(METHODS)}
    counts["none"] = int((~known).sum())
    return {name: count for name, count in counts.items() if count or name in METHODS[:3]}


def no_error(errors: Tensor, num_samples: int) -> list[str]:
    """Returns the warning that a mean has no Monte Carlo error since some of its rows have none.

    Args:
        errors: Of the rows that have a number, (N,).
        num_samples: K; of one sample no error is known, which another warning says.
    """
    rows = int((~errors.isfinite()).sum())
    if not rows or num_samples == 1:
        return []
    have, their = ("has", "its") if rows == 1 else ("have", "their")
    return [
        f"{rows} of {len(errors)} rows {have} no Monte Carlo error, and so the mean has none: "
        f"almost one sample alone carries {their} weight; take more samples, or tighten the "
        f"posterior (`taut tighten`)"
    ]


def some_rows(without: Tensor, what: str = "number") -> str:
    """Returns the warning about rows, (N,), that have no number.

    It names the first of them, from 0.
    """
    have = "has" if int(without.sum()) == 1 else "have"
    return (
        f"{_count(without)} {have} no {what}, {_names(without)} (from 0): the means are over the "
        f"others"
    )


def never_rows(never: Tensor) -> str:
    """Returns the warning about rows, (N,), to which the model gives no probability."""
    return (
        f"log p(x) of {_count(never)} is minus infinity, {_names(never)} (from 0), which the model "
        f"gives no probability: the means are over the others"
    )


def _count(marked: Tensor) -> str:
    return f"{int(marked.sum())} of {len(marked)} rows"


def _names(marked: Tensor) -> str:
    rows = marked.nonzero()[:, 0].tolist()
    names = ", ".join(map(str, rows[:5]))
    if len(rows) > 5:
        names += ", ..."
    which = "row" if len(rows) == 1 else "rows"
    return f"{which} {names}"
