"""The affine layer: torch's own in all but speed, whichever library multiplies."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from instances import EVENT, LATENT, bits
from torch import Tensor, nn

import taut
from taut import likelihoods, posteriors, priors
from taut.build.config import TrainingConfig
from taut.system import products
from taut.system.products import FEWEST_ROWS, Affine
from taut.system.seeds import set_seed
from taut.training.graph import record
from taut.training.step import Learner

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"),
    reason="this build of torch has no oneDNN",
)

UNIT = torch.finfo(torch.float32).eps / 2


@pytest.fixture(autouse=True)
def single() -> Iterator[None]:
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the products that oneDNN computed so far."""
    shapes: list[tuple[int, ...]] = []
    product = products._product

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = product(x, weight, bias)
        shapes.append(tuple(y.shape))
        return y

    monkeypatch.setattr(products, "_product", counted)
    return shapes


def layer(onednn: bool = True, in_features: int = 7, out_features: int = 5) -> Affine:
    """Returns a layer that takes the library it is told, whatever is faster on this machine."""
    made = Affine(in_features, out_features)
    made._onednn = onednn
    return made


def assert_is_product(y: Tensor, a: Tensor, b: Tensor, c: Tensor | float = 0.0) -> None:
    """Checks that y = a b + c, computed in float32 with the sums in any order.

    |error| <= n u / (1 - n u) (|a| |b| + |c|).
    """
    a, b, c = a.double(), b.double(), torch.as_tensor(c).double()
    n = a.shape[-1] + 1
    bound = n * UNIT / (1 - n * UNIT) * (a.abs() @ b.abs() + c.abs())
    assert y.shape == bound.shape
    assert y.dtype == torch.float32
    assert bool(((y.double() - (a @ b + c)).abs() <= bound).all())


INPUTS: dict[str, Callable[[], Tensor]] = {
    "rows": lambda: torch.randn(40, 7),
    "fewest rows": lambda: torch.randn(FEWEST_ROWS, 7),
    "samples": lambda: torch.randn(3, 20, 7),
    "four axes": lambda: torch.randn(2, 3, 4, 7),
    "axes exchanged": lambda: torch.randn(20, 3, 7).transpose(0, 1),
    "transposed": lambda: torch.randn(7, 40).T,
    "every other": lambda: torch.randn(40, 14)[:, ::2],
    "expanded": lambda: torch.randn(20, 7).expand(3, 20, 7),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("onednn", [False, True])
@pytest.mark.parametrize("sum_of_outputs", [False, True])  # the gradient of a sum has no strides
def test_product_and_gradients_are_right_to_rounding(
    name: str, onednn: bool, sum_of_outputs: bool, calls: list[tuple[int, ...]]
) -> None:
    f, x = layer(onednn), INPUTS[name]()
    given = (
        torch.ones(()).expand(*x.shape[:-1], 5)
        if sum_of_outputs
        else torch.randn(5, *x.shape[:-1]).movedim(0, -1)
    )
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    y.backward(given)
    rows, g = x.reshape(-1, 7), given.reshape(-1, 5)
    assert calls == ([(len(rows), 5), (len(rows), 7), (5, 7)] if onednn else [])
    assert y.shape == given.shape
    assert_is_product(y.reshape(-1, 5), rows, f.weight.T, f.bias)
    assert leaf.grad is not None
    assert leaf.grad.shape == x.shape
    assert_is_product(leaf.grad.reshape(-1, 7), g, f.weight)
    assert_is_product(f.weight.grad, g.T, rows)
    assert_is_product(f.bias.grad, torch.ones(len(rows)), g)


@pytest.mark.parametrize("in_features", [1, 2])
@pytest.mark.parametrize("out_features", [1, 3])
def test_narrow_layers(in_features: int, out_features: int, calls: list[tuple[int, ...]]) -> None:
    f, x = layer(True, in_features, out_features), torch.randn(50, in_features, requires_grad=True)
    given = torch.randn(50, out_features)
    y = f(x)
    y.backward(given)
    assert len(calls) == 3
    assert_is_product(y, x, f.weight.T, f.bias)
    assert_is_product(x.grad, given, f.weight)
    assert_is_product(f.weight.grad, given.T, x)


@pytest.mark.parametrize("shape", [(7,), (0, 7), (FEWEST_ROWS - 1, 7), (3, 5, 7)])
def test_few_rows_go_the_usual_way(shape: tuple[int, ...], calls: list[tuple[int, ...]]) -> None:
    f, x = layer(), torch.randn(shape)
    assert torch.equal(f(x), nn.functional.linear(x, f.weight, f.bias))
    assert not calls


def test_what_onednn_does_not_multiply_goes_the_usual_way(calls: list[tuple[int, ...]]) -> None:
    x, f = torch.randn(40, 7), layer()
    double = copy.deepcopy(f).double()
    assert torch.equal(
        double(x.double()), nn.functional.linear(x.double(), double.weight, double.bias)
    )
    with torch.autocast("cpu", torch.bfloat16):
        low = f(x)
        assert low.dtype == torch.bfloat16
        assert torch.equal(low, nn.functional.linear(x, f.weight, f.bias))
    assert not calls


def test_where_mkl_is_faster_it_is_nn_linear_to_the_bit(calls: list[tuple[int, ...]]) -> None:
    f, x = layer(onednn=False), torch.randn(3, 20, 7)
    assert torch.equal(f(x), nn.functional.linear(x, f.weight, f.bias))
    assert not calls


def test_result_does_not_depend_on_the_grad_mode(calls: list[tuple[int, ...]]) -> None:
    f, x = layer(), torch.randn(3, 20, 7)
    y = f(x)
    assert y.requires_grad
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            again = f(x)
        assert not again.requires_grad
        assert torch.equal(again, y)
    assert calls == [(60, 5)] * 3


def test_no_gradient_is_computed_that_nobody_asked_for(calls: list[tuple[int, ...]]) -> None:
    g = torch.randn(40, 5)
    f, x = layer(), torch.randn(40, 7)
    f(x).backward(g)
    assert calls == [(40, 5), (5, 7)]
    assert_is_product(f.weight.grad, g.T, x)

    calls.clear()
    frozen, x = layer().requires_grad_(False), torch.randn(40, 7, requires_grad=True)
    frozen(x).backward(g)
    assert calls == [(40, 5), (40, 7)]
    assert_is_product(x.grad, g, frozen.weight)
    assert frozen.weight.grad is None
    assert frozen.bias.grad is None

    calls.clear()
    shifted, x = layer(), torch.randn(40, 7)
    shifted.weight.requires_grad_(False)
    shifted(x).backward(g)
    assert calls == [(40, 5)]
    assert_is_product(shifted.bias.grad, torch.ones(40), g)


def test_a_layer_that_is_used_twice_has_the_sum_of_both_gradients() -> None:
    f, g = layer(in_features=6, out_features=6), torch.randn(40, 6)
    x = torch.randn(40, 6)
    h = f(x)
    (f(h) * g).sum().backward()
    usual = copy.deepcopy(f).double()
    usual.zero_grad()
    (usual(usual(x.double())) * g).sum().backward()
    # Two products of 6 terms and sums over 40 rows, all of order one to ten: 1e2 u is far above,
    # any mistake far below.
    for name, parameter in f.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double(), usual.get_parameter(name).grad, rtol=1e-5, atol=1e-5
        )


def test_gradient_of_a_gradient() -> None:
    x, g = torch.randn(40, 7), torch.randn(40, 5)
    results = []
    for f in (layer(), layer(onednn=False)):
        f.load_state_dict(results[0][1] if results else f.state_dict())
        leaf = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((f(leaf).square() * g).sum(), leaf, create_graph=True)
        results.append(
            (torch.autograd.grad(first.square().sum(), [leaf, *f.parameters()]), f.state_dict())
        )
    # Three products in a row of at most 40 terms each, of order 1e2 in the end.
    for ours, usual in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(ours, usual, rtol=1e-4, atol=1e-3)
        assert usual.norm() > 1


def test_weights_changed_before_the_gradient_is_asked_for_are_an_error() -> None:
    f, x = layer(), torch.randn(40, 7, requires_grad=True)
    y = f(x)
    with torch.no_grad():
        f.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_weights_are_those_of_nn_linear() -> None:
    torch.manual_seed(3)
    ours = layer()
    torch.manual_seed(3)
    torchs = nn.Linear(7, 5)
    assert list(ours.state_dict()) == list(torchs.state_dict())
    assert all(torch.equal(v, torchs.state_dict()[k]) for k, v in ours.state_dict().items())


@pytest.mark.parametrize("bias", [False, True])
def test_operator_is_what_torch_expects_of_one(bias: bool) -> None:
    arguments = (torch.randn(20, 7), torch.randn(5, 7), torch.randn(5) if bias else None)
    torch.library.opcheck(
        torch.ops.taut.product.default, arguments, test_utils=("test_schema", "test_faketensor")
    )


@pytest.mark.parametrize(
    ("maker", "taken"), [("AuthenticAMD", True), ("GenuineIntel", False), ("", False)]
)
def test_the_other_library_is_taken_on_processors_of_makers_on_which_mkl_is_slow(
    maker: str, taken: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {maker}\n")
    monkeypatch.setattr(products, "CPUINFO", tmp_path / "cpuinfo")
    assert products._onednn_is_faster.__wrapped__() is taken
    monkeypatch.setattr(products, "CPUINFO", tmp_path / "none")  # as on Windows
    monkeypatch.setattr(
        products.platform, "processor", lambda: f"AMD64 Family 25 Model 1 Stepping 1, {maker}"
    )
    assert products._onednn_is_faster.__wrapped__() is taken


def test_recorded_step_multiplies_with_onednn_as_the_eager_one_does() -> None:
    likelihood, posterior = (
        likelihoods.Bernoulli(EVENT, LATENT),
        posteriors.DiagonalNormal(EVENT, LATENT),
    )
    m = taut.VAE(priors.StandardNormal(LATENT), likelihood, posterior)
    layers = [part for part in m.modules() if isinstance(part, Affine)]
    for part in layers:
        part._onednn = True
    learner, x = Learner(m, taut.ELBO(), TrainingConfig()), bits(FEWEST_ROWS)
    graph = record(learner, x)
    products = [node for node in graph.graph.nodes if node.target == torch.ops.taut.product.default]
    assert len(products) == 3 * len(layers) - 1  # each with two gradients, but none of the data
    gradients = []
    for form in (None, graph):
        twin = learner.twin()
        twin._graph = form
        with twin.interval():
            set_seed(0)
            twin.step(x, 0.01, 0.5, 0.0)
        gradients.append(
            torch.cat([twin.optimizer.state[p]["exp_avg"].flatten() for p in twin.trainable])
        )
    # The same products in both; what lies between them is rounded in another order, some 1e2
    # operations of order one.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)
    assert gradients[0].norm() > 1e-3


def test_every_other_column(calls: list[tuple[int, ...]]) -> None:
    """Rows of which no axis is dense in memory, as oneDNN would refuse to read them, to the bit
    those of a copy.
    """
    mine, x = layer(), torch.randn(4, 32, 14)
    found = []
    for rows in (x[..., ::2], x[..., ::2].clone(memory_format=torch.contiguous_format)):
        mine.zero_grad()
        y = mine(rows)
        y.square().sum().backward()
        gradient = mine.weight.grad
        assert gradient is not None
        found.append((y.detach(), gradient.clone()))
    assert calls == 2 * [(128, 5), (5, 7)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
