"""Models of many steps against closed forms: masked diffusion by the sum over all orders of a few
bits, in plain Python; variational diffusion by Gaussian data, for which the best denoiser, the ELBO
of T steps and the evidence of T steps are known. Statistical tests fail by chance with probability
1e-6 (``ztest``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal
from ztest import assert_mean

import taut
from taut.distributions import Bernoulli
from taut.distributions.observed import Observed
from taut.evidence.cells import cell_scores, impute
from taut.evidence.importance import importance, whole_draws
from taut.evidence.tails import entry_tails
from taut.features import Standardize
from taut.models.diffusion import Diffusion, transition
from taut.models.masked_diffusion import MaskedDiffusion, Orders
from taut.models.stepwise import spread
from taut.networks import UNet
from taut.system.errors import UsageError

UNET = partial(UNet, channels=3)
D = 5
ORDERS = torch.tensor(list(itertools.permutations(range(D))), dtype=torch.float64)
BITS = torch.tensor(list(itertools.product((0.0, 1.0), repeat=D)), dtype=torch.float64)


def tilt(i: int, seen: dict[int, float]) -> float:
    """The logit of bit i given others: of no joint distribution, for it is not symmetric."""
    others = sum(math.sin(3.0 * i + j) * (2 * value - 1) for j, value in seen.items() if j != i)
    return math.cos(i) + others


class Tilted(taut.Likelihood):
    """The conditionals of ``tilt``, from features [values, which are missing]."""

    def __init__(self) -> None:
        super().__init__()
        i, j = torch.arange(D)[:, None], torch.arange(D)
        self.ties = torch.sin(3.0 * i + j) * (i != j)
        self.own = nn_parameter(torch.cos(torch.arange(D, dtype=torch.float64)))

    def forward(self, z: Tensor, context: Tensor | None = None) -> Observed:
        values, missing = z.unflatten(-1, (2, D)).unbind(-2)
        signs = torch.where(missing > 0, 0.0, 2 * values - 1)
        return Observed(Bernoulli(logits=self.own + signs @ self.ties.T), 1, 0.0)


def nn_parameter(values: Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(values)


class FromJoint(taut.Likelihood):
    """The conditionals of a table of the probabilities of all ``BITS``; of a bit that is told it
    says just that, so that looking at it would show.
    """

    def __init__(self, log_joint: Tensor) -> None:
        super().__init__()
        self.log_joint = log_joint

    def forward(self, z: Tensor, context: Tensor | None = None) -> Observed:
        values, missing = z.unflatten(-1, (2, D)).unbind(-2)
        possible = (missing[..., None, :] > 0) | (values[..., None, :] == BITS)
        log_p = torch.where(possible.all(-1), self.log_joint, -torch.inf)[..., None]
        each = [torch.where(value == BITS, log_p, -torch.inf).logsumexp(-2) for value in (0, 1)]
        return Observed(Bernoulli(logits=(each[1] - each[0]).clamp(-60, 60)), 1, 0.0)


def masked(likelihood: taut.Likelihood) -> MaskedDiffusion:
    return MaskedDiffusion((D,), likelihood, Standardize((D,), missing=True))


def log_p_in_order(x: list[float], order: tuple[int, ...], told: dict[int, float]) -> float:
    """log p of the bits of an order, one by one, given what is told before."""
    seen, total = dict(told), 0.0
    for i in order:
        sign = 2 * x[i] - 1
        total -= math.log1p(math.exp(-sign * tilt(i, seen)))
        seen[i] = x[i]
    return total


def by_orders(x: list[float], of: list[int], told: dict[int, float] | None = None) -> list[float]:
    return [log_p_in_order(x, order, told or {}) for order in itertools.permutations(of)]


def bound_and_evidence(logs: list[float]) -> tuple[float, float]:
    largest = max(logs)
    mean = sum(math.exp(log - largest) for log in logs) / len(logs)
    return sum(logs) / len(logs), largest + math.log(mean)


def joint() -> Tensor:
    return torch.randn(2**D).log_softmax(0)


# --- Masked diffusion -----------------------------------------------------------------------------


def test_inconsistent_conditionals_have_the_bound_and_the_evidence_of_all_orders() -> None:
    model = masked(Tilted())
    every = ORDERS[:, None].expand(-1, len(BITS), -1)
    with torch.no_grad():
        draw = model.draw(BITS, given=every)
    assert draw.complete
    found = draw.log_weight
    evidence = found.logsumexp(0) - math.log(len(ORDERS))
    known = [bound_and_evidence(by_orders(x, list(range(D)))) for x in BITS.tolist()]
    bounds, evidences = torch.tensor(known, dtype=torch.float64).T
    assert torch.allclose(found.mean(0), bounds, atol=1e-10, rtol=0)
    assert torch.allclose(evidence, evidences, atol=1e-10, rtol=0)
    assert float((evidences - bounds).min()) > 0.01  # they do disagree
    assert abs(float(evidences.exp().sum()) - 1) < 1e-10  # the mixture of the orders is normalised
    assert torch.allclose(draw.log_prior, torch.full_like(found, -math.log(math.factorial(D))))


def test_the_bound_is_the_sum_over_masks() -> None:
    """sum over k of the mean over the masks of k elements, of what they say, divided by k."""
    model = masked(Tilted())
    total = torch.zeros(len(BITS))
    for k in range(1, D + 1):
        sets = list(itertools.combinations(range(D), k))
        for hidden in sets:
            gaps = BITS.clone()
            gaps[:, hidden] = torch.nan
            with torch.no_grad():
                each = model.conditional(gaps).terms(BITS)[:, hidden].sum(1)
            total += each / (k * len(sets))
    known = [bound_and_evidence(by_orders(x, list(range(D))))[0] for x in BITS.tolist()]
    assert torch.allclose(total, torch.tensor(known), atol=1e-10, rtol=0)


def test_consistent_conditionals_have_one_weight() -> None:
    log_p = joint()
    model = masked(FromJoint(log_p))
    assert torch.allclose(model.draw(BITS, 3).log_weight, log_p.expand(3, -1), atol=1e-10, rtol=0)
    found = importance(model, BITS, 40)
    assert found.num_samples == whole_draws(D, 40) == 40
    assert torch.allclose(found.log_evidence, log_p, atol=1e-10, rtol=0)
    assert float(found.log_evidence_error.max()) < 1e-10
    assert bool(found.reliable.all())


def glances(model: taut.StepwiseModel, x: Tensor, calls: int, samples: int) -> Tensor:
    """Means over independent lattices, (calls, B)."""
    with torch.no_grad():
        return torch.stack([model.glance(x, samples).elbo.mean(0) for _ in range(calls)])


def test_a_glance_is_unbiased_with_and_without_gaps() -> None:
    model, nan = masked(Tilted()), math.nan
    x = torch.tensor([[1.0, 0, 0, 1, 1], [nan, 1, 0, nan, 1], [0, nan, nan, nan, nan], [nan] * 5])
    known = []
    for row in x.tolist():
        there = [i for i, value in enumerate(row) if not math.isnan(value)]
        known.append(bound_and_evidence(by_orders(row, there))[0])
    assert_mean(glances(model, x, 400, 5), torch.tensor(known))
    assert known[-1] == 0.0


def test_a_whole_draw_omits_what_is_missing() -> None:
    model, row = masked(Tilted()), [1.0, math.nan, 0.0, math.nan, 1.0]
    every = ORDERS[:, None]
    with torch.no_grad():
        found = model.draw(torch.tensor([row]), given=every).log_weight[:, 0]
    known = bound_and_evidence(by_orders(row, [0, 2, 4]))
    assert abs(float(found.mean()) - known[0]) < 1e-10
    assert abs(float(found.logsumexp(0)) - math.log(len(ORDERS)) - known[1]) < 1e-10


def test_the_gradient_of_a_glance_is_that_of_the_bound() -> None:
    model = masked(Tilted())
    x, own = BITS[11:12], model.likelihood.own
    whole = model.draw(x, given=ORDERS[:, None]).elbo.mean()
    (known,) = torch.autograd.grad(whole, own)
    found = [
        torch.autograd.grad(taut.ELBO(num_samples=5)(model, x).surrogate.sum(), own)[0]
        for _ in range(300)
    ]
    assert_mean(torch.stack(found), known)


def test_any_conditional_is_the_models_own() -> None:
    log_p = joint()
    model = masked(FromJoint(log_p))
    given = torch.tensor([True, False, True, False, False])
    same = (BITS[:, None, given] == BITS[None][..., given]).all(-1)
    known = log_p - torch.where(same, log_p, -torch.inf).logsumexp(1)
    found = model.log_prob_given(BITS, given, 2)
    assert torch.allclose(found, known.expand(2, -1), atol=1e-10, rtol=0)
    one = masked(Tilted())
    row, logs = [0.0, 1.0, 1.0, 0.0, 1.0], []
    for order in ORDERS:  # all orders of the elements 1, 3, 4, each as often
        with torch.no_grad():
            logs.append(float(one._told(torch.tensor([row]), order[None, None], given)))
    known_logs = by_orders(row, [1, 3, 4], {0: 0.0, 2: 1.0})
    assert abs(sum(logs) / len(logs) - sum(known_logs) / len(known_logs)) < 1e-10


def test_gaps_are_drawn_from_the_exact_conditional() -> None:
    log_p = joint()
    model = masked(FromJoint(log_p))
    row = torch.tensor([[1.0, math.nan, 0.0, math.nan, math.nan]])
    possible = (BITS[:, 0] == 1) & (BITS[:, 2] == 0)
    share = torch.where(possible, log_p, -torch.inf).softmax(0)
    found = impute(model, row, num_imputations=3000)
    drawn = found.draws[:, 0]
    assert bool((drawn[:, [0, 2]] == row[0, [0, 2]]).all())
    assert_mean((drawn[:, None] == BITS).all(-1).double(), share)
    typical = (share @ BITS >= 0.5).double()
    assert torch.equal(found.values[0, [1, 3, 4]], typical[[1, 3, 4]])
    assert bool(found.reliable.all())


def test_samples_follow_the_mixture_of_orders() -> None:
    model = masked(Tilted())
    known = [bound_and_evidence(by_orders(x, list(range(D))))[1] for x in BITS.tolist()]
    drawn = model.sample(4000)
    assert_mean((drawn[:, None] == BITS).all(-1).double(), torch.tensor(known).exp())


def test_scores_of_cells_are_exact() -> None:
    log_p = joint()
    found = cell_scores(masked(FromJoint(log_p)), BITS)
    for i in range(D):
        other = BITS.clone()
        other[:, i] = 1 - other[:, i]
        flipped = log_p[(other[:, None] == BITS).all(-1).double().argmax(1)]
        known = log_p - torch.logaddexp(log_p, flipped)
        assert torch.allclose(found.value[:, i], known, atol=1e-10, rtol=0)
    assert float(found.error.max()) == 0
    assert bool(found.reliable.all())


def test_tails_of_cells_are_exact() -> None:
    """Of a bit: its own probability where it is the less probable, else one."""
    model = masked(FromJoint(joint()))
    scores = cell_scores(model, BITS).value
    tails = entry_tails(model, BITS, scores, torch.ones(D, dtype=torch.bool), 2000)
    p = scores.exp()
    common = (1 - p).minimum(p) > 0.01  # both values are drawn, but once in 10^9
    known = torch.where(p < 0.5, p, 1.0)
    assert int(common.sum()) > 100
    assert torch.allclose(tails[common], known[common], atol=1e-10, rtol=0)


def test_importance_sampling_finds_evidence_and_bound() -> None:
    """Two hundred orders each; both differ from the sums by chance, by their own errors."""
    model = masked(Tilted())
    known = [bound_and_evidence(by_orders(x, list(range(D)))) for x in BITS.tolist()]
    bounds, evidences = torch.tensor(known, dtype=torch.float64).T
    found = importance(model, BITS, 200)
    assert bool(found.reliable.all())
    z = (found.log_evidence - evidences) / found.log_evidence_error
    assert float(z.abs().max()) < 6
    # ten lattices: Student's t of 9 degrees of freedom exceeds 12 with a probability below 1e-6
    z = (found.elbo - bounds) / found.elbo_error
    assert float(z.abs().max()) < 12
    assert float(found.rate.abs().max()) == 0


def test_orders_are_uniform() -> None:
    drawn = Orders(3).sample((6000,))
    all_orders = torch.tensor(list(itertools.permutations(range(3))), dtype=torch.float64)
    assert_mean((drawn[:, None] == all_orders).all(-1).double(), torch.full((6,), 1 / 6))
    assert torch.allclose(Orders(3).log_prob(drawn), torch.tensor(-math.log(6.0)))


# --- What a glance cannot say ---------------------------------------------------------------------


@pytest.mark.parametrize("what", ["log_weight", "log_joint"])
def test_a_glance_has_no_weight(what: str) -> None:
    for model in (masked(Tilted()), gaussian(8)):
        draw = model.glance(torch.zeros(2, model.dim), 3)
        assert not draw.complete
        with pytest.raises(ValueError, match="glances give the ELBO, and not the weights"):
            getattr(draw, what)


def test_continuous_time_has_no_path() -> None:
    model = gaussian(None)
    with pytest.raises(ValueError, match="no finite path in continuous time"):
        model.draw(torch.zeros(2, 1))


def test_without_a_whole_draw_the_bound_is_named_as_such() -> None:
    model = gaussian(1000)
    found = importance(model, torch.randn(6, 1), 100)
    assert whole_draws(1000, 100) == 0
    assert torch.equal(found.log_evidence, found.elbo)
    assert bool(found.gap.isnan().all())
    assert not bool(found.reliable.any())
    assert any("none was made" in line and "lower bound" in line for line in found.warnings)
    with pytest.raises(ValueError, match="no other proposal serves Diffusion"):
        importance(model, torch.randn(6, 1), 10, proposal=lambda rows, x, c: model.encode(x))


def test_what_has_no_conditionals_fills_nothing_in() -> None:
    model, x = gaussian(8), torch.randn(3, 1)
    for refused in (lambda: impute(model, x), lambda: cell_scores(model, x)):
        with pytest.raises(UsageError, match="Diffusion has no conditionals"):
            refused()


# --- Variational diffusion of a Gaussian ----------------------------------------------------------


class ReadOut(taut.Likelihood):
    """N(z_0 / alpha_0, e^gamma_0): the read-out of the closed form."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.scale = math.exp(low / 2)

    def forward(self, z: Tensor, context: Tensor | None = None) -> Independent:
        return Independent(Normal(z, self.scale), 1)


class Best(torch.nn.Module):
    """The best denoiser of N(0, v): v-hat of c z with c = alpha v / (alpha^2 v + sigma^2)."""

    def __init__(self, variance: float) -> None:
        super().__init__()
        self.variance = variance

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        c = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return ((c - alpha) / sigma)[..., None] * z


def gaussian(
    steps: int | None,
    low: float = -13.3,
    variance: float = 1.0,
    schedule: str = "linear",
    high: float = 5.0,
    **network: object,
) -> Diffusion:
    """A diffusion whose denoiser is the best for N(0, variance): that of variance 1 is the first
    network of every model, zeros.
    """
    model = Diffusion(
        ReadOut(low),
        Standardize((1, 1) if network else (1,)),
        steps=steps,
        schedule=schedule,
        low=low,
        high=high,
        width=4,
        blocks=1,
        **network,
    )
    if variance != 1:
        model.denoiser = Best(variance)
    return model


def in_expectation(model: Diffusion, variance: float, time: Tensor, weight: Tensor) -> float:
    """The model's own ELBO, exactly: its terms are quadratic in x and in the noise, so that the
    points of one standard deviation have the mean, and times are summed.
    """
    x = variance**0.5 * torch.tensor([[1.0], [-1.0]])
    total, shape = 0.0, (len(time), 2, 1)
    for noise, last in itertools.product((1.0, -1.0), repeat=2):
        with torch.no_grad():
            found = model.terms(
                x, time[:, None].expand(-1, 2), torch.full(shape, noise), torch.full(shape, last)
            )
        each = found.log_likelihood - found.prior_rate - found.step_rate
        total += float((weight[:, None] * each).sum()) / 8
    return total


def elbo(model: Diffusion, variance: float = 1.0) -> float:
    assert model.steps is not None
    time = (torch.arange(model.steps) + 1) / model.steps
    return in_expectation(model, variance, time, torch.full_like(time, 1 / model.steps))


def closed_form(steps: int, low: float, variance: float) -> tuple[float, float]:
    """ELBO_T and the evidence of T steps, means over x ~ N(0, v), in plain Python."""
    gammas = [low + (5.0 - low) * i / steps for i in range(steps + 1)]

    def squares(gamma: float) -> tuple[float, float]:
        return 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-gamma))

    bound = -0.5 * math.log(2 * math.pi * math.exp(low)) - 0.5
    alpha2, sigma2 = squares(gammas[-1])
    bound -= 0.5 * (sigma2 + alpha2 * variance - 1 - math.log(sigma2))
    spread_z = 1.0
    for s, t in reversed(list(itertools.pairwise(gammas))):
        alpha2, sigma2 = squares(t)
        below, below_noise = squares(s)
        alpha = math.sqrt(alpha2)
        c = alpha * variance / (alpha2 * variance + sigma2)
        wrong = variance * (1 - alpha * c) ** 2 + c * c * sigma2
        bound -= 0.5 * (math.exp(-s) - math.exp(-t)) * wrong
        ratio = alpha / math.sqrt(below)
        lost = sigma2 - ratio**2 * below_noise
        keep, add = ratio * below_noise / sigma2, math.sqrt(below) * lost / sigma2
        spread_z = (keep + add * c) ** 2 * spread_z + lost * below_noise / sigma2
    total = spread_z / squares(low)[0] + math.exp(low)
    return bound, -0.5 * math.log(2 * math.pi * total) - 0.5 * variance / total


@torch.no_grad()
def evidence(model: Diffusion, variance: float = 1.0) -> float:
    """That of the model's own transitions, which are linear here."""
    prior = model.latent_prior()
    gammas, spread_z = prior.gammas(), torch.tensor(1.0)
    for above, below in itertools.pairwise(gammas):
        keep, add, scale = transition(above, below)
        whole = keep + add * model.guess(torch.ones(1), above)[0]
        spread_z = whole**2 * spread_z + scale**2
    total = float(spread_z / torch.sigmoid(-gammas[-1])) + model.likelihood.scale**2
    return -0.5 * math.log(2 * math.pi * total) - 0.5 * variance / total


@pytest.mark.parametrize("low", [-13.3, -6.0])
@pytest.mark.parametrize("variance", [1.0, 0.25, 4.0])
@pytest.mark.parametrize("steps", [16, 64, 256, 1024])
def test_bound_evidence_and_gap_of_a_gaussian(steps: int, variance: float, low: float) -> None:
    model = gaussian(steps, low, variance)
    bound, log_p = closed_form(steps, low, variance)
    # Differences of SNR of e^13 lose six of sixteen digits: 1e-9 relative to the plain formula.
    assert abs(elbo(model, variance) - bound) < 1e-10 * max(1, math.exp(-low) / 1e4)
    assert abs(evidence(model, variance) - log_p) < 1e-10 * max(1, math.exp(-low) / 1e4)
    assert bound < log_p


@pytest.mark.parametrize("steps", [16, 64])
def test_a_u_net_starts_at_the_best_denoiser(steps: int) -> None:
    """An image of one pixel, in closed form."""
    model = gaussian(steps, -6.0, network=UNET)
    bound, log_p = closed_form(steps, -6.0, 1.0)
    assert abs(elbo(model) - bound) < 1e-10
    assert abs(evidence(model) - log_p) < 1e-10


def moved_unet(steps: int | None, image: tuple[int, ...], **settings: object) -> Diffusion:
    """Returns a diffusion of images by a U-Net that is not zero."""
    numbers = taut.Normal(image, math.prod(image), scale=0.7, decoder=taut.Linear)
    given = {"steps": steps, "low": -3.0, "high": 3.0, "network": UNET, **settings}
    model = Diffusion(numbers, Standardize(image), **given)
    for p in model.denoiser.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize("image", [(5, 3), (3, 2, 4), (4, 3, 1)])
def test_glances_and_paths_of_a_u_net_are_of_one_bound(image: tuple[int, ...]) -> None:
    """Both are unbiased for the same ELBO of T steps; alpha 1e-6."""
    model, x = moved_unet(6, image), torch.randn(2, *image)
    with torch.no_grad():
        whole = torch.stack([model.draw(x, 4).elbo.mean(0) for _ in range(100)])
    assert_mean(glances(model, x, 100, 12) - whole, 0.0)
    moved = model.denoiser(torch.randn(2, model.dim), torch.zeros(2))
    assert float(moved.detach().abs().amax()) > 0.1
    assert model.sample(3).shape == (3, *image)
    assert model.latent_prior().log_prob(model.draw(x, 3).z).shape == (3, 2)


class Names(taut.Network):
    """Says of each output and element which they are, and of the context its mean."""

    def __init__(self, in_shape: tuple, out_shape: tuple, context_dim: int = 0) -> None:
        super().__init__()
        self.out_shape = out_shape

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        assert context is not None
        assert context.shape == (len(x), 32)
        which = torch.arange(float(math.prod(self.out_shape))).view(self.out_shape)
        return which.expand(len(x), *self.out_shape) + 0 * x[:, None]


def test_the_outputs_of_an_element_stand_together() -> None:
    shape, levels = (2, 3), torch.randn(4, 6)
    likelihood = taut.Normal(shape, 6, decoder=taut.Linear)
    model = Diffusion(likelihood, Standardize(shape), levels, steps=2, network=Names)
    found = model.denoiser(torch.zeros(5, 7, 6), torch.zeros(5, 7))
    assert found.shape == (5, 7, 24)
    assert torch.equal(found[0, 0].view(6, 4)[2], torch.tensor([2.0, 8.0, 14.0, 20.0]))


@pytest.mark.parametrize(
    ("steps", "bound", "log_p", "gap"),
    [
        (16, -6.668, -1.4992, 5.169),
        (64, -2.3844, -1.4240, 0.9604),
        (256, -1.6439, -1.4193, 0.2246),
        (1024, -1.4742, -1.4190, 0.0552),
    ],
)
def test_the_published_table(steps: int, bound: float, log_p: float, gap: float) -> None:
    model = gaussian(steps)
    found = elbo(model), float(evidence(model))
    assert abs(found[0] - bound) < 5e-4
    assert abs(found[1] - log_p) < 1e-4
    assert abs(found[1] - found[0] - gap) < 5e-4


def continuous(model: Diffusion, variance: float = 1.0) -> float:
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(400)
    time, weight = torch.from_numpy(nodes + 1) / 2, torch.from_numpy(weights) / 2
    return in_expectation(model, variance, time, weight)


def test_the_schedule_between_its_ends_does_not_matter() -> None:
    for variance in (1.0, 4.0):
        linear, cosine = (gaussian(None, -6.0, variance, s) for s in ("linear", "cosine"))
        assert abs(continuous(linear, variance) - continuous(cosine, variance)) < 1e-10
    few = gaussian(16, -6.0), gaussian(16, -6.0, 1.0, "cosine")
    assert abs(elbo(few[0]) - elbo(few[1])) > 0.01  # of T steps it does


def test_the_bound_of_t_steps_tends_to_the_continuous_one() -> None:
    """Richardson in 1 / T: the error falls with 1 / T^2."""
    aim = continuous(gaussian(None, -6.0))
    errors = []
    for steps in (256, 512):
        one, two = elbo(gaussian(steps, -6.0)), elbo(gaussian(2 * steps, -6.0))
        errors.append(2 * two - one - aim)
        assert abs(errors[-1]) < 0.05 * abs(two - one)
    assert 3.5 < errors[0] / errors[1] < 4.5


def test_glances_of_t_steps_and_of_continuous_time_are_unbiased() -> None:
    x = torch.tensor([[0.7], [-1.9]])
    for model in (gaussian(16, -6.0), gaussian(None, -6.0), gaussian(None, -6.0, 1.0, "cosine")):
        low = model.low
        ends = torch.sigmoid(torch.tensor([-low, -5.0]))
        step = torch.sigmoid(-(low + 11 * torch.arange(1, 17) / 16))
        square = x.square()
        # u - u-hat = (1 - alpha^2) x - alpha sigma e for v = 1
        if model.steps is None:
            gamma = torch.linspace(low, 5.0, 20001)
            alpha2 = torch.sigmoid(-gamma)
            wrong = (1 - alpha2) ** 2 * square + alpha2 * (1 - alpha2)
            steps = 0.5 * torch.trapezoid(wrong * (-gamma).exp(), gamma)
        else:
            at = low + 11 * torch.arange(17) / 16
            weight = (-at[:-1]).exp() - (-at[1:]).exp()
            steps = 0.5 * (weight * ((1 - step) ** 2 * square + step * (1 - step))).sum(1)
        top = 0.5 * (1 - ends[1] + ends[1] * square[:, 0] - 1 - (1 - ends[1]).log())
        read = -0.5 * math.log(2 * math.pi * math.exp(low)) - 0.5
        assert_mean(glances(model, x, 400, 8), read - top - steps)


def test_places_stand_for_the_upper_ends_of_steps() -> None:
    places = (torch.arange(80) + 0.5) / 80
    ends, counts = gaussian(16).times(places).unique(return_counts=True)
    assert torch.allclose(ends, torch.arange(1, 17) / 16, atol=1e-15)
    assert bool((counts == 5).all())
    assert torch.equal(gaussian(None).times(places), places)


def test_whole_draws_are_weights_of_the_evidence() -> None:
    """E[w] = p(x) of T steps, and E[log w] = ELBO_T; over data Var[log w] is twice the gap, to
    first order in 1 / T.
    """
    steps, low = 64, -2.0
    model = gaussian(steps, low, high=3.0)
    x = torch.tensor([[0.5], [-1.5]])
    with torch.no_grad():
        draw = model.draw(x, 4000)
    total = math.exp(-2 * evidence(model, 0.0)) / (2 * math.pi)  # the variance of x
    log_p = -0.5 * math.log(2 * math.pi * total) - 0.5 * x[:, 0].square() / total
    assert draw.complete
    assert draw.z.shape == (4000, 2, steps + 1)
    assert_mean((draw.log_weight - log_p).exp(), 1.0)
    exact = glances(model, x, 400, 8)
    difference = draw.elbo.mean(0) - exact.mean(0)
    error = (draw.elbo.var(0) / 4000 + exact.var(0) / 400).sqrt()
    assert bool((difference.abs() < 5.1 * error).all())  # 1e-6 for two
    with torch.no_grad():
        log_weight = model.draw(torch.randn(400, 1), 100).log_weight
    gap = evidence(model) - elbo(model)
    # about 3 % is the scatter over 400 data points
    assert 1.8 < float(log_weight.var(0).mean()) / gap < 2.5


def test_a_path_ends_where_its_marginals_say() -> None:
    model, x = gaussian(32, -6.0), torch.tensor([[1.3]])
    z = model.encode(x).sample((4000,))[:, 0]
    gammas = model.latent_prior().gammas()
    for place in (0, 10, 32):
        alpha2 = torch.sigmoid(-gammas[place])
        assert_mean(z[:, place], alpha2.sqrt() * 1.3)
        assert_mean((z[:, place] - alpha2.sqrt() * 1.3).square(), 1 - alpha2)
    drawn = model.sample(4000)
    total = float(torch.exp(torch.tensor(-2 * evidence(model, 0.0)))) / (2 * math.pi)
    assert_mean(drawn.square(), total)


@pytest.mark.parametrize("high", [5.0, 9.0])
def test_a_lattice_spreads_its_places(high: float) -> None:
    found = spread(4, 5, torch.zeros(()))
    assert float(found.flatten().sort().values.diff().std()) < 1e-12
    assert float(found.sort(0).values.diff(dim=0).sub(0.25).abs().max()) < 1e-12
    many = torch.stack([spread(2, 3, torch.zeros(())).flatten() for _ in range(3000)])
    assert_mean(many, 0.5)
    assert_mean(many.square(), 1 / 3)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: gaussian(0), "steps must be a whole number of at least 1, or None, not 0"),
        (lambda: gaussian(4, schedule="sine"), "unknown schedule 'sine': 'linear' or 'cosine'"),
        (lambda: gaussian(4, low=6.0), "low must be less than high, not 6.0 and 5.0"),
        (
            lambda: Diffusion(ReadOut(-6.0), Standardize((1,)), width=0),
            "width and blocks must be at least 1, not 0 and 3",
        ),
    ],
)
def test_settings_that_mean_nothing(make: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make()
