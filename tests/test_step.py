"""The two forms of a step: what is recorded does what the eager step does, for every part.

Which form is taken.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import instances
import numpy as np
import pytest
import torch
from instances import (
    COUPLED,
    EVENT,
    FREE_BITS,
    LATENT,
    OBJECTIVES,
    RELAXED,
    SMALL,
    bits,
    make_likelihoods,
    make_posteriors,
    make_priors,
    quantized,
)
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

import taut
from taut import likelihoods, networks, posteriors, priors
from taut.build.config import TrainingConfig
from taut.data import Dataset, prepare
from taut.system.errors import UsageError
from taut.system.products import FEWEST_ROWS, Affine
from taut.system.seeds import set_seed
from taut.training import pace, step
from taut.training.graph import FASTER, CannotCompileError, record
from taut.training.loop import State, train
from taut.training.pace import choose
from taut.training.step import Learner

# settings that are constants of what is recorded
IN_THE_GRAPH = {
    "averaging": 0.0,
    "clip_norm": 0.1,
    "weight_decay": 0.1,
    "gentle": ("posterior",),
}
CONFIG = TrainingConfig(clip_norm=0.5, weight_decay=0.01, averaging=0.9, learning_rate=0.01)


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def model(**parts: Any) -> taut.VAE:
    prior = parts.get("prior", priors.StandardNormal(LATENT))
    likelihood = parts.get("likelihood", likelihoods.Bernoulli(EVENT, LATENT, decoder=SMALL))
    return taut.VAE(
        prior,
        likelihood,
        parts.get("posterior", posteriors.DiagonalNormal(EVENT, LATENT, encoder=SMALL)),
    )


def run(learner: Learner, batches: list[Tensor], graph: Any = None) -> dict[str, Tensor]:
    """Takes a step on each batch and returns everything that they changed."""
    learner._graph = graph
    with learner.interval():
        for number, x in enumerate(batches):
            set_seed(number)
            learner.step(x, 0.01 * (number + 1), 0.4, 0.2 * number)
    states = [learner.optimizer.state[p] for p in learner.trainable]
    changed: dict[str, Tensor] = {"total": learner.total, "skipped": learner.skipped}
    for i, (p, s) in enumerate(zip(learner.trainable, states, strict=True)):
        changed |= {f"{i}.weight": p, **{f"{i}.{k}": v for k, v in s.items()}}
    changed |= {f"average {n}": p for n, p in learner.average.state_dict().items()}
    return {k: v.detach().clone() for k, v in changed.items()}


def assert_same(learner: Learner, batches: list[Tensor]) -> dict[str, Tensor]:
    """Checks that the recorded steps do what the eager ones do, and that they do something.

    Returns what they did.
    """
    eager = run(learner.twin(), batches)
    recorded = run(learner.twin(), batches, record(learner, batches[0]))
    assert eager.keys() == recorded.keys()
    assert any(not torch.equal(eager[f"{i}.weight"], p) for i, p in enumerate(learner.trainable))
    for name, value in eager.items():
        torch.testing.assert_close(
            recorded[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
        )
    return eager


@pytest.mark.parametrize(
    "objective", [*(o for o, *_ in [*OBJECTIVES, *COUPLED]), FREE_BITS], ids=repr
)
def test_recorded_step_is_the_eager_one_for_every_objective(objective: taut.Objective) -> None:
    assert_same(Learner(model(), objective, CONFIG), [bits(6) for _ in range(4)])


@pytest.mark.parametrize("index", range(len(make_likelihoods())))
def test_recorded_step_is_the_eager_one_for_every_likelihood(index: int) -> None:
    likelihood, data = make_likelihoods()[index]
    x = getattr(instances, data)(6)
    posterior = posteriors.DiagonalNormal(
        tuple(x.shape[1:]), LATENT, encoder=SMALL, data_loc=5.0, data_scale=5.0
    )
    assert_same(
        Learner(model(likelihood=likelihood, posterior=posterior), taut.ELBO(), CONFIG),
        [x, x.flip(0)],
    )


def test_recorded_step_drops_the_units_that_the_eager_one_drops() -> None:
    """Those of a prior too, which is made of the encoder."""
    network = partial(networks.GatedMLP, hidden=(5,), dropout=0.5)
    m = model(
        prior=priors.VampPrior(4),
        likelihood=likelihoods.Bernoulli(EVENT, LATENT, decoder=network),
        posterior=posteriors.DiagonalNormal(EVENT, LATENT, encoder=network),
    )
    assert_same(Learner(m, taut.ELBO(), CONFIG), [bits(6) for _ in range(2)])


def test_recorded_step_is_the_eager_one_for_data_with_gaps() -> None:
    whole, gaps = bits(6), bits(6)
    gaps[0, 1], gaps[3] = math.nan, math.nan
    assert_same(Learner(model(), taut.DReG(num_samples=3), CONFIG), [whole, gaps, whole])


@pytest.mark.parametrize("index", range(len(make_posteriors())))
def test_recorded_step_is_the_eager_one_for_every_posterior(index: int) -> None:
    posterior = make_posteriors()[index]
    numbers = {"IndependentBernoulli": 2, "Categorical": -1, "VectorQuantized": -3}
    discrete = type(posterior).__name__ in numbers
    prior = priors.StandardNormal(LATENT)
    if discrete:
        prior = make_priors()[numbers[type(posterior).__name__]]
    objective = taut.VIMCO(num_samples=3) if discrete else taut.StickingTheLanding()
    assert_same(
        Learner(model(posterior=posterior, prior=prior), objective, CONFIG), [bits(6), bits(6)]
    )


@pytest.mark.parametrize("row", range(len(RELAXED)))
@pytest.mark.parametrize("number", [-1, -2, -3])
def test_recorded_step_is_the_eager_one_for_a_relaxation(row: int, number: int) -> None:
    posterior = posteriors.Categorical(EVENT, LATENT, SMALL, codes=1, levels=LATENT)
    if number == -3:
        posterior = quantized(scale=0.5)
    parts = {"posterior": posterior, "prior": make_priors()[number]}
    assert_same(Learner(model(**parts), RELAXED[row][0], CONFIG), [bits(6), bits(6)])


@pytest.mark.parametrize("index", [1, *range(3, len(make_priors()) - 4)])
def test_recorded_step_is_the_eager_one_for_every_prior_of_real_numbers(index: int) -> None:
    assert_same(
        Learner(model(prior=make_priors()[index]), taut.DReG(num_samples=2), CONFIG),
        [bits(6), bits(6)],
    )


def test_recorded_step_leaves_out_what_is_not_finite_as_the_eager_one_does() -> None:
    broken = bits(6)
    broken[0] = math.inf
    did = assert_same(Learner(model(), taut.ELBO(), CONFIG), [bits(6), broken, bits(6)])
    assert did["skipped"] == 1
    assert did["0.step"] == 2


class Doubtful(taut.ELBO):
    """The ELBO, whose value alone is not finite where a datum has a 2 in it."""

    def __call__(self, *arguments: Any) -> taut.Bound:
        bound = super().__call__(*arguments)
        return bound._replace(value=torch.where((arguments[1] > 1).any(), math.inf, bound.value))


def test_recorded_step_leaves_out_what_has_no_finite_value_as_the_eager_one_does() -> None:
    did = assert_same(Learner(model(), Doubtful(), CONFIG), [bits(6), 2 * bits(6), bits(6)])
    assert did["skipped"] == 1
    assert did["0.step"] == 2


@pytest.mark.parametrize(
    "clip_norm", [1e-3, 1e3]
)  # far below and far above the norm of the gradients
def test_recorded_step_clips_as_the_eager_one_does(clip_norm: float) -> None:
    did = assert_same(
        Learner(model(), taut.ELBO(), dataclasses.replace(CONFIG, clip_norm=clip_norm)), [bits(6)]
    )
    moment = torch.cat([v.flatten() for k, v in did.items() if k.endswith("exp_avg")])
    assert (
        float(moment.norm()) == pytest.approx(1e-4, rel=1e-6)
        if clip_norm < 1
        else 1e-3 < float(moment.norm()) < 1
    )


@pytest.mark.parametrize(
    "function",
    [
        torch.isnan,
        torch.nan_to_num,
        lambda x: x.nan_to_num(0.0, torch.inf, -torch.inf),
        lambda x: x.nan_to_num(2.0, torch.inf, -torch.inf),
        lambda x: x.nan_to_num(2.0, 3.0, -torch.inf),
        lambda x: x.nan_to_num(2.0, torch.inf, -4.0),
    ],
)
def test_what_is_recorded_in_another_form_has_the_same_values(function: Any) -> None:
    x = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, -0.0])
    assert torch.equal(make_fx(function, FASTER)(x)(x), function(x))


def test_gentle_parts_take_a_fifth_of_the_step_in_both_forms() -> None:
    """The first step of Adam is the rate times the sign of the gradient: 0.01, and 0.002."""
    config = dataclasses.replace(CONFIG, clip_norm=1e9, weight_decay=0.0)
    gentle = dataclasses.replace(config, gentle=("posterior", "likelihood.decoder.layers.0"))
    x = bits(6)
    learner = Learner(model(prior=priors.GaussianMixture(LATENT)), taut.ELBO(), gentle)
    names = [n for n, p in learner.model.named_parameters() if p.requires_grad]
    after = assert_same(learner, [x])
    for i, (name, p) in enumerate(zip(names, learner.trainable, strict=True)):
        moved = (after[f"{i}.weight"] - p.detach()).abs().max()
        slow = name.startswith(("posterior.", "likelihood.decoder.layers.0."))
        assert math.isclose(moved, 0.002 if slow else 0.01, rel_tol=1e-4), name
    decayed = dataclasses.replace(gentle, weight_decay=0.5)
    assert_same(Learner(learner.model, taut.ELBO(), decayed), [bits(6) for _ in range(3)])


def test_recorded_step_leaves_frozen_parts_alone() -> None:
    m = model()
    m.likelihood.requires_grad_(False)
    before = copy.deepcopy(m.likelihood.state_dict())
    did = assert_same(
        Learner(m, taut.StickingTheLanding(num_samples=2), CONFIG), [bits(6), bits(6)]
    )
    for name, value in before.items():
        assert torch.equal(did[f"average likelihood.{name}"], value)


def test_recorded_step_moves_the_statistics_of_a_part_and_its_average() -> None:
    class Normalized(taut.MLP):
        """A network with a buffer that moves in training."""

        def __init__(self, *shapes: Any) -> None:
            super().__init__(*shapes, hidden=(7,))
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
            if self.training:
                self.seen += x.detach().mean()
            return super().forward(x, context)

    m = model(posterior=posteriors.DiagonalNormal(EVENT, LATENT, encoder=Normalized))
    batches = [bits(6), bits(6)]
    did = assert_same(Learner(m, taut.ELBO(), CONFIG), batches)
    assert did["average posterior.encoder.seen"] == pytest.approx(
        float(sum(x.mean() for x in batches)), abs=1e-12
    )


def test_recorded_step_has_no_average_where_none_is_kept() -> None:
    assert_same(
        Learner(model(), taut.ELBO(), dataclasses.replace(CONFIG, averaging=0.0)),
        [bits(6), bits(6)],
    )


def test_networks_in_bfloat16_and_the_bound_in_the_usual_precision() -> None:
    torch.set_default_dtype(torch.float32)
    m, seen = model(), []
    for part in (m.posterior.encoder, m.likelihood.decoder):
        part.layers[0].register_forward_hook(lambda *a: seen.append(a[2].dtype))
    learner = Learner(
        m,
        taut.IWAE(num_samples=3),
        dataclasses.replace(CONFIG, precision="bfloat16", averaging=0.0),
    )
    x = bits(64)
    with learner.interval():
        set_seed(0)
        bound = learner.module(x, 1.0)
        assert seen == [torch.bfloat16] * 2
        assert bound.value.dtype == torch.float32
        low = torch.autograd.grad(bound.surrogate.mean(), learner.trainable)
    set_seed(0)
    usual = learner.module(x, 1.0)  # outside the block nothing is left of it
    assert seen[2:] == [torch.float32] * 2
    full = torch.autograd.grad(usual.surrogate.mean(), learner.trainable)
    # bfloat16 has 8 bits: a relative rounding of 2^-9 each in two layers of sums, here below 2 % of
    # the gradient's norm.
    torch.testing.assert_close(bound.value, usual.value, rtol=0.02, atol=0.02)
    a, b = (torch.cat([g.flatten() for g in gradients]) for gradients in (low, full))
    assert 0 < float((a - b).norm() / b.norm()) < 0.02


def test_recorded_step_is_the_eager_one_in_bfloat16() -> None:
    assert_same(
        Learner(model(), taut.ELBO(), dataclasses.replace(CONFIG, precision="bfloat16")),
        [bits(6), bits(6)],
    )


def test_a_step_in_bfloat16_goes_over_to_its_compiled_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
    torch.set_default_dtype(torch.float32)
    learner = Learner(model(), taut.ELBO(), dataclasses.replace(CONFIG, precision="bfloat16"))
    learner.compile(bits(6))
    assert learner._graph is not None
    # nothing of it is left
    assert not any("forward" in vars(part) for part in learner.module.modules())


class Branching(taut.MLP):
    """A network whose Python asks for a number in a tensor."""

    def __init__(self, *shapes: Any) -> None:
        super().__init__(*shapes, hidden=(7,))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return super().forward(x if x.sum() > 0 else -x, context)


class Remembering(taut.MLP):
    """A network whose Python changes from step to step.

    What was recorded once is not what it does next.
    """

    def __init__(self, *shapes: Any) -> None:
        super().__init__(*shapes, hidden=(7,))
        self.calls = 0

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        self.calls += 1
        return super().forward(x * self.calls, context)


def test_a_branch_on_a_number_is_not_recorded() -> None:
    m = model(posterior=posteriors.DiagonalNormal(EVENT, LATENT, encoder=Branching))
    with pytest.raises(CannotCompileError, match="depends on the numbers in a tensor"):
        record(Learner(m, taut.ELBO(), CONFIG), bits(6))


def test_a_compiled_step_that_is_not_the_eager_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
    m = model(posterior=posteriors.DiagonalNormal(EVENT, LATENT, encoder=Remembering))
    with pytest.raises(CannotCompileError, match="is not the eager one"):
        Learner(m, taut.ELBO(), CONFIG).compile(bits(6))
    Learner(model(), taut.ELBO(), CONFIG).compile(bits(6))  # and a usual one is not


def images_model() -> taut.VAE:
    encoder, decoder = (partial(part, channels=2) for part in (taut.ConvEncoder, taut.ConvDecoder))
    posterior = posteriors.DiagonalNormal((16, 16), 2, encoder=encoder)
    return taut.VAE(
        priors.StandardNormal(2), likelihoods.Bernoulli((16, 16), 2, decoder=decoder), posterior
    )


def layouts(learner: Learner) -> set[bool]:
    """Returns whether weights of convolutions, averages and moments are channels last."""
    moments = [s for p in learner.trainable for s in learner.optimizer.state[p].values()]
    tensors = [
        t
        for t in (*learner.trainable, *learner.averaged, *moments)
        if t.dim() == 4 and t.shape[1] > 1
    ]
    return {t.is_contiguous(memory_format=torch.channels_last) for t in tensors}


def test_convolutions_are_laid_out_for_the_form_of_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.randint(0, 2, (6, 16, 16)).to(torch.get_default_dtype())
    m = images_model()
    learner = Learner(m, taut.ELBO(), CONFIG)
    eager = run(learner.twin(), [x, x])
    assert layouts(learner) == {False}
    monkeypatch.setattr("torch._inductor.compile", lambda *_, **__: 1 / 0)
    with pytest.raises(CannotCompileError):
        learner.compile(x)
    assert layouts(learner) == {False}
    monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
    # the second takes what the first has compiled
    for each in (
        learner,
        Learner(m, taut.ELBO(), CONFIG),
    ):
        each.compile(x)
        assert layouts(each) == layouts(each.twin()) == {True}
        for name, value in run(each.twin(), [x, x], each._graph).items():
            torch.testing.assert_close(value, eager[name], rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(pace, "_seconds", lambda learner, *_: 1.0 + (learner._graph is not None))
    monkeypatch.setattr(pace, "_overhead", lambda *_: 1.0)
    data = prepare(
        x.repeat(2, 1, 1).numpy().astype(np.uint8), validation_fraction=0.0, test_fraction=0.0
    )
    chosen, note = choose(
        m, taut.ELBO(), data, dataclasses.replace(CONFIG, threads=1, batch_size=6, max_epochs=100)
    )
    assert (chosen.compile, layouts(Learner(m, taut.ELBO(), CONFIG))) == ("off", {False}), note


@pytest.mark.parametrize("wrong", ["rate", "decay", "data", "bound", "last weights", "nothing"])
def test_a_compiler_that_makes_a_mistake_is_found_out(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compiled(graph: Any, *_: Any, **__: Any) -> Any:
        def call(*tensors: Tensor) -> None:
            *state, total, skipped, x, scalars = tensors
            x = x.flip(1) if wrong == "data" else x
            scalars = scalars * torch.tensor(
                [1.0 - 0.1 * (wrong == "rate"), 1.0 - 0.1 * (wrong == "decay"), 1.0]
            )
            graph(*state, total, skipped, x, scalars)
            total += wrong == "bound"
            if wrong == "last weights" and scalars[2] > 0:  # which no later gradient shows
                state[0].fill_(math.nan)

        return call

    monkeypatch.setattr("torch._inductor.compile", compiled)
    learner = Learner(model(), taut.ELBO(), CONFIG)
    if wrong == "nothing":
        learner.compile(bits(6))
    else:
        with pytest.raises(CannotCompileError, match="is not the eager one"):
            learner.compile(bits(6))


def test_what_the_compiler_logs_of_itself_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An operator without a fast form had two lines of torch's own on every user's terminal."""
    log, shown = logging.getLogger("torch._inductor.ir"), []
    handler = logging.Handler()
    monkeypatch.setattr(handler, "emit", lambda record: shown.append(record.getMessage()))
    monkeypatch.setattr(log, "handlers", [handler])

    def compiled(graph: Any, *_: Any, **__: Any) -> Any:
        log.warning("an operator is missing a shim")
        log.error("the compiler failed")
        return graph

    monkeypatch.setattr("torch._inductor.compile", compiled)
    Learner(model(), taut.ELBO(), CONFIG).compile(bits(6))
    log.warning("afterwards")
    assert shown == ["the compiler failed", "afterwards"]


def test_compiled_step_is_the_eager_one_and_changes_nothing_by_itself() -> None:
    # torch's compiler at work, once: seconds. In float32, whose rounding it is free to choose.
    torch.set_default_dtype(torch.float32)
    m, batches = model(), [bits(FEWEST_ROWS) for _ in range(3)]
    for part in m.modules():
        if isinstance(part, Affine):
            # its products are an operator that the compiler has to know
            part._onednn = torch.backends.mkldnn.is_available()
    learner = Learner(m, taut.DReG(num_samples=2), CONFIG)
    before, generator = copy.deepcopy(learner.model.state_dict()), torch.get_rng_state()
    learner.compile(batches[0])
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(v, before[k]) for k, v in learner.model.state_dict().items())
    eager, compiled = run(learner.twin(), batches), run(learner.twin(), batches, learner._graph)
    for name, value in eager.items():
        torch.testing.assert_close(
            compiled[name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def dataset(n: int = 80) -> Dataset:
    return prepare(bits(n).numpy(), validation_fraction=0.2, test_fraction=0.0)


def test_a_training_of_seconds_is_eager_in_one_thread_and_not_measured_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Learner, "compile", lambda *_: pytest.fail("compiled"))
    threads, m, data = torch.get_num_threads(), model(), dataset()
    before, generator = copy.deepcopy(m.state_dict()), torch.get_rng_state()
    try:
        chosen, note = choose(m, taut.ELBO(), data, dataclasses.replace(CONFIG, max_epochs=2))
    finally:
        torch.set_num_threads(threads)
    # what was measured was a copy
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert (chosen.threads, chosen.compile) == (1, "off")
    assert note == "eager, 1 thread"


def test_where_all_is_given_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "run_steps", lambda *_: pytest.fail("measured"))
    config = dataclasses.replace(CONFIG, threads=torch.get_num_threads(), compile="off")
    assert choose(model(), taut.ELBO(), dataset(), config) == (config, "")


class Clock:
    """Says how long a step takes in each form and number of threads, in place of measuring it."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        m: taut.VAE,
        seconds: dict[tuple[bool, int], float],
        overhead: float,
    ) -> None:
        self.model, self.seconds = m, seconds
        monkeypatch.setattr(pace, "_seconds", self)
        # asked of two data
        monkeypatch.setattr(pace, "_overhead", lambda _, x: overhead * len(x) / 2)
        monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)

    def __call__(self, learner: Learner, *_: Any) -> float:
        assert learner.model is not self.model  # measuring trains
        return self.seconds[learner._graph is not None, torch.get_num_threads()]


@pytest.mark.parametrize(
    ("seconds", "overhead", "epochs", "threads", "form"),
    [
        ({(False, 1): 4e-3, (False, 2): 2e-3, (True, 2): 1e-3}, 1e-3, 20_000, 2, "on"),
        (
            {(False, 1): 4e-3, (False, 2): 3.9e-3, (True, 1): 1e-3},
            1e-3,
            20_000,
            1,
            "on",
        ),  # two threads: not clearly faster
        (
            {(False, 1): 4e-3, (False, 2): 6e-3, (True, 1): 5e-3},
            1e-3,
            20_000,
            1,
            "off",
        ),  # compiled: slower
        (
            {(False, 1): 4e-3, (False, 2): 6e-3},
            1e-3,
            2_000,
            1,
            "off",
        ),  # 40 s of training: a saving of 5 s does not repay it
        ({(False, 1): 4e-3}, 1e-3, 500, 1, "off"),  # 8 s: nothing is measured
    ],
)
def test_threads_and_form_are_the_fastest_that_repay(
    monkeypatch: pytest.MonkeyPatch,
    seconds: dict[tuple[bool, int], float],
    overhead: float,
    epochs: int,
    threads: int,
    form: str,
) -> None:
    m = model()
    Clock(monkeypatch, m, seconds, overhead)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = dataclasses.replace(CONFIG, max_epochs=epochs, batch_size=16)
        chosen, note = choose(m, taut.ELBO(), dataset(), config)
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert (chosen.threads, chosen.compile) == (threads, form), note
    taken = f"{'compiled' if form == 'on' else 'eager'}, {threads} thread{'s' * (threads > 1)}"
    assert note.startswith(taken)
    assert len(seconds) == 1 or f"{taken} {1e3 * seconds[form == 'on', threads]:.3g} ms" in note


def test_the_seconds_of_a_step_are_those_of_the_fastest_run_without_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # of a step to warm up, then of ten steps each
    now, costs = (
        0.0,
        iter([100.0, 3.0, 3.0, 2.0, 2.0, 5.0]),
    )

    def run_steps(*_: Any) -> None:
        nonlocal now
        now += next(costs)

    monkeypatch.setattr(pace, "run_steps", run_steps)
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now)
    learner = Learner(model(), taut.ELBO(), CONFIG)
    # 6 s for 20 steps, 4 s for 20, 5 s for 10
    assert pace._seconds(learner, dataset(), 10, 4.0) == 0.2
    assert next(costs, None) is None


def test_compile_on_where_it_is_not_possible_is_one_line() -> None:
    m = model(posterior=posteriors.DiagonalNormal(EVENT, LATENT, encoder=Branching))
    config = dataclasses.replace(CONFIG, max_epochs=1, threads=1, compile="on")
    with pytest.raises(
        UsageError,
        match=r"training\.compile on: not possible for this model here .*; omit it",
    ):
        choose(m, taut.ELBO(), dataset(), config)


def test_training_goes_through_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
    weights = []
    for form in ("off", "on"):
        torch.manual_seed(1)
        m, state = model(), State(40)
        config = dataclasses.replace(CONFIG, compile=form, batch_size=16)
        records = list(train(m, taut.ELBO(), dataset(), config, state))
        weights.append(
            (torch.cat([p.detach().flatten() for p in m.parameters()]), records[-1].bound)
        )
    torch.testing.assert_close(weights[0][0], weights[1][0], rtol=1e-8, atol=1e-8)
    assert weights[0][1] == pytest.approx(weights[1][1], rel=1e-8)


def test_a_training_that_was_compiled_elsewhere_goes_on_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the midst, from a state that compiled steps have made.

    All as in one that was eager from its start.
    """
    weights = []
    for form in ("off", "on"):
        torch.manual_seed(1)
        m, state = model(), State(200)
        config = dataclasses.replace(CONFIG, compile=form, batch_size=16)
        monkeypatch.setattr("torch._inductor.compile", lambda graph, *_, **__: graph)
        assert next(train(m, taut.ELBO(), dataset(), config, state)).step == 100
        other = model()  # in another process nothing is known of what was compiled
        monkeypatch.setattr("torch._inductor.compile", lambda *_, **__: 1 / 0)
        assert [record.step for record in train(other, taut.ELBO(), dataset(), config, state)] == [
            200
        ]
        weights.append(torch.cat([p.detach().flatten() for p in other.parameters()]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-8, atol=1e-8)


def test_a_model_is_compiled_once_for_each_way_to_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        "torch._inductor.compile", lambda graph, *_, **__: (calls.append(1), graph)[1]
    )
    m, x = model(), bits(6)
    ways = [
        (taut.ELBO(), CONFIG, x),
        (taut.IWAE(num_samples=2), CONFIG, x),
        (taut.ELBO(), CONFIG, bits(7)),
        *(
            (taut.ELBO(), dataclasses.replace(CONFIG, **{name: value}), x)
            for name, value in IN_THE_GRAPH.items()
        ),
    ]
    for number, (objective, config, data) in enumerate(ways * 2):
        Learner(m, objective, config).compile(data)
        assert len(calls) == min(number + 1, len(ways))
    # arguments of the graph
    Learner(m, taut.ELBO(), dataclasses.replace(CONFIG, learning_rate=0.1, max_epochs=9)).compile(x)
    assert len(calls) == len(ways)
    m.likelihood.requires_grad_(False)
    Learner(m, taut.ELBO(), CONFIG).compile(x)
    assert len(calls) == len(ways) + 1
    assert len(step._GRAPHS) >= 1
