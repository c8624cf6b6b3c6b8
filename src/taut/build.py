"""From a schema and specifications to a model: everything that follows from the data is filled in here, by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints

from taut import likelihoods, objectives, posteriors, priors
from taut.config import LEARNING_RATE, ModelConfig
from taut.data import Dataset, Rows, Schema, batch, blocks
from taut.data.column import float_storage
from taut.data.numeric_notes import spread
from taut.errors import DataError, UsageError, shown
from taut.features import ColumnFeatures, Condition, Features, Split, Standardize, Totals
from taut.likelihoods.columns import ColumnSupport, reach_of
from taut.model import VAE, Likelihood, Posterior, Prior
from taut.networks import Network
from taut.objectives import Objective
from taut.spec import Spec, parse, resolve, to_spec
from taut.warps import MAX_KNOTS, fit_knots, padded

__all__ = [
    "Statistics",
    "build",
    "build_objective",
    "check_parts",
    "complete",
    "describe_part",
    "summarize",
    "unsupported",
    "usual_objective",
]

# Importing the modules registers their parts: they are found as subclasses of these.
_FAMILIES = (priors, likelihoods, posteriors, objectives)
_FAMILY_NAMES = ("binary", "category", "ordinal", "levels", "count", "real", "positive", "mixed")
_NESTED: dict[str, type] = {"encoder": Network, "decoder": Network} | dict.fromkeys(_FAMILY_NAMES, Likelihood)
_FILLED = (
    "event_shape", "latent_dim", "context_dim", "low", "high", "data_loc", "data_scale", "data_total", "log_frequencies",
    "log_loc", "log_scale", "features", "kinds", "num_levels", "knots",
)  # fmt: skip

# A table of frequencies larger than this (entries) is not made: levels of large images are modelled without one.
MAX_FREQUENCIES = 50_000_000
FENCE = 20.0  # robust standard deviations: beyond them a number is taken to be wild
MANY = 10_000  # data, which a larger rate serves better: they are seen too seldom for a small one


class Statistics(NamedTuple):
    r"""What a model takes from the training data before the first step; missing entries count for nothing.

    Args:
        loc: Mean of each element, (\*event), in the user's units; of real numbers, wild ones pulled in.
        scale: Standard deviation of each element, (\*event), likewise; 0 for an element that never varies.
        log_loc: Mean of log x where x is positive by kind, of log(1 + x) for counts; (\*event).
        log_scale: Standard deviation of the same.
        log_frequencies: Log-probabilities of the levels, (\*event, levels), each level with a pseudo-count: one half for bits
            (Krichevsky and Trofimov), else the one under which each training datum is best predicted from the others; None
            for reals. Of a table -inf beyond the levels of a column.
        mean_total: Mean of the sum of a row.
        rows: Number of training rows.
        knots: Of a table: of the marginals of its levels, mixed numbers and dates, (columns, 2, knots); see ``taut.warps``.
    """

    loc: Tensor
    scale: Tensor
    log_loc: Tensor
    log_scale: Tensor
    log_frequencies: Tensor | None
    mean_total: float = 1.0
    rows: int = 0
    knots: Tensor | None = None


def summarize(dataset: Dataset) -> Statistics:
    """Returns the statistics of the training data, read in blocks of rows."""
    schema = dataset.schema
    # Grey levels to be binarised are stored as bytes, p = x / 255, or as p itself.
    grey = 255.0 if dataset.binarize == "dynamic" and dataset.train.dtype == torch.uint8 else 1.0

    def read() -> Iterator[Tensor]:
        return (block.double() / grey for block in blocks(dataset.train))

    real = _real_elements(schema)
    count, loc, variance = _moments(_resisting(read, real))
    if dataset.binarize == "dynamic":  # a binarised grey level varies by p (1 - p), more than the level itself does
        variance = loc * (1 - loc)
    log_loc, log_variance = torch.zeros_like(loc), torch.ones_like(loc)
    if (shift := _log_shift(schema)) is not None:
        _, log_loc, log_variance = _moments(_resisting(lambda: ((block + shift).log() for block in read()), real))
    dtype = torch.get_default_dtype()
    frequencies = _frequencies(dataset, loc, count)
    return Statistics(
        loc.to(dtype),
        variance.sqrt().to(dtype),
        log_loc.to(dtype),
        log_variance.sqrt().to(dtype),
        None if frequencies is None else frequencies.log().to(dtype),
        float(loc.sum()),
        len(dataset.train),
        _knots(dataset),
    )


def _knots(dataset: Dataset) -> Tensor | None:
    """Returns the knots of the warps of the columns that have one, infinity for the others; None where none has."""
    columns = dataset.schema.modelled
    warped = [i for i, c in enumerate(columns) if c.kind in ("levels", "mixed", "date")]
    if not warped:
        return None
    parts = [block[:, warped].double().numpy() for block in blocks(dataset.train)]
    knots = torch.full((len(columns), 2, MAX_KNOTS), torch.inf)
    for place, values in zip(warped, np.concatenate(parts).T, strict=True):
        column, seen = columns[place], values[~np.isnan(values)]
        # As stored, or an atom would not be recognised.
        atoms = np.asarray(column.codes(column.atoms)).astype(float_storage()).astype(np.float64)
        knots[place] = padded(fit_knots(seen, atoms, column.support, column.kind == "levels"))
    return knots


def _real_elements(schema: Schema) -> Tensor:
    r"""Returns which elements are real numbers outside images, (\*event)."""
    if schema.kind == "table":
        return torch.tensor([not c.discrete for c in schema.modelled])
    return torch.full(schema.event_shape, schema.kind == "real" and not schema.is_image)


def _resisting(read: Callable[[], Iterator[Tensor]], real: Tensor) -> Callable[[], Iterator[Tensor]]:
    """Returns a reader whose real numbers are pulled to within FENCE robust standard deviations of the median.

    One wild value, a slip of the unit or of a digit, would otherwise make a scale of its own beside which the column is a
    constant. The fence is so far out that the mean and the standard deviation of regular data are what they were, to the bit.
    """
    if not bool(real.any()):
        return read
    some = torch.cat([block[:: max(1, len(block) * real.numel() // 2**16)] for block in read()])
    low, high = (torch.full(real.shape, end, dtype=torch.float64) for end in (-math.inf, math.inf))
    for index in real.nonzero().tolist():
        place = tuple(index)
        median, distance = spread(some[(slice(None), *place)].numpy())
        if distance > 0:
            reach = FENCE * distance / 1.349  # the quartiles of a Normal are 1.349 standard deviations apart
            low[place], high[place] = median - reach, median + reach
    return lambda: (block.clamp(low, high) for block in read())


def _moments(read: Callable[[], Iterator[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the number of observed entries of each element, their mean and their variance, in two passes."""

    def total(function: Callable[[Tensor], Tensor]) -> Tensor:
        return cast(Tensor, sum(torch.where(b.isfinite(), function(b), 0.0).sum(0) for b in read()))

    count = total(torch.ones_like)
    loc = total(lambda b: b) / count
    return count, loc, total(lambda b: (b - loc).square()) / count


def _log_shift(schema: Schema) -> Tensor | None:
    """Returns what is added to each element before its logarithm is taken: 1 to counts; NaN where none is."""
    if schema.kind == "table":
        shifts = [1.0 if c.kind == "count" else 0.0 if c.low > 0 and not c.offset else math.nan for c in schema.modelled]
        return torch.tensor(shifts, dtype=torch.float64)
    if schema.kind == "count":
        return torch.ones(schema.event_shape, dtype=torch.float64)
    return torch.zeros(schema.event_shape, dtype=torch.float64) if schema.kind == "real" and schema.low > 0 else None


def _frequencies(dataset: Dataset, loc: Tensor, count: Tensor) -> Tensor | None:
    schema = dataset.schema
    if schema.kind == "table":
        return _column_frequencies(dataset)
    if schema.kind not in ("binary", "levels") or schema.num_levels * schema.num_elements > MAX_FREQUENCIES:
        return None
    if schema.kind == "binary":
        counts = torch.stack([count * (1 - loc), count * loc], -1)
    else:
        size = schema.num_levels * schema.num_elements
        first = torch.arange(schema.num_elements) * schema.num_levels - int(schema.low)
        counts = torch.zeros(size, dtype=torch.float64)
        for block in blocks(dataset.train):
            there = ~block.isnan() if block.is_floating_point() else torch.ones_like(block, dtype=torch.bool)
            places = (torch.where(there, block, schema.low).flatten(1).long() + first)[there.flatten(1)]
            counts += torch.bincount(places, minlength=size)
        counts = counts.view(*schema.event_shape, schema.num_levels)
    extra = 0.5 if schema.kind == "binary" else _pseudo_count(counts)
    return (counts + extra) / (count[..., None] + extra * schema.num_levels)


def _column_frequencies(dataset: Dataset) -> Tensor:
    """Returns the smoothed frequencies of the levels of each column, zero beyond them and for numbers, (columns, levels)."""
    columns = dataset.schema.modelled
    sizes = [len(c.levels) for c in columns]
    most = max([2, *sizes])
    counts = torch.zeros(len(columns), most, dtype=torch.float64)
    for block in blocks(dataset.train):
        for i in (i for i, size in enumerate(sizes) if size):
            counts[i] += torch.bincount(block[:, i][~block[:, i].isnan()].long(), minlength=most)
    for i, size in enumerate(sizes):
        if size:
            extra = 0.5 if size == 2 else _pseudo_count(counts[i, :size])
            counts[i, :size] = (counts[i, :size] + extra) / (counts[i].sum() + extra * size)
    return counts


def _pseudo_count(counts: Tensor) -> float:
    r"""Returns the pseudo-count of each level under which every datum is best predicted from the others, of six.

    Too few make a level that was not seen impossible, too many drown what was: a weak baseline would flatter the model. The
    sum of the log-probabilities of each datum given the rest is $\sum_l c_l \log (c_l - 1 + a) / (n - 1 + a L)$.
    """
    n, levels = counts.sum(-1), counts.shape[-1]

    def left_out(extra: float) -> float:
        seen = torch.where(counts > 0, counts * (counts - 1 + extra).log(), 0.0).sum(-1)
        return float((seen - n * (n - 1 + extra * levels).log()).sum())

    return max((1 / levels, 0.01, 0.03, 0.1, 0.3, 1.0), key=left_out)


def complete(config: ModelConfig, schema: Schema) -> ModelConfig:
    """Returns the configuration with everything that was left to the data decided, each part in its shortest spelling.

    Fails:
        UsageError: a specification cannot be read.
    """
    real = 'StudentT(scale="per_feature")' if schema.is_rows else 'Normal(scale="shared")'
    usual = {"binary": "Bernoulli()", "levels": "DiscretizedLogistic()", "count": "NegativeBinomial()", "table": "Columns()"}
    likelihood = config.likelihood or usual.get(schema.kind, real)
    large = schema.is_image and schema.num_elements > 1024
    return dataclasses.replace(
        config,
        latent_dim=config.latent_dim or schema.usual_latent_dim,
        prior=str(parse(config.prior)),
        likelihood=str(parse(likelihood)),
        posterior=str(parse(config.posterior)),
        encoder=str(parse(config.encoder or ("ConvEncoder" if large else "MLP"))),
        decoder=str(parse(config.decoder or ("ConvDecoder" if large else "MLP"))),
    )


def build(
    config: ModelConfig,
    schema: Schema,
    statistics: Statistics | None = None,
    *,
    context_dim: int = 0,
    parts: Mapping[str, Prior | Likelihood | Posterior] | None = None,
) -> VAE:
    """Returns the model that a completed configuration describes.

    Args:
        config: Specifications of the parts.
        schema: What a datum is.
        statistics: Of the training data; without them the buffers are blank, to be loaded.
        context_dim: C.
        parts: Parts that a person has built themselves, by name (prior, likelihood, posterior), used as they are.

    Fails:
        UsageError: an unknown part or argument, or one that its constructor refuses.
    """
    library = ("library", True) in parse(cast(str, config.likelihood)).arguments
    condition = _condition(schema, statistics, library)
    context_dim += 0 if condition is None else condition.context_dim
    fill = _fill(config, schema, statistics) | {"context_dim": context_dim}
    given = parts or {}

    def part(name: str, base: type, **own: Any) -> Any:
        return given[name] if name in given else resolve(getattr(config, name), base, fill | own, _NESTED)

    loc, scale = (fill["data_loc"], fill["data_scale"]) if statistics is None else _encoder_units(statistics, schema)
    posterior = part("posterior", Posterior, data_loc=loc, data_scale=scale, features=_features(schema, statistics, loc, scale))
    return VAE(part("prior", Prior), part("likelihood", Likelihood), posterior, condition)


def _fill(config: ModelConfig, schema: Schema, statistics: Statistics | None) -> dict[str, Any]:
    """Returns the arguments of the parts that follow from the data and the other settings."""
    zeros, ones = torch.zeros(schema.event_shape), torch.ones(schema.event_shape)
    data: dict[str, Any] = {
        "data_loc": zeros if statistics is None else statistics.loc,
        "data_scale": ones if statistics is None else _units(statistics, schema),
        "log_loc": zeros if statistics is None else statistics.log_loc,
        "log_scale": ones if statistics is None else _never_zero(statistics.log_scale),
        "data_total": ones if statistics is None else statistics.loc * statistics.rows,
        "log_frequencies": None if statistics is None else statistics.log_frequencies,
        "knots": None if statistics is None else statistics.knots,
    }
    if schema.kind in ("binary", "levels"):
        data |= {"low": int(schema.low), "high": int(schema.high)}
    event_shape = schema.event_shape
    if schema.kind == "table":
        columns = [schema.modelled[i] for i in schema.rest]
        ranges = torch.tensor([c.support for c in columns], dtype=torch.float64).to(zeros)
        data = {name: None if values is None else values[schema.rest] for name, values in data.items()}
        data |= {"low": ranges[:, 0], "high": ranges[:, 1], "kinds": [c.kind for c in columns]}
        data |= {"num_levels": [len(c.levels) for c in columns]}
        event_shape = (len(columns),)
    encoder, decoder = _network(cast(str, config.encoder)), _network(cast(str, config.decoder))
    return data | {"event_shape": event_shape, "latent_dim": config.latent_dim, "encoder": encoder, "decoder": decoder}


def _condition(schema: Schema, statistics: Statistics | None, library: bool) -> Condition | None:
    if library and schema.kind != "count":
        raise UsageError("library=True is for counts whose rows have totals: --kind count")
    if library:
        return Totals(1.0 if statistics is None else statistics.mean_total)
    if not schema.condition:
        return None
    return Split(schema.given, len(schema.modelled), _column_features(schema, statistics, schema.given))


def _features(schema: Schema, statistics: Statistics | None, loc: Tensor, scale: Tensor) -> Features:
    if schema.kind == "table":
        return _column_features(schema, statistics, schema.rest)
    return Standardize(schema.event_shape, loc, scale, missing=schema.missing, counts=schema.kind == "count")


def _column_features(schema: Schema, statistics: Statistics | None, which: list[int]) -> ColumnFeatures:
    columns = [schema.modelled[i] for i in which]
    logarithm = [{"positive": "log", "count": "log1p", "mixed": "warp"}.get(c.kind, "none") for c in columns]
    loc, scale = torch.zeros(len(which)), torch.ones(len(which))
    if statistics is not None:
        plain = torch.tensor([name in ("none", "warp") for name in logarithm])
        loc = torch.where(plain, statistics.loc[which], statistics.log_loc[which])
        scale = _never_zero(torch.where(plain, statistics.scale[which], statistics.log_scale[which]))
    hot = [len(c.levels) if c.kind == "category" else 0 for c in columns]
    knots = None if statistics is None or statistics.knots is None else statistics.knots[which]
    return ColumnFeatures(hot, logarithm, loc, scale, missing=schema.missing, knots=knots)


def _never_zero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, 1.0)  # an element that never varies stays in the user's units


def _units(statistics: Statistics, schema: Schema) -> Tensor:
    """Returns the scale that the likelihood standardizes with, (*event): pixels and bits share one, columns have one each."""
    if schema.is_image or schema.kind == "binary":
        return torch.full_like(statistics.scale, statistics.scale.square().mean().sqrt().item() or 1.0)
    return statistics.scale if schema.kind == "count" else _never_zero(statistics.scale)


def _encoder_units(statistics: Statistics, schema: Schema) -> tuple[Tensor, Tensor]:
    """Returns the location and the scale that the encoder standardizes with, (*event) each; of log(1 + x) for counts.

    Pixels and bits share a scale, so large that the whole input has the variance of ten elements, not of hundreds: Adam moves all
    weights of a unit of the first layer by the same small step, and many large inputs turn that into a large one (docs/design.md,
    decision 9). So do the columns of a count matrix.
    """
    counts = schema.kind == "count"
    loc, scale = (statistics.log_loc, statistics.log_scale) if counts else (statistics.loc, statistics.scale)
    if not counts and not schema.is_image and schema.kind != "binary":
        return loc, _never_zero(scale)
    pooled = torch.full_like(scale, scale.square().mean().sqrt().item() or 1.0)
    return loc, pooled * max(1.0, (schema.num_elements / 10) ** 0.5)


def _network(spec: str) -> Any:
    return lambda in_shape, out_shape, context_dim: resolve(
        spec, Network, {"in_shape": in_shape, "out_shape": out_shape, "context_dim": context_dim}
    )


def usual_objective(schema: Schema) -> str:
    """Returns what is maximised unless a person says otherwise."""
    return "DReG(num_samples=8)" if schema.missing else "ELBO()"


def usual_rate(data: Dataset) -> float:
    """Returns the peak of the learning rate unless a person says otherwise."""
    return LEARNING_RATE * (2 if data.schema.kind in ("binary", "levels") and len(data.train) >= MANY else 1)


def build_objective(objective: Objective | str) -> Objective:
    """Returns the objective that a specification stands for."""
    return cast(Objective, resolve(objective, Objective)) if isinstance(objective, str) else objective


def describe_part(part: Any) -> Spec:
    """Returns the specification of a part, without the arguments that follow from the data."""
    return to_spec(part, _FILLED)


def unsupported(
    model: VAE, x: Rows, latent: Tensor, schema: Schema | None = None, *, new: bool = False
) -> tuple[str, Tensor] | None:
    """Returns what is wrong with data that the likelihood gives no probability, and (row, column) of each such value, or None.

    Args:
        model: The model.
        x: Data, (N, *event); what is missing is no problem.
        latent: Any one z, (1, D), to decode.
        schema: Of a table: names its columns.
        new: Whether the data were not trained on: they may lie wherever the density is not zero, however small it is.
    """
    bad, first, where, number, size = 0, 0.0, (0, 0), 0, 0
    support, device = None, next((p.device for p in model.parameters()), torch.device("cpu"))
    places = []
    for stored in blocks(x):
        with torch.no_grad():
            block, context = model.split(stored.to(device=device, dtype=torch.get_default_dtype()))
            if support is None:
                decoded = model.decode(latent[None].to(device), None if context is None else context[:1])
                support = reach_of(decoded) if new else decoded.support
                while isinstance(support, constraints.independent):
                    support = support.base_constraint
                if support is None:
                    return None
        outside = ~(support.check(block) | block.isnan()).reshape(len(block), -1)
        if outside.any() and not bad:
            row, element = outside.nonzero()[0].tolist()
            first, where = float(block.reshape(len(block), -1)[row, element]), (number + row, element)
        bad, number, size = bad + int(outside.sum()), number + len(block), size + outside.numel()
        places.append(outside.nonzero().cpu() + torch.tensor([[number - len(block), 0]]))
    if not bad or support is None:
        return None
    place = f"element {where[1]}"
    if schema is not None and schema.kind == "table":
        place = f"column {shown(schema.modelled[schema.rest[where[1]]].name)}"
    return (
        f"{bad} values ({bad / size:.1%}) lie outside the support of the likelihood, {_words(support)}; "
        f"the first is {first:g} (row {where[0]}, {place})"
    ), _of_table(torch.cat(places), schema)


def _of_table(places: Tensor, schema: Schema | None) -> Tensor:
    """Returns places among the columns that are modelled as places among all of a datum, those of the context included."""
    if schema is not None and schema.kind == "table":
        places[:, 1] = torch.tensor(schema.rest)[places[:, 1]]
    return places


def _words(support: constraints.Constraint) -> str:
    if support is constraints.boolean:
        return "0 or 1"
    if support is constraints.unit_interval:
        return "0 to 1"
    if support is constraints.positive:
        return "numbers above 0"
    if support is constraints.nonnegative_integer:
        return "whole numbers from 0"
    if isinstance(support, ColumnSupport):
        return "a range for each column"
    if hasattr(support, "lower_bound") and hasattr(support, "upper_bound"):
        low, high = (float(torch.as_tensor(b).flatten()[0]) for b in (support.lower_bound, support.upper_bound))
        return f"whole numbers from {low:g} to {high:g}"
    return str(support)


def check_parts(model: VAE, objective: Objective, dataset: Dataset, name: str) -> None:
    """Refuses data that the likelihood gives no probability, and parts whose bound would mean nothing.

    Fails:
        DataError: values outside the support of the likelihood; the line says what to choose instead.
        UsageError: a density for discrete data, or a prior and a posterior over different spaces.
    """
    kind, x = dataset.schema.kind, batch(dataset.train, torch.arange(min(2, len(dataset.train))), dataset.binarize == "dynamic")
    z = model.draw(x[:1], reparameterize=False).z[0]
    _check_gaps(model, dataset)
    for rows in (dataset.train, dataset.validation, dataset.test):
        if not len(rows) or (rows is dataset.train and dataset.binarize == "dynamic"):  # stored grey, seen as bits
            continue
        found = unsupported(model, rows, z, dataset.schema, new=rows is dataset.test)
        if found is not None:
            mend = {
                "binary": "leave --likelihood away to get Bernoulli()",
                "levels": "leave --likelihood away to get DiscretizedLogistic(), or make them 0 and 1 with --binarize dynamic",
                "real": "leave --likelihood away to get Normal(); grey levels 0..255 divided by 255 suit ContinuousBernoulli(), "
                "undivided DiscretizedLogistic()",
                "count": "leave --likelihood away to get NegativeBinomial()",
                "table": "take another family for that kind of column, or another kind in a --schema FILE",
            }[kind]
            raise DataError(f"{name}: {found[0]}; {mend}")
    _, context = model.split(x)
    support = model.decode(z[None], None if context is None else context[:1]).support
    if dataset.schema.discrete and support is not None and not support.is_discrete:
        raise UsageError(
            f"{type(model.likelihood).__name__} is a density, and the data are {kind}: its bound could grow without limit; "
            "leave --likelihood away, or read the data as real numbers with --kind real"
        )
    prior, posterior = model.prior(None if context is None else context[:1]), model.encode(x[:1])
    there, back = prior.support, posterior.support
    if not (there is None or back is None or (_all(there, z) and _all(back, prior.sample(torch.Size((1,)))))):
        raise UsageError(
            f"the prior {type(model.prior).__name__} and the posterior {type(model.posterior).__name__} are over different "
            "spaces, so their KL means nothing: take both discrete or both continuous"
        )
    objective(model, x)  # a wrong pair of parts fails here, not in the loop


def _check_gaps(model: VAE, dataset: Dataset) -> None:
    """Refuses a likelihood, a person's own say, whose density of a datum with gaps is no number."""
    if not dataset.schema.missing:
        return
    for block in blocks(dataset.train):
        gaps = block[block.flatten(1).isnan().any(1)][:1].to(torch.get_default_dtype())
        if len(gaps):
            if bool(model.draw(gaps, reparameterize=False).log_likelihood.isnan().any()):
                name = type(model.likelihood).__name__
                raise UsageError(
                    f"{name} gives no density to data with missing entries: let it return taut.missing.Observed(distribution, "
                    "dims, fill) in place of Independent(distribution, dims), or fill the gaps"
                )
            return


def _all(support: constraints.Constraint, z: Tensor) -> bool:
    return bool(support.check(z).all())
