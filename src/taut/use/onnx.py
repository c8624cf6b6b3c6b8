"""Encoder and decoder of a VAE as ONNX graphs, for programs without Python or torch.

A graph holds what a network says of its input, which is a function: the parameters of q(z|x), and
those of p(x|z) with its mean. Sampling is never in it; whoever uses a graph draws with their own
generator. Each graph is run beside the model, on rows given, before it is handed out.

The format: https://onnx.ai.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from taut.model import VAE, Model, Posterior
from taut.system.errors import UsageError, shown
from taut.system.products import as_torch

__all__ = ["TOLERANCE", "Graph", "export_onnx"]

TOLERANCE = 1e-5  # of a graph beside torch, relative to 1 + the largest number of an output


class Graph(NamedTuple):
    """One graph.

    Args:
        content: The file.
        inputs: Name and shape of each input, the number of rows as -1.
        outputs: Names of the outputs: ``qz_loc`` is the parameter ``loc`` of q(z|x), ``px_mean`` is
            the mean of p(x|z). No other name in a graph begins so.
        apart: The largest difference from torch on the rows, relative to 1 + the largest number of
            the output.
    """

    content: bytes
    inputs: dict[str, list[int]]
    outputs: tuple[str, ...]
    apart: float


class _Encoder(nn.Module):
    """x, (B, *event), to the parameters of q(z|x)."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        posterior = cast(Posterior, self.model.halves["encoder"])
        found = posterior.parameters_at(*self.model.split(x))
        return {f"qz_{name}": value for name, value in found.items()}


class _Decoder(nn.Module):
    """z, (B, D), to the mean and the parameters of p(x|z); where that is given columns or a total,
    they are those of x, (B, *event).
    """

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, z: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        context = None if x is None else self.model.split(x)[1]
        likelihood = self.model.decode(z, context)
        found = {"mean": likelihood.mean, **_parameters(likelihood)}
        return {f"px_{name}": value for name, value in found.items()}


def export_onnx(model: Model, rows: Tensor) -> dict[str, Graph]:
    r"""Returns the graphs "encoder" and "decoder" of a model, in float32.

    Args:
        model: A VAE whose posterior has parameters for each row.
        rows: Rows to check the graphs on, (N, \*event), as the model takes them: a gap is NaN.

    Raises:
        UsageError: another kind of model, a part that cannot be written as a graph, a graph that
            gives other numbers, or the packages are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise UsageError("taut export needs ONNX: pip install 'taut[onnx]'") from None
    if not isinstance(model, VAE):
        raise UsageError(f"{type(model).__name__} has no encoder and decoder to export: take a VAE")
    own = copy.deepcopy(model).float().cpu().eval().requires_grad_(False)
    as_torch(own)
    x = rows.float().cpu()
    if len(x) == 1:  # torch takes the size of an axis of one for a fixed one
        x = torch.cat([x, x])
    try:
        with torch.no_grad():
            _, context = own.split(x)
            z = own.point(x)
            _Encoder(own)(x)
    except NotImplementedError as error:
        raise UsageError(f"this model cannot be exported: {error}") from None
    given = {"z": z} if context is None else {"z": z, "x": x}
    return {
        "encoder": _graph("encoder", _Encoder(own), {"x": x}, onnxruntime),
        "decoder": _graph("decoder", _Decoder(own), given, onnxruntime),
    }


def _graph(name: str, module: nn.Module, given: Mapping[str, Tensor], runtime: Any) -> Graph:
    with torch.no_grad():
        names = list(module(**given))
    rows = torch.export.Dim("rows")
    try:
        with _quiet(), torch.no_grad():
            # strict: what asks for len(x) has the number of rows as a symbol there, not as it is
            traced = torch.export.export(
                module.eval(),
                tuple(given.values()),
                dynamic_shapes=tuple({0: rows} for _ in given),
                strict=True,
            )
            program: Any = torch.onnx.export(
                traced,
                input_names=list(given),
                output_names=names,
                dynamo=True,
                custom_translation_table=_translations(),
                verbose=False,
            )
    except Exception as error:  # whatever torch finds in a part, of its own or of the user's
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        said = shown(str(reason).strip().partition("\n")[0])
        raise UsageError(f"the {name} cannot be written as an ONNX graph: {said}") from error
    content = program.model_proto.SerializeToString()
    session = runtime.InferenceSession(content)
    apart = 0.0
    for part in (given, {key: value[:1] for key, value in given.items()}):
        with torch.no_grad():
            known = module(**part).values()
        found = session.run(None, {key: value.numpy() for key, value in part.items()})
        apart = max(apart, *(_apart(a.numpy(), b) for a, b in zip(known, found, strict=True)))
    if not apart <= TOLERANCE:
        raise UsageError(
            f"the graph of the {name} differs from torch by {apart:.1e}, more than "
            f"{TOLERANCE:.0e}: it is not written"
        )
    shapes = {key: [-1, *value.shape[1:]] for key, value in given.items()}
    return Graph(content, shapes, tuple(names), apart)


def _apart(mine: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference, relative to 1 + the largest number."""
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        each = np.where(same, 0.0, np.abs(mine - theirs))
    size = np.abs(mine[np.isfinite(mine)]).max(initial=0.0)
    return float(each.max(initial=0.0) / (1 + size))


def _translations() -> dict[Any, Any]:
    """Returns what ONNX has instead of an operator that it lacks."""
    from onnxscript import opset18

    op: Any = opset18  # which takes plain numbers, too

    def searchsorted(
        known: Any,
        values: Any,
        out_int32: bool = False,
        right: bool = False,
        side: str | None = None,
        sorter: Any = None,
    ) -> Any:
        """Counts the known numbers below each value: they are few, and sorted."""
        known, values = op.Unsqueeze(known, [-2]), op.Unsqueeze(values, [-1])
        upper = right or side == "right"
        below = op.LessOrEqual(known, values) if upper else op.Less(known, values)
        return op.ReduceSum(op.Cast(below, to=6 if out_int32 else 7), [-1], keepdims=0)

    return {torch.ops.aten.searchsorted.Tensor: searchsorted}


def _parameters(distribution: Distribution) -> dict[str, Tensor]:
    """Returns what torch says that a distribution is made of, by name."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    names = list(getattr(distribution, "arg_constraints", {}))
    if {"probs", "logits"} <= set(names):
        names.remove("probs")
    found = {name: getattr(distribution, name, None) for name in names}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch and onnxscript from telling of the export."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
