"""What the page shows of a run, as plain values that JSON can hold.

Pictures are PNG files in ``data:`` addresses. Numbers come as numbers where the page draws them and
as texts (``evidence.text``) where it shows them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from taut.data import New, Schema
from taut.data.tables.codes import in_full, in_own_words
from taut.data.tables.column import Column
from taut.distributions.chain import Chain
from taut.distributions.observed import NoTermsError, terms
from taut.evidence import Evidence, importance_blocks, settle, text
from taut.evidence.cells import cell_scores
from taut.evidence.finding import worth
from taut.evidence.latents import DEAD, encoded
from taut.evidence.section import CHAPTERS, Row, at_least_zero, chapters, found, nats, shown
from taut.models.stepwise import StepwiseModel
from taut.report.latent import LEVELS
from taut.runs.audit import audit_of
from taut.runs.compare import compare_runs
from taut.runs.fitted import new_data
from taut.runs.folder import Stored, held_out_as_new
from taut.runs.looks import NAMES, facts
from taut.runs.making import fill_rows, given_codes, sample_rows, totals_of
from taut.runs.meaning import (
    Traversal,
    by_rate,
    check_latent,
    check_line,
    in_words,
    plane,
    traversal,
)
from taut.runs.measure import measured_part
from taut.system.errors import TautError, UsageError
from taut.system.errors import shown as printable
from taut.system.seeds import generator, stream
from taut.use import pictures, tasks
from taut.use.export import shortest

__all__ = ["View", "compared", "look_at", "overview"]

MOST = 50_000  # rows on a map
MOST_VALUES = 2**27  # of the rows that are held
SCORED, SAMPLES = 1000, 100  # rows whose log p(x) is shown on the map, and K of each
ROW_SAMPLES = 500  # K of the row that is looked at
CELLS = 60  # entries of a row that are shown
JUDGED = 128  # entries of a row of which each is judged given the others
CLOSER = 40  # the same, with proposals of their own
COLOURS = 200  # names that a map can be coloured by
SLIDERS = 8  # dimensions with a slider of the first rank
ENDS = (0.001, 0.999)  # quantiles of z where sliders end
NEIGHBOURS = 1000  # rows whose distance to their neighbours is looked at
FAR = 0.99  # share of rows with a nearer neighbour from which on no row is near
DRAWS = 64  # of the terms of a likelihood
COMPARED = 300  # rows that runs are compared on
DIVERGENCES = ("inference_gap",)
METHODS = {
    "importance": "importance sampling",
    "importance_from_optimum": "importance sampling from its best posterior",
    "defensive": "importance sampling with a share of the prior",
    "enumeration": "a sum over all z",
    "exact": "closed form",
}


class Encoded(NamedTuple):
    """What the encoder says of N rows.

    Args:
        z: One z ~ q(z|x) of each, (N, D).
        means: The mean of q(z|x), (N, D).
        rates: The rate of each dimension, (N, D), nats; None where it is not known.
        log_q: log q(z|x), (N,).
        log_prior: log p(z), (N,).
    """

    z: Tensor
    means: Tensor
    rates: Tensor | None
    log_q: Tensor
    log_prior: Tensor


class Colour(NamedTuple):
    """What a map is coloured by.

    Args:
        values: A number or the number of a level for each row; NaN where it is missing.
        levels: What the levels are called, the commonest first; none of numbers.
        ends: The least and the largest number, in the user's words.
    """

    values: np.ndarray
    levels: tuple[str, ...] = ()
    ends: tuple[str, str] = ("", "")


class View:
    """Creates the view of a finished run and the rows that it is looked at with.

    Args:
        run: The run.
        new: The rows.
        part: What the rows are: "test", "validation", or the name of a file.
        labels: Their labels, (N,), where the source has any.
    """

    def __init__(self, run: Stored, new: New, part: str, labels: np.ndarray | None = None) -> None:
        self.run, self.part, self.model, self.schema = run, part, run.model, run.schema
        most = max(1, min(MOST, MOST_VALUES // max(1, run.schema.num_elements)))
        self.numbers, self.rows, self.labels = torch.arange(len(new.rows)), new.rows, labels
        if len(new.rows) > most:
            chosen = torch.randperm(len(new.rows), generator=generator(0, "explore"))[:most]
            self.numbers = chosen.sort().values
            self.rows = torch.as_tensor(new.rows[self.numbers])
            self.labels = None if labels is None else labels[self.numbers.numpy()]
        self.total, self.names, self.notes = len(new.rows), new.names, new.notes
        self.new = New(self.rows, ())
        self._scoring: Iterator[Evidence] | None = None
        self._scored: list[Evidence] = []

    # ------------------------------------------------------------------------- what there is

    def about(self) -> dict[str, Any]:
        """Returns what the page must know of the run before it asks for anything."""
        schema = self.schema
        return {
            "finished": True,
            "part": self.part,
            "rows": len(self.rows),
            "of": self.total,
            "image": schema.is_image,
            "kind": schema.kind,
            "each": "image" if schema.is_image else "row",
            "latent": self._latent,
            "mean": not (self.model.no_density or isinstance(self.model, StepwiseModel)),
            "given": self.given(),
            "scores": not self.model.no_density,
            "colours": list(self.colours),
        }

    @cached_property
    def why(self) -> str:
        """Why there is no latent vector to look at; nothing where there is one."""
        try:
            check_latent(self.run)
            if self.model.no_density:
                self.model.encode(self._row(0))
        except TautError as error:
            return str(error)
        except NotImplementedError:
            return "a generator has no encoder: nothing says where a data point lies"
        return ""

    @cached_property
    def _latent(self) -> dict[str, Any]:
        """Returns the dimensions in the order of their rates, with where sliders begin and end."""
        if self.why:
            return {"why": self.why}
        z, means, rates, _, _ = self.encoded
        order = by_rate(means, rates)
        low, high = torch.quantile(z[:20_000], torch.tensor(ENDS, dtype=z.dtype), dim=0)
        names = _names_of(self.groups, z.shape[1])
        dims = []
        for d in order:
            rate = None if rates is None else float(rates[:, d].mean())
            ends = (_round(float(low[d])), _round(float(high[d])))
            told = "" if rate is None else f"{text.number(rate)} nats"
            dims.append({"dim": d, "name": names[d], "rate": told, "low": ends[0], "high": ends[1]})
        return {
            "why": "",
            "line": self.line,
            "dims": dims,
            "first": min(SLIDERS, max(1, self._paid)),
            "start": [_round(v) for v in means.mean(0).tolist()],
            "groups": [{"name": name, "size": size} for name, size in self.groups],
        }

    @cached_property
    def _paid(self) -> int:
        """How many dimensions carry something."""
        rates = self.encoded.rates
        if rates is None:
            return self.encoded.means.shape[1]
        return int((rates.mean(0) >= DEAD).sum())

    @cached_property
    def line(self) -> str:
        """Why no slider leads along a dimension; nothing where one does."""
        try:
            check_line(self.run, self._row(0))
        except TautError as error:
            return str(error)
        return ""

    @cached_property
    def groups(self) -> list[tuple[str, int]]:
        """The levels of latent variables of a hierarchy, the top first; none of other models."""
        if self.why:
            return []
        prior = self.model.latent_prior(self._context({}))
        return list(prior.groups) if isinstance(prior, Chain) else []

    @cached_property
    def encoded(self) -> Encoded:
        """What the encoder says of each row."""
        return Encoded(*encoded(self.model, cast(Tensor, self.rows), None, 0))

    def given(self) -> list[dict[str, Any]]:
        """Returns what the model is conditioned on, with the values of the first row that has all
        of them.
        """
        schema, result = self.schema, []
        own = self._row(self._whole)
        for place, column in zip(schema.given, schema.given_columns, strict=True):
            value = self._own(own[0, place : place + 1], [column])[0]
            result.append({"name": column.name, "levels": list(column.levels), "value": value})
        if (totals := totals_of(self.model)) is not None:
            value = f"{float(totals.mean_total):.6g}"
            result.append({"name": "total", "levels": [], "value": value})
        return result

    @cached_property
    def _whole(self) -> int:
        """The place of the first row that has all that is given; the first where none has."""
        places: Any = self.schema.given
        if not places:
            return 0
        parts = [part[:, places].isnan().any(1) for part in self.rows.split(4096)]
        return int(torch.cat(parts).long().argmin())

    def _context(self, given: Mapping[str, str]) -> Tensor | None:
        """Returns the context of given values; by default that of the first row that has all."""
        if self.model.condition is None:
            return None
        if not given:
            return self.model.split(self._row(self._whole))[1]
        wanted = [entry["name"] for entry in self.given()]
        if sorted(given) != sorted(wanted):
            raise UsageError(f"this model is conditioned on {', '.join(wanted)}: give exactly that")
        codes = torch.from_numpy(given_codes(self.schema, given)).to(torch.get_default_dtype())
        return tasks.context_of(self.model, codes)

    # ----------------------------------------------------------------------------- the map

    def map(self, by: str = "rates", dims: Sequence[int] | None = None) -> dict[str, Any]:
        """Returns where the rows lie in a plane, and what its axes are."""
        check_latent(self.run)
        if self.why:
            raise UsageError(self.why)
        if by == "umap":
            points, axes = self._by_umap
        else:
            points, axes = plane(self.encoded.means, self.encoded.rates, by, dims, 0)
        return {
            "x": [_round(v) for v in points[:, 0].tolist()],
            "y": [_round(v) for v in points[:, 1].tolist()],
            "axes": list(axes),
            "numbers": None if len(self.rows) == self.total else self.numbers.tolist(),
        }

    @cached_property
    def _by_umap(self) -> tuple[np.ndarray, tuple[str, str]]:
        return plane(self.encoded.means, None, "umap", None, 0)

    @cached_property
    def colours(self) -> dict[str, Callable[[], Colour]]:
        """What a map can be coloured by, and how that is read."""
        result: dict[str, Callable[[], Colour]] = {}
        if self.labels is not None:
            result["label"] = lambda: _by_level(np.asarray(self.labels, object))
        if not self.why:
            known = self.encoded.rates is not None
            name = "rate, in nats" if known else "rate of one draw, in nats"
            result[name] = lambda: _by_number(self._total_rate())
        schema = self.schema
        columns: list[tuple[int, Column]] = []
        if schema.kind == "table":
            columns = list(enumerate(schema.modelled))
        elif schema.context:
            columns = list(zip(schema.given, schema.context, strict=True))
        for place, column in columns[:COLOURS]:
            result[column.name] = partial(self._by_column, place, column)
        if schema.kind != "table" and len(schema.event_shape) == 1:
            if schema.kind == "count":
                result["total of the row"] = lambda: _by_number(self._totals())
            for place, name in list(enumerate(schema.element_names))[:COLOURS]:
                result[name] = partial(self._by_element, place)
        return result

    def colour(self, name: str) -> dict[str, Any]:
        """Returns what a map is coloured by, by the name of it.

        Raises:
            UsageError: there is no such thing.
        """
        if name not in self.colours:
            raise UsageError("there is no such column")
        found = self.colours[name]()
        values = [None if math.isnan(v) else _round(v) for v in found.values.tolist()]
        return {"values": values, "levels": list(found.levels), "ends": list(found.ends)}

    def _by_column(self, place: int, column: Column) -> Colour:
        values = self._element(place)
        if column.levels:
            codes = [None if math.isnan(v) else column.levels[int(v)] for v in values.tolist()]
            return _by_level(np.array(codes, object))
        known = torch.tensor(values[np.isfinite(values)])
        if not len(known):
            return _by_number(values)
        low, high = (self._own(v[None], [column])[0] for v in known.aminmax())
        return _by_number(values, (low, high))

    def _by_element(self, place: int) -> Colour:
        return _by_number(self._element(place))

    def _element(self, place: int) -> np.ndarray:
        parts = [part[:, place].double() for part in self.rows.split(4096)]
        return torch.cat(parts).numpy()

    def _totals(self) -> np.ndarray:
        width = len(self.schema.rest) or self.schema.num_elements
        parts = [part[:, :width].double().sum(1) for part in self.rows.split(4096)]
        return torch.cat(parts).numpy()

    def _total_rate(self) -> np.ndarray:
        if self.encoded.rates is not None:
            return self.encoded.rates.double().sum(1).numpy()
        return (self.encoded.log_q - self.encoded.log_prior).numpy()

    def scores(self) -> dict[str, Any]:
        """Returns log p(x) of some rows, more of them at each call: what a map is coloured by, and
        which rows are odd.
        """
        if self.model.no_density:
            raise UsageError(self.model.no_density)
        some = self.scored
        if self._scoring is None:
            x = torch.as_tensor(self.rows[some])
            self._scoring = iter(importance_blocks(self.model, x, SAMPLES))
        if (block := next(self._scoring, None)) is not None:
            self._scored.append(block)
        done = Evidence.concatenate(self._scored)
        values = [_finite(v) for v in done.log_evidence.tolist()]
        order = sorted(range(len(values)), key=lambda i: _low(values[i]))
        return {
            "rows": some[: len(values)].tolist(),
            "values": values,
            "odd": [int(some[i]) for i in order[:20]],
            "total": len(some),
            "samples": SAMPLES,
        }

    @cached_property
    def scored(self) -> Tensor:
        """The rows of which log p(x) is measured for the map."""
        return torch.randperm(len(self.rows), generator=generator(0, "scores"))[:SCORED]

    # ------------------------------------------------------------------------ one data point

    def row(self, place: int, closer: bool = False) -> dict[str, Any]:
        """Returns a data point, its reconstruction, what each dimension says of it, how likely it
        is and why it is odd.

        Args:
            place: Its place among the rows.
            closer: Whether what the encoder's posterior tells badly gets better proposals, which
                takes seconds.
        """
        if not 0 <= place < len(self.rows):
            raise UsageError(f"there are rows from 0 to {len(self.rows) - 1}")
        x, number = self._row(place), int(self.numbers[place])
        result: dict[str, Any] = {"place": place, "number": number, "name": "", "rates": []}
        if self.names is not None:
            result["name"] = str(self.names[number])
        if self.labels is not None:
            result["label"] = str(self.labels[place])
        if not self.why:
            result |= self._of_latent(x)
        result |= self._of_evidence(place, x, closer)
        result |= self._image_of(x) if self.schema.is_image else self._entries_of(x, closer)
        return result

    def _row(self, place: int) -> Tensor:
        return torch.as_tensor(self.rows[place : place + 1]).to(torch.get_default_dtype())

    def _of_latent(self, x: Tensor) -> dict[str, Any]:
        """Returns where a data point lies, and what each dimension pays for it."""
        own = Encoded(*encoded(self.model, x, None, 0))
        means, rates = own.means, own.rates
        names = _names_of(self.groups, means.shape[1])
        result: dict[str, Any] = {"z": [_round(v) for v in means[0].tolist()]}
        if rates is None:
            return result
        order = rates[0].argsort(descending=True).tolist()
        paid = max(1, int((rates[0] >= DEAD).sum()))
        told = [
            {
                "name": names[d],
                "nats": _round(float(rates[0, d])),
                "rate": text.number(float(rates[0, d])),
                "mean": text.number(float(means[0, d])),
            }
            for d in order[: min(paid, 12)]
        ]
        rest = {"rates_hidden": len(order) - len(told), "rate": text.number(float(rates[0].sum()))}
        return result | {"rates": told} | rest

    def _of_evidence(self, place: int, x: Tensor, closer: bool) -> dict[str, Any]:
        if self.model.no_density:
            return {"log_evidence": "", "no_density": self.model.no_density}
        first = Evidence.concatenate(list(importance_blocks(self.model, x, ROW_SAMPLES)))
        known = settle(self.model, x, first, climbing=int(closer), annealed=int(closer))
        value, error = float(known.log_evidence[0]), _finite(float(known.log_evidence_error[0]))
        told = {"value": _finite(value), "mc_error": error, "test_error": None}
        bound = {
            "value": _finite(float(known.first.elbo[0])),
            "mc_error": _finite(float(known.first.elbo_error[0])),
            "test_error": None,
        }
        result = {
            "log_evidence": text.plus_minus(told),
            "method": METHODS.get(known.methods[0], known.methods[0].replace("_", " ")),
            "reliable": bool(known.reliable[0]),
            "elbo": "" if known.first.weightless else text.plus_minus(bound),
            "rank": "",
        }
        if self._scored:
            others = Evidence.concatenate(self._scored).log_evidence.nan_to_num(-torch.inf)
            own = (self.scored[: len(others)] == place).nonzero()
            if len(own):  # compared with the others by the same estimate
                value = float(others[int(own[0, 0])])
            below = int((others < value).sum())
            result["rank"] = f"{below:,} of {len(others):,} rows are less probable"
        return result

    def _image_of(self, x: Tensor) -> dict[str, Any]:
        """Returns a data point and its reconstruction as pictures, and where it surprises."""
        parts = {"data": x}
        with suppress(TautError, NotImplementedError):
            parts["reconstruction"] = tasks.reconstruct(self.model, x)
        shows = [{"title": k, "src": self._picture(v, 1)} for k, v in parts.items()]
        if (surprise := self._surprise(x)) is not None:
            high = float(surprise.max())
            sheet = pictures.grid(surprise, min(0.0, float(surprise.min())), high, 1)
            title = f"surprise, to {text.number(high)} nats a pixel"
            shows.append({"title": title, "src": _address(_bare(sheet))})
        return {"pictures": shows}

    def _surprise(self, x: Tensor) -> Tensor | None:
        """Returns -E_q[log p(x_i|z)] of each pixel, (1, *image); None where pixels have none."""
        if self.why or self.model.no_density:
            return None
        with torch.no_grad(), stream(0, "surprise"):
            draw = self.model.draw(x, DRAWS, reparameterize=False)
            try:
                each = terms(draw.likelihood, self.model.split(x)[0])
            except NoTermsError:
                return None
        return -each.mean(0).double()

    def _entries_of(self, x: Tensor, closer: bool) -> dict[str, Any]:
        """Returns the entries of a data point: as they are, as they are reconstructed, and how
        probable each is given the others; the oddest first.
        """
        schema, flat = self.schema, x.flatten(1)
        places, names = _modelled(schema), schema.element_names
        own = self._own(flat[0, places], self._columns())
        decoded = self._decoded(lambda: tasks.reconstruct(self.model, x))
        filled = [""] * len(places)
        missing = flat[0, places].isnan()
        if bool(missing.any()):
            values = fill_rows(self.run, x, 1000, seed=0).values.flatten(1)
            filled = self._told(values[0, places], self._columns())
        entries: list[dict[str, Any]] = []
        for i, name in enumerate(names):
            gone = bool(missing[i])
            entry: dict[str, Any] = {"name": name, "value": "missing" if gone else own[i]}
            entry |= {"mean": decoded[i] if decoded else "", "filled": filled[i] if gone else ""}
            entries.append(entry | {"log_p": "", "nats": None, "reliable": True})
        self._judge(entries, x, closer)
        order = sorted(range(len(entries)), key=lambda i: _low(entries[i]["nats"], math.inf))
        given: list[dict[str, Any]] = [
            {"name": column.name, "value": self._own(flat[0, place : place + 1], [column])[0]}
            for place, column in zip(schema.given, schema.given_columns, strict=True)
        ]
        for place, entry in zip(schema.given, given, strict=True):
            if bool(flat[0, place].isnan()):
                entry["value"] = None  # no value that the page could hand back
        return {
            "entries": [entries[i] for i in order[:CELLS]],
            "hidden": max(0, len(order) - CELLS),
            "closer": len(order) <= CLOSER,
            "row_given": given,
        }

    def _judge(self, entries: list[dict[str, Any]], x: Tensor, closer: bool) -> None:
        """Adds log p of each entry given the others, where that can be said."""
        if len(entries) > JUDGED or self.model.no_density:
            return
        try:
            closer &= len(entries) <= CLOSER
            found = cell_scores(self.model, x.flatten(1), ROW_SAMPLES, improve=closer)
        except (TautError, NoTermsError, NotImplementedError):
            return
        for i, entry in enumerate(entries):
            value, error = float(found.value[0, i]), float(found.error[0, i])
            if math.isfinite(value):
                told = {"value": value, "mc_error": _finite(error), "test_error": None}
                entry |= {"log_p": text.plus_minus(told), "nats": _round(value)}
                entry["reliable"] = bool(found.reliable[0, i])

    # -------------------------------------------------------------------------- what it makes

    def decode(
        self, z: Sequence[float], given: Mapping[str, str], draw: bool = False, seed: int = 0
    ) -> dict[str, Any]:
        """Returns what the decoder makes of a point, and how far from the rows the point lies."""
        points = self._points(z)
        context = self._context(given)
        values = tasks.decode(self.model, points, draw=draw, context=context, seed=seed)
        return self._shown(values, context) | {"support": self._support(points)}

    def _points(self, z: Sequence[float]) -> Tensor:
        if self.why or self.line:
            raise UsageError(self.why or self.line)
        size = self.encoded.means.shape[1]
        if len(z) != size:
            raise UsageError(f"z has {size} dimensions")
        return torch.tensor([list(z)], dtype=torch.get_default_dtype())

    def _shown(self, values: Tensor, context: Tensor | None) -> dict[str, Any]:
        """Returns one decoded data point: a picture, or its columns in the order of how far they
        moved from what the mean of all rows decodes to.
        """
        if self.schema.is_image:
            return {"picture": self._picture(values, 1)}
        centre = self.encoded.means.mean(0, keepdim=True).to(torch.get_default_dtype())
        first = tasks.decode(self.model, centre, context=context)
        both = torch.stack([first[0], values[0]])[None].double()
        spread, places = self.traversal.spread, torch.zeros(1, 2)
        moved = Traversal((0,), None, places, both, spread, self.run).moved()[0]
        told = self._decoded(lambda: values)
        change = {name: by for name, by, _ in moved}
        entries: list[dict[str, Any]] = [
            {"name": name, "value": value, "change": _round(change.get(name, 0.0))}
            for name, value in zip(self.schema.element_names, told, strict=True)
        ]
        if len(entries) > CELLS:
            entries.sort(key=lambda entry: -abs(entry["change"] or 0.0))
        return {"entries": entries[:CELLS], "hidden": max(0, len(entries) - CELLS)}

    @cached_property
    def _neighbours(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the scale of each dimension that carries something (0 of others), the rows in
        that scale, and how far some of them lie from their own neighbours.
        """
        means, rates = self.encoded.means, self.encoded.rates
        scale = 1 / means.std(0).clamp_min(1e-12)
        if rates is not None and self._paid:
            scale = scale * (rates.mean(0) >= DEAD)
        rows = means * scale
        apart = torch.cdist(rows[:NEIGHBOURS], rows[: 5 * NEIGHBOURS]).fill_diagonal_(torch.inf)
        return scale, rows, apart.min(1).values

    def _support(self, points: Tensor) -> dict[str, Any]:
        """Returns the row that lies nearest to a point, and how many rows have a nearer neighbour:
        far from all of them the decoder was not trained.
        """
        scale, rows, apart = self._neighbours
        away = (rows - points.double() * scale).norm(dim=1)
        closer = float((apart < away.min()).double().mean())
        return {
            "nearest": int(away.argmin()),
            "closer": text.share(closer),
            "far": closer >= FAR,
        }

    @cached_property
    def traversal(self) -> Traversal:
        """Points along the dimensions of the highest rates, and what they decode to."""
        return traversal(self.run, self.new)

    def traversals(self, dims: Sequence[int] | None = None, draw: bool = False) -> dict[str, Any]:
        """Returns strips of images, or the columns that move most along each dimension."""
        found = self.traversal
        if dims is not None or draw:
            found = traversal(self.run, self.new, dimensions=dims, draw=draw)
        lines: list[dict[str, Any]] = [{"title": title} for title in found.titles]
        moved = [] if self.schema.is_image else found.moved()
        for i, line in enumerate(lines):
            if self.schema.is_image:
                line["picture"] = self._picture(found.values[i], found.values.shape[1])
            else:
                line["moved"] = [
                    {"name": name, "change": _round(change), "words": words}
                    for name, change, words in moved[i][:SLIDERS]
                ]
        return {"lines": lines}

    def samples(
        self, count: int, seed: int, mean: bool, given: Mapping[str, str]
    ) -> dict[str, Any]:
        """Returns rows that the model makes."""
        values = sample_rows(self.run, count, given=given, mean=mean, seed=seed)
        return self._many(values)

    def levels(
        self, kept: int, count: int, seed: int, place: int | None, given: Mapping[str, str]
    ) -> dict[str, Any]:
        """Returns data points that share the first levels of latent variables, those of a row or
        of a draw of the prior, and differ in the levels below.
        """
        if len(self.groups) < 2:
            raise UsageError("this model has one level of latent variables")
        context = self._context(given)
        if place is None:
            start = torch.zeros(1, sum(size for _, size in self.groups))
            point = tasks.drawn_below(self.model, start, 0, context=context, seed=seed)
        else:
            if not 0 <= place < len(self.rows):
                raise UsageError(f"there are rows from 0 to {len(self.rows) - 1}")
            point = self.encoded.means[place : place + 1].to(torch.get_default_dtype())
        points = point.expand(count, -1)
        drawn = tasks.drawn_below(self.model, points, kept, context=context, seed=seed)
        values = tasks.decode(self.model, drawn, context=context)
        return self._many(values)

    def _many(self, values: Tensor) -> dict[str, Any]:
        schema = self.schema
        if schema.is_image:
            return {"picture": self._picture(values, min(len(values), 8)), "count": len(values)}
        names, columns = schema.element_names, self._columns()
        flat = values.flatten(1).double()
        places: Any = list(range(flat.shape[1]))
        if flat.shape[1] != len(names):  # a whole row of a table, with what was given
            places = _modelled(schema)
        if schema.kind == "table":
            told = in_words(flat[:, places], columns)
        else:
            told = [[_number(v) for v in row[:CELLS]] for row in flat[:, places].tolist()]
        return {
            "header": list(names[:CELLS]),
            "table": [row[:CELLS] for row in told],
            "hidden": max(0, len(names) - CELLS),
        }

    # --------------------------------------------------------------------------------- words

    def _columns(self) -> list[Column]:
        """The columns of a table that are modelled; none of other data."""
        if self.schema.kind != "table":
            return []
        return [self.schema.modelled[i] for i in self.schema.rest]

    def _own(self, codes: Tensor, columns: Sequence[Column]) -> list[str]:
        """Returns codes of one row of the data as the user wrote them: to the last digit, and where
        they are, however far from the rows of the training.
        """
        cells = shortest(codes.to(torch.get_default_dtype()))
        if not columns:
            told: list[str | None] = [None if math.isnan(v) else in_full(v) for v in cells.tolist()]
        else:
            told = [
                in_own_words(cell, column)[0]
                for cell, column in zip(cells[:, None], columns, strict=True)
            ]
        return ["missing" if cell is None else cell for cell in told]

    def _told(self, codes: Tensor, columns: Sequence[Column]) -> list[str]:
        """Returns codes that the model made of one row in the user's words."""
        codes = codes.double()
        if not columns:
            return [_number(v) for v in codes.tolist()]
        words = in_words(codes.where(codes.isfinite(), 0.0)[None], columns)[0]
        return [
            word if math.isfinite(code) else text.number(code)
            for code, word in zip(codes.tolist(), words, strict=True)
        ]

    def _decoded(self, values: Callable[[], Tensor]) -> list[str]:
        """Returns what was decoded of one row, in words; nothing where a model has no mean."""
        try:
            return self._told(values().flatten(1)[0], self._columns())
        except (TautError, NotImplementedError):
            return []

    def _picture(self, values: Tensor, columns: int) -> str:
        sheet = pictures.grid(values, self.schema.low, self.schema.high, columns)
        return _address(_bare(sheet) if len(values) == 1 else pictures.to_png([sheet]))


def look_at(run: Stored, source: str | None = None, key: str | None = None) -> View:
    """Returns the view of a run with the rows that it held out, or with other rows.

    Args:
        run: The run.
        source: A file of other rows.
        key: Which array of an .npz file.

    Raises:
        DataError: the data are not what the model was trained on.
        UsageError: it was trained on data in memory.
    """
    if source is not None:
        return View(run, new_data(run, source, key), printable(source))
    data = run.data()
    part = measured_part(data)
    return View(run, held_out_as_new(run, data), part, getattr(data, f"{part}_labels"))


def overview(run: Stored) -> dict[str, Any]:
    """Returns every number that is known of a run with its errors, what keeps it from being
    believed, and the findings of its audit.
    """
    measured = text.plain(run.evaluation())
    noun = "image" if run.schema.is_image else "row"
    rows = [Row(name, estimate) for name, estimate in _estimates(measured)]
    for level in measured.get("levels") or []:
        rows.append(Row(f"rate of {level['name']}", level, 1))
    tables = [nats("Measured after the training", rows, noun)] if rows else []
    audit = text.plain(audit_of(run) or {})
    sections = found(audit) if audit else {}
    for name, each in chapters(sections).items():
        short = [row for row in each if row.chapter == name]
        if short:
            tables.append(nats(CHAPTERS[name], short, noun))
    warnings = list(measured.get("warnings") or [])
    for section in (s for s in shown() if s.name in sections):
        own = sections[section.name]
        tables += [table for table in own.tables() if own.title]
        warnings += own.warnings
    return {
        "facts": text.plain({"data": run.schema.describe(), **facts(run)}),
        "tables": [
            {"label": t.label, "columns": list(t.columns), "lines": [list(x) for x in t.lines]}
            for t in tables
        ],
        "warnings": list(dict.fromkeys(warnings)),
        "audited": bool(audit),
        "findings": [
            {k: finding.get(k) for k in ("name", "what", "evidence", "action", "command")}
            | {"worth": worth(finding)}
            for finding in audit.get("findings") or []
        ],
    }


def _estimates(values: Mapping[str, Any], of: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the estimates in plain values, each with what it is called."""
    for name, value in values.items():
        if not isinstance(value, Mapping):
            continue
        title = of + NAMES.get(name, name.replace("_", " "))
        if "value" in value and "test_error" in value:
            yield title, at_least_zero(value) if name in DIVERGENCES else value
        else:
            yield from _estimates(value, f"{title}, ")


def compared(runs: Sequence[Stored]) -> dict[str, Any]:
    """Returns runs side by side on the same held-out rows (``taut compare``)."""
    result = compare_runs(runs, num_data=COMPARED)
    sheet = None if result.sheet is None else _address(result.sheet)
    return {
        "header": result.header(),
        "lines": [[title, *cells] for title, cells in result.rows()],
        "warnings": result.warnings,
        "picture": sheet,
    }


def _modelled(schema: Schema) -> list[int]:
    """Returns the places of what is modelled in a row."""
    return schema.rest or list(range(schema.num_elements))


def _names_of(groups: Sequence[tuple[str, int]], size: int) -> list[str]:
    """Returns what dimensions are called: z0, z1, ..., or by level, z1.0, z1.1, ..."""
    if len(groups) < 2:
        return [f"z{d}" for d in range(size)]
    return [f"{name}.{i}" for name, own in groups for i in range(own)]


def _by_level(values: np.ndarray) -> Colour:
    """Returns labels as numbers of levels, the commonest first; many numbers are numbers."""
    flat = [None if v is None or v != v else v for v in values.tolist()]
    known = [v for v in flat if v is not None]
    counts: dict[Any, int] = {}
    for value in known:
        counts[value] = counts.get(value, 0) + 1
    numbers = all(isinstance(v, int | float) for v in known)
    if numbers and len(counts) > LEVELS:
        return _by_number(np.array([math.nan if v is None else v for v in flat], float))
    order = sorted(counts, key=lambda v: (-counts[v], str(v)))
    if len(order) <= LEVELS and numbers:
        order = sorted(counts)
    place = {value: min(i, LEVELS) for i, value in enumerate(order)}
    codes = np.array([math.nan if v is None else place[v] for v in flat], float)
    names = [str(v) for v in order[:LEVELS]]
    return Colour(codes, (*names, *(["others"] if len(order) > LEVELS else [])))


def _by_number(values: np.ndarray, ends: tuple[str, str] | None = None) -> Colour:
    finite = values[np.isfinite(values)]
    if ends is None and len(finite):
        ends = _number(float(finite.min())), _number(float(finite.max()))
    return Colour(np.where(np.isfinite(values), values, np.nan), (), ends or ("", ""))


def _bare(sheet: np.ndarray) -> bytes:
    """Returns a picture without the frame around it."""
    gap = pictures.GAP
    return pictures.to_png([sheet[gap:-gap, gap:-gap]])


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _round(value: float) -> float | None:
    """Returns a number with the five digits that a page can show; JSON has no infinity."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _number(value: float) -> str:
    """Returns a number as text, a whole one without decimals."""
    if math.isfinite(value) and value == int(value):
        return text.number(int(value))
    return text.number(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _low(value: float | None, without: float = -math.inf) -> float:
    return without if value is None else value
