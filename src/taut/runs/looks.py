"""How a run looks: its four lines, its table in a notebook, its picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from taut.build.usual import numbers_of_levels
from taut.evidence.section import at_least_zero
from taut.models.exact import ExactModel
from taut.models.hierarchical import HierarchicalVAE
from taut.models.stepwise import StepwiseModel
from taut.system import html
from taut.system.errors import TautError, shown
from taut.use import pictures, tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from taut.runs.fitted import Fitted
    from taut.runs.folder import Stored

__all__ = ["Audited", "as_html", "facts", "in_four_lines", "plot"]

ENDS = {
    "epochs": "all that were planned",
    "plan": "all that the model needs",
    "patience": "stopped, since the held-out bound no longer grew",
    "time": "stopped, since the time was up",
}
NAMES = {
    "log_evidence": "log p(x)",
    "elbo": "ELBO",
    "inference_gap": "inference gap",
    "baseline": "baseline, independent marginals",
}


DIVERGENCES = ("inference_gap", "approximation_gap")  # never below zero
# of an audit: what is shown, and where it stands
SHOWN = (
    ("log p(x)", ("log_evidence",)),
    ("ELBO", ("evidence", "elbo")),
    ("inference gap", ("gaps", "inference_gap")),
    ("approximation gap (the family)", ("gaps", "approximation_gap")),
    ("amortization gap (the encoder)", ("gaps", "amortization_gap")),
    ("baseline, independent marginals", ("baseline",)),
)


class Audited(dict[str, Any]):
    """An audit: the plain values of ``audit.json``, which a notebook shows as a table with what
    would buy the next nat.
    """

    def _repr_html_(self) -> str:
        rows = []
        for name, path in SHOWN:
            estimate: Any = self
            for key in path:
                estimate = (estimate or {}).get(key)
            if estimate and path[-1] in DIVERGENCES:
                estimate = at_least_zero(estimate)
            if estimate:
                rows.append((name, _with_error(estimate)))
        findings = [
            f"{number}. {found['name']}: {found['what']} {found['action']}: {found['command']}"
            for number, found in enumerate(self["findings"], 1)
        ]
        header = (f"{self['num_data']} rows, nats a row", "mean")
        return html.table(f"Audit of {self['run']}", header, rows, findings)


def facts(run: Stored) -> dict[str, str]:
    """Returns what a run is, how it was trained and how good it is, a line each."""
    found = _evaluation(run)
    good = "not measured yet"
    if found is not None and run.model.no_density:
        good = f"no density; {_of_samples(found)}, on {found['num_data']} {found['data']} rows"
    elif found is not None:
        values = [f"{NAMES[k]} {_with_error(found[k])}" for k in ("log_evidence", "elbo")]
        good = f"{', '.join(values)} nats a row, on {found['num_data']} {found['data']} rows"
    return {"model": _parts(run), "training": _training(run), "measured": good}


def in_four_lines(run: Stored) -> str:
    """Returns the same as text, with what the data are."""
    first = f"Run({shown(run.path)!r}): {run.schema.describe()}"
    return "\n".join([first, *(f"  {name:<8} {line}" for name, line in facts(run).items())])


def as_html(run: Stored) -> str:
    """Returns the same as a table for a notebook, with all numbers of the evaluation."""
    found = _evaluation(run) or {}
    rows: list[tuple[str, str]] = [
        ("data", run.schema.describe()),
        ("model", _parts(run)),
        ("training", _training(run)),
    ]
    if found and run.model.no_density:
        rows.append(("measured", _of_samples(found)))
    shown_as = {k: at_least_zero(found.get(k)) for k in DIVERGENCES}
    known = ((name, shown_as.get(key) or found.get(key)) for key, name in NAMES.items())
    rows += [(f"{name}, nats a row", _with_error(e)) for name, e in known if e]
    if found:
        rows.append(("measured on", f"{found['num_data']} {found['data']} rows"))
    return html.table(f"taut run {run.path}", (), rows, found.get("warnings", ()))


def plot(run: Stored) -> Figure:
    """Returns the course of the bound in training, and of images also samples of the model."""
    from matplotlib.figure import Figure

    image = run.schema.is_image
    width, columns = 6, 1
    if image:
        width, columns = 10, 2
    figure = Figure(figsize=(width, 4), layout="constrained")
    course, *rest = figure.subplots(1, columns, squeeze=False)[0]
    history = run.history()
    step = [line["step"] for line in history]
    course.plot(step, [_number(line.get("bound")) for line in history], label="training")
    if any(line.get("validation") is not None for line in history):
        held_out = [_number(line.get("validation")) for line in history]
        course.plot(step, held_out, label="held out")
    kept = [line for line in history if line["best"]]
    if kept:
        course.axvline(kept[-1]["step"], color="grey", linestyle=":", label="kept weights")
    words = {"xlabel": "step", "ylabel": "bound, nats a row", "title": "The bound in training"}
    if isinstance(run.model, ExactModel):
        words = {"xlabel": "pass", "ylabel": "nats a row", "title": "log p(x) in training"}
    course.set(**words)
    course.legend()
    if image:
        _draw_samples(rest[0], run)
    return figure


def _draw_samples(axes: Any, fitted: Fitted) -> None:
    if fitted.model.condition is not None:
        axes.set_axis_off()
        return
    mean = not (isinstance(fitted.model, StepwiseModel) or fitted.model.no_density)
    drawn = tasks.sample(fitted.model, 40, mean=mean)
    axes.imshow(pictures.grid(drawn, fitted.schema.low, fitted.schema.high, 8))
    axes.set(title="Samples, the mean of p(x|z)" if mean else "Samples")
    axes.set_axis_off()


def _evaluation(run: Stored) -> dict[str, Any] | None:
    """Returns the numbers of a run; none where it is not finished, or they cannot be read."""
    try:
        return run.evaluation()
    except (TautError, OSError):
        return None


def _parts(fitted: Fitted) -> str:
    model = fitted.config.model
    if isinstance(fitted.model, ExactModel):
        return f"{model.model}, an exact posterior"
    if isinstance(fitted.model, StepwiseModel):
        return ", ".join(filter(None, (model.model, model.likelihood, model.decoder)))
    if fitted.model.no_density:
        return f"{model.model}, {model.decoder}, {model.latent_dim} latent dimensions"
    if isinstance(fitted.model, HierarchicalVAE):
        size = f"{model.latent_dim} {numbers_of_levels(model)} a level"
        return f"{model.model}, {model.likelihood}, {size}"
    parts = f"{model.prior}, {model.likelihood}, {model.posterior}"
    return f"{parts}, {model.latent_dim} latent dimensions"


def _of_samples(found: Mapping[str, Any]) -> str:
    """Returns what is known of a model without a density."""
    if not found.get("samples"):
        return "too few rows to judge its samples by"
    area, covered = (found["samples"][name]["samples"] for name in ("classifier", "coverage"))
    return f"samples told from data {_with_error(area)} (AUC), coverage {_with_error(covered)}"


def _training(run: Stored) -> str:
    try:
        steps = run.history()[-1]["step"]
    except (TautError, OSError, IndexError):
        steps = 0
    end = ENDS.get(run.info.get("ended") or "", "not finished")
    rows = run.info["rows"]["train"]
    if isinstance(run.model, ExactModel):
        return f"expectation maximisation on {rows:,} rows, {steps:,} passes, {end}"
    return f"{run.config.training.objective} on {rows:,} rows, {steps:,} steps, {end}"


def _with_error(estimate: Mapping[str, float | None]) -> str:
    """Returns a mean with the larger of its two errors that is known."""
    if estimate["value"] is None:
        return "unknown"
    errors = [e for e in (estimate["test_error"], estimate["mc_error"]) if e is not None]
    return f"{estimate['value']:.3f}" + (f" ± {max(errors):.3f}" if errors else "")


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
