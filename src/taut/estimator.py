r"""The scikit-learn face: a model that is fitted in memory, on arrays, data frames, sparse counts
or an AnnData.

What scikit-learn asks of an estimator, that the answer for a row depends on no other row, decides
two things here. ``transform`` computes in float64, whatever the model was trained in: sums of
float32 come out differently in blocks of different sizes. And ``score_samples`` draws for each row
by itself, from a seed that follows from ``random_state`` and the row's own values: equal rows get
equal numbers, different rows independent noise, whose error averages out in ``score``.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors.torch
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    DensityMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_array, check_is_fitted, check_random_state, validate_data
from torch import nn

from taut.build.config import Config, ModelConfig
from taut.build.model import build, build_objective, describe_exact, describe_part
from taut.build.spec import to_spec
from taut.build.usual import VAE_MODEL, usual_objective
from taut.data import Dataset, New, Options, Schema, fill, read
from taut.data.h5ad import to_obsm
from taut.data.in_memory import (
    MIN_TRAIN,
    as_table,
    completed,
    from_array,
    from_counts,
    from_table,
    given_back,
    without_rows,
)
from taut.data.tables.frames import from_frame
from taut.data.tables.prepare import Asked
from taut.evidence.outliers import check_rate, threshold
from taut.evidence.own import own_evidence
from taut.model import Likelihood, Model, Posterior, Prior
from taut.models.exact import ExactModel
from taut.models.stepwise import StepwiseModel
from taut.objectives import Objective
from taut.runs.assemble import assemble, to_device
from taut.runs.fitted import Fitted, new_data
from taut.runs.folder import allocate, find_device
from taut.runs.making import fill_rows, sample_rows
from taut.runs.run import Run
from taut.system.counting import check_count
from taut.system.errors import DataError, OutOfMemoryError, UsageError
from taut.system.seeds import untouched
from taut.training.exact import PASSES, train_exact
from taut.training.loop import State, finish, train
from taut.training.pace import plan_steps
from taut.use.tasks import decode, encode

if TYPE_CHECKING:
    T = TypeVar("T")

    def no_type_check(function: T) -> T: ...  # the callers are checked all the same
else:
    from typing import no_type_check

__all__ = ["VAEstimator", "embed_anndata"]

PARTS = ("prior", "likelihood", "posterior")
FLAG = r"--([a-z]+)-?([a-z]*)"
Whole = int | np.integer[Any]
Number = float | np.floating[Any] | Whole
SPELL = "give it as a specification, such as prior='GaussianMixture()'"
USUAL = 2000  # rows held out that a threshold is taken from, at most


class VAEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Creates a variational autoencoder that is used as any estimator of scikit-learn; its settings
    are those of ``taut.fit``.

    X is an array (N, C), NaN where missing; a data frame (pandas, polars, Arrow) with categories,
    texts, dates and gaps, whose columns are understood as ``taut.fit`` understands a table; a
    sparse matrix of counts; or an AnnData. Integers in an array are levels, or bits, unless
    ``kind`` says otherwise. A column of real numbers that is constant in training is omitted from
    the model, since its density has no bound, and given back as it was. With fewer than 10 rows
    nothing is held out.

    Args:
        latent_dim: D; by default half the number of columns, of a data frame as many as columns, 2
            to 32.
        model: VAE(), the default, or a model whose log p(x) is exact, such as HiddenForest() or
            MixtureOfFactorAnalysers(), which has no parts, no objective and no latent_dim.
        prior: A prior or its specification; by default StandardNormal().
        likelihood: A likelihood or its specification; by default what follows from the data.
        posterior: A posterior or its specification; by default as in ``taut fit``.
        encoder: Specification of the network of the posterior.
        decoder: Specification of the network of the likelihood.
        objective: An objective or its specification; by default ELBO(), and DReG(num_samples=8)
            where entries are missing.
        max_epochs: Passes over the training rows; by default as many as make 20,000 steps, at least
            20 and at most 500 (2000 for a data frame).
        batch_size: Rows a step.
        learning_rate: Peak of the schedule; by default as in ``taut fit``.
        validation_fraction: Share held out to watch the training by; the weights that are best on
            it are kept.
        num_samples: K of ``score_samples`` and ``impute``.
        flag: Share of usual rows that ``predict`` may call odd.
        kind: Of an array: binary, levels, real or count, instead of what is inferred.
        levels: Of an array: smallest and largest level.
        schema: Of a data frame: a TOML file that says what its columns are, or a schema made
            before.
        missing_values: Of a data frame: further texts and numbers that mean missing.
        condition: Of a data frame: columns that are the context of the others.
        layer: Of an AnnData: which matrix holds the counts.
        device: Where it is trained: auto, cpu, cuda, mps.
        random_state: Everything random follows from it.

    Examples:
        >>> import taut, torch
        >>> x = torch.randn(200, 1) @ torch.randn(1, 5) + 0.1 * torch.randn(200, 5)
        >>> estimator = taut.VAEstimator(latent_dim=1, max_epochs=2, random_state=0).fit(x.numpy())
        >>> estimator.transform(x.numpy()).shape
        (200, 1)
    """

    model_: Any
    schema_: Schema
    config_: Config
    history_: list[dict[str, Any]]
    notes_: tuple[str, ...]
    n_iter_: int
    seed_: int
    _n_features_out: int
    _kept: Any
    _usual: np.ndarray
    _constants: Any
    _like: Any
    _types: Any

    # The types are for readers: scikit-learn gives a constructor anything and wants it stored;
    # ``fit`` says what is wrong.
    @no_type_check
    def __init__(
        self,
        latent_dim: Whole | None = None,
        *,
        model: str | None = None,
        prior: Prior | str | None = None,
        likelihood: Likelihood | str | None = None,
        posterior: Posterior | str | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        objective: Objective | str | None = None,
        max_epochs: Whole | None = None,
        batch_size: Whole = 128,
        learning_rate: Number | None = None,
        validation_fraction: Number = 0.1,
        num_samples: Whole = 500,
        flag: Number = 0.01,
        kind: str | None = None,
        levels: Sequence[int] | None = None,
        schema: str | Path | Schema | None = None,
        missing_values: Sequence[str] = (),
        condition: Sequence[str] = (),
        layer: str | None = None,
        device: str = "auto",
        random_state: Whole | np.random.RandomState | None = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.model = model
        self.prior = prior
        self.likelihood = likelihood
        self.posterior = posterior
        self.encoder = encoder
        self.decoder = decoder
        self.objective = objective
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.num_samples = num_samples
        self.flag = flag
        self.kind = kind
        self.levels = levels
        self.schema = schema
        self.missing_values = missing_values
        self.condition = condition
        self.layer = layer
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> VAEstimator:
        """Trains the model on X, in memory.

        Args:
            X: The data.
            y: Ignored.

        Raises:
            ValueError: the data are refused, or a setting is wrong.
            DivergedError: training met numbers that are not finite and could not be cured.
        """
        with _session():
            check_count("num_samples", self.num_samples)
            check_rate(self.flag)
            source = self._checked(X, fitting=True)
            self.seed_ = _seed(self.random_state)
            data = self._dataset(source, self._settings())
            config, data, model, objective = assemble(data, self._settings(), parts=self._parts())
            if isinstance(model, StepwiseModel):
                raise UsageError(f"an estimator of scikit-learn transforms: {model.why_no_code}")
            config, self.history_ = _trained(model, objective, data, config)
        self.model_, self.schema_, self.config_, self.notes_ = (
            model,
            data.schema,
            config,
            data.notes,
        )
        with _session(self._precision):
            self._n_features_out = encode(model, data.train[:1]).shape[1]
        held_out = data.validation if len(data.validation) else data.train
        self._usual = held_out[:USUAL].cpu().numpy()
        self.n_iter_ = max(1, round(self.history_[-1]["epoch"]))
        if self.schema_.kind == "table":
            self._like, self._types = without_rows(X), source.schema.types
        self._dtype = str(getattr(source, "dtype", "float64"))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Returns the posterior mean of each row, (N, D)."""
        check_is_fitted(self)
        with _session(torch.float64):
            source = self._checked(X)
            fitted = self._fitted(torch.float64)
            z = encode(fitted.model, self._new(fitted, source).rows)
        return z.numpy().astype(_float_like(str(getattr(source, "dtype", ""))))

    def inverse_transform(self, Z: Any) -> Any:
        """Returns the mean of p(x|z) of each z, (N, C): an array, or a frame if the model was
        fitted on one.

        Of a category it is the most probable level, of a column that was omitted its constant; an
        id is unknown.

        Raises:
            ValueError: the model is conditioned on what Z does not hold.
        """
        check_is_fitted(self)
        z = check_array(Z, dtype=np.float64)
        with _session(torch.float64):
            fitted = self._fitted(torch.float64)
            if isinstance(fitted.model, ExactModel):
                raise UsageError(
                    f"a {type(fitted.model).__name__} decodes states, and Z holds what is known of "
                    f"them: use sample or impute, or model='VAE()'"
                )
            if fitted.model.condition is not None:
                raise UsageError(
                    "this model is conditioned on a context, which Z does not hold: use "
                    "sample(given=...)"
                )
            if z.shape[1] != self._n_features_out:
                raise UsageError(
                    f"Z has {z.shape[1]} columns, but the model has {self._n_features_out} latent "
                    f"dimensions"
                )
            made = self._given_back(
                decode(fitted.model, torch.from_numpy(z)).numpy(), _float_like(self._dtype)
            )
        if hasattr(Z, "iloc") and hasattr(made, "iloc"):
            made.index = Z.index
        return made

    def sample(self, n_samples: int = 1, *, given: Mapping[str, Any] | None = None) -> Any:
        """Returns draws of x: an array, or a frame if the model was fitted on one; the same ones if
        ``random_state`` is a number.

        Args:
            n_samples: N.
            given: Values of what the model is conditioned on, by column, or ``total`` for counts.
        """
        check_is_fitted(self)
        with _session(self._precision):
            texts = {name: str(value) for name, value in (given or {}).items()}
            values = sample_rows(
                self._fitted(),
                check_count("n_samples", n_samples),
                given=texts,
                seed=_seed(self.random_state),
            ).numpy()
            if self.schema_.discrete:
                return self._given_back(values, self._dtype)
            return self._given_back(values, _float_like(self._dtype))

    def score_samples(self, X: Any) -> np.ndarray:
        r"""Returns the importance-weighted estimate of $\log p(x)$ of each row in nats, (N,).

        It is ``taut.importance`` of each row with noise of its own: a lower bound on average, which
        ``num_samples`` tightens. Where that fails, a few rows get a better proposal each. Columns
        that were omitted have no part in it.
        """
        check_is_fitted(self)
        with _session(self._precision):
            fitted = self._fitted()
            new = self._new(fitted, self._checked(X))
            value, reliable = own_evidence(
                fitted.model, new.rows, int(self.num_samples), seed=self.seed_
            )
        scores: np.ndarray = value.numpy()
        scores[list(new.impossible)] = -np.inf
        if doubtful := int((~reliable).sum()):
            warnings.warn(
                f"log p(x) of {doubtful} of {len(scores)} rows is not reliable: few samples carry "
                f"their weight, so it is a lower "
                "bound, maybe a loose one; a larger num_samples may help",
                stacklevel=2,
            )
        return scores

    @property
    def offset_(self) -> float:
        """The threshold of ``predict``: log p(x), in nats, that a share ``flag`` of the rows held
        out to watch the training are below; minus infinity where they are too few to say.
        """
        check_is_fitted(self)
        with _session(self._precision):
            model, rows = self._fitted().model, torch.from_numpy(self._usual)
            usual, _ = own_evidence(model, rows, int(self.num_samples), seed=self.seed_)
        return threshold(usual, float(self.flag))

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns ``score_samples(X) - offset_``, (N,), in nats: negative for odd rows."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns -1 for rows that are odd and 1 for all others, (N,): a share of ``flag`` of usual
        rows is called odd.
        """
        return np.where(self.score_samples(X) < self.offset_, -1, 1)

    def score(self, X: Any, y: Any = None) -> float:
        """Returns the mean of ``score_samples``, in nats a row: what a grid search maximises."""
        return float(self.score_samples(X).mean())

    def impute(self, X: Any) -> Any:
        """Returns X with what is missing filled in: the mean of a number, the median of ordered
        levels, any other's likeliest.

        Every observed cell stays as it is, and so does what the model is conditioned on.
        """
        check_is_fitted(self)
        with _session(self._precision):
            source = self._checked(X)
            fitted = self._fitted()
            new = self._new(fitted, source)
            array = isinstance(source, np.ndarray)
            if array:
                whole, gaps = source, np.isnan(source)
            else:
                whole = X
                gaps = np.array(any(bool(b.isnan().any()) for b in new.rows.split(4096)))
            # What follows from others may have gaps alone.
            if not gaps.any() and (array or new.table is None):
                return whole.copy() if hasattr(whole, "copy") else whole
            values = torch.cat(list(new.rows.split(4096)))
            if gaps.any():
                values = fill_rows(fitted, new.rows, int(self.num_samples), seed=self.seed_).values
            if not array:
                filled, _ = fill(new.table, values.numpy(), self.schema_)
                return completed(X, new.table, filled)
        result = source.copy()
        result[gaps] = self._whole(values.numpy())[gaps]
        return result

    @property
    def _precision(self) -> torch.dtype:
        tensors = self.model_.state_dict().values()
        return next(t.dtype for t in tensors if t.is_floating_point())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = self.kind == "count"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _settings(self) -> Config:
        """Returns the configuration that the parameters of the same names stand for.

        What is None keeps its default.
        """
        given = {
            name: value for name, value in self.get_params(deep=False).items() if value is not None
        }
        for name in (*PARTS, "objective"):
            if name in given:
                given[name] = _written(given[name], placeholder=True)
        given |= {"seed": self.seed_, "test_fraction": 0.0}
        if isinstance(self.schema, Schema):
            del given["schema"]
        given.setdefault("model", VAE_MODEL)
        sections = Config().to_dict()
        values = {
            name: {f: _plain(given[f]) for f in fields if f in given}
            for name, fields in sections.items()
        }
        return Config.from_dict(values)

    def _parts(self) -> dict[str, Any]:
        """Returns copies of the parts that were given built: training changes them."""
        return {
            name: copy.deepcopy(part)
            for name in PARTS
            if isinstance(part := getattr(self, name), nn.Module)
        }

    def _checked(self, X: Any, *, fitting: bool = False) -> Any:
        """Returns X as ``taut.data.read`` takes it, after scikit-learn's own checks of its shape
        and its names.
        """
        if type(X).__name__ == "AnnData":
            from pandas import DataFrame

            own = self.layer == "raw" and X.raw is not None
            names = X.raw.var_names if own else X.var_names
            validate_data(
                self, DataFrame(columns=names.astype(str)), reset=fitting, skip_check_array=True
            )
            return X
        may_be_table = fitting or self.schema_.kind == "table"
        if may_be_table and (table := from_frame(X)) is not None:
            validate_data(self, X, reset=fitting, skip_check_array=True)
            return table
        of_table = not fitting and self.schema_.kind == "table"
        array = validate_data(
            self,
            X,
            reset=fitting,
            accept_sparse=True,
            dtype=None if of_table else "numeric",
            ensure_all_finite="allow-nan",
            ensure_min_samples=MIN_TRAIN if fitting else 1,
        )
        if of_table:
            return as_table(array, self.schema_.columns)
        # a list with None in it
        if array.dtype == object:
            return array.astype(np.float64)
        return array

    def _dataset(self, source: Any, config: Config) -> Dataset:
        """Returns the data to train on; their rows may be as few as two."""
        table, counted = (
            type(source).__module__.startswith("pyarrow"),
            type(source).__name__ == "AnnData",
        )
        what = {(True, False): "a data frame", (False, True): "an AnnData"}.get(
            (table, counted), "an array"
        )
        meant = {"kind": "an array", "levels": "an array", "layer": "an AnnData"}
        meant |= dict.fromkeys(("schema", "missing_values", "condition"), "a data frame")
        for name, right in meant.items():
            if getattr(self, name) and right != what and not (name == "kind" and counted):
                raise UsageError(f"{name} is for {right}, and X is {what}: omit it")
        self._kept = self._constants = None
        share = config.data.validation_fraction
        if table:
            schema = self.schema
            if isinstance(schema, str):
                schema = Path(schema)
            return from_table(
                source, Asked(schema, config.data.missing_values, config.data.condition), share
            )
        kind: Any = config.data.kind
        if counted and not kind:
            kind = "count"
        data = read(source, None, Options(layer=self.layer)).data
        if isinstance(data, np.ndarray):
            dataset, self._kept, self._constants = from_array(data, kind, config.data.levels, share)
            return dataset
        if kind not in (None, "count"):
            raise UsageError(f"a sparse matrix holds counts; for kind={kind!r} give it dense")
        return from_counts(data, share)

    def _modelled(self, source: Any) -> Any:
        """Returns the columns of an array that the model is of."""
        if self._kept is None or not isinstance(source, np.ndarray):
            return source
        return source[:, self._kept]

    def _new(self, fitted: Fitted, source: Any) -> New:
        """Returns new data for the model; their notes are warnings."""
        new = new_data(fitted, self._modelled(source))
        for note in new.notes:
            # in the line that calls the estimator
            warnings.warn(re.sub(FLAG, _as_argument, note), stacklevel=4)
        return new

    def _fitted(self, dtype: torch.dtype | None = None) -> Fitted:
        """Returns the fitted model, its weights in a precision of choice."""
        model = self.model_
        if dtype not in (None, self._precision):
            model = copy.deepcopy(model)
            if next(model.parameters()).device.type == "mps":  # which has no float64
                model = model.cpu()
            model = model.to(dtype)
        objective = build_objective(
            self.config_.training.objective or usual_objective(self.schema_)
        )
        return Fitted(model=model, schema=self.schema_, config=self.config_, objective=objective)

    def _whole(self, values: np.ndarray) -> np.ndarray:
        """Returns values of the modelled columns of an array with the constants of the others
        between them.
        """
        if self._kept is None or self._kept.all():
            return values
        whole = np.broadcast_to(self._constants, (len(values), len(self._kept))).copy()
        whole[:, self._kept] = values
        return whole

    def _given_back(self, values: np.ndarray, dtype: str) -> Any:
        """Returns values that the model made as the user would give them.

        An array of a type, or a frame of their library.
        """
        if self.schema_.kind != "table":
            return self._whole(values).astype(dtype)
        return given_back(values, self.schema_, self._like, self._types)

    def __getstate__(self) -> dict[str, Any]:
        """Returns plain values and bytes.

        Weights as safetensors, parts as specifications, nothing of torch's.
        """
        state = dict(super().__getstate__())
        with _session():
            for name in (*PARTS, "objective"):
                part = state[name]
                if (
                    isinstance(part, nn.Module)
                    and "model_" not in state
                    and any(True for _ in part.parameters())
                ):
                    raise UsageError(
                        f"{name} is a built part whose weights an estimator that is not fitted "
                        f"cannot carry: {SPELL}"
                    )
                if part is not None:
                    state[name] = _written(part)
            if "model_" in state:
                tensors = {
                    k: v.detach().cpu().contiguous().clone()
                    for k, v in self.model_.state_dict().items()
                }
                state |= {"schema_": self.schema_.to_dict(), "config_": self.config_.to_dict()}
                state["model_"] = safetensors.torch.save(tensors)
                if self._parts():
                    _rebuilt(state)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "model_" in state:
            state |= _rebuilt(state)
        super().__setstate__(state)


def embed_anndata(adata: Any, model: VAEstimator | Run, key: str = "X_taut") -> None:
    """Writes the posterior mean of each row of an AnnData into ``adata.obsm[key]``.

    Args:
        adata: The AnnData; the matrix is read that the model was trained on.
        model: A fitted estimator, or a run.
        key: The name in ``obsm``; what was there is replaced.

    Raises:
        DataError: the counts are not what the model was trained on; of an estimator a ValueError.
    """
    if isinstance(model, VAEstimator):
        z: Any = np.asarray(model.transform(adata))
    else:
        run: Run = model
        z = encode(run.model, new_data(run, adata).rows)
    to_obsm(adata, z, key)


def _trained(
    model: Model, objective: Objective, data: Dataset, config: Config
) -> tuple[Config, list[dict[str, Any]]]:
    """Trains a model in place and returns its configuration, with what the training chose, and its
    history.
    """
    training = config.training
    torch.set_num_threads(training.threads or torch.get_num_threads())
    if isinstance(model, ExactModel):
        passes = train_exact(model, data, training, State(training.max_epochs or PASSES))
        history = [record._asdict() for record in passes]
        spec = str(describe_exact(model.eval().double()))  # a row's number depends on no other
        return replace(config, model=ModelConfig(model=spec)), history
    device = find_device(training.device)
    data = to_device(data, device)
    state = State(plan_steps(model.to(device), objective, data, training))
    history = [record._asdict() for record in train(model, objective, data, training, state)]
    finish(model, state)
    return config, history


@contextmanager
def _session(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Runs a block in a precision, with errors as scikit-learn wants them.

    Afterwards torch is as it was before.
    """
    threads, before = torch.get_num_threads(), torch.get_default_dtype()
    try:
        with untouched():
            torch.set_default_dtype(dtype or before)
            yield
    except (DataError, UsageError) as error:
        raise ValueError(re.sub(FLAG, _as_argument, str(error))) from error
    except OutOfMemoryError as error:
        raise OutOfMemoryError(re.sub(FLAG, _as_argument, str(error))) from error
    finally:
        torch.set_default_dtype(before)
        torch.set_num_threads(threads)


def _as_argument(flag: re.Match[str]) -> str:
    return "_".join(filter(None, flag.groups()))


def _seed(random_state: Any) -> int:
    """Returns a number itself, else one drawn from the generator that is meant."""
    generator = check_random_state(random_state)
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(generator.randint(2**31 - 1))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    return value


def _float_like(dtype: str) -> str:
    return "float32" if dtype == "float32" else "float64"


def _written(part: Any, placeholder: bool = False) -> str:
    """Returns the specification of a part; where it has none, its class if that is enough."""
    if isinstance(part, str):
        return part
    try:
        return str(to_spec(part) if isinstance(part, Objective) else describe_part(part))
    except UsageError as error:
        if placeholder:
            return f"{type(part).__name__}()"
        raise UsageError(f"{type(part).__name__} cannot be pickled ({error}): {SPELL}") from error


def _rebuilt(state: Mapping[str, Any]) -> dict[str, Any]:
    """Returns model, schema and configuration from what was pickled of them.

    The model is on the processor.
    """
    config, schema = Config.from_dict(state["config_"]), Schema.from_dict(state["schema_"])
    tensors = safetensors.torch.load(state["model_"])
    with _session(next(t.dtype for t in tensors.values() if t.is_floating_point())):
        model = build(config.model, schema)
        allocate(model, {name: tuple(t.shape) for name, t in tensors.items()})
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise UsageError(
                f"the weights do not fit the parts that {config.model} stands for: {SPELL}"
            ) from error
    return {"model_": model.eval(), "schema_": schema, "config_": config}
