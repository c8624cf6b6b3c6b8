"""The training loop.

What a step does, what is skipped, rolled back and kept, and that it is the same every time.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from ztest import assert_mean

import taut
from taut.build.config import TrainingConfig
from taut.data import Dataset, Schema, prepare
from taut.runs.folder import find_device
from taut.system.seeds import derive, generator, set_seed, stream, untouched
from taut.training import loop, pace
from taut.training.loop import Record, State, finish, train, validate
from taut.training.pace import plan_steps

TABLE = (
    np.random.default_rng(0).normal(size=(90, 3)) @ np.random.default_rng(1).normal(size=(3, 3))
    + 5.0
)
PLAIN = TrainingConfig(
    batch_size=16, learning_rate=1e-2, averaging=0.0, patience=10.0, max_epochs=30
)


def dataset(validation_fraction: float = 0.2) -> Dataset:
    return prepare(TABLE, validation_fraction=validation_fraction, test_fraction=0.1)


def model(seed: int = 0) -> taut.VAE:
    torch.manual_seed(seed)
    mlp = {"hidden": (6,)}
    decoder, encoder = (
        (lambda *shapes: taut.MLP(*shapes, **mlp)),
        (lambda *shapes: taut.MLP(*shapes, **mlp)),
    )
    return taut.VAE(
        taut.StandardNormal(2),
        taut.Normal((3,), 2, decoder=decoder, data_loc=5.0),
        taut.DiagonalNormal((3,), 2, encoder, data_loc=5.0),
    )


def run(
    m: taut.VAE,
    data: Dataset,
    config: TrainingConfig = PLAIN,
    steps: int = 300,
    objective: taut.Objective | None = None,
) -> tuple[list[Record], State]:
    state = State(steps)
    return list(train(m, objective or taut.ELBO(), data, config, state)), state


def weights(m: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in m.parameters()])


# --- Randomness -----------------------------------------------------------------------------------


def test_streams_are_independent_and_reproducible() -> None:
    seeds = {derive(s, n, k) for s in range(3) for n in ("init", "step", "order") for k in range(5)}
    assert len(seeds) == 45
    assert all(0 <= s < 2**63 for s in seeds)
    assert torch.equal(
        torch.rand(3, generator=generator(1, "a", 2)), torch.rand(3, generator=generator(1, "a", 2))
    )
    with stream(0, "a"):
        first = torch.rand(3)
    with stream(0, "a"):
        assert torch.equal(torch.rand(3), first)
    set_seed(derive(0, "a"))
    assert torch.equal(torch.rand(3), first)


def test_a_block_leaves_the_global_stream_where_it_was() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with untouched():
        torch.rand(100)
    with pytest.raises(ZeroDivisionError), stream(0, "a"):
        _ = torch.rand(7) / (1 // 0)
    assert torch.equal(torch.rand(2), expected)


def test_an_accelerator_that_torch_knows_and_the_machine_lacks_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PyPI's torch for Linux is built for CUDA: without a GPU every training ended in "Found no
    NVIDIA driver".
    """

    def built_for(device: str) -> Callable[..., torch.device | None]:
        return lambda check_available=False: None if check_available else torch.device(device)

    monkeypatch.setattr("torch.accelerator.current_accelerator", built_for("cuda"))
    with stream(0, "a"):
        torch.rand(3)
    assert find_device("auto") == torch.device("cpu")
    with pytest.raises(taut.UsageError, match=r"no device 'cuda' here; there is cpu$"):
        find_device("cuda")


def test_every_row_comes_up_equally_often_and_every_batch_is_full() -> None:
    """Batches run on across epochs.

    After a whole number of epochs each row has come up exactly as often.
    """
    n, size = 10, 4
    # 15 batches of 4 are 6 epochs of 10
    rows = [loop._rows(7, torch.zeros(n, 1), size, step) for step in range(15)]
    assert all(len(r) == size for r in rows)
    together = torch.cat(rows)
    assert torch.bincount(together, minlength=n).tolist() == [6] * n
    epochs = together.view(6, n)
    assert all(sorted(e.tolist()) == list(range(n)) for e in epochs)
    assert len({tuple(e.tolist()) for e in epochs}) == 6  # each epoch has an order of its own


def test_same_seed_same_bits_and_another_seed_others() -> None:
    data = dataset()
    a, _ = run(model(), data)
    b, _ = run(model(), data)
    c, _ = run(model(), data, dataclasses.replace(PLAIN, seed=1))
    assert a == b
    assert a[0].bound != c[0].bound


# --- Steps ----------------------------------------------------------------------------------------


def test_one_step_is_adam_on_the_mean_of_the_surrogate() -> None:
    """The first steps by hand: same rows, same noise, torch's Adam, the stated schedule."""
    data, m = dataset(), model()
    by_hand = copy.deepcopy(m)
    optimizer = torch.optim.Adam(by_hand.parameters())
    state = State(3)
    list(train(m, taut.ELBO(), data, PLAIN, state))
    for step in range(3):
        set_seed(derive(0, "step", step))
        x = data.train[loop._rows(0, data.train, 16, step)].to(torch.get_default_dtype())
        optimizer.zero_grad()
        (-taut.ELBO()(by_hand, x).surrogate.mean()).backward()
        cosine = 0.5 * (1 + math.cos(math.pi * step / 3))
        optimizer.param_groups[0]["lr"] = 1e-2 * cosine * min((step + 1) / 1.0, 1.0)
        optimizer.step()
    torch.testing.assert_close(weights(m), weights(by_hand), rtol=0, atol=1e-12)


def test_schedule_warms_up_and_ends_at_zero() -> None:
    state = State(1000)
    rates = [loop._rate(step, PLAIN, state) for step in range(1000)]
    assert rates[:20] == sorted(rates[:20])
    assert rates[0] == pytest.approx(1e-2 / 20)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[500] == pytest.approx(0.5e-2)
    assert rates[-1] < 1e-7
    state.lr_scale = 0.25
    assert loop._rate(500, PLAIN, state) == pytest.approx(0.125e-2)


class Slope(taut.Objective):
    """An objective with a gradient of our choosing: the sum of all weights times
    ``slope(step)``.
    """

    def __init__(self, slope: Callable[[int], float]) -> None:
        super().__init__()
        object.__setattr__(self, "slope", slope)
        object.__setattr__(self, "calls", [])

    def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
        if torch.is_grad_enabled():
            self.calls.append(progress)
        total = sum(p.sum() for p in model.parameters()) * self.slope(len(self.calls) - 1)
        value = total.expand(len(x))
        return taut.Bound(value.detach(), value)


def test_gradients_are_clipped_to_the_stated_norm() -> None:
    """Adam does not see a constant factor, so one long gradient among short ones shows what
    clipping did to it.
    """
    data, m = dataset(0.0), model()
    count = len(weights(m))
    config = dataclasses.replace(PLAIN, clip_norm=2.0)
    objective = Slope(lambda step: 1e6 if step == 0 else 1e-3)
    by_hand = weights(m).clone()
    run(m, data, config, 2, objective)
    first, second = 2.0 / count**0.5, 1e-3  # each weight's gradient, after clipping
    mean, square = 0.1 * first, 0.001 * first**2
    by_hand += (
        1e-2
        * loop._rate(0, config, State(2))
        / 1e-2
        * (mean / 0.1)
        / ((square / 0.001) ** 0.5 + 1e-8)
    )
    mean, square = 0.9 * mean + 0.1 * second, 0.999 * square + 0.001 * second**2
    step = (mean / (1 - 0.9**2)) / ((square / (1 - 0.999**2)) ** 0.5 + 1e-8)
    by_hand += loop._rate(1, config, State(2)) * step
    torch.testing.assert_close(weights(m), by_hand, rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad: float) -> None:
    """Weights and moments are as if the step had not been.

    The run with three bad steps among 100 equals one without them.
    """
    data, m = dataset(0.0), model()
    reference = copy.deepcopy(m)
    constant = dataclasses.replace(PLAIN, learning_rate=1e-3)
    records, state = run(
        m, data, constant, 100, Slope(lambda step: bad if step in (3, 50, 51) else 1.0)
    )
    assert (records[-1].skipped, state.skipped, state.rollbacks) == (3, 3, 0)
    assert bool(torch.isfinite(weights(m)).all())
    steps = [s for s in range(100) if s not in (3, 50, 51)]
    # Adam on a constant gradient of 1 moves each weight by the rate: the sum of the rates of the
    # steps that counted.
    moved = sum(loop._rate(s, constant, State(100)) for s in steps) / (1 + 1e-8)
    torch.testing.assert_close(weights(m), weights(reference) + moved, rtol=0, atol=1e-8)
    assert math.isfinite(records[-1].bound)


def test_a_gradient_that_is_not_finite_is_skipped_though_the_loss_is() -> None:
    class Root(taut.Objective):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            w = next(model.parameters()).sum()
            value = (
                ((w - w.detach()).abs() + (0.0 if 0.02 < progress < 0.04 else 1.0))
                .sqrt()
                .expand(len(x))
            )
            return taut.Bound(value.detach(), value)

    m = model()
    before = weights(m).clone()
    records, _ = run(m, dataset(0.0), PLAIN, 100, Root())
    assert records[-1].skipped == 1
    torch.testing.assert_close(weights(m), before, rtol=0, atol=0)  # the other gradients are zero


def test_a_value_that_is_not_finite_is_skipped_though_loss_and_gradient_are() -> None:
    """A number that cannot be reported is no step to learn from: the history stays valid JSON."""

    class Mute(Slope):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            bound = super().__call__(model, x, context, progress)
            return bound._replace(value=bound.value * (math.nan if len(self.calls) == 5 else 1.0))

    records, _ = run(model(), dataset(0.0), PLAIN, 100, Mute(lambda step: 1.0))
    assert records[-1].skipped == 1
    assert math.isfinite(records[-1].bound)


def test_rolls_back_to_the_interval_before_at_half_the_rate() -> None:
    """From its 120th call on the objective is broken for 100 calls.

    One interval of 100 is undone, then it goes on.
    """
    data, m = dataset(), model()
    objective = Slope(lambda call: math.nan if 120 <= call < 200 else 1.0)
    reference = weights(m).clone()
    records, state = run(m, data, PLAIN, 200, objective)
    assert (state.rollbacks, state.lr_scale) == (1, 0.5)
    assert [r.step for r in records] == [100, 200]
    first = sum(loop._rate(s, PLAIN, State(200)) for s in range(100))
    second = sum(loop._rate(s, PLAIN, State(200)) for s in range(100, 200)) / 2
    torch.testing.assert_close(
        weights(m), reference + (first + second) / (1 + 1e-8), rtol=0, atol=1e-8
    )


def test_gives_up_after_three_rollbacks_and_names_the_term() -> None:
    class Broken(taut.Prior):
        def forward(self, context=None):
            loc = torch.full((2,), math.nan)
            return torch.distributions.Independent(
                torch.distributions.Normal(loc, torch.ones(2), validate_args=False), 1
            )

    m = model()
    m.prior = Broken()
    before = weights(m).clone()
    with pytest.raises(taut.DivergedError, match="log_prior is not finite") as caught:
        run(m, dataset(), PLAIN, 300, taut.ELBO(analytic_kl=False))
    assert "3 rollbacks" in str(caught.value)
    assert caught.value.exit_code == 4
    torch.testing.assert_close(weights(m), before, rtol=0, atol=0)


# --- What is reported and kept --------------------------------------------------------------------


def test_the_reported_bound_is_the_mean_over_the_finite_steps() -> None:
    values = [float(i) for i in range(100)]

    class Counting(taut.Objective):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            step = round(progress * 100)
            surrogate = next(model.parameters()).sum().expand(len(x)) * (
                math.nan if step == 99 else 1.0
            )
            return taut.Bound(torch.full((len(x),), values[step % 100]), surrogate)

    records, _ = run(model(), dataset(0.0), PLAIN, 100, Counting())
    assert records[-1].bound == pytest.approx(sum(values[:99]) / 99)


def test_epochs_and_steps_are_counted() -> None:
    data = dataset()
    records, _ = run(model(), data, PLAIN, 250)
    assert [r.step for r in records] == [100, 200, 250]
    assert records[-1].epoch == pytest.approx(250 * 16 / len(data.train))
    assert records[0].learning_rate == loop._rate(99, PLAIN, State(250))


def test_validation_counts_every_row_once_in_evaluation_mode() -> None:
    """With the exact posterior the bound is log p(x) for each row.

    The mean over 4100 rows in three blocks is theirs.
    """
    problem = taut.LinearGaussian()
    x = problem.sample(4100)
    value, target = validate(problem.model(), taut.ELBO(), x, 0)
    assert value == pytest.approx(problem.log_evidence(x).mean().item(), abs=1e-10)
    assert target == value
    m = problem.model().train()
    m.posterior.register_forward_hook(lambda module, inputs, output: modes.append(module.training))
    modes: list[bool] = []
    validate(m, taut.ELBO(), x[:5], 0)
    assert modes == [False]
    assert m.training
    beta_value, beta_target = validate(
        problem.model(), taut.ELBO(beta=4.0, analytic_kl=False), x, 0
    )
    assert beta_value == pytest.approx(value, abs=1e-10)
    assert beta_target < beta_value


def test_validation_noise_is_the_same_at_every_call() -> None:
    m, x = model(), dataset().validation
    assert validate(m, taut.ELBO(), x, 0) == validate(m, taut.ELBO(), x, 0)
    assert validate(m, taut.ELBO(), x, 0) != validate(m, taut.ELBO(), x, 1)


def test_the_running_average_follows_the_weights() -> None:
    """With a constant gradient the weights are known at each step, hence so is their average."""
    m = model()
    start = weights(m).clone()
    config = dataclasses.replace(PLAIN, averaging=0.9, learning_rate=1e-3)
    _, state = run(m, dataset(0.0), config, 50, Slope(lambda step: 1.0))
    weight, average = 0.0, 0.0
    for step in range(50):
        weight += loop._rate(step, config, State(50)) / (1 + 1e-8)
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    finish(m, state)
    torch.testing.assert_close(weights(m), start + average, rtol=0, atol=1e-8)


def test_the_running_average_has_the_buffers_of_the_last_step() -> None:
    class Ticking(Slope):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            model.posterior.features.loc += 1
            return super().__call__(model, x, context, progress)

    m = model()
    _, state = run(
        m, dataset(0.0), dataclasses.replace(PLAIN, averaging=0.9), 50, Ticking(lambda step: 1.0)
    )
    finish(m, state)
    assert m.posterior.features.loc.item() == 5.0 + 50


def test_a_frozen_part_keeps_every_bit_and_is_seen_as_it_will_be_used() -> None:
    """Else dropout would blur the decoder that a posterior is fitted to, and its running statistics
    would move.
    """

    class Counting(taut.Network):
        def __init__(self, in_shape, out_shape, context_dim: int = 0) -> None:
            super().__init__()
            self.inner = taut.Linear(in_shape, out_shape)
            self.register_buffer("trained", torch.zeros(()))

        def forward(self, z, context=None):
            self.trained += float(self.training)
            return self.inner(z)

    m = taut.VAE(
        taut.GaussianMixture(2, 3),
        taut.Normal((3,), 2, decoder=Counting),
        taut.DiagonalNormal((3,), 2, Counting, data_loc=5.0),
    )
    for part in (m.prior, m.likelihood):
        part.requires_grad_(False)
    before = copy.deepcopy(m.state_dict())
    _, state = run(m, dataset(), dataclasses.replace(PLAIN, averaging=0.9), 50)
    finish(m, state)
    after = m.state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {n for n in before if not n.startswith("posterior")} <= same
    assert after["posterior.encoder.trained"] == 50
    assert not [n for n in same if n.startswith("posterior.encoder")]


def test_keeps_the_weights_that_were_best_on_the_validation_data() -> None:
    """The objective rises on training data while it falls on validation data.

    The first weights are the best.
    """

    class Opposed(taut.Objective):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            value = next(model.parameters()).sum().expand(len(x))
            value = value if torch.is_grad_enabled() else -value
            return taut.Bound(value.detach(), value)

    m = model()
    kept: list[Tensor] = []
    state = State(400)
    records = []
    for record in train(m, Opposed(), dataset(), PLAIN, state):
        records.append(record)
        kept.append(weights(m).clone())
    finish(m, state)
    assert [r.best for r in records] == [True, False, False, False]
    torch.testing.assert_close(weights(m), kept[0], rtol=0, atol=0)
    assert not m.training


def test_the_best_is_what_is_maximised_and_not_what_is_reported() -> None:
    class Reweighted(taut.Objective):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            value = next(model.parameters()).sum().expand(len(x))
            return taut.Bound(value.detach(), value, -value.detach())

    records, state = run(model(), dataset(), PLAIN, 300, Reweighted())
    assert records[0].validation < records[1].validation < records[2].validation
    assert [r.best for r in records] == [True, False, False]
    assert state.best_target == pytest.approx(-records[0].validation, abs=1e-12)


def test_stops_early_but_not_before_the_warm_up_is_over() -> None:
    @dataclasses.dataclass(frozen=True)
    class Falling(taut.Objective):
        warmup: float = 0.0

        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            value = next(model.parameters()).sum().expand(len(x))
            value = value if torch.is_grad_enabled() else -value
            return taut.Bound(value.detach(), value)

    config = dataclasses.replace(PLAIN, patience=0.25)
    records, state = run(model(), dataset(), config, 1000, Falling())
    assert [r.step for r in records][
        -1
    ] == 400  # best at 100, patience of 250 steps, checked each 100
    assert state.best_step == 100
    records, state = run(model(), dataset(), config, 1000, Falling(warmup=0.5))
    assert [r.best for r in records] == [False] * 4 + [True] + [
        False
    ] * 3  # the best is looked for from step 500 on
    assert records[-1].step == 800


def test_beta_is_stopped_by_its_target_and_reports_the_elbo() -> None:
    data = dataset()
    m = model()
    records, state = run(m, data, PLAIN, 200, taut.ELBO(beta=4.0))
    finish(m, state)
    value, target = validate(m, taut.ELBO(beta=4.0), data.validation, 0)
    assert state.best_target == pytest.approx(target, abs=1e-12)
    assert max(r.validation for r in records) >= value
    assert value > target


def test_a_validation_bound_that_is_not_finite_is_none_and_never_the_best() -> None:
    data = dataset()
    data.validation[0, 0] = 1e300
    m = model()
    records, state = run(m, data, PLAIN, 200)
    assert [(r.validation, r.best) for r in records] == [(None, False), (None, False)]
    finish(m, state)  # the last weights are kept
    torch.testing.assert_close(
        weights(m),
        torch.cat([state.tensors[f"model.{n}"].flatten() for n, _ in m.named_parameters()]),
    )


def test_goes_on_from_a_state_to_the_bit() -> None:
    data = dataset()
    config = dataclasses.replace(PLAIN, averaging=0.99)
    whole, end = run(model(), data, config, 400)
    first, state = [], State(400)
    for record in train(model(), taut.ELBO(), data, config, state):
        first.append(record)
        if record.step == 200:
            break
    saved = State(**{**vars(state), "tensors": {k: v.clone() for k, v in state.tensors.items()}})
    other = model(seed=99)
    rest = list(train(other, taut.ELBO(), data, config, saved))
    assert first + rest == whole
    assert state.tensors.keys() == end.tensors.keys()
    assert all(torch.equal(saved.tensors[k], end.tensors[k]) for k in end.tensors)


def test_dynamic_binarization_draws_anew_at_each_step() -> None:
    """Over the steps each pixel is 1 as often as its grey level says."""
    grey = np.random.default_rng(0).integers(0, 256, (40, 4, 5), dtype=np.uint8)
    data = prepare(grey, binarize="dynamic", validation_fraction=0.0)
    seen: list[Tensor] = []

    class Watching(Slope):
        def __call__(self, model, x, context=None, progress=1.0) -> taut.Bound:
            seen.append(x.clone())
            return super().__call__(model, x, context, progress)

    torch.manual_seed(0)
    m = taut.VAE(taut.StandardNormal(2), taut.Bernoulli((4, 5), 2), taut.DiagonalNormal((4, 5), 2))
    n = len(data.train)
    config = dataclasses.replace(PLAIN, batch_size=n)
    run(m, data, config, 3000, Watching(lambda step: 1.0))
    assert all(set(x.unique().tolist()) <= {0.0, 1.0} for x in seen[:20])
    assert not torch.equal(seen[0].sum(0), seen[1].sum(0))
    assert_mean(torch.stack([x.mean(0) for x in seen]), data.train.double().mean(0) / 255)


def test_steps_are_planned() -> None:
    data, m = dataset(), model()
    n = len(data.train)
    assert plan_steps(m, taut.ELBO(), data, dataclasses.replace(PLAIN, max_epochs=7)) == math.ceil(
        7 * n / 16
    )
    assert plan_steps(
        m, taut.ELBO(), data, dataclasses.replace(PLAIN, max_epochs=None)
    ) == math.ceil(2000 * n / 16)
    images = dataclasses.replace(data, schema=Schema("binary", (4,), 0.0, 1.0))
    assert plan_steps(
        m, taut.ELBO(), images, dataclasses.replace(PLAIN, max_epochs=None)
    ) == math.ceil(500 * n / 16)
    before = weights(m).clone()
    planned = plan_steps(
        m, taut.ELBO(), data, dataclasses.replace(PLAIN, max_epochs=1000, minutes=1e-6)
    )
    assert planned == 1  # a minute fraction too short for any step still makes one
    assert torch.equal(weights(m), before)  # measuring trains a copy


@pytest.mark.parametrize(
    ("share", "counts", "planned"), [(11.0, [3], 7), (9.0, [3, 50], 7), (0.5, [3, 50], 4)]
)
def test_steps_that_fit_ten_times_over_are_not_measured_for_long(
    share: float, counts: list[int], planned: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pass is 7 steps of 6 seconds each, and the time given a multiple of that."""
    asked = []

    def seconds(learner: object, data: Dataset, count: int, *_: float) -> float:
        asked.append(count)
        return 6.0

    monkeypatch.setattr(pace, "_seconds", seconds)
    data = dataclasses.replace(dataset(), train=torch.randn(7 * 16, 3))
    data = dataclasses.replace(data, validation=data.validation[:0])
    config = dataclasses.replace(PLAIN, max_epochs=1, minutes=share * 7 * 6 / 60)
    assert pace.plan_steps(model(), taut.ELBO(), data, config) == planned
    assert asked == counts


# --- A frozen part, and data that the model draws -------------------------------------------------


class Spy(taut.ELBO):
    """The ELBO, which keeps what it is given."""

    def __call__(self, m, x, context=None, progress=1.0):
        SEEN.append((x, m.likelihood.training, m.posterior.training))
        return super().__call__(m, x, context, progress)


SEEN: list[tuple[Tensor, bool, bool]] = []


def test_a_frozen_part_stays_as_it_is_to_the_bit_and_is_evaluated() -> None:
    m = model()
    with torch.no_grad():
        # which an average with itself would turn into 0.0
        next(m.likelihood.parameters()).fill_(-0.0)
    m.likelihood.requires_grad_(False)
    before = {k: v.clone() for k, v in m.state_dict().items()}
    SEEN.clear()
    _, state = run(m, dataset(), dataclasses.replace(PLAIN, averaging=0.9), 40, Spy())
    finish(m, state)
    for name, tensor in m.state_dict().items():
        same = torch.equal(torch.signbit(tensor), torch.signbit(before[name])) and torch.equal(
            tensor, before[name]
        )
        assert same == (not name.startswith("posterior.encoder"))
    # training, validation
    assert {(decoder, encoder) for _, decoder, encoder in SEEN} == {
        (False, True),
        (False, False),
    }


@pytest.mark.parametrize(("share", "drawn"), [(0.0, 0), (0.5, 8), (1.0, 16)])
def test_a_share_of_each_batch_is_drawn_by_the_model(share: float, drawn: int) -> None:
    m, data = model(), dataset()
    m.likelihood.requires_grad_(False)
    SEEN.clear()
    run(m, data, dataclasses.replace(PLAIN, simulated=share), 5, Spy())
    batches = [x for x, _, training in SEEN if training]
    known = torch.stack([(x[:, None] == data.train.to(x)).all(2).any(1) for x in batches])
    assert known.sum(1).tolist() == [16 - drawn] * 5
    assert len({float(x.sum()) for x in batches}) == 5


def test_a_tightening_that_only_gets_worse_keeps_what_it_started_from() -> None:
    m, data = model(), dataset()
    run(m, data, steps=300)
    m.likelihood.requires_grad_(False)
    before = weights(m)
    records, state = run(m, data, dataclasses.replace(PLAIN, learning_rate=3.0), 20)
    finish(m, state)
    assert not any(r.best for r in records)
    assert torch.equal(weights(m), before)
