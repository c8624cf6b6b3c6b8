r"""How good samples are, and where the sharpness goes: what log p(x) does not show.

*Samples against held-out data.* Of a classifier that tells N samples from N held-out data, the area
under the curve is the probability $P(s > t) + \frac12 P(s = t)$ that of a sample and a data point
the sample has the larger score: 1/2 if they are not to be told apart. With $\bar a_i$ the share of
data that sample i beats and $\bar b_j$ the share of samples that beat data point j, its variance is
$\mathrm{var}(\bar a) / N + \mathrm{var}(\bar b) / N$: the scatter of the samples and of the data.

Around each point of a set lies a ball that reaches to its k-th nearest neighbour in the set.
*Precision* is the share of samples in a ball of the data, *recall* the share of data in a ball of
the samples, *density* the mean number of the data's balls that a sample lies in, over k, *coverage*
the share of the data's balls that hold a sample. Of one distribution, density is 1 and coverage $1
- \prod_{i=1}^k (N - i) / (2N - i)$ in expectation; precision and recall depend on its dimension,
hence the reference below. Recall is easily fooled: samples that are far from everything have large
balls. The points of a set share their balls, so their scatter would be an error that is too small;
it is a jackknife over groups of points instead, which is not too small in expectation (Efron and
Stein), on Gaussians once to twice the true one.

*Copies.* A model that repeats its training data has samples nearer to them than held-out data are.
That is no more than the probability that of a sample and a held-out data point the sample is the
nearer one; below 1/2 the samples lie off the data.

All of these come with a *reference*: training data in the place of the samples. Units hardly
matter: pixels and bits share one, in which the statistics do not change, and so stay as they are;
the columns of numbers are divided by their standard deviation in the training data. Of a table the
encoder's features are compared, and samples are given the gaps of data where those have some.

*Sharpness* of an image of H W pixels s in [0, 1], averaged over the channels: with $F_{uv}$ its
discrete Fourier transform,

$$ E = \frac{1}{(HW)^2} \sum_{f_u^2 + f_v^2 > 1/16} |F_{uv}|^2, $$

the part of the mean square of the pixels at frequencies above half of Nyquist's (1/4 of a cycle per
pixel). White noise has its variance times the share of those coefficients. The other statistic is
the variance over the inner pixels of the Laplacian $s_{i+1,j} + s_{i-1,j} + s_{i,j+1} + s_{i,j-1} -
4 s_{ij}$. What the mean of $p(x \mid z)$ has less than the data point is split at $z^* = \arg\max_z
\log p(x \mid z)$:

$$ E(x) - E(m(z)) = \underbrace{E(x) - E(m(z^*))}_{\text{decoder: no z is sharper}} +
   \underbrace{E(m(z^*)) - E(m(z))}_{\text{posterior: one z stands for several x}},
   \quad z \sim q(z \mid x). $$

A picture that stands for a data point is often neither at z* nor at one draw of z but the average
over them, $\bar m(x) = \mathbb{E}_{q(z \mid x)} m(z)$: where z says where an edge is and q is
unsure of it, every m(z) is sharp and the average is not. Both statistics are quadratic in the
image, so that of the average is, without bias, the mean over pairs of different draws. The *cause*
of blur is the larger part of what $\bar m$ lacks: the posterior's, $E(m(z^*)) - E(\bar m)$, or the
likelihood's, $E(x) - E(m(z^*))$, which it takes for noise of each pixel.

It is draws that must be as sharp as the data, not means: where model and posterior are exact, draws
of p(x|z) have the distribution of the data for $z \sim q(z \mid x)$ as for $z \sim p(z)$. A mean
lacks the noise of the data, and must: of binarised images that is most of what the decoder seems to
lose, and what drawing adds back.

References: lopezpaz2017, delong1988, kynkaanniemi2019, naeem2020, efron1981, meehan2020.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from taut.evidence.results import Estimate
from taut.features import ColumnFeatures
from taut.model import Model, evaluating, frozen, nearest
from taut.system.seeds import derive, stream
from taut.types import Data, PerDatum, image_layout
from taut.use import tasks
from taut.use.blocks import device_of

__all__ = ["area", "blur", "sample_quality", "sharpness"]

FEWEST = 4  # data of each kind
FEW = 50  # below which the numbers hardly say anything
NEIGHBOURS = 5
GROUPS = 20  # of the jackknife
TREES = 200
ROWS = 256  # data at a time
MAX_ELEMENTS = 2**18  # of x in them: the mean of a discretized logistic has 255 terms for each
SHARP = 0.01  # share of the energy whose loss is no blur
AVERAGED = 16  # draws of the posterior whose mean image is looked at
RATE = 0.1  # of Adam, in standard deviations of the posterior
# In the last quarter of the steps toward z*:
STILL_RISING = (
    0.15  # share of the whole rise of log p(x|z) that may still come; a steady one has 0.25
)
NEGLIGIBLE = 0.05  # nats of it that matter to nobody
STILL_MOVING = 0.05  # share of the loss by which the sharpness may still change
IMAGES = ("data", "mean", "draw", "mean_at_optimum", "mean_from_prior", "draw_from_prior")
SPLIT = {  # of the energy: what less what
    "loss": ("data", "mean"),
    "decoder": ("data", "mean_at_optimum"),
    "posterior": ("mean_at_optimum", "mean"),
    "noise": ("draw", "mean"),
    "unexplained": ("data", "draw"),
}


def sample_quality(
    model: Model,
    train: Tensor,
    test: Tensor,
    *,
    num_data: int = 1000,
    samples: Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Returns how samples of a model compare with held-out data, as plain values.

    Args:
        model: The model.
        train: Training data, (M, \*event), in their own units, at least 8.
        test: Held-out data, (L, \*event), at least 4.
        num_data: Samples, and data of each kind, to compare; fewer where there are fewer: N =
            min(num_data, M / 2, L). Memory and time grow with $N^2$.
        samples: Samples that are there already, at least N of them, such as
            ``tasks.sample(model, num_data, seed=seed)``.
        seed: The same seed gives the same numbers; ``tasks.sample`` with it gives the samples.

    Returns:
        ``num_data`` (N), ``num_train`` (M), ``neighbours`` (k), ``warnings``, and for each of
        ``classifier`` (area under the curve of extremely randomised trees, trained on one half and
        measured on the other), ``precision``, ``recall``, ``density``, ``coverage``, ``nearer``
        (probability that a sample is nearer to its nearest training data point than a held-out data
        point is to its own; the reference's are the other training data) and ``copies`` (share that
        equals a training data point) a dict of estimates: of ``samples`` and of the ``reference``,
        N training data in their place, or for ``copies`` ``held_out`` data. The error of the areas
        is for this classifier and these training data, its Monte Carlo part the scatter of the
        samples; it is zero where samples and data do not overlap.

    Raises:
        ValueError: there are too few data, or those of training and test have different shapes.

    References: lopezpaz2017, delong1988, kynkaanniemi2019, naeem2020, meehan2020.
    """
    n = min(num_data, len(train) // 2, len(test))
    if n < FEWEST:
        raise ValueError(
            f"too few rows to compare samples with: {len(train)} for training and "
            f"{min(num_data, len(test))} held out; at least {2 * FEWEST} and {FEWEST} are needed"
        )
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"a data point of the test data is {tuple(test.shape[1:])}, of the training data "
            f"{tuple(train.shape[1:])}"
        )
    samples = tasks.sample(model, n, seed=seed) if samples is None else samples[:n].cpu()
    with stream(seed, "sample quality"):
        train = train.cpu()[torch.randperm(len(train))]
        test = test.cpu()[torch.randperm(len(test))[:n]]
        # samples are whole: they get the gaps of data, so that a gap tells nobody apart
        if train.isnan().any():
            gaps = train[torch.randint(len(train), (n,))].isnan()
            samples = torch.where(gaps, torch.nan, samples)
    samples, train, test = (_seen(model, t) for t in (samples, train, test))
    unit = _unit(train)
    samples, train, test = (t.flatten(1).double() / unit for t in (samples, train, test))
    k = min(NEIGHBOURS, n - 2)  # the jackknife leaves that many neighbours
    reference, others = train[:n], train[n:]
    forest = derive(seed, "forest") % 2**32
    classifier = {
        "samples": _classifier(samples, test, forest),
        "reference": _classifier(reference, test, forest),
    }
    balls = {"samples": _balls(samples, test, k), "reference": _balls(reference, test, k)}
    near, held_out = _nearest(samples, train), _nearest(test, train)
    nearer = {
        "samples": area(-near, -held_out),
        "reference": area(-_nearest(reference, others), -_nearest(test, others)),
    }
    copies = {
        "samples": Estimate.of((near == 0).double()),
        "held_out": Estimate.of((held_out == 0).double()),
    }
    warnings = []
    if n < FEW:
        warnings.append(f"only {n} samples are compared with {n} rows: take the errors seriously")
    told_apart = classifier["reference"]
    if abs(told_apart.value - 0.5) > 4 * (told_apart.test_error or 0.0):
        warnings.append(
            f"training and held-out data themselves are told apart (area under the curve "
            f"{told_apart.value:.2f}): "
            "compare the samples with the reference, not with 0.5"
        )
    shares = {name: {which: b[name] for which, b in balls.items()} for name in balls["samples"]}
    statistics = {"classifier": classifier, **shares, "nearer": nearer, "copies": copies}
    return {
        "num_data": n,
        "num_train": len(train),
        "neighbours": k,
        **{
            name: {which: e.to_dict() for which, e in pair.items()}
            for name, pair in statistics.items()
        },
        "warnings": warnings,
    }


def _seen(model: Model, x: Tensor) -> Tensor:
    """Returns data in which distances mean something.

    Levels one-hot and gaps as zeros with a mask, as the encoder sees them.
    """
    features = model.features
    if features is None or not (isinstance(features, ColumnFeatures) or x.isnan().any()):
        return x
    device = device_of(model)
    with torch.no_grad():
        return features(x.to(device=device, dtype=torch.get_default_dtype())).flatten(1).cpu()


def blur(
    model: Model, x: Data, *, low: float, high: float, steps: int = 300, seed: int = 0
) -> dict[str, Any]:
    r"""Returns how sharp images, their reconstructions and samples are, and where sharpness is
    lost, as plain values.

    The likelihood of one data point often has no maximum that the prior would ever draw: z moves
    on, ever more slowly. What counts is that the sharpness at z* hardly changes any more; how much
    it still did is reported, and warned of where it is too much. The posterior's part is then a
    lower bound: on MNIST it went from 3 % of the loss at 300 steps to 5 % at 1200.

    Args:
        model: The model.
        x: Images, (N, \*event) with an event (H, W), (H, W, C) or (C, H, W), H and W at least 3.
        low: The value shown black.
        high: The value shown white.
        steps: Steps of Adam toward z*, from the posterior mean.
        seed: The same seed gives the same numbers.

    Returns:
        ``num_data``, ``steps``, ``warnings``; ``high_frequency_energy`` (E, in squares of the range
        high - low) and ``laplacian_variance`` (likewise): of each the estimates ``data``, ``mean``
        and ``draw`` of p(x|z) for z ~ q, ``mean_at_optimum`` for z*, ``mean_from_prior`` and
        ``draw_from_prior`` for z ~ p(z), or None where there is none; ``split`` of the energy, with
        paired errors: ``loss`` = ``decoder`` + ``posterior``, ``noise`` = draw - mean,
        ``unexplained`` = data - draw = loss - noise, or None; ``averaged``: both statistics of the
        mean over z ~ q, and the ``ratio`` of its energy to that of the data, or None; ``cause`` of
        the larger part of the blur of that mean, "posterior" or "likelihood", or None where there
        is no blur or no z*; ``optimum``: ``rise`` of log p(x|z)
        from the posterior mean to z*, ``late_rise`` and ``late_energy`` the change of log p(x|z)
        and of E in the last quarter of the steps, ``log_prior`` the change of log p(z) in nats
        (strongly negative: z* is no z that the model draws), or None.

    Raises:
        ValueError: there are no data, they are no images, or low is not below high.
    """
    _check_images(x, low, high, steps)
    found, changes = _sharpnesses(model, x, low, high, steps, seed)
    before, averages = found.pop("before_optimum", None), found.pop("averaged", None)
    energy = {name: values[0] for name, values in found.items()}
    warnings = []
    if "mean" not in energy:
        warnings.append("p(x|z) has no mean in closed form: only its draws are measured")
    if "rise" not in changes:
        warnings.append(
            "the posterior cannot be reparameterized, so z does not follow a gradient: there is no "
            "z*, and no split"
        )
    if before is not None:
        changes["late_energy"] = energy["mean_at_optimum"] - before[0]
        warnings += _not_reached(changes, energy)
    split = {
        name: Estimate.of(energy[a] - energy[b]).to_dict() if {a, b} <= energy.keys() else None
        for name, (a, b) in SPLIT.items()
    }
    optimum = {name: Estimate.of(values).to_dict() for name, values in changes.items()}
    averaged, cause = _of_average(averages, energy)
    return {
        "num_data": len(x),
        "steps": steps,
        "high_frequency_energy": _means({name: values[0] for name, values in found.items()}),
        "laplacian_variance": _means({name: values[1] for name, values in found.items()}),
        "split": split,
        "averaged": averaged,
        "cause": cause,
        "optimum": optimum or None,
        "warnings": warnings,
    }


def _of_average(
    averages: Tensor | None, energy: dict[str, Tensor]
) -> tuple[dict[str, Any] | None, str | None]:
    """Returns what is known of the mean over z ~ q, and what its blur comes from."""
    if averages is None:
        return None, None
    data, own = Estimate.of(energy["data"]), Estimate.of(averages[0])
    ratio = own.value / data.value if data.value else math.nan
    # by the delta method: paired, image by image
    apart = Estimate.of((averages[0] - ratio * energy["data"]) / data.value)
    found = {
        "high_frequency_energy": own.to_dict(),
        "laplacian_variance": Estimate.of(averages[1]).to_dict(),
        "ratio": Estimate(ratio, None, apart.test_error).to_dict(),
    }
    lost = Estimate.of(energy["data"] - averages[0])
    blurred = lost.value > max(2 * (lost.test_error or 0.0), SHARP * data.value)
    if "mean_at_optimum" not in energy or not blurred:
        return found, None
    best = float(energy["mean_at_optimum"].mean())
    posterior, likelihood = best - own.value, data.value - best
    return found, "posterior" if posterior > likelihood else "likelihood"


def _check_images(x: Data, low: float, high: float, steps: int) -> None:
    """Refuses what has no sharpness."""
    _, height, width, _ = image_layout(tuple(x.shape[1:]))
    if not len(x) or min(height, width) < 3:
        raise ValueError(
            f"sharpness needs at least one image of at least 3 by 3 pixels, not {tuple(x.shape)}"
        )
    if not low < high:
        raise ValueError(f"low must lie below high, but {low:g} is not below {high:g}")
    if steps < 4:
        raise ValueError(
            f"steps must be at least 4, not {steps}: the last quarter of them tells if they were "
            f"enough"
        )


def _sharpnesses(
    model: Model, x: Data, low: float, high: float, steps: int, seed: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the two statistics of the images of each name, (2, N), and what the way to z* changed
    for each, (N,).
    """
    axis = image_layout(tuple(x.shape[1:]))[3]
    device = device_of(model)
    found: dict[str, list[Tensor]] = defaultdict(list)  # (2, B) each
    ascent: dict[str, list[Tensor]] = defaultdict(list)  # (B,) each
    with evaluating(model):
        for number, block in enumerate(x.split(max(1, min(ROWS, MAX_ELEMENTS // x[0].numel())))):
            with stream(seed, "blur", number), torch.no_grad(), frozen(model):
                images, changes = _images(
                    model, block.to(device=device, dtype=torch.get_default_dtype()), steps
                )
            average = images.pop("averaged", None)
            if average is not None:
                found["averaged"].append(_of_pairs(average, axis, low, high))
            for name, image in images.items():
                found[name].append(_of_images(image, axis, low, high))
            for name, change in changes.items():
                ascent[name].append(change.cpu().double())
    whole = {name: torch.cat(parts, 1) for name, parts in found.items()}
    return whole, {name: torch.cat(parts) for name, parts in ascent.items()}


def sharpness(images: Tensor, *, low: float, high: float) -> Tensor:
    r"""Returns the energy at high frequencies and the variance of the Laplacian of images, (2, N),
    float64, in squares of the range high - low.

    Args:
        images: Images, (N, \*event) with an event (H, W), (H, W, C) or (C, H, W), H and W at
            least 3.
        low: The value shown black.
        high: The value shown white.
    """
    axis = image_layout(tuple(images.shape[1:]))[3]
    return torch.cat([_of_images(block, axis, low, high) for block in images.split(ROWS)], 1)


def _of_images(images: Tensor, axis: int | None, low: float, high: float) -> Tensor:
    """Returns the same of a block of images, (2, B), given where their channels are."""
    planes = images.unsqueeze(1) if axis is None else images.movedim(axis + 1, 1)
    return _sharpness((planes.cpu().double() - low) / (high - low))


def _of_pairs(images: Tensor, axis: int | None, low: float, high: float) -> Tensor:
    """Returns the statistics of the mean of images over their first axis, (K, B, *event), by pairs
    of different ones: (2, B).
    """
    count = len(images)
    whole = _of_images(images.mean(0), axis, low, high)
    each = torch.stack([_of_images(part, axis, low, high) for part in images])
    return (count**2 * whole - each.sum(0)) / (count * (count - 1))


def _means(values: dict[str, Tensor]) -> dict[str, Any]:
    """Returns the mean of a statistic over the images of each name, None where there are none."""
    return {n: Estimate.of(values[n]).to_dict() if n in values else None for n in IMAGES}


def _not_reached(changes: dict[str, Tensor], energy: dict[str, Tensor]) -> list[str]:
    """Returns the warning that z* was not reached, if it was not."""
    rise, late, moved = (
        float(changes[name].mean()) for name in ("rise", "late_rise", "late_energy")
    )
    loss = float((energy["data"] - energy["mean"]).mean())
    if late <= max(STILL_RISING * rise, NEGLIGIBLE) and abs(moved) <= STILL_MOVING * abs(loss):
        return []
    return [
        f"z* was not reached: in the last quarter of the steps log p(x|z) still rose by "
        f"{late:.3g} of {rise:.3g} nats and the energy changed by {moved:.2g}; the split between "
        f"decoder and posterior is off by more than that"
    ]


def _unit(train: Tensor) -> Tensor:
    """Returns what each element is divided by; a column that never varies stays in its own unit."""
    rows = train.flatten(1).double()
    if train.dim() > 2 or bool(((rows == 0) | (rows == 1)).all()):
        return torch.ones(rows.shape[1], dtype=torch.float64)
    scale = rows.std(0, correction=0)
    return torch.where(scale > 0, scale, 1.0)


def area(a: Tensor, b: Tensor) -> Estimate:
    """Returns P(a > b) + P(a = b) / 2; its Monte Carlo error is the scatter of a."""
    above = (a[:, None] > b).double() + 0.5 * (a[:, None] == b).double()
    variance_a, variance_b = (float(above.mean(1 - i).var()) / above.shape[i] for i in (0, 1))
    return Estimate(float(above.mean()), math.sqrt(variance_a), math.sqrt(variance_a + variance_b))


def _classifier(a: Tensor, b: Tensor, random_state: int) -> Estimate:
    """Returns the area under the curve of trees that learn to tell the first halves apart, on the
    second halves.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    half = len(a) // 2
    trees = ExtraTreesClassifier(TREES, random_state=random_state)
    trees.fit(torch.cat([a[:half], b[:half]]).numpy(), [1] * half + [0] * half)
    score_a, score_b = (
        torch.from_numpy(trees.predict_proba(t[half:].numpy())[:, 1]) for t in (a, b)
    )
    return area(score_a, score_b)


def _balls(samples: Tensor, data: Tensor, k: int) -> dict[str, Estimate]:
    """Returns precision, recall, density and coverage with the error of a jackknife over groups of
    samples and data at once.
    """
    pairs = ((samples, samples), (data, data), (samples, data))
    # From the differences themselves: equal distances, of which bits have many, must come out
    # equal.
    distances = [torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist") for a, b in pairs]
    group = torch.arange(len(samples)) % GROUPS
    count = int(group.max()) + 1
    kept = [(group != g).nonzero()[:, 0] for g in range(count)]
    parts = torch.stack([_four(k, *(d[rows][:, rows] for d in distances)) for rows in kept])
    errors = ((parts - parts.mean(0)).square().sum(0) * (count - 1) / count).sqrt()
    names = ("precision", "recall", "density", "coverage")
    values = zip(names, _four(k, *distances).tolist(), errors.tolist(), strict=True)
    return {name: Estimate(value, None, error) for name, value, error in values}


def _four(k: int, within_samples: Tensor, within_data: Tensor, across: Tensor) -> Tensor:
    # the first is itself
    radius_samples, radius_data = (d.kthvalue(k + 1).values for d in (within_samples, within_data))
    in_data, in_samples = (
        (across <= radius_data).double(),
        (across <= radius_samples[:, None]).double(),
    )
    return torch.stack(
        [
            in_data.amax(1).mean(),
            in_samples.amax(0).mean(),
            in_data.sum(1).mean() / k,
            in_data.amax(0).mean(),
        ]
    )


def _nearest(points: Tensor, train: Tensor) -> PerDatum:
    """Returns the distance of each point to the nearest training data point; exactly zero for a
    copy.
    """
    centre = train.mean(0)  # products of far-off numbers would cancel
    centred = train - centre
    index = [torch.cdist(block - centre, centred).argmin(1) for block in points.split(ROWS)]
    return (points - train[torch.cat(index)]).norm(dim=1)


def _images(model: Model, x: Tensor, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the images to be measured, by name, and what the way to z* changed, (B,) each."""
    q, prior = model.encode(x), model.latent_prior()
    z = q.sample()
    images, changes = {"data": x}, {}
    for name, latent in (("", z), ("_from_prior", prior.sample(torch.Size((len(x),))))):
        decoded = model.decode(latent)
        images["draw" + name] = decoded.sample()
        if (mean := _mean(decoded)) is not None:
            images["mean" + name] = mean
    if "mean" in images:
        more = [q.sample() for _ in range(AVERAGED)]
        images["averaged"] = torch.stack([model.decode(each).mean for each in more])
    if q.has_rsample:
        try:
            start, unit = nearest(q, q.mean), q.stddev
        except NotImplementedError:  # a flow, say
            start, unit = z, torch.ones_like(z)
        climbed = _ascend(model, x, q, start, unit, steps)
        (_, first), (before, late), (best, last) = climbed
        changes = {
            "rise": last - first,
            "late_rise": last - late,
            "log_prior": prior.log_prob(best) - prior.log_prob(start),
        }
        for name, latent in (("before_optimum", before), ("mean_at_optimum", best)):
            if (mean := _mean(model.decode(latent))) is not None:
                images[name] = mean
    return images, changes


def _ascend(
    model: Model, x: Tensor, q: Distribution, start: Tensor, unit: Tensor, steps: int
) -> list[tuple[Tensor, Tensor]]:
    """Returns the best z so far, (B, D), and its log p(x|z), (B,), at first, after three quarters
    and after all of the steps.
    """
    moved = torch.zeros_like(start).requires_grad_()
    # The rate stays what it is: with one that falls, the last steps would change little wherever
    # they are.
    optimizer = torch.optim.Adam([moved], lr=RATE, betas=(0.9, 0.99))
    best, highest = start, x.new_full((len(x),), -math.inf)
    kept = []
    for step in range(1, steps + 1):
        with torch.enable_grad():
            z = nearest(q, start + unit * moved)
            value = model.decode(z).log_prob(x)
            optimizer.zero_grad()
            (-value.sum()).backward()
        better = value > highest
        best, highest = (
            torch.where(better[:, None], z, best).detach(),
            torch.where(better, value, highest).detach(),
        )
        optimizer.step()
        if step in (1, steps - steps // 4, steps):
            kept.append((best, highest))
    return kept


def _sharpness(planes: Tensor) -> Tensor:
    """Returns the energy at high frequencies and the variance of the Laplacian of images (B, C, H,
    W), (2, B).
    """
    height, width = planes.shape[-2:]
    u, v = (
        torch.minimum(torch.arange(size), size - torch.arange(size)) for size in (height, width)
    )
    # integers: no rounding decides
    high = 16 * ((u * width).square()[:, None] + (v * height).square()) > (height * width) ** 2
    energy = (torch.fft.fft2(planes, norm="forward").abs().square() * high).sum((-2, -1))
    inner = planes[..., 1:-1, 1:-1]
    neighbours = (
        planes[..., 2:, 1:-1]
        + planes[..., :-2, 1:-1]
        + planes[..., 1:-1, 2:]
        + planes[..., 1:-1, :-2]
    )
    laplacian = (neighbours - 4 * inner).var((-2, -1), correction=0)
    return torch.stack([energy, laplacian]).mean(-1)


def _mean(distribution: Distribution) -> Tensor | None:
    try:
        return distribution.mean
    except NotImplementedError:
        return None
