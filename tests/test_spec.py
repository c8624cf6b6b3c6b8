"""A part is read from its text and written back, and nothing in the text is ever run."""

from __future__ import annotations

import sys
from functools import partial

import instances
import pytest

import taut
from taut import objectives
from taut.build.model import describe_part
from taut.build.spec import Spec, parse, resolve, to_spec
from taut.system.errors import nearest


@pytest.mark.parametrize(
    "objective", [row[0] for row in instances.rows()[taut.Objective]], ids=repr
)
def test_objectives_there_and_back(objective: taut.Objective) -> None:
    assert resolve(str(to_spec(objective)), taut.Objective) == objective
    assert resolve(repr(objective), taut.Objective) == objective


@pytest.mark.parametrize("row", range(len(instances.make_likelihoods())))
def test_likelihoods_there_and_back(row: int) -> None:
    part, _ = instances.make_likelihoods()[row]
    spec = describe_part(part)
    fill = {"event_shape": instances.EVENT, "latent_dim": instances.LATENT, "low": 2, "high": 8}
    fill |= {"kinds": instances.KINDS, "num_levels": instances.NUM_LEVELS}
    fill |= {"grids": getattr(part, "grids", None)}
    again = resolve(parse(str(spec)), taut.Likelihood, fill, {"decoder": taut.Network})
    assert describe_part(again) == spec
    again.load_state_dict(part.state_dict())  # how many knots cells have follows from the data
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in part.state_dict().items()
    }


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("IWAE", "IWAE()"),
        (" IWAE( num_samples = 5 ) ", "IWAE(num_samples=5)"),
        ("Normal(scale='shared', min_scale=-1e-3)", "Normal(scale='shared', min_scale=-0.001)"),
        ("Bernoulli(decoder=MLP(hidden=(1, 2)))", "Bernoulli(decoder=MLP(hidden=(1, 2)))"),
        ("mine.parts:Spike(slab=True)", "mine.parts:Spike(slab=True)"),
        ("A(text='x:y(')", "A(text='x:y(')"),
        ("B(decoder=mine:Net(width=3))", "B(decoder=mine:Net(width=3))"),
    ],
)
def test_parse(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert parse(canonical) == parse(text)


def test_modules_of_nested_parts_are_found() -> None:
    assert parse("B(decoder=mine:Net(inner=yours.deep:X()))").modules() == {"mine", "yours.deep"}
    assert parse("IWAE()").modules() == set()


def test_to_spec_of_factories_and_outsiders() -> None:
    assert to_spec(partial(taut.MLP, hidden=(3,))) == Spec("MLP", (("hidden", (3,)),))
    assert to_spec(taut.MLP) == Spec("MLP")
    assert describe_part(taut.Bernoulli((2,), 1)) == Spec("Bernoulli")  # MLP is the default decoder

    class Mine(taut.Prior):
        def __init__(self, latent_dim: int, width: float = 1.0) -> None:
            super().__init__()
            self.width = width

        def forward(self, context=None):
            raise AssertionError

    assert describe_part(Mine(2, width=3.0)) == Spec("Mine", (("width", 3.0),), __name__)

    class Forgetful(Mine):
        def __init__(self, latent_dim: int, shape: int) -> None:
            super().__init__(latent_dim)

    with pytest.raises(taut.UsageError, match="does not keep its argument 'shape'"):
        describe_part(Forgetful(2, 3))


HOSTILE = [
    "__import__('os').system('touch canary')",
    "IWAE(num_samples=__import__('os').getpid())",
    "IWAE(num_samples=open('canary', 'w'))",
    "IWAE(**{'num_samples': 3})",
    "IWAE(*[3])",
    "IWAE(3)",
    "(lambda: 1)()",
    "IWAE(num_samples=[x for x in (1,)])",
    "IWAE; import os",
    "IWAE(",
    "",
    "1 + 1",
    "IWAE(num_samples=3" + ")" * 1000,
    "(" * 5000,
    "A(x=" * 500 + "1" + ")" * 500,
    "IWAE(num_samples=\x00)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_one_usage_error_and_runs_nothing(text: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(taut.UsageError) as caught:
        resolve(text, taut.Objective)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "base", "words"),
    [
        ("IWEA()", taut.Objective, "did you mean 'IWAE'?"),
        ("iwae()", taut.Objective, "did you mean 'IWAE'?"),
        ("ELBO(betta=4)", taut.Objective, "no argument 'betta'; did you mean 'beta'?"),
        ("IWAE(num_samples=0)", taut.Objective, "at least 1, not 0"),
        ("IWAE(num_samples=True)", taut.Objective, "whole number"),
        ("Objective()", taut.Objective, "no objective is called 'Objective'"),
        (
            "StandardNormal()",
            taut.Objective,
            "choose from Adversarial, Capacity, Critic, DIP, DReG",
        ),
        ("ELBO(beta=Bernoulli())", taut.Objective, "takes a plain value"),
        ("no_such_module_of_mine:Part()", taut.Objective, "cannot import 'no_such_module_of_mine'"),
        ("json:JSONDecoder()", taut.Objective, "not a subclass of taut.Objective"),
        ("json:nothing()", taut.Objective, "not a subclass of taut.Objective"),
    ],
)
def test_wrong_specifications(text: str, base: type, words: str) -> None:
    with pytest.raises(taut.UsageError) as caught:
        resolve(text, base)
    assert words in str(caught.value)


def test_two_families_may_share_a_name() -> None:
    prior = resolve("IndependentBernoulli()", taut.Prior, {"latent_dim": 3})
    posterior = resolve(
        "IndependentBernoulli()", taut.Posterior, {"latent_dim": 3, "event_shape": (2,)}
    )
    assert type(prior) is taut.priors.IndependentBernoulli
    assert type(posterior) is taut.posteriors.IndependentBernoulli


def test_a_part_of_a_persons_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_objectives_x.py").write_text(
        "import dataclasses, taut\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Twice(taut.Objective):\n"
        "    factor: float = 2.0\n"
        "    def __call__(self, model, x, context=None, progress=1.0):\n"
        "        value = taut.ELBO()(model, x, context).surrogate\n"
        "        return taut.Bound(value.detach(), self.factor * value)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    part = resolve("my_objectives_x:Twice(factor=3.0)", taut.Objective)
    assert str(to_spec(part)) == "my_objectives_x:Twice(factor=3.0)"
    problem = taut.LinearGaussian()
    x = problem.sample(4)
    bound = part(problem.model(), x)
    assert bound.surrogate.tolist() == pytest.approx((3 * bound.value).tolist())
    with pytest.raises(taut.UsageError, match="no objective is called 'Twice'"):
        resolve("Twice()", taut.Objective)  # only taut's own parts go by their bare name


def test_nearest() -> None:
    assert nearest("tanhh", ["relu", "tanh"]) == "; did you mean 'tanh'?"
    assert nearest("zzz", ["relu", "tanh"]) == ""


def test_registry_is_the_public_subclasses() -> None:
    for name in objectives.__all__:
        cls = getattr(objectives, name)
        if isinstance(cls, type) and issubclass(cls, taut.Objective) and cls is not taut.Objective:
            assert isinstance(resolve(name, taut.Objective), cls)
