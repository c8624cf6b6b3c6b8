"""Bugs planted on purpose, each of which a test must catch: ``python tests/mutants.py [NAME ...]``.

Each row of ``MUTANTS`` is a bug that a real library has had or that a careless edit would make. For
each, ``src`` and ``tests`` are copied to a temporary folder, ``before`` is replaced by ``after``
there, and the named tests run on the copy. A mutant is *killed* if a test fails, or a signal that
should be held ends the tests; one that cannot be
imported, breaks a fixture, uses an unknown name or hangs is not. First all those tests run on a
copy without a bug and must be green. The last line is ``killed N of N``; a survivor exits with 1.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context, set_forkserver_preload
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
SECONDS = 600  # for one bug or one file without; the slowest needs 60 on a free core
BROKEN = ("NameError", "UnboundLocalError", "ImportError", "ModuleNotFoundError", "SyntaxError")


class Mutant(NamedTuple):
    """A bug.

    Args:
        name: What is wrong.
        file: Where, below ``src/taut``.
        before: Text that is there exactly once.
        after: What stands there instead.
        tests: The cheapest test file that should notice, or one test of a slow one.
    """

    name: str
    file: str
    before: str
    after: str
    tests: str


OBJECTIVES, LIKELIHOODS, PROBLEMS = (
    "tests/test_objectives.py",
    "tests/test_likelihoods.py",
    "tests/test_problems.py",
)
EVIDENCE, BUILD, DATA, LOOP = (
    "tests/test_evidence.py",
    "tests/test_build.py",
    "tests/test_data.py",
    "tests/test_loop.py",
)
FLOWS, VAMP = "tests/test_flows.py", "tests/test_vamp.py"
REFIT, AUTOREGRESSIVE = "tests/test_refit.py", "tests/test_autoregressive.py"
SPHERE = "tests/test_sphere.py"
INSTANCES, STORAGE, RUN = "tests/test_instances.py", "tests/test_storage.py", "tests/test_run.py"
TIGHTEN, PARALLEL, MEMORY = (
    "tests/test_tighten.py",
    "tests/test_parallel.py",
    "tests/test_memory.py",
)
STEP, AFFINE = "tests/test_step.py", "tests/test_affine.py"
MISSING, TABLES, EXPORT = "tests/test_missing.py", "tests/test_tables.py", "tests/test_export.py"
FAMILY_TESTS, COUNTS, COLUMNS = (
    "tests/test_likelihood_families.py",
    "tests/test_counts.py",
    "tests/test_columns.py",
)
ROWS, EXACT_MODELS = "tests/test_rows.py", "tests/test_exact_models.py"
FOREST = "tests/test_forest.py"
PARETO, ANNEALING, GAPS, LATENTS = (
    "tests/test_pareto.py",
    "tests/test_annealing.py",
    "tests/test_gaps.py",
    "tests/test_latents.py",
)
SAMPLES, GRADIENTS, AUDIT, REPORT = (
    "tests/test_samples.py",
    "tests/test_gradients.py",
    "tests/test_audit.py",
    "tests/test_report.py",
)

MUTANTS = [
    Mutant(
        "rows: the prior may see much more of p(x) than the posterior",
        "evidence/rows.py",
        "SURPRISE = 0.1",
        "SURPRISE = 2.0",
        "tests/test_rows.py::test_a_second_mode_is_seen",
    ),
    Mutant(
        "rows: a number that is off by millions of nats replaces another",
        "evidence/rows.py",
        "known = value.isfinite() & (reliable | (error <= before))",
        "known = value.isfinite()",
        "tests/test_rows.py::"
        "test_a_row_keeps_the_number_with_the_smaller_error_where_none_can_be_believed",
    ),
    Mutant(
        "annealing: the error of chains that disagree is no number of nats",
        "evidence/annealing.py",
        "return in_nats(error * _student(chains - 1) / NORMAL)",
        "return error * _student(chains - 1) / NORMAL",
        "tests/test_annealing.py::"
        "test_chains_that_disagree_by_many_nats_do_not_cost_millions_of_them",
    ),
    # --- Factor analysis, and training that starts at it ---
    Mutant(
        "factor analysis: a missing cell counts as one at its mean",
        "models/factor_analysis.py",
        "there = (~u.isnan()).to(u)",
        "there = torch.ones_like(u)",
        "tests/test_factor_analysis.py::"
        "test_evidence_and_posterior_are_those_of_the_joint_gaussian",
    ),
    Mutant(
        "factor analysis: a filled cell is taken for a known one",
        "models/factor_analysis.py",
        "if bool(gaps.any()):",
        "if len(gaps) < 0:",
        "tests/test_factor_analysis.py::test_a_long_fit_is_a_stationary_point_of_the_likelihood",
    ),
    Mutant(
        "factor analysis: the noise has what the factors explain, too",
        "models/factor_analysis.py",
        "left = covariance.diagonal(dim1=-2, dim2=-1) - factors.square().sum(-1)",
        "left = covariance.diagonal(dim1=-2, dim2=-1)",
        "tests/test_factor_analysis.py::test_no_pass_lowers_the_likelihood",
    ),
    Mutant(
        "factor analysers: the weight of the component is forgotten",
        "models/factor_analysis.py",
        "joint = self.component.logits + of_factors",
        "joint = of_factors",
        "tests/test_factor_analysis.py::test_every_estimator_returns_the_evidence_at_any_sample",
    ),
    Mutant(
        "start: the encoder forgets where the columns have their mean",
        "build/start.py",
        "linear.bias[:used] = guess.loc",
        "linear.bias[:used] = 0 * guess.loc + 0.1",
        "tests/test_start.py::"
        "test_the_first_bound_is_the_evidence_of_factor_analysis_with_a_gap_of_zero",
    ),
    Mutant(
        "start: a mean-field posterior has precisions for scales",
        "build/start.py",
        "torch.linalg.inv(guess.covariance).diagonal().rsqrt()",
        "torch.linalg.inv(guess.covariance).diagonal().sqrt()",
        "tests/test_start.py::test_a_mean_field_posterior_starts_at_its_best",
    ),
    Mutant(
        "start: training may end below it",
        "training/loop.py",
        "if len(data.validation) and (frozen or model.started):",
        "if len(data.validation) and frozen:",
        "tests/test_start.py::test_training_never_ends_below_the_start",
    ),
    Mutant(
        "scales: the scale of each entry is its location",
        "likelihoods/common.py",
        """    if choice == "per_entry":
        return decoded[-1]
""",
        """    if choice == "per_entry":
        return decoded[0]
""",
        "tests/test_start.py::"
        "test_the_first_bound_is_the_evidence_of_factor_analysis_with_a_gap_of_zero",
    ),
    # --- Several groups of latent variables ---
    Mutant(
        "groups: the rate of a group is summed over the samples above",
        "model.py",
        "return rate.mean(0) if rate.dim() == 2 else rate",
        "return rate.sum(0) if rate.dim() == 2 else rate",
        "tests/test_hierarchy.py",
    ),
    Mutant(
        "groups: each is drawn without those above it",
        "distributions/chain.py",
        "torch.cat(drawn, -1) if drawn else None",
        "0 * torch.cat(drawn, -1) if drawn else None",
        "tests/test_hierarchy.py",
    ),
    Mutant(
        "DReG: the hook sees the lowest groups alone",
        "objectives.py",
        "lambda gradient: weight[..., None] * gradient",
        "lambda g: torch.cat([g[..., :1], (weight[..., None] * g)[..., 1:]], -1)",
        "tests/test_hierarchy.py::"
        "test_gradients_agree_with_the_reparameterized_one_of_the_same_bound",
    ),
    Mutant(
        "free bits: the groups below the top pay nothing",
        "objectives.py",
        "for g in draw.groups]",
        "for g in draw.groups[:1]]",
        "tests/test_hierarchy.py",
    ),
    Mutant(
        "a penalty is maximised",
        "objectives.py",
        "else surrogate - draw.penalty",
        "else surrogate + draw.penalty",
        "tests/test_hierarchy.py",
    ),
    Mutant(
        "a flow is inverted at its own samples",
        "model.py",
        'if hasattr(q, "rsample_and_log_prob"):',
        "if False:",
        "tests/test_hierarchy.py",
    ),
    Mutant(
        "a draw that is not complete has weights",
        "model.py",
        "if not self.complete:",
        "if False:",
        "tests/test_hierarchy.py",
    ),
    # --- Objectives -------------------------------------------------------------------------------------------------------
    Mutant(
        "ELBO: value with the sign of a loss (vdvae, blackjax)",
        "objectives.py",
        "_bound(draw, draw.elbo.detach().mean(0), surrogate, target)",
        "_bound(draw, -draw.elbo.detach().mean(0), surrogate, target)",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: beta leaks into the value",
        "objectives.py",
        "_bound(draw, draw.elbo.detach().mean(0), surrogate, target)",
        "_bound(draw, (draw.log_likelihood - self.beta * (draw.log_posterior - draw.log_prior)).detach().mean(0), surrogate, target)",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: warm-up leaks into the value",
        "objectives.py",
        "_bound(draw, draw.elbo.detach().mean(0), surrogate, target)",
        "_bound(draw, (draw.log_likelihood - beta / self.beta * (draw.log_posterior - draw.log_prior)).detach().mean(0), surrogate, target)",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: the two sides of the KL swapped",
        "model.py",
        "kl_divergence(self.posterior, self.prior)",
        "kl_divergence(self.prior, self.posterior)",
        OBJECTIVES,
    ),
    Mutant(
        "free bits: on each datum instead of the batch mean",
        "objectives.py",
        "torch.where(rate.mean(0) > free_bits",
        "torch.where(rate > free_bits",
        OBJECTIVES,
    ),
    Mutant(
        "log K forgotten",
        "objectives.py",
        "a.logsumexp(-2) - math.log(a.shape[-2])",
        "a.logsumexp(-2)",
        OBJECTIVES,
    ),
    Mutant(
        "IWAE: mean of logs instead of log of mean",
        "objectives.py",
        "bound = log_mean_exp(draw.log_weight)\n        return _bound(draw, bound.detach(), bound)",
        "bound = draw.log_weight.mean(0)\n        return _bound(draw, bound.detach(), bound)",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: weights of the wrong sign (PyTorch-VAE)",
        "objectives.py",
        "log_weight.detach().softmax(0)",
        "(-log_weight.detach()).softmax(0)",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: weights not detached (PyTorch-VAE)",
        "objectives.py",
        "log_weight.detach().softmax(0)",
        "log_weight.softmax(0)",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: mean for sum",
        "objectives.py",
        "(weight * log_weight).sum(0)",
        "(weight * log_weight).mean(0)",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: the surrogate reported as the value (pythae)",
        "objectives.py",
        "_bound(draw, log_mean_exp(log_weight).detach(), (weight",
        "_bound(draw, (weight * log_weight).sum(0).detach(), (weight",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: hook forgotten",
        "objectives.py",
        "lambda gradient: weight[..., None] * gradient",
        "lambda _: None",
        OBJECTIVES,
    ),
    Mutant(
        "posterior not stopped",
        "model.py",
        "with frozen(self.posterior), replaying(before):",
        "with replaying(before):",
        OBJECTIVES,
    ),
    Mutant(
        "score function: weights not detached",
        "objectives.py",
        "elbo = draw.elbo.detach()\n        baseline",
        "elbo = draw.elbo\n        baseline",
        OBJECTIVES,
    ),
    Mutant(
        "score function: biased baseline (includes its own sample)",
        "objectives.py",
        "baseline = (elbo.sum(0) - elbo) / (self.num_samples - 1)",
        "baseline = elbo.mean(0)",
        OBJECTIVES,
    ),
    Mutant(
        "score function: decoder never trained",
        "objectives.py",
        "* draw.log_posterior + draw.log_joint)",
        "* draw.log_posterior)",
        OBJECTIVES,
    ),
    Mutant(
        "VIMCO: arithmetic mean of the other weights",
        "objectives.py",
        "others = (log_weight.sum(0) - log_weight) / (self.num_samples - 1)",
        "others = ((log_weight.exp().sum(0) - log_weight.exp()) / (self.num_samples - 1)).log()",
        OBJECTIVES,
    ),
    Mutant(
        "VIMCO: own weight kept",
        "objectives.py",
        "log_mean_exp(torch.where(own, others, log_weight))",
        "log_mean_exp(torch.where(own, log_weight, log_weight))",
        OBJECTIVES,
    ),
    # --- The model and its distributions ----------------------------------------------------------------------------------
    Mutant(
        "prior dropped from the joint",
        "model.py",
        "return self.log_likelihood + self.log_prior",
        "return self.log_likelihood",
        OBJECTIVES,
    ),
    Mutant(
        "samples: the decoder's mean instead of a draw (pythae)",
        "model.py",
        "self.decode(prior.sample(torch.Size((num_samples,))), context).sample()",
        "self.decode(prior.sample(torch.Size((num_samples,))), context).mean",
        OBJECTIVES,
    ),
    Mutant(
        "Normal: Jacobian forgotten",
        "likelihoods/reals.py",
        "scale = self.data_scale * (self.min_scale + positive(own))",
        "scale = self.min_scale + positive(own)",
        LIKELIHOODS,
    ),
    Mutant(
        "Bernoulli: probabilities taken for logits (pythae)",
        "likelihoods/levels.py",
        "made = distributions.Bernoulli(logits=logits,",
        "made = distributions.Bernoulli(logits=logits.sigmoid(),",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: one level too few",
        "likelihoods/levels.py",
        "return log_frequencies.shape[-1]",
        "return log_frequencies.shape[-1] - 1",
        LIKELIHOODS,
    ),
    Mutant(
        "mixture: weights not normalised",
        "likelihoods/levels.py",
        "        return Observed(mixture, self.event_dims, self.low)",
        "        mixture.log_prob = lambda x: (parts.log_prob(x[..., None]) + "
        "logits).logsumexp(-1)\n"
        "        return Observed(mixture, self.event_dims, self.low)",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: lowest level forgotten in the mass",
        "distributions/levels.py",
        "level = (value - self.low).long()",
        "level = value.long()",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: lowest level forgotten in the draw",
        "distributions/levels.py",
        "(super().sample(sample_shape) + self.low)",
        "super().sample(sample_shape)",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: end levels without their tails",
        "distributions/levels.py",
        "log_below = torch.where(inside >= self.high, 0.0, functional.logsigmoid(upper))",
        "log_below = functional.logsigmoid(upper)",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: constant dropped",
        "distributions/levels.py",
        "log_below + log_above + torch.where(inner, log_width, ends)",
        "log_below + log_above",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: edges off by half a level",
        "distributions/levels.py",
        "upper = (inside + 0.5 - self.loc) / self.scale\n        lower = (inside - 0.5 - self.loc)",
        "upper = (inside + 1.0 - self.loc) / self.scale\n        lower = (inside - self.loc)",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: what lies beyond an end sums to more than its share",
        "distributions/levels.py",
        "(distance * (distance + 1) * (distance + 2)).log()",
        "(distance * (distance + 1)).log()",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: a half has the mass of a level",
        "distributions/levels.py",
        "torch.where(value == whole, 1 - OUTSIDE, OUTSIDE)",
        "torch.where(value == whole, 1 - OUTSIDE, 1.0)",
        LIKELIHOODS,
    ),
    Mutant(
        "log-normal: the density below zero falls too slowly to integrate to its share",
        "distributions/reals.py",
        "- 3 * functional.softplus((-value)",
        "- 2 * functional.softplus((-value)",
        FAMILY_TESTS,
    ),
    Mutant(
        "a whole column of new levels passes as missing",
        "data/tables/codes.py",
        "if MANY <= unseen.sum() == (place >= 0).sum():",
        "if False:",
        COLUMNS,
    ),
    Mutant(
        "truth values: false is 1",
        "data/tables/codes.py",
        '(False, "0 false f no n"), (True, "1 true t yes y")',
        '(False, "0 false f no n"), (True, "1 true t yes"), (False, "y")',
        COLUMNS,
    ),
    Mutant(
        "every row has the noise of the first one",
        "evidence/own.py",
        "state = self.keys[None, :, None] +",
        "state = self.keys[None, :1, None] + 0 * self.keys[None, :, None] +",
        "tests/test_estimator.py::test_own_noise_is_uniform_and_independent_within_rows_and_between_them",
    ),
    Mutant(
        "the second batch of noise is the first one again",
        "evidence/own.py",
        "self.count += num_samples * size",
        "self.count = 0",
        "tests/test_estimator.py::test_own_noise_is_uniform_and_independent_within_rows_and_between_them",
    ),
    Mutant(
        "noise of a full covariance is scaled by its diagonal alone",
        "evidence/own.py",
        "(base.scale_tril @ z[..., None])[..., 0]\n    )",
        "base.scale_tril.diagonal(dim1=-2, dim2=-1) * z)",
        "tests/test_estimator.py::test_own_noise_gives_the_log_evidence_of_a_linear_model",
    ),
    Mutant(
        "rows that few samples tell badly get no more",
        "evidence/own.py",
        "if more.any():",
        "if False:",
        "tests/test_estimator.py::test_rows_that_few_samples_tell_well_get_no_more_and_the_others_all",
    ),
    Mutant(
        "an impossible value costs nothing",
        "estimator.py",
        "scores[list(new.impossible)] = -np.inf",
        "scores[list(new.impossible)] = 0.0",
        "tests/test_estimator.py::test_what_is_impossible_is_minus_infinity_and_said",
    ),
    Mutant(
        "the encoder sees minus infinity for a zero among positive numbers",
        "features.py",
        "torch.where(shifted > 0, shifted, torch.nan).log()",
        "shifted.log()",
        "tests/test_survivors.py",
    ),
    Mutant(
        "standardizing forgets the mean",
        "features.py",
        "(numbers - self.loc) / self.scale).nan",
        "(numbers - 0) / self.scale).nan",
        INSTANCES,
    ),
    Mutant(
        "ground truth: standard deviation for variance",
        "problems.py",
        "w @ w.T + sigma**2 * eye",
        "w @ w.T + sigma * eye",
        PROBLEMS,
    ),
    Mutant(
        "ground truth: constant dropped",
        "problems.py",
        "d * math.log(2 * math.pi) + log_det + d",
        "log_det + d",
        PROBLEMS,
    ),
    # --- Evidence ---------------------------------------------------------------------------------------------------------
    Mutant(
        "evidence: in training mode",
        "use/blocks.py",
        "    with evaluating(model):\n",
        "    if model.train():\n",
        EVIDENCE,
    ),
    Mutant(
        "evidence: last block lost",
        "use/blocks.py",
        "range(0, max(len(x), 1), size)",
        "range(0, max(1, len(x) - size + 1), size)",
        EVIDENCE,
    ),
    Mutant(
        "evidence: the same noise in every block",
        "use/blocks.py",
        "stream(seed, name, block.number) if name",
        "stream(seed, name) if name",
        EVIDENCE,
    ),
    Mutant(
        "mean over data: standard deviation for its error",
        "evidence/results.py",
        "float(deviation.square().sum().sqrt() / n * math.sqrt(count / (count - 1)))",
        "float(values.std())",
        EVIDENCE,
    ),
    Mutant(
        "mean over data: errors added, not their squares",
        "evidence/results.py",
        "float(mc_errors.square().sum().sqrt() / n)",
        "float(mc_errors.sum() / n)",
        EVIDENCE,
    ),
    # --- Data and what is taken from them ---------------------------------------------------------------------------------
    Mutant(
        "statistics: N - 1 for N",
        "build/statistics.py",
        "total(lambda b: (b - loc).square()) / count",
        "total(lambda b: (b - loc).square()) / (count - 1)",
        BUILD,
    ),
    Mutant(
        "statistics: variance for standard deviation",
        "build/statistics.py",
        "        variance.sqrt().to(dtype)",
        "        variance.to(dtype)",
        BUILD,
    ),
    Mutant(
        "baseline: frequencies not smoothed",
        "build/statistics.py",
        "return (counts + extra) / (count[..., None] + extra * schema.num_levels)",
        "return counts / count[..., None]",
        BUILD,
    ),
    Mutant(
        "split: by position instead of hash",
        "data/split.py",
        "_, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)",
        "group, sizes = np.arange(len(hashes)), np.ones(len(hashes), int)",
        DATA,
    ),
    Mutant(
        "split: copies of a row on both sides",
        "data/split.py",
        "_, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)",
        "group, sizes = hashes.argsort().argsort(), np.ones(len(hashes), int)",
        DATA,
    ),
    Mutant(
        "split: rows that repeat by nature stay together",
        "data/split.py",
        "elif parts and by is None and by_nature:",
        "elif parts and by is None and False:",
        DATA,
    ),
    Mutant(
        "split: the test part has the first copies and not its share of each row",
        "data/split.py",
        "chosen = steps[1:] > steps[:-1]",
        "chosen = np.arange(len(loose)) < steps[-1]",
        DATA,
    ),
    Mutant(
        "split: validation has its share of what the test part left",
        "data/split.py",
        "left = len(hashes) - (wanted_test if number == 1 else 0)",
        "left = len(hashes)",
        DATA,
    ),
    Mutant(
        "test-set error: copies that were drawn one by one count as one",
        "runs/measure.py",
        "groups[single] = len(rows) + np.arange(single.sum())",
        "pass",
        EVIDENCE,
    ),
    Mutant(
        "binarize: a tie of the first byte is a 0",
        "data/bits.py",
        "bits[row, column] = (state",
        "bits[row, column] = 0 * (state",
        DATA,
    ),
    Mutant(
        "binarize: ties of a row decided by one number",
        "data/bits.py",
        " + (column + 1).astype(np.uint64) *",
        " + np.ones_like(column).astype(np.uint64) *",
        DATA,
    ),
    Mutant(
        "binarize: ties decided by numbers that follow each other",
        "data/bits.py",
        "for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):",
        "for shift, factor in ((30, 0xBF58476D1CE4E5B9),):",
        DATA,
    ),
    Mutant(
        "binarize: test set drawn anew each time",
        "data/bits.py",
        "return draw_bits(grey, torch.Generator().manual_seed(own)).to(torch.uint8)",
        "return draw_bits(grey).to(torch.uint8)",
        DATA,
    ),
    Mutant(
        "binarize: training set drawn once",
        "training/loop.py",
        'x = batch(data.train, index, data.binarize == "dynamic")',
        'x = batch(data.train, index, data.binarize == "dynamic", generator(0, "bits"))',
        LOOP,
    ),
    Mutant(
        "k-hat: of the losses (arviz-stats' sign)",
        "evidence/pareto.py",
        "(ordered - ordered[-1]).exp()",
        "(ordered[0] - ordered).exp().flip(0)",
        PARETO,
    ),
    Mutant(
        "k-hat: not drawn toward one half",
        "evidence/pareto.py",
        "(m * k + 10 * 0.5) / (m + 10)",
        "k",
        PARETO,
    ),
    Mutant(
        "k-hat: equal weights are not exact",
        "evidence/pareto.py",
        "ordered[-1] - ordered[0] <= rounding",
        "ordered[-1] < ordered[0]",
        PARETO,
    ),
    Mutant(
        "k-hat: threshold by the natural logarithm",
        "evidence/pareto.py",
        "math.log10(num_samples)",
        "math.log(num_samples)",
        PARETO,
    ),
    Mutant(
        "model: another dropout mask when q is evaluated again",
        "model.py",
        "with frozen(self.posterior), replaying(before):",
        "with frozen(self.posterior):",
        OBJECTIVES,
    ),
    Mutant(
        "model: a forgotten Independent broadcasts",
        "model.py",
        "if found != shape:",
        "if found == ():",
        OBJECTIVES,
    ),
    Mutant(
        "test-set error: copies of a row count as data",
        "evidence/results.py",
        "if groups is not None:",
        "if False:",
        EVIDENCE,
    ),
    Mutant(
        "test-set error: of the data and not of their mean",
        "evidence/results.py",
        ".sum().sqrt() / n * math",
        ".sum().sqrt() / n**0.5 * math",
        EVIDENCE,
    ),
    Mutant(
        "support: test data not checked",
        "build/checks.py",
        "(dataset.train, dataset.validation, dataset.test)",
        "(dataset.train, dataset.validation)",
        BUILD,
    ),
    Mutant(
        "continuous Bernoulli: not normalised",
        "distributions/reals.py",
        "a.log() - torch.log(-torch.expm1(-a))",
        "a.log()",
        LIKELIHOODS,
    ),
    Mutant(
        "baseline: pseudo-count by the fit and not by what is left out",
        "build/statistics.py",
        "(counts - 1 + extra).log()",
        "(counts + extra).log()",
        BUILD,
    ),
    Mutant(
        "evidence: a few samples called reliable",
        "evidence/results.py",
        " & (self.khat < math.inf)",
        "",
        EVIDENCE,
    ),
    Mutant(
        "loop: a value that is not finite is counted",
        "training/step.py",
        " & torch.isfinite(value)\n        # The fused",
        "\n        # The fused",
        LOOP,
    ),
    # --- Training ---------------------------------------------------------------------------------------------------------
    Mutant(
        "loop: wrong sign",
        "training/step.py",
        "loss, value = -bound.surrogate.mean(), bound.value.mean()\n            loss.backward()",
        "loss, value = bound.surrogate.mean(), bound.value.mean()\n            loss.backward()",
        LOOP,
    ),
    Mutant(
        "loop: sum for mean",
        "training/step.py",
        "loss, value = -bound.surrogate.mean(), bound.value.mean()\n            loss.backward()",
        "loss, value = -bound.surrogate.sum(), bound.value.mean()\n            loss.backward()",
        LOOP,
    ),
    Mutant(
        "loop: gradients pile up", "training/step.py", "self.optimizer.zero_grad()", "pass", LOOP
    ),
    Mutant(
        "loop: the same order in every epoch",
        "training/loop.py",
        'generator(seed, "order", epoch)',
        'generator(seed, "order")',
        LOOP,
    ),
    Mutant(
        "loop: last short batch dropped",
        "training/loop.py",
        "epoch, start = divmod(step * size, len(data))",
        "epoch, start = step // (len(data) // size), step % (len(data) // size) * size",
        LOOP,
    ),
    Mutant(
        "loop: the same noise in every interval",
        "training/loop.py",
        'set_seed(derive(config.seed, "step", step))',
        'set_seed(derive(config.seed, "step", step - state.step))',
        LOOP,
    ),
    Mutant(
        "loop: another noise in another process",
        "training/loop.py",
        'set_seed(derive(config.seed, "step", step))',
        'set_seed(derive(config.seed + __import__("os").getpid(), "step", step))',
        LOOP,
    ),
    Mutant(
        "loop: non-finite step not skipped",
        "training/step.py",
        "optimizer.found_inf = (~finite)",
        "optimizer.found_inf = torch.zeros_like(finite)",
        LOOP,
    ),
    Mutant(
        "loop: clip not applied",
        "training/step.py",
        "grad_scale = (norm / self.config.clip_norm)",
        "grad_scale = torch.ones_like(norm)",
        LOOP,
    ),
    Mutant(
        "loop: rollback at the same rate",
        "training/loop.py",
        "state.lr_scale /= 2",
        "state.lr_scale /= 1",
        LOOP,
    ),
    Mutant(
        "loop: rollback without the weights",
        "training/loop.py",
        "    _restore(state.tensors, learner)\n    state.rollbacks += 1",
        "    state.rollbacks += 1",
        LOOP,
    ),
    Mutant(
        "loop: decay of the running average swapped",
        "training/step.py",
        "_foreach_lerp_(self.averaged, list(self.trainable), 1 - decay)",
        "_foreach_lerp_(self.averaged, list(self.trainable), decay)",
        LOOP,
    ),
    Mutant(
        "loop: buffers of the average left behind",
        "training/step.py",
        "kept.copy_(buffer)",
        "pass",
        LOOP,
    ),
    Mutant(
        "validation: in training mode",
        "training/loop.py",
        "with torch.no_grad(), evaluating(model):",
        "with torch.no_grad():",
        LOOP,
    ),
    Mutant(
        "validation: last batch lost",
        "training/loop.py",
        "in_order(range(0, len(x), size), compute)",
        "in_order(range(0, max(1, len(x) - size), size), compute)",
        LOOP,
    ),
    Mutant(
        "validation: mean of batch means (pythae, scVI)",
        "training/loop.py",
        "return float(wide(bound.value).sum()), float",
        "return float(wide(bound.value).mean()) * len(x) / len(x.split(size)), float",
        LOOP,
    ),
    Mutant(
        "validation: new noise at each call",
        "training/loop.py",
        'stream(seed, "validation", number), ',
        "",
        LOOP,
    ),
    Mutant(
        "best weights: by the value and not by what is maximised",
        "training/loop.py",
        "progress >= warm and target > state.best_target",
        "progress >= warm and validation > state.best_target",
        LOOP,
    ),
    Mutant(
        "best weights: not restored",
        "training/loop.py",
        '_part(state.tensors, "best.") or _part(state.tensors, "average.")',
        '_part(state.tensors, "average.")',
        LOOP,
    ),
    Mutant(
        "early stopping: does not wait for the warm-up",
        "training/loop.py",
        "max(state.best_step, warm * state.total_steps)",
        "state.best_step",
        LOOP,
    ),
    Mutant(
        "checkpoint: without the moments of the optimizer",
        "training/loop.py",
        'tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}',
        "pass",
        LOOP,
    ),
    Mutant(
        "randomness of the user not given back",
        "system/seeds.py",
        "    finally:\n        set_generator_states(before)",
        "    finally:\n        pass",
        LOOP,
    ),
    # --- The run ----------------------------------------------------------------------------------------------------------
    Mutant(
        "run: seed set after initialisation (pythae)",
        "runs/assemble.py",
        '        stream(config.training.seed, "init"),\n',
        "",
        RUN + "::test_the_same_seed_gives_the_same_bits_and_another_does_not",
    ),
    Mutant(
        "run: measured on the validation data",
        "runs/measure.py",
        '("test", "validation")',
        '("validation",)',
        RUN + "::test_what_is_measured",
    ),
    Mutant(
        "run: bits per dimension without log 2",
        "evidence/results.py",
        "unit = num_elements * math.log(2)",
        "unit = num_elements",
        EVIDENCE,
    ),
    Mutant(
        "manifest not checked",
        "system/storage.py",
        "if _sha256(content) not in _sums(manifest, path.name):",
        "if not manifest:",
        STORAGE,
    ),
    # --- Importance sampling, its curve and its tail ---------------------------------------------------------------------
    Mutant(
        "evidence: encoder run for each chunk of samples (pythae, NVAE)",
        "evidence/importance.py",
        "reparameterize=False, proposal=proposal, given=own.of(z)",
        "reparameterize=False, given=own.of(z)",
        EVIDENCE,
    ),
    Mutant(
        "evidence: later chunks in the place of the second",
        "evidence/importance.py",
        "dtype).eps, last",
        "dtype).eps, len(draw.z)",
        EVIDENCE,
    ),
    Mutant(
        "ESS: K in place of its formula",
        "evidence/importance.py",
        "1 / share.square().sum(0), 0.0)",
        "float(k), 0.0)",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: K for K - 1",
        "evidence/importance.py",
        "values.std(0) / math.sqrt(len(values))",
        "values.std(0, correction=0) / math.sqrt(len(values))",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: variance for standard error",
        "evidence/importance.py",
        "relative = (_error(influence).square() + unseen).sqrt()",
        "relative = _error(influence).square() + unseen",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: of the terms instead of their mean",
        "evidence/importance.py",
        "values.std(0) / math.sqrt(len(values))",
        "values.std(0)",
        EVIDENCE + "::test_monte_carlo_errors_are_those_of_repetition",
    ),
    Mutant(
        "gap error: covariance ignored",
        "evidence/importance.py",
        "(_error(second).square() + torch",
        "(_error(influence).square() + _error(log_w).square() + torch",
        EVIDENCE,
    ),
    Mutant(
        "k-hat: tail of the first chunk alone",
        "evidence/importance.py",
        "largest = weight.topk(",
        "largest = weight[: max(512, tail_length(k) + 1)].topk(",
        PARETO,
    ),
    Mutant(
        "weights: the likelihood alone, whatever the proposal",
        "evidence/importance.py",
        "log_w = log_likelihood + log_prior - log_proposal",
        "log_w = log_likelihood",
        EVIDENCE,
    ),
    Mutant(
        "naive Monte Carlo: from the posterior after all",
        "evidence/importance.py",
        "prior = model.latent_prior(model.split(x, context)[1])",
        "prior = model.encode(x, context)",
        EVIDENCE,
    ),
    Mutant(
        "curve: number and size of the groups swapped",
        "evidence/importance.py",
        "unflatten(0, (-1, size))",
        "unflatten(0, (size, -1))",
        EVIDENCE,
    ),
    Mutant(
        "curve: the first group alone",
        "evidence/importance.py",
        "log_w[: len(log_w) // size * size]",
        "log_w[:size]",
        EVIDENCE,
    ),
    Mutant(
        "curve: mean of the log-weights of each group",
        "evidence/importance.py",
        "bounds = log_mean_exp(groups)",
        "bounds = groups.mean(1)",
        EVIDENCE + "::test_the_curve_of_bounds_is_unbiased_and_rises",
    ),
    Mutant(
        "curve: no error for the last point",
        "evidence/importance.py",
        "[*curve_error[:-1], log_evidence_error]",
        "[*curve_error]",
        EVIDENCE,
    ),
    Mutant(
        "tail surplus: left out",
        "evidence/importance.py",
        "relative = (_error(influence).square() + unseen).sqrt()",
        "relative = _error(influence)",
        EVIDENCE
        + "::test_the_interval_covers_the_truth_where_the_variance_of_the_weights_is_infinite",
    ),
    Mutant(
        "tail surplus: the unit not squared",
        "evidence/importance.py",
        "unseen = tail_surplus(largest) * unit.square()",
        "unseen = tail_surplus(largest) * unit",
        EVIDENCE,
    ),
    Mutant(
        "k-hat: a weight that stands alone has the shape of the zeros beside it",
        "evidence/pareto.py",
        "torch.where(_alone(ordered), math.inf, k)",
        "k",
        PARETO,
    ),
    Mutant(
        "Monte Carlo error: one row is off by millions of nats",
        "evidence/importance.py",
        "return torch.where(relative > 1, 1 + relative.clamp_min(1).log(), relative)",
        "return relative",
        EVIDENCE,
    ),
    Mutant(
        "tail surplus: added to the standard error",
        "evidence/importance.py",
        "relative = (_error(influence).square() + unseen).sqrt()",
        "relative = _error(influence) + unseen",
        EVIDENCE,
    ),
    Mutant(
        "tail surplus: a lighter tail makes the error smaller",
        "evidence/pareto.py",
        "(m * square - tail.square().sum(1)).clamp_min(0)",
        "(m * square - tail.square().sum(1))",
        PARETO,
    ),
    Mutant(
        "tail surplus: the tail ends where the sample does",
        "evidence/pareto.py",
        "-math.log(BEYOND * m)",
        "-math.log(m)",
        PARETO,
    ),
    Mutant(
        "tail surplus: no limit of the shape",
        "evidence/pareto.py",
        "k = k.clamp_max(WORST)",
        "k = k.clamp_max(math.inf)",
        PARETO,
    ),
    Mutant(
        "tail surplus: in units of the cutoff",
        "evidence/pareto.py",
        "(ordered[1:] - ordered[-1]).exp()",
        "(ordered[1:] - ordered[0]).exp()",
        PARETO,
    ),
    Mutant(
        "information: of the proposal",
        "evidence/importance.py",
        "torch.where(share > 0, share * log_likelihood, 0.0).sum(0)",
        "log_likelihood.mean(0)",
        EVIDENCE,
    ),
    Mutant(
        "information: of the wrong sign",
        "evidence/importance.py",
        "torch.where(share > 0, share * log_likelihood, 0.0).sum(0) - log_evidence",
        "log_evidence - torch.where(share > 0, share * log_likelihood, 0.0).sum(0)",
        EVIDENCE + "::test_information_is_the_rate_of_the_exact_posterior",
    ),
    Mutant(
        "mean of the samples: divided by those of a chunk",
        "evidence/importance.py",
        "mean = z_sum / num_samples",
        "mean = z_sum / step",
        EVIDENCE + "::test_a_posterior_without_a_mean_has_that_of_its_samples",
    ),
    Mutant(
        "bits per dimension: of the wrong sign",
        "evidence/results.py",
        'bits["value"] = -bits["value"]',
        "pass",
        EVIDENCE,
    ),
    # --- Annealing -------------------------------------------------------------------------------------------------------
    Mutant(
        "rows: a posterior that collapses",
        "posteriors.py",
        "positive(raw) + min_scale * (1 + loc.abs())",
        "positive(raw)",
        ROWS + "::test_no_posterior_collapses_and_its_density_is_stable",
    ),
    Mutant(
        "rows: a floor that does not know the distance",
        "posteriors.py",
        "min_scale * (1 + loc.abs())",
        "min_scale",
        ROWS + "::test_the_floor_is_in_units_of_the_prior_and_of_the_distance",
    ),
    Mutant(
        "rows: a factor without bounds",
        "posteriors.py",
        "lower / (1 + (lower / limit).square()).sqrt()",
        "lower",
        ROWS + "::test_no_posterior_collapses_and_its_density_is_stable",
    ),
    Mutant(
        "rows: equal samples are evidence",
        "evidence/importance.py",
        "torch.where(sound | khat.isnan(), khat, math.inf)",
        "khat",
        ROWS + "::test_a_point_is_no_good_proposal_however_equal_its_weights",
    ),
    Mutant(
        "rows: the prior's share without its density",
        "evidence/importance.py",
        "torch.logaddexp(own + math.log1p(-self.share), prior + math.log(self.share))",
        "own + math.log1p(-self.share)",
        ROWS + "::test_a_share_of_the_prior_bounds_the_weights_and_keeps_them_unbiased",
    ),
    Mutant(
        "rows: the rest of a share always dropped",
        "evidence/importance.py",
        "int(count * self.share + float(torch.rand(())))",
        "int(count * self.share)",
        ROWS + "::test_a_share_of_the_prior_bounds_the_weights_and_keeps_them_unbiased",
    ),
    Mutant(
        "rows: one without a number blanks the mean",
        "evidence/results.py",
        "known = values.isfinite()\n        without",
        "known = torch.ones_like(values, dtype=torch.bool)\n        without",
        ROWS + "::test_a_row_without_a_number_is_counted_and_named_and_blanks_nothing",
    ),
    Mutant(
        "rows: the best climb first",
        "evidence/rows.py",
        "badness.argsort(descending=True",
        "badness.argsort(descending=False",
        ROWS + "::test_the_budget_is_kept_and_the_worst_rows_climb_first",
    ),
    Mutant(
        "HMC: the momentum goes down first",
        "evidence/annealing.py",
        "momentum = momentum + 0.5 * size * scale * new.gradient(beta)\n        u =",
        "momentum = momentum - 0.5 * size * scale * new.gradient(beta)\n        u =",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "HMC: the first half step is whole",
        "evidence/annealing.py",
        "momentum = momentum + 0.5 * size * scale * new.gradient(beta)\n        u =",
        "momentum = momentum + size * scale * new.gradient(beta)\n        u =",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "HMC: the last half step forgotten",
        "evidence/annealing.py",
        "point.u, u))\n        momentum = momentum + 0.5 * size",
        "point.u, u))\n        momentum = momentum + 0.0 * size",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "HMC: acceptance without the kinetic energy",
        "evidence/annealing.py",
        "log_ratio = new.log_density(beta) - 0.5 * momentum.square().sum(-1) - start",
        "log_ratio = new.log_density(beta) - point.log_density(beta)",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "HMC: everything accepted",
        "evidence/annealing.py",
        "accepted = (torch.rand_like(log_ratio).log() < log_ratio) & ~left",
        "accepted = log_ratio.isfinite()",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "HMC: energies of a step rejected are kept",
        "evidence/annealing.py",
        "return _choose(accepted, new, point), accepted",
        "return _choose(accepted, new, point)._replace(log_joint=new.log_joint), accepted",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "HMC: at another temperature",
        "evidence/annealing.py",
        "return (1 - beta) * self.log_start + beta * self.log_joint",
        "return self.log_joint",
        ANNEALING + "::test_transitions_leave_their_density_invariant",
    ),
    Mutant(
        "AIS: weights at the new point",
        "evidence/annealing.py",
        "            log_w += (beta - before) * wide(point.energy)\n"
        "            if beta < 1:\n"
        "                point, accepted = _transition(path, point, beta, step, scale)\n"
        "                acceptance += wide(accepted)\n",
        "            if beta < 1:\n"
        "                point, accepted = _transition(path, point, beta, step, scale)\n"
        "                acceptance += wide(accepted)\n"
        "            log_w += (beta - before) * wide(point.energy)\n",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: reverse updates the weight before it moves",
        "evidence/annealing.py",
        "            point, accepted = _transition(path, point, beta, step, scale)\n"
        "            acceptance += wide(accepted)\n"
        "            log_w += (beta - before) * wide(point.energy)\n",
        "            log_w += (beta - before) * wide(point.energy)\n"
        "            point, accepted = _transition(path, point, beta, step, scale)\n"
        "            acceptance += wide(accepted)\n",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: reverse goes up the temperatures",
        "evidence/annealing.py",
        "in reversed(temperatures)",
        "in temperatures",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: reverse without its sign",
        "evidence/annealing.py",
        'direction, sign = "upper", -1',
        'direction = "upper"',
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: reverse from draws of q",
        "evidence/annealing.py",
        "path.at(path.transform.inv(exact).expand(num_chains, -1, -1))",
        "path.draw(num_chains)",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: mean of the logarithms",
        "evidence/annealing.py",
        "log_mean = log_mean_exp(sign * log_w)",
        "log_mean = (sign * log_w).mean(0)",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: the prior dropped from the joint",
        "evidence/annealing.py",
        "self.decode(z).log_prob(self.x) + self.prior.log_prob(z) + jacobian",
        "self.decode(z).log_prob(self.x) + jacobian",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    Mutant(
        "AIS: Jacobian of the transform missing",
        "evidence/annealing.py",
        "jacobian = self.transform.log_abs_det_jacobian(u, z)",
        "jacobian = 0.0 * self.transform.log_abs_det_jacobian(u, z)",
        ANNEALING + "::test_latent_variables_with_a_boundary",
    ),
    Mutant(
        "AIS: Jacobian in the start alone",
        "evidence/annealing.py",
        "self.prior.log_prob(z) + jacobian",
        "self.prior.log_prob(z)",
        ANNEALING + "::test_latent_variables_with_a_boundary",
    ),
    Mutant(
        "AIS: the run has the noise of its pilot",
        "evidence/annealing.py",
        'stream(derive(seed, "annealing"), direction, number)',
        'stream(seed, "pilot", number)',
        ANNEALING + "::test_a_run_follows_its_plan_with_noise_that_the_pilot_has_not_seen",
    ),
    Mutant(
        "AIS: steps are adapted in the run",
        "evidence/annealing.py",
        "                point, accepted = _transition(path, point, beta, step, scale)\n"
        "                acceptance += wide(accepted)\n",
        "                point, accepted = _transition(path, point, beta, step * (1 + "
        "acceptance.mean(0)) / 2, scale)\n"
        "                acceptance += wide(accepted)\n",
        ANNEALING + "::test_a_run_follows_its_plan_with_noise_that_the_pilot_has_not_seen",
    ),
    Mutant(
        "AIS: the start asked for is ignored",
        "evidence/annealing.py",
        '_fast(model.encode(*whole)) if start == "posterior" else self.prior',
        "_fast(model.encode(*whole))",
        ANNEALING + "::test_from_the_prior_the_posterior_does_not_matter",
    ),
    Mutant(
        "AIS: error of a chain instead of their mean",
        "evidence/annealing.py",
        ".div(chains).sqrt()",
        ".sqrt()",
        ANNEALING + "::test_the_error_is_that_of_repetition",
    ),
    Mutant(
        "AIS: error of chains that share their start",
        "evidence/annealing.py",
        'self.log_evidence_error if self.direction.startswith("lower") else None',
        "self.log_evidence_error",
        ANNEALING + "::test_in_reverse_only_the_scatter_over_data_is_an_error",
    ),
    Mutant(
        "AIS: temperatures equally spaced in beta",
        "evidence/annealing.py",
        "betas[i - 1] + share * (betas[i] - betas[i - 1])",
        "t / number",
        ANNEALING + "::test_temperatures_are_equally_spaced_in_length",
    ),
    Mutant(
        "AIS: T by the length and not its square",
        "evidence/annealing.py",
        "length**2 / VARIANCE",
        "length / VARIANCE",
        ANNEALING + "::test_temperatures_are_equally_spaced_in_length",
    ),
    Mutant(
        "AIS: length by the sum and not the mean of both ends",
        "evidence/annealing.py",
        "(beta - betas[-1]) * 0.5 * (speed + after)",
        "(beta - betas[-1]) * (speed + after)",
        ANNEALING + "::test_a_pilot_has_noise_of_its_own_and_chooses_by_thermodynamic_length",
    ),
    Mutant(
        "in evaluation mode for ever after",
        "model.py",
        "        module.train(was_training)\n",
        "        pass\n",
        ANNEALING + "::test_blocks_are_the_whole_and_leave_no_trace",
    ),
    Mutant(
        "AIS: chains that disagree are believed",
        "evidence/annealing.py",
        "(self.spread <= SPREAD) & ",
        "",
        ANNEALING + "::test_disagreeing_chains_are_not_reliable",
    ),
    Mutant(
        "simulated data: the decoder's mean instead of a draw",
        "evidence/annealing.py",
        "x.append(decoded.sample()[0])",
        "x.append(decoded.mean[0])",
        ANNEALING + "::test_weights_are_unbiased_in_both_directions",
    ),
    # --- The gaps --------------------------------------------------------------------------------------------------------
    Mutant(
        "gaps: the score term not stopped",
        "evidence/ascent.py",
        "{n: p.detach() for n, p in _parameters(current, detach=False).items()}",
        "_parameters(current, detach=False)",
        GAPS + "::test_the_best_posterior_is_a_fixed_point",
    ),
    Mutant(
        "gaps: steps in units of z",
        "evidence/ascent.py",
        'unit = old["scale"] if "scale" in old else base.stddev.detach()',
        "unit = 1.0",
        GAPS + "::test_the_unit_of_z_does_not_matter",
    ),
    Mutant(
        "gaps: steps of a full Gaussian in units of z",
        "evidence/ascent.py",
        "new[name] = p + (factor @ m[..., None])[..., 0]",
        "new[name] = p + m",
        GAPS + "::test_the_unit_of_z_does_not_matter",
    ),
    Mutant(
        "gaps: amortization and approximation swapped",
        "evidence/gaps.py",
        '"approximation_gap": difference(*log_p, *best),\n            "amortization_gap": '
        "difference(*best, *elbo),",
        '"approximation_gap": difference(*best, *elbo),\n            "amortization_gap": '
        "difference(*log_p, *best),",
        GAPS + "::test_both_gaps_are_their_closed_forms",
    ),
    Mutant(
        "gaps: Monte Carlo errors added",
        "evidence/gaps.py",
        "(a_error.square() + b_error.square()).sqrt()",
        "a_error + b_error",
        GAPS + "::test_errors_are_paired_and_those_of_repetition",
    ),
    Mutant(
        "gaps: errors of the means as if over different data",
        "evidence/gaps.py",
        "return Estimate.of(a - b, (a_error.square() + b_error.square()).sqrt(), groups)",
        "p, q = Estimate.of(a, a_error, groups), Estimate.of(b, b_error, groups)\n"
        "            test = ((p.test_error or 0.0) ** 2 + (q.test_error or 0.0) ** 2) ** 0.5\n"
        "            noise = ((p.mc_error or 0.0) ** 2 + (q.mc_error or 0.0) ** 2) ** 0.5\n"
        "            return Estimate(p.value - q.value, noise, test)",
        GAPS + "::test_errors_are_paired_and_those_of_repetition",
    ),
    Mutant(
        "best evidence: always the largest",
        "evidence/gaps.py",
        "(known.int() + reliable.int()).argmax(0, keepdim=True)",
        "values.argmax(0, keepdim=True)",
        GAPS + "::test_the_most_reliable_estimate_is_chosen",
    ),
    Mutant(
        "best evidence: the smallest error, reliable or not",
        "evidence/gaps.py",
        "(known.int() + reliable.int()).argmax(0, keepdim=True)",
        "errors.argmin(0, keepdim=True)",
        GAPS + "::test_the_most_reliable_estimate_is_chosen",
    ),
    Mutant(
        "best evidence: the last one, reliable or not",
        "evidence/gaps.py",
        "(known.int() + reliable.int()).argmax(0, keepdim=True)",
        "(known.int() + reliable.int()).argmin(0, keepdim=True)",
        GAPS + "::test_the_most_reliable_estimate_is_chosen",
    ),
    Mutant(
        "gaps: the rebuilt member is not Independent",
        "evidence/ascent.py",
        "return Independent(member, q.reinterpreted_batch_ndims, validate_args=False)",
        "return member",
        GAPS + "::test_both_gaps_are_their_closed_forms",
    ),
    Mutant(
        "gaps: the optimum of other data as proposal",
        "evidence/gaps.py",
        "return members(best.q, rows)",
        "return members(best.q, slice(0, len(x)))",
        GAPS + "::test_both_gaps_are_their_closed_forms",
    ),
    Mutant(
        "gaps: the encoder's q is measured, not the optimum",
        "evidence/gaps.py",
        "context=c, seed=own_seed, proposal=proposal",
        "context=c, seed=own_seed",
        GAPS + "::test_both_gaps_are_their_closed_forms",
    ),
    Mutant(
        "gaps: the model is not frozen",
        "evidence/gaps.py",
        'stream(seed, "optimum", number), frozen(model):',
        'stream(seed, "optimum", number):',
        GAPS + "::test_blocks_are_the_whole_and_leave_no_trace",
    ),
    Mutant(
        "gaps: the end of a block, where its rate is zero, for the block",
        "evidence/ascent.py",
        "measured(x, context, (before, after), FRESH)",
        "measured(x, context, (after, after), FRESH)",
        GAPS + "::test_unreached_optima_and_unreliable_evidence_are_named",
    ),
    Mutant(
        "gaps: the encoder's q is the only start",
        "evidence/ascent.py",
        "for q, other in zip(candidates[1:], bounds[1:], strict=True):",
        "for q, other in zip(candidates[1:1], bounds[1:1], strict=True):",
        GAPS + "::test_the_optimum_is_found_from_far_away",
    ),
    Mutant(
        "gaps: both modes from the encoder's mean",
        "evidence/ascent.py",
        "torch.cat([mean[None], from_prior])",
        "torch.cat([mean[None], mean[None]])",
        GAPS + "::test_two_modes_are_both_seen",
    ),
    Mutant(
        "gaps: best posteriors are downhill",
        "evidence/ascent.py",
        "loss = -(draw.log_joint",
        "loss = (draw.log_joint",
        GAPS + "::test_both_gaps_are_their_closed_forms",
    ),
    # --- The latent space and the scale ----------------------------------------------------------------------------------
    Mutant(
        "latents: own component not left out",
        "evidence/latents.py",
        "log_prob.masked_fill(mine, -math.inf)",
        "log_prob",
        LATENTS + "::test_two_data_by_hand",
    ),
    Mutant(
        "latents: N for N - 1",
        "evidence/latents.py",
        "torch.tensor([n, n - 1]",
        "torch.tensor([n, n]",
        LATENTS + "::test_two_data_by_hand",
    ),
    Mutant(
        "latents: log N forgotten",
        "evidence/latents.py",
        "joint = joint - sizes[:, None]",
        "joint = joint - 0 * sizes[:, None]",
        LATENTS + "::test_two_data_by_hand",
    ),
    Mutant(
        "latents: information counted twice in the marginal KL",
        "evidence/latents.py",
        "Estimate.of(rate - v)",
        "Estimate.of(rate + v)",
        LATENTS + "::test_two_data_by_hand",
    ),
    Mutant(
        "latents: total correlation of the wrong sign",
        "evidence/latents.py",
        "joint - marginal.sum(1)",
        "marginal.sum(1) - joint",
        LATENTS
        + "::test_information_marginal_kl_and_total_correlation_are_their_closed_forms[False]",
    ),
    Mutant(
        "latents: the two sides of a dimension's KL swapped",
        "evidence/latents.py",
        "kl_divergence(marginals, prior.base_dist.expand(marginals.batch_shape))",
        "kl_divergence(prior.base_dist.expand(marginals.batch_shape), marginals)",
        LATENTS + "::test_dead_noisy_and_active_dimensions_are_told_apart",
    ),
    Mutant(
        "latents: dead and noisy swapped",
        "evidence/latents.py",
        "(rates.mean(0) < DEAD)",
        "(rates.mean(0) > DEAD)",
        LATENTS + "::test_dead_noisy_and_active_dimensions_are_told_apart",
    ),
    Mutant(
        "latents: block after block starts at the first component",
        "evidence/latents.py",
        "own = torch.arange(first, min(first + ROWS, n))",
        "own = torch.arange(0, min(ROWS, n - first))",
        LATENTS + "::test_each_datum_leaves_out_its_own_component_in_every_block",
    ),
    Mutant(
        "prior gain: on the data that it was fitted to",
        "evidence/latents.py",
        "gain = prior_gain(model, fit, measure, seed=seed)",
        "gain = prior_gain(model, fit, fit, seed=seed)",
        LATENTS + "::test_a_prior_is_not_measured_on_the_data_it_was_fitted_to",
    ),
    Mutant(
        "prior gain: one Gaussian whatever the data",
        "evidence/latents.py",
        "key=lambda m: float(m.score(choose))",
        "key=lambda m: -m.n_components",
        LATENTS + "::test_a_clustered_space_needs_more_than_one_gaussian",
    ),
    Mutant(
        "prior gain: the dimensions left alone are forgotten",
        "evidence/latents.py",
        "best.score_samples(z[:, used].numpy())) + rest - log_prior",
        "best.score_samples(z[:, used].numpy())) - log_prior",
        LATENTS + "::test_a_clustered_space_needs_more_than_one_gaussian",
    ),
    Mutant(
        "ranks: among one draw too many",
        "evidence/latents.py",
        "q.sample(torch.Size((RANKS,)))",
        "q.sample(torch.Size((RANKS + 1,)))",
        LATENTS + "::test_the_exact_posterior_is_calibrated",
    ),
    Mutant(
        "ranks: ties always below",
        "evidence/latents.py",
        "(torch.rand(ties.shape, device=device) * (ties + 1)).floor()",
        "0 * ties",
        LATENTS + "::test_discrete_posteriors_are_calibrated_too",
    ),
    Mutant(
        "ranks: not put right for their number",
        "evidence/latents.py",
        "share = 57 / 64",
        "share = 0.9",
        LATENTS + "::test_the_exact_posterior_is_calibrated",
    ),
    Mutant(
        "calibration: narrow and wide swapped",
        "evidence/latents.py",
        "if off < 0:",
        "if off > 0:",
        LATENTS + "::test_calibration_names_what_is_wrong",
    ),
    Mutant(
        "scale: measured on the data that it was fitted to",
        "evidence/scale.py",
        "fit, measure = square[::2], square[1::2]",
        "fit, measure = square, square",
        LATENTS + "::test_a_scale_is_not_measured_on_the_data_it_was_fitted_to",
    ),
    Mutant(
        "scale: the wrong sign of the logarithm",
        "evidence/scale.py",
        "- factor.log()",
        "+ factor.log()",
        LATENTS + "::test_a_scale_is_not_measured_on_the_data_it_was_fitted_to",
    ),
    Mutant(
        "scale: its inverse",
        "evidence/scale.py",
        "factor**-2",
        "factor**2",
        LATENTS + "::test_the_scale_of_a_normal_likelihood_is_checked_by_its_residuals",
    ),
    Mutant(
        "scale: the floor is never reached",
        "evidence/scale.py",
        "scale < NEAR * floor",
        "scale < floor",
        LATENTS + "::test_the_scale_of_a_normal_likelihood_is_checked_by_its_residuals",
    ),
    # --- Samples ---------------------------------------------------------------------------------------------------------
    Mutant(
        "balls: each point is its own nearest neighbour",
        "evidence/samples.py",
        "d.kthvalue(k + 1)",
        "d.kthvalue(k)",
        SAMPLES,
    ),
    Mutant(
        "balls: the jackknife's error of a mean",
        "evidence/samples.py",
        " * (count - 1) / count).sqrt()",
        " / count).sqrt()",
        SAMPLES,
    ),
    Mutant(
        "classifier: judged on what it learned from",
        "evidence/samples.py",
        "t[half:].numpy()",
        "t[:half].numpy()",
        SAMPLES,
    ),
    Mutant(
        "area: ties count for nothing",
        "evidence/samples.py",
        " + 0.5 * (a[:, None] == b).double()",
        "",
        SAMPLES,
    ),
    Mutant(
        "nearer: the training data find themselves",
        "evidence/samples.py",
        "area(-_nearest(reference, others),",
        "area(-_nearest(reference, train),",
        SAMPLES,
    ),
    Mutant(
        "nearest: products of far-off numbers cancel",
        "evidence/samples.py",
        "torch.cdist(block - centre, centred).argmin(1)",
        "torch.cdist(block, train).argmin(1)",
        SAMPLES,
    ),
    Mutant(
        "sharpness: the axis of the data taken for colour",
        "evidence/samples.py",
        "image.movedim(axis + 1, 1)",
        "image.movedim(axis, 1)",
        SAMPLES,
    ),
    Mutant(
        "sharpness: z* under the prior",
        "evidence/samples.py",
        "value = model.decode(z).log_prob(x)",
        "value = model.decode(z).log_prob(x) + model.prior().log_prob(z)",
        SAMPLES,
    ),
    # --- Gradients -------------------------------------------------------------------------------------------------------
    Mutant(
        "gradients: contrasts without their weight",
        "evidence/gradients.py",
        "share = (self.count - 1) / self.count",
        "share = 1.0",
        GRADIENTS,
    ),
    Mutant(
        "gradients: noise counted as signal",
        "evidence/gradients.py",
        "- self.variance.value / self.count,\n            math",
        " , math",
        GRADIENTS,
    ),
    Mutant(
        "gradients: the prior is not of the decoder",
        "model.py",
        "nn.ModuleList([self.likelihood, self.prior])",
        "nn.ModuleList([self.likelihood])",
        GRADIENTS,
    ),
    Mutant(
        "bias: the reference taken as exact",
        "evidence/gradients.py",
        " + b.var(0) / len(b)",
        "",
        GRADIENTS,
    ),
    Mutant(
        "bias: rounding taken for one", "evidence/gradients.py", " + rounding**2", "", GRADIENTS
    ),
    Mutant(
        "bias: the largest of many judged as one",
        "evidence/gradients.py",
        "len(z) * math.erfc",
        "math.erfc",
        GRADIENTS,
    ),
    Mutant(
        "gradients: the first one counted too",
        "evidence/gradients.py",
        "keep=number > 0",
        "keep=True",
        GRADIENTS,
    ),
    Mutant(
        "gradients: all estimators share their noise",
        "evidence/gradients.py",
        'f"gradients, {kind.name}", number',
        '"gradients", number',
        GRADIENTS,
    ),
    Mutant(
        "gradients: a baseline where there is none",
        "evidence/gradients.py",
        'ScoreFunction(k, "none")',
        'ScoreFunction(k, "leave_one_out" if k > 1 else "none")',
        GRADIENTS,
    ),
    Mutant(
        "gradients: one reference for two targets",
        "evidence/gradients.py",
        "references.setdefault(kind.target, ",
        'references.setdefault("ELBO", ',
        GRADIENTS,
    ),
    Mutant(
        "gradients: work is variance over cost",
        "evidence/gradients.py",
        "_product(noise, cost)",
        "_ratio(noise, cost)",
        GRADIENTS,
    ),
    Mutant(
        "gradients: in training mode",
        "evidence/gradients.py",
        "with evaluating(model):",
        "if model.train():",
        GRADIENTS,
    ),
    # --- Audit, doctor and report ----------------------------------------------------------------------------------------
    Mutant(
        "audit: the correction of the rest forgotten",
        "evidence/best.py",
        "Estimate(rest.value + correction.value,",
        "Estimate(rest.value,",
        AUDIT + "::test_better_estimates_of_the_first_data_correct_the_rest",
    ),
    Mutant(
        "audit: more samples for the training data",
        "evidence/overfitting.py",
        "importance(model, train[: len(evidence.ess)], k, seed",
        "importance(model, train[: len(evidence.ess)], evidence.num_samples, seed",
        AUDIT + "::test_overfitting_compares_the_same_bound_of_the_same_number_of_samples",
    ),
    Mutant(
        "audit: more samples for the held-out data",
        "evidence/overfitting.py",
        "held, held_error = evidence.curve[:, column], evidence.curve_error[:, column]",
        "held, held_error = evidence.log_evidence, evidence.log_evidence_error",
        AUDIT + "::test_overfitting_compares_the_same_bound_of_the_same_number_of_samples",
    ),
    Mutant(
        "audit: overfitting of the wrong sign",
        "evidence/section.py",
        "Estimate(a.value - b.value,",
        "Estimate(b.value - a.value,",
        AUDIT + "::test_overfitting_compares_the_same_bound_of_the_same_number_of_samples",
    ),
    Mutant(
        "audit: does not stop",
        "evidence/clock.py",
        "if rows < total and self.over():",
        "if rows < total and False:",
        AUDIT + "::test_stopping_keeps_what_is_done",
    ),
    Mutant(
        "audit: the sandwich upside down",
        "evidence/sandwich.py",
        "Estimate.of(upper - lower)",
        "Estimate.of(lower - upper)",
        AUDIT + "::test_the_sandwich_has_its_upper_slice_above",
    ),
    Mutant(
        "doctor: a gap within its error is a finding",
        "evidence/finding.py",
        'value > max(WORTH, SURE * max(error, estimate["mc_error"] or 0.0))',
        "value > WORTH",
        AUDIT + "::test_findings_need_a_number_that_is_large_and_sure",
    ),
    Mutant(
        "doctor: a gap is a finding, sure or not",
        "evidence/gaps_section.py",
        'gap = self["amortization_gap"]\n        if counts(gap):',
        'gap = self["amortization_gap"]\n        if True:',
        AUDIT + "::test_findings_need_a_number_that_is_large_and_sure",
    ),
    Mutant(
        "doctor: the least valuable finding first",
        "evidence/doctor.py",
        "return len(FIRST), -(finding.nats or 0.0)",
        "return len(FIRST), finding.nats or 0.0",
        AUDIT + "::test_findings_of_dimensions_samples_and_scales",
    ),
    Mutant(
        "doctor: the last samples lowered the bound",
        "evidence/best_section.py",
        "values[-1] - values[-2]",
        "values[-2] - values[-1]",
        AUDIT + "::test_findings_of_dimensions_samples_and_scales",
    ),
    Mutant(
        "report: nothing is escaped",
        "report/render.py",
        "autoescape=True",
        "autoescape=False",
        REPORT + "::test_hostile_texts_are_shown_and_do_nothing",
    ),
    Mutant(
        "report: control characters reach the page",
        "evidence/text.py",
        'c if c.isprintable() else c.encode("unicode_escape").decode()',
        "c",
        REPORT + "::test_hostile_texts_are_shown_and_do_nothing",
    ),
    Mutant(
        "report: the Monte Carlo error instead of the test error",
        "evidence/text.py",
        "if test is None:",
        "if True:",
        REPORT + "::test_an_estimate_never_comes_without_its_error",
    ),
    Mutant(
        "report: numbers are not rounded",
        "evidence/text.py",
        'f"{value:,.{min(max(places, 0), DECIMALS)}f}"',
        'f"{value:,}"',
        REPORT + "::test_a_number_has_the_decimals_of_its_error",
    ),
    Mutant(
        "report: the sign is lost",
        "evidence/text.py",
        'if not text.strip("−0.,"):',
        "if True:",
        REPORT + "::test_a_number_has_the_decimals_of_its_error",
    ),
    Mutant(
        "report: pictures of any size",
        "report/render.py",
        " if len(png) <= LARGE}",
        "}",
        REPORT + "::test_a_large_picture_stays_beside_the_page",
    ),
    Mutant(
        "report: bars begin at zero",
        "report/figures.py",
        "axes.barh(\n                i,\n                last - first,\n                0.4,\n     "
        "           first,",
        "axes.barh(i, last, 0.4, 0.0,",
        REPORT + "::test_the_other_figures_stand_where_the_numbers_say",
    ),
    Mutant(
        "report: the stack is upside down",
        "report/figures.py",
        '(\n            ("elbo", "elbo_best", "amortization"),\n            ("elbo_best", '
        '"log_evidence", "approximation"),\n        )',
        '(("elbo_best", "log_evidence", "amortization"), ("elbo", "elbo_best", "approximation"))',
        REPORT + "::test_the_emblem_stands_where_the_numbers_say",
    ),
    Mutant(
        "report: the curve of the training stands on its own data",
        "report/figures.py",
        'points = [(h["epoch"], h["validation"] + shift) for h in lines]',
        'points = [(h["epoch"], h["validation"]) for h in lines]',
        REPORT + "::test_the_emblem_stands_where_the_numbers_say",
    ),
    Mutant(
        "sections: what is never negative is shown below zero",
        "evidence/section.py",
        '"value": 0.0 if near else None',
        '"value": estimate["value"]',
        REPORT + "::test_what_is_never_negative_is_zero_within_its_error_and_else_not_known",
    ),
    Mutant(
        "sections: measured though what it needs is not there",
        "evidence/audit.py",
        "    if lacks is not None:\n",
        "    if lacks:\n",
        "tests/test_sections.py",
    ),
    Mutant(
        "sections: only those that are imported anyway",
        "evidence/section.py",
        "    _import_all()\n",
        "",
        "tests/test_sections.py::test_a_section_is_one_file",
    ),
    Mutant(
        "report: every log p(x) is believed",
        "evidence/best_section.py",
        "if known < RELIABLE / 2:",
        "if known < 0:",
        REPORT + "::test_the_first_sentence_says_whether_it_can_be_believed",
    ),
    # --- A training that was cut ------------------------------------------------------------------------------------------
    Mutant(
        "as long again: followed over the steps, whose rate falls to zero",
        "evidence/progress.py",
        "between = (rate + np.append(rate[:1], rate[:-1])) / 2",
        "between = np.ones_like(rate)",
        "tests/test_progress.py::test_as_long_again_is_foretold_within_its_error",
    ),
    Mutant(
        "as long again: one shape alone, without the error of not knowing it",
        "evidence/progress.py",
        "weight /= weight.sum()",
        "weight = (weight == weight.max()).astype(float)",
        "tests/test_progress.py::test_as_long_again_is_foretold_within_its_error",
    ),
    Mutant(
        "doctor: a training that was cut is no finding",
        "evidence/doctor.py",
        "if value > max(WORTH, RISING * error):",
        "if value > 1e9:",
        "tests/test_progress.py::test_a_training_that_was_cut_is_the_first_finding",
    ),
    Mutant(
        "resume: an extension goes on with a rate of zero",
        "training/loop.py",
        "done, whole = step - state.since, state.total_steps - state.since",
        "done, whole = min(step, state.since), state.since or state.total_steps",
        "tests/test_run.py::test_a_finished_run_is_extended_with_a_schedule_of_its_own",
    ),
    Mutant(
        "tighten: what is given is drawn, too",
        "features.py",
        "whole[:, self.rest] = modelled",
        "whole[:] = modelled[:, :1]",
        "tests/test_tighten.py::test_what_the_model_draws_is_under_the_conditions_of_the_rows",
    ),
    # --- What the audit needed of the rest -------------------------------------------------------------------------------
    Mutant(
        "Bernoulli: zeros taken for ones",
        "distributions/levels.py",
        "wrong = (1 - 2 * value) * self.logits",
        "wrong = (2 * value - 1) * self.logits",
        LIKELIHOODS,
    ),
    Mutant(
        "Bernoulli: linear too early (torch's default)",
        "distributions/levels.py",
        "softplus(wrong, threshold=40.0)",
        "softplus(wrong)",
        LIKELIHOODS,
    ),
    Mutant(
        "mixture prior: equal weights for ever",
        "priors.py",
        "Categorical(logits=self.logits, validate_args=False), parts",
        "Categorical(logits=0 * self.logits, validate_args=False), parts",
        INSTANCES,
    ),
    Mutant(
        "mixture prior: one scale for ever",
        "priors.py",
        "scale = self.min_scale + positive(self.raw_scale)\n        parts",
        "scale = self.min_scale + positive(0 * self.raw_scale)\n        parts",
        INSTANCES,
    ),
    Mutant(
        "loop: a frozen part is in training mode",
        "training/step.py",
        "part.eval()",
        "pass",
        LOOP + "::test_a_frozen_part_keeps_every_bit_and_is_seen_as_it_will_be_used",
    ),
    Mutant(
        "loop: a frozen part is trained",
        "training/step.py",
        "self.average = copy.deepcopy(model) if",
        "self.average = copy.deepcopy(model.requires_grad_()) if",
        LOOP + "::test_a_frozen_part_keeps_every_bit_and_is_seen_as_it_will_be_used",
    ),
    Mutant(
        "tighten: the decoder is trained, too",
        "runs/onward.py",
        "    freeze_the_rest(model, word)\n",
        "    model.prior.requires_grad_(False)\n",
        TIGHTEN + "::test_the_bound_rises_under_the_same_ceiling[real]",
    ),
    Mutant(
        "tighten: rows that are added start at random",
        "runs/tighten.py",
        "torch.zeros_like(tensor[len(source) :])",
        "tensor[len(source) :]",
        TIGHTEN + "::test_it_starts_as_the_posterior_it_came_from",
    ),
    Mutant(
        "two candidates: the worse one is kept",
        "runs/candidates.py",
        "lacking == 0 and difference.value > 0",
        "lacking == 0 and difference.value < 0",
        "tests/test_exact_runs.py::test_a_planted_mixture_is_given_to_the_tree",
    ),
    Mutant(
        "exact runs: a stopped training forgets the statistics of its data",
        "runs/fit.py",
        "    run.model = build_exact(run.config, data)\n",
        "",
        "tests/test_exact_runs.py::test_a_training_that_was_stopped_ends_in_the_same_bits",
    ),
    Mutant(
        "exact runs: passes that were made are recorded twice",
        "training/exact.py",
        "found.number <= done",
        "found.number < done",
        "tests/test_exact_runs.py::test_a_training_that_was_stopped_ends_in_the_same_bits",
    ),
    Mutant(
        "exact runs: the error of the bound is not zero",
        "evidence/importance.py",
        "            elbo_error=zero,\n",
        "            elbo_error=rate_error,\n",
        "tests/test_exact_runs.py::test_evidence_is_the_models_own",
    ),
    Mutant(
        "tighten: the old posterior is not taken over",
        "runs/tighten.py",
        "_take_over(model.posterior, theirs.posterior)",
        "pass",
        TIGHTEN + "::test_it_starts_as_the_posterior_it_came_from",
    ),
    Mutant(
        "a single datum is a sure finding",
        "evidence/finding.py",
        "    if value is None or error is None:\n        return False\n",
        "    error = error or 0.0\n",
        AUDIT + "::test_a_single_datum_supports_no_finding_and_a_stopped_audit_no_clean_bill",
    ),
    Mutant(
        "full covariance recommended where it closes nothing",
        "evidence/gaps_section.py",
        "if full and counts(full):",
        "if full:",
        AUDIT + "::test_a_richer_family_is_only_recommended_where_it_helps",
    ),
    Mutant(
        "infinities reach audit.json",
        "evidence/audit.py",
        "    result = _finite(result)\n",
        "",
        AUDIT + "::test_one_wild_value_does_not_lose_the_audit",
    ),
    Mutant(
        "a Gaussian is fitted where z has a boundary",
        "evidence/ascent.py",
        "if not is_real(support_of(prior)):\n        return [q], []",
        "if False:\n        return [q], []",
        AUDIT + "::test_a_boundary_of_z_keeps_the_gaps_of_the_own_family",
    ),
    Mutant(
        "a mixture has no support",
        "evidence/annealing.py",
        "        support = support_of(self.prior)\n",
        "        support = self.prior.support\n",
        AUDIT + "::test_a_mixture_as_prior_is_audited_in_all_sections",
    ),
    Mutant(
        "SIGTERM ends an audit with the code of Ctrl-C",
        "cli/audit.py",
        "raise typer.Exit(128 + asked[0])",
        "raise typer.Exit(130)",
        "tests/test_audit_cli.py",
    ),
    Mutant(
        "an audit ignores a signal",
        "cli/audit.py",
        "yield lambda: bool(asked)",
        "yield lambda: False",
        "tests/test_audit_cli.py",
    ),
    Mutant(
        "a resumed tightening trains the decoder",
        "runs/folder.py",
        "            freeze_the_rest(model, word)\n",
        "            model.prior.requires_grad_(False)\n",
        "tests/test_tighten.py",
    ),
    Mutant(
        "tighten: the weights it started from are not kept",
        "training/loop.py",
        "frozen = not all(p.requires_grad for p in model.parameters())",
        "frozen = False",
        LOOP,
    ),
    Mutant(
        "log p(x) of all: the correction carries the only error",
        "evidence/best.py",
        "both(correction.mc_error, rest.mc_error)",
        "correction.mc_error",
        AUDIT + "::test_better_estimates_of_the_first_data_correct_the_rest",
    ),
    Mutant(
        "a share drawn by the model comes on top",
        "training/loop.py",
        "torch.cat([x[drawn:], ",
        "torch.cat([x, ",
        LOOP,
    ),
    # --- Gaps, tables, counts ---------------------------------------------------------------------------------------------
    Mutant(
        "gap: the fill is scored",
        "distributions/observed.py",
        "return torch.where(missing, 0.0, self.base_dist.log_prob(torch.where(missing, fill, "
        "value)))",
        "return self.base_dist.log_prob(torch.where(missing, fill, value))",
        MISSING,
    ),
    Mutant(
        "gap: the density meets the NaN",
        "distributions/observed.py",
        "self.base_dist.log_prob(torch.where(missing, fill, value))",
        "self.base_dist.log_prob(value)",
        MISSING,
    ),
    Mutant(
        "gap: a row with one is lost whole",
        "distributions/observed.py",
        "return torch.where(missing, 0.0, self",
        "return torch.where(missing.any(-1, keepdim=True), 0.0, self",
        MISSING,
    ),
    Mutant(
        "encoder: no mask",
        "features.py",
        "return torch.stack([values, x.isnan().to(values)], 1)",
        "return torch.stack([values, 0 * values], 1)",
        MISSING,
    ),
    Mutant(
        "encoder: a gap is no mean",
        "features.py",
        "self.scale).nan_to_num(0.0)",
        "self.scale).nan_to_num(1.0)",
        MISSING,
    ),
    Mutant(
        "features: log for log(1 + x)",
        "features.py",
        "numbers) + self.shift\n",
        "numbers) + 0 * self.shift\n",
        MISSING,
    ),
    Mutant(
        "features: levels shifted by one",
        "features.py",
        "(x[:, self.owner] == self.level)",
        "(x[:, self.owner] == self.level + 1)",
        MISSING,
    ),
    Mutant(
        "condition: the given column is modelled too",
        "features.py",
        "rest = [i for i in range(num_columns) if i not in set(columns)]",
        "rest = list(range(num_columns))",
        TABLES,
    ),
    Mutant(
        "total: not relative to the mean",
        "features.py",
        "return (values.clamp(min=0.5) / self.mean_total).log()",
        "return values.clamp(min=0.5).log()",
        MISSING,
    ),
    Mutant(
        "table: columns in the order of the families",
        "likelihoods/columns.py",
        "return torch.cat(list(parts), -1)[..., self._order]",
        "return torch.cat(list(parts), -1)",
        TABLES,
    ),
    Mutant(
        "table: padding has probability",
        "likelihoods/columns.py",
        "torch.where(level < torch.tensor(num_levels)[:, None], 0.0, -torch.inf)",
        "torch.where(level < torch.tensor(num_levels)[:, None], 0.0, 0.0)",
        TABLES,
    ),
    Mutant(
        "table: the first family alone is scored",
        "likelihoods/columns.py",
        "for f in self.families)\n        return total",
        "for f in self.families[:1])\n        return total",
        TABLES,
    ),
    Mutant(
        "table: statistics of other columns",
        "likelihoods/columns.py",
        "fill: dict[str, Any] = {name: given[name][here] for",
        "fill: dict[str, Any] = {name: given[name][: len(here)] for",
        TABLES,
    ),
    Mutant(
        "table: a date is a family of its own",
        "likelihoods/columns.py",
        "setdefault((kind.family, padded, on_grids[i])",
        'setdefault((kind.family, padded + (word == "date"), on_grids[i])',
        TABLES,
    ),
    Mutant(
        "imputation: samples weighted alike",
        "evidence/cells.py",
        "share = torch.where(known, log_weight, 0.0).softmax(0)",
        "share = torch.full_like(log_weight, 1 / count)",
        MISSING,
    ),
    Mutant(
        "imputation: observed entries replaced",
        "evidence/cells.py",
        "return torch.where(rows.isnan(), filled, rows)",
        "return filled + 0 * rows.nan_to_num()",
        MISSING,
    ),
    Mutant(
        "imputation: pairs that do not lie opposite",
        "evidence/cells.py",
        "return torch.stack([z, 2 * self.q.mean - z], 1)",
        "return torch.stack([z, z], 1)",
        MISSING,
    ),
    Mutant(
        "imputation: the mean for a draw",
        "evidence/cells.py",
        "split(rows)[1]).sample()])",
        "split(rows)[1]).mean])",
        MISSING,
    ),
    Mutant(
        "imputation: draws without their weights",
        "evidence/cells.py",
        "_picked(share, num_imputations)",
        "_picked(torch.full_like(share, 1 / count), num_imputations)",
        MISSING,
    ),
    Mutant(
        "entry: scored with itself",
        "evidence/cells.py",
        "without[:, column] = torch.nan",
        "without[:, column] = rows[:, column]",
        MISSING,
    ),
    Mutant(
        "entry: its term left in",
        "evidence/cells.py",
        "without.logsumexp(0)",
        "weight.logsumexp(0)",
        MISSING,
    ),
    Mutant(
        "entry: one proposal for the mixture",
        "evidence/cells.py",
        "torch.logaddexp(q.log_prob(z), other.log_prob(z))",
        "q.log_prob(z)",
        MISSING,
    ),
    Mutant(
        "entry: the errors of both as if they shared no samples",
        "evidence/cells.py",
        ".softmax(0) - torch.where(known, without, 0.0).softmax(0)\n    )",
        ".softmax(0) + torch.where(known, without, 0.0).softmax(0))",
        MISSING,
    ),
    Mutant(
        "entry: the encoder's answer where it does not serve",
        "evidence/cells.py",
        "again = observed & (value.isnan() | (~reliable & telling))",
        "again = observed & value.isnan()",
        MISSING,
    ),
    Mutant(
        "entry: an ascent for each, though the row's own tells",
        "evidence/cells.py",
        "left[:, i] &= ~told",
        "left[:, i] &= True",
        MISSING,
    ),
    Mutant(
        "ground truth: a gap says something of z",
        "problems.py",
        "precision = eye + (w.T * there[:, None, :]) @ w",
        "precision = eye + w.T @ w",
        MISSING,
    ),
    Mutant(
        "ground truth: a gap costs nats",
        "problems.py",
        "(1 - there) / (2 * math.pi)",
        "(1 - there)",
        MISSING,
    ),
    Mutant(
        "statistics: gaps counted",
        "build/statistics.py",
        "loc = total(lambda b: b) / count",
        "loc = total(lambda b: b) / count.max()",
        TABLES,
    ),
    Mutant(
        "statistics: log for log(1 + x)",
        "data/tables/kinds.py",
        "    def log_shift(self, column: Column) -> float:\n        return 1.0",
        "    def log_shift(self, column: Column) -> float:\n        return 0.0",
        TABLES,
    ),
    Mutant(
        "frequencies: gaps are the first level",
        "build/statistics.py",
        "block[:, i][~block[:, i].isnan()].long()",
        "block[:, i].nan_to_num().long()",
        TABLES,
    ),
    Mutant(
        "baseline: gaps scored",
        "evidence/baseline.py",
        "return torch.where(missing, 0.0, table",
        "return torch.where(missing, table.mean(), table",
        TABLES,
    ),
    Mutant(
        "baseline: a density of the logarithm and not of the number",
        "evidence/marginals.py",
        "return slope - (y * self.scale[:, None] + self.loc[:, None]) if self.log else slope",
        "return slope",
        EVIDENCE,
    ),
    Mutant(
        "baseline: the worst marginal of those tried",
        "evidence/marginals.py",
        "best = torch.stack(scores).argmax(0)",
        "best = torch.stack(scores).argmin(0)",
        EVIDENCE,
    ),
    Mutant(
        "bits per dimension: of missing elements, too",
        "evidence/results.py",
        "sum((~block.isnan()).sum() for block in blocks(x))",
        "sum(block.numel() for block in blocks(x))",
        "tests/test_missing.py",
    ),
    Mutant(
        "statistics: wild values make the scale",
        "build/statistics.py",
        "return lambda: (block.clamp(low, high) for block in read())",
        "return read",
        BUILD,
    ),
    Mutant(
        "statistics: of a spike there is no spread",
        "data/tables/numeric_notes.py",
        "others = values[values != median]",
        "others = values[:0]",
        BUILD,
    ),
    Mutant(
        "features: a wild value is seen at its full size",
        "features.py",
        ".nan_to_num(0.0).clamp(-FAR, FAR)",
        ".nan_to_num(0.0)",
        "tests/test_survivors.py",
    ),
    Mutant(
        "notes: columns that hardly differ from a function are called one",
        "data/tables/numeric_notes.py",
        "if used and rest <= min(rounding, 0.05 * scale[j]):",
        "if used:",
        DATA,
    ),
    Mutant(
        "notes: a column of rounded numbers is no function of another",
        "data/tables/numeric_notes.py",
        "return float(np.diff(different).min()) + 4",
        "return 4",
        DATA,
    ),
    Mutant(
        "baseline: one component",
        "evidence/marginals.py",
        "shares = torch.softmax(mixtures.log_terms(y), -1) * weights[..., None]",
        "shares = torch.full_like(mixtures.log_terms(y), 1 / components) * weights[..., None]",
        EVIDENCE,
    ),
    Mutant(
        "baseline: counts have their frequencies alone",
        "evidence/baseline.py",
        "best = strengths[torch.stack(scores).argmax(0)][:, None]",
        "best = strengths[0]",
        EVIDENCE,
    ),
    Mutant(
        "baseline: nothing where no row was",
        "evidence/marginals.py",
        "result[columns] = torch.logaddexp(near + (n / (n + 1)).log(), far - (n + 1).log())",
        "result[columns] = near",
        EVIDENCE,
    ),
    Mutant(
        "negative binomial: the gamma of r lost",
        "distributions/counts.py",
        "torch.lgamma(x + r) - torch.lgamma(r) - x * log_r",
        "torch.lgamma(x + r) - x * log_r",
        FAMILY_TESTS,
    ),
    Mutant(
        "negative binomial: the factorial lost",
        "distributions/counts.py",
        "- torch.lgamma(x + 1) + x * log_mean",
        "+ x * log_mean",
        FAMILY_TESTS,
    ),
    Mutant(
        "negative binomial: starts at r for 1 / r",
        "likelihoods/counts.py",
        "self.data_loc.square() / excess",
        "excess / self.data_loc.square()",
        FAMILY_TESTS,
    ),
    Mutant(
        "zero inflation: the rest keeps all its mass",
        "distributions/counts.py",
        "return mixed - functional.softplus(self.logits, threshold=40.0)",
        "return mixed",
        FAMILY_TESTS,
    ),
    Mutant(
        "zero inflation: zeros of one origin only",
        "distributions/counts.py",
        "torch.where(value == 0, torch.logaddexp(self.logits, base), base)",
        "torch.where(value == 0, self.logits.expand_as(base), base)",
        FAMILY_TESTS,
    ),
    Mutant(
        "ordinal: levels from the wrong end",
        "distributions/levels.py",
        "edges.gather(-1, index[..., :1]).squeeze(-1)",
        "edges.gather(-1, index[..., :1] * 0).squeeze(-1)",
        FAMILY_TESTS,
    ),
    Mutant(
        "differential: the groups weigh in by their own share",
        "use/differential.py",
        "    far = share.flip(1)\n",
        "    far = share\n",
        "tests/test_differential.py",
    ),
    Mutant(
        "differential: residuals alone say how far counts vary",
        "use/differential.py",
        "    trust = seen / (seen + ENOUGH)\n",
        "    trust = (seen + ENOUGH) / (seen + ENOUGH)\n",
        "tests/test_differential.py",
    ),
    Mutant(
        "differential: the groups keep the scale of their totals",
        "use/differential.py",
        "    totals = totals * scale\n",
        "    scale = torch.ones_like(scale)\n",
        "tests/test_differential.py",
    ),
    Mutant(
        "differential: batches are compared with each other",
        "use/differential.py",
        "    if not isinstance(condition, Split):\n        return torch.zeros(len(x)",
        "    if condition is not None:\n        return torch.zeros(len(x)",
        "tests/test_differential.py",
    ),
    Mutant(
        "differential: each rate without those of larger p-values",
        "use/differential.py",
        "(p[order] * len(p) / ranks).cummin(0).values",
        "p[order] * len(p) / ranks",
        "tests/test_differential.py",
    ),
    Mutant(
        "differential: a difference is as likely as none at first",
        "use/differential.py",
        "    favour[0] = FAVOUR\n",
        "    favour[0] = 0.0\n",
        "tests/test_differential.py",
    ),
    Mutant(
        "library: the total ignored",
        "likelihoods/counts.py",
        "        if not self.library:",
        "        if self.library or not self.library:",
        FAMILY_TESTS,
    ),
    Mutant(
        "split: hashes of copies differ with -0.0",
        "data/split.py",
        "np.where(np.isnan(array), np.nan, array + 0.0)",
        "np.where(np.isnan(array), np.nan, array)",
        DATA,
    ),
    Mutant(
        "codes: whole numbers are not rounded",
        "data/tables/constraints.py",
        "each = [c.settled(x) for c, x in zip(modelled, codes.T, strict=True)]",
        "each = list(codes.T)",
        EXPORT,
    ),
    Mutant(
        "warp: an atom's mass reaches only its upper edge",
        "distributions/warps.py",
        "inner = torch.log(-torch.expm1(-at.gap / self.scale))",
        "inner = torch.log(-torch.expm1(-at.gap))",
        "tests/test_warps.py",
    ),
    Mutant(
        "counts: rounding noise where they are large",
        "distributions/counts.py",
        "bool((x > MANY_COUNTS).any())",
        "False",
        "tests/test_likelihood_families.py",
    ),
    Mutant(
        "warp: no Jacobian of the logarithm",
        "distributions/warps.py",
        "rise.log() - width.log() - ratio.log()",
        "rise.log() - width.log()",
        "tests/test_warps.py",
    ),
    Mutant(
        "warp: what is cut off is not divided by",
        "distributions/warps.py",
        "log_p - self._log_inside() if self.cut else log_p",
        "log_p",
        "tests/test_warps.py",
    ),
    Mutant(
        "warp: the scale is not in the density",
        "distributions/warps.py",
        "at.log_slope - self.scale.log()",
        "at.log_slope",
        "tests/test_warps.py",
    ),
    Mutant(
        "grid: the density of a cell is its probability",
        "distributions/grids.py",
        "density = log_p - self.step.log()",
        "density = log_p + 0 * self.step",
        "tests/test_grids.py",
    ),
    Mutant(
        "grid: discounts are lost",
        "distributions/grids.py",
        "(self.rest + self.discount * len(self.own))",
        "self.rest",
        "tests/test_grids.py",
    ),
    Mutant(
        "grid: a cell on a bend has the slope at its lower end",
        "distributions/warps.py",
        "within * (middle - 0.5) * ratio",
        "within",
        "tests/test_grids.py",
    ),
    Mutant(
        "grid: the mass of a value that repeats is the slope of the tail",
        "distributions/grids.py",
        "away = max((x[-1] - x[k]) / slope, (x[-1] - middle) / 4)",
        "away = (x[-1] - x[k]) / slope",
        "tests/test_grids.py",
    ),
    Mutant(
        "formula: a part is the total and the others",
        "data/tables/formula.py",
        "(total - others.of(values))",
        "(total + others.of(values))",
        "tests/test_data.py::test_columns_that_are_a_function_of_others_are_computed",
    ),
    Mutant(
        "formula: parts that are there are computed, too",
        "data/tables/codes.py",
        "here = lone & np.isnan(values[:, j])",
        "here = lone",
        "tests/test_data.py::test_columns_that_are_a_function_of_others_are_computed",
    ),
    Mutant(
        "formula: what follows is not in what is made",
        "data/schema.py",
        "if c.modelled or c.rules.made",
        "if c.modelled",
        "tests/test_data.py::test_columns_that_are_a_function_of_others_are_computed",
    ),
    Mutant(
        "column: an offset is not added again",
        "data/tables/kind.py",
        "* self.unit(column) + column.offset",
        "* self.unit(column)",
        "tests/test_kinds.py",
    ),
    Mutant(
        "column: samples leave the range of the data",
        "data/tables/kind.py",
        "return np.clip(made, self.codes(column, column.low), self.codes(column, column.high))",
        "return made",
        "tests/test_kinds.py",
    ),
    Mutant(
        "CSV: a formula is written as it is",
        "use/export.py",
        "table if own else _without_formulas(table)",
        "table",
        EXPORT,
    ),
    # --- The step in its two forms, and the pace ------------------------------------------------------------------------------
    Mutant(
        "compiled step: second moment corrected without its root",
        "training/graph.py",
        "1 / correction2.sqrt()",
        "1 / correction2",
        f"{STEP}::test_recorded_step_has_no_average_where_none_is_kept",
    ),
    Mutant(
        "compiled step: second moment with the decay of the first",
        "training/graph.py",
        "BETAS[1] * v + (1 - BETAS[1]) * g.square()",
        "BETAS[0] * v + (1 - BETAS[0]) * g.square()",
        f"{STEP}::test_recorded_step_has_no_average_where_none_is_kept",
    ),
    Mutant(
        "compiled step: weight decay without the rate",
        "training/graph.py",
        "kept = 1 - rate * learner.config.weight_decay",
        "kept = 1 - numbers.new_tensor(learner.config.weight_decay)",
        f"{STEP}::test_recorded_step_has_no_average_where_none_is_kept",
    ),
    Mutant(
        "compiled step: small gradients are scaled up",
        "training/graph.py",
        "config.clip_norm).clamp(min=1.0).float()",
        "config.clip_norm).float()",
        f"{STEP}::test_recorded_step_clips_as_the_eager_one_does",
    ),
    Mutant(
        "compiled step: a value that is not finite is counted",
        "training/graph.py",
        " & torch.isfinite(value)\n    #",
        "\n    #",
        f"{STEP}::test_recorded_step_leaves_out_what_has_no_finite_value_as_the_eager_one_does",
    ),
    Mutant(
        "compiled step: a skipped step is counted by the optimizer",
        "training/graph.py",
        "taken = steps + finite",
        "taken = steps + 1",
        f"{STEP}::test_recorded_step_leaves_out_what_is_not_finite_as_the_eager_one_does",
    ),
    Mutant(
        "compiled step: decay of the running average swapped",
        "training/graph.py",
        "finite.double(),\n        1 - decay",
        "finite.double(), decay\n",
        f"{STEP}::test_recorded_step_leaves_frozen_parts_alone",
    ),
    Mutant(
        "compiled step: a step that is not finite changes the weights",
        "training/graph.py",
        "torch.where(valid > 0, new, old)",
        "torch.where(valid >= 0, new, old)",
        f"{STEP}::test_recorded_step_leaves_out_what_is_not_finite_as_the_eager_one_does",
    ),
    Mutant(
        "compiled step: infinite features are replaced",
        "training/graph.py",
        "torch.where(x.ne(x), nan or 0.0, x)",
        "torch.where(x.sub(x).ne(0), nan or 0.0, x)",
        f"{STEP}::test_what_is_recorded_in_another_form_has_the_same_values",
    ),
    Mutant(
        "compiled step: replacements that were asked for are forgotten",
        "training/graph.py",
        "torch.where(x.eq(found), value, y)",
        "y",
        f"{STEP}::test_what_is_recorded_in_another_form_has_the_same_values",
    ),
    Mutant(
        "compiled step: steps counted for the first weight alone",
        "training/step.py",
        '["step"].copy_(self.optimizer',
        '["step"].add_(0 * self.optimizer',
        f"{STEP}::test_recorded_step_has_no_average_where_none_is_kept",
    ),
    Mutant(
        "compiled step: a graph of another clipping",
        "training/step.py",
        "config.averaging > 0,\n            config.clip_norm,",
        "config.averaging > 0,",
        f"{STEP}::test_a_model_is_compiled_once_for_each_way_to_train_it",
    ),
    Mutant(
        "compiled step: verified against itself",
        "training/graph.py",
        "learner.twin(), learner.twin(graph)]",
        "learner.twin(), learner.twin()]",
        f"{STEP}::test_a_compiled_step_that_is_not_the_eager_one_is_refused",
    ),
    Mutant(
        "compiled step: verified without what happens to the weights",
        "training/graph.py",
        "for each in off)",
        "for each in off[:1])",
        f"{STEP}::test_a_compiler_that_makes_a_mistake_is_found_out",
    ),
    Mutant(
        "pace: the model itself is measured, and so trained",
        "training/pace.py",
        "Learner(copy.deepcopy(model), objective, config)",
        "Learner(model, objective, config)",
        f"{STEP}::test_a_training_of_seconds_is_eager_in_one_thread_and_not_measured_further",
    ),
    Mutant(
        "pace: the number of threads tried last",
        "training/pace.py",
        "                threads, eager = count, name\n        torch.set_num_threads(threads)\n",
        "                threads, eager = count, name\n",
        f"{STEP}::test_threads_and_form_are_the_fastest_that_repay",
    ),
    Mutant(
        "pace: more threads for a hair",
        "training/pace.py",
        "if measured[name] < CLEARLY * measured[eager]:",
        "if measured[name] < measured[eager]:",
        f"{STEP}::test_threads_and_form_are_the_fastest_that_repay",
    ),
    Mutant(
        "pace: compiled though it does not repay",
        "training/pace.py",
        "or saving > COMPILING:",
        "or saving > 0:",
        f"{STEP}::test_threads_and_form_are_the_fastest_that_repay",
    ),
    Mutant(
        "pace: the slowest run and not the fastest",
        "training/pace.py",
        "best = min(best,",
        "best = max(0.0 if best == math.inf else best,",
        f"{STEP}::test_the_seconds_of_a_step_are_those_of_the_fastest_run_without_the_first",
    ),
    Mutant(
        "affine: gradients by another order of the arguments",
        "system/products.py",
        "needs_x, needs_weight, needs_bias = ctx",
        "needs_weight, needs_x, needs_bias = ctx",
        AFFINE,
    ),
    Mutant(
        "affine: the mean of the bias's gradients",
        "system/products.py",
        "gradient.sum(0)",
        "gradient.mean(0)",
        AFFINE,
    ),
    Mutant(
        "affine: no bias where nothing is differentiated",
        "system/products.py",
        "    return _product(x, weight, bias)\n\n\nclass",
        "    return _product(x, weight, None)\n\n\nclass",
        AFFINE,
    ),
    Mutant(
        "affine: axes of the rows exchanged",
        "system/products.py",
        ".unflatten(0, x.shape[:-1])",
        ".unflatten(0, x.shape[:-1][::-1]).transpose(0, -2)",
        AFFINE,
    ),
    Mutant(
        "Bernoulli: the exponential overflows",
        "distributions/levels.py",
        "softplus.out(wrong, 1, 40.0,",
        "softplus.out(wrong, 1, 400.0,",
        LIKELIHOODS,
    ),
    Mutant(
        "Bernoulli: linear too early without gradients, too",
        "distributions/levels.py",
        "softplus.out(wrong, 1, 40.0,",
        "softplus.out(wrong, 1, 20.0,",
        LIKELIHOODS,
    ),
    Mutant(
        "gaps: a row with some of them is taken for whole",
        "distributions/observed.py",
        "not value.sum().isnan()",
        "not value.isnan().all()",
        MISSING,
    ),
    Mutant(
        "gaps: a recorded step keeps the answer for its first batch",
        "distributions/observed.py",
        "get_proxy_mode() is None and not value.sum().isnan()",
        "(get_proxy_mode() is not None or not value.sum().isnan())",
        f"{STEP}::test_recorded_step_is_the_eager_one_for_data_with_gaps",
    ),
    Mutant(
        "tanh: half as steep",
        "networks.py",
        "2 * torch.sigmoid(2 * x) - 1",
        "2 * torch.sigmoid(x) - 1",
        INSTANCES,
    ),
    # --- Several processes --------------------------------------------------------------------------------------------------
    Mutant(
        "ranks: each draws the noise of its own rows, from one seed",
        "system/noise.py",
        "if func not in RANDOM or kwargs.get",
        "if func in RANDOM or kwargs.get",
        f"{PARALLEL}::test_noise_does_not_depend_on_the_number_of_ranks",
    ),
    Mutant(
        "ranks: each keeps the first rows of the noise",
        "system/noise.py",
        "axis, self.first, self.rows",
        "axis, 0, self.rows",
        f"{PARALLEL}::test_noise_does_not_depend_on_the_number_of_ranks",
    ),
    Mutant(
        "ranks: bits are drawn for one's own rows, from one seed",
        "training/loop.py",
        "with own.noise():",
        "if own.rows:",
        f"{PARALLEL}::test_two_processes_train_as_one",
    ),
    Mutant(
        "compiled step: a run cannot leave the machine with the compiler",
        "training/loop.py",
        "with suppress(CannotCompileError):",
        "with suppress(KeyError):",
        f"{STEP}::test_a_training_that_was_compiled_elsewhere_goes_on_where_there_is_no_compiler",
    ),
    Mutant(
        "pace: a folder in which nothing began stays",
        "runs/fit.py",
        "            with watched(), held():\n                abandon(path)\n",
        "            pass\n",
        f"{RUN}::test_a_pace_that_is_not_possible_leaves_no_folder",
    ),
    Mutant(
        "ranks, compiled: each keeps its own gradients",
        "training/graph.py",
        "parallel.sum_over_ranks(first(*given))()",
        "first(*given)",
        f"{PARALLEL}::test_two_processes_train_as_one",
    ),
    Mutant(
        "ranks, compiled: noise of one's own rows alone",
        "training/graph.py",
        "with nullcontext() if own is None else own.noise(learner.objective.num_samples):",
        "with nullcontext():",
        f"{PARALLEL}::test_two_processes_train_as_one",
    ),
    Mutant(
        "ranks, compiled: the mean over one's own rows",
        "training/graph.py",
        "mean = torch.mean if own is None else own.mean",
        "mean = torch.mean",
        f"{PARALLEL}::test_two_processes_train_as_one",
    ),
    Mutant(
        "ranks: a compiler that fails on one is that one's affair",
        "training/graph.py",
        "if parallel.agreed(graph is None):",
        "if graph is None:",
        f"{PARALLEL}::test_all_processes_compile_or_none",
    ),
    Mutant(
        "ranks: each chooses the form by a clock of its own",
        "training/pace.py",
        "return on_main(lambda: best)",
        "return best",
        f"{PARALLEL}::test_times_are_those_of_one_process",
    ),
    Mutant(
        "ranks: DDP's wrapper is passed by",
        "training/step.py",
        "bound = self.forward(x, progress)\n            loss, value = -own",
        "bound = self.module(x, progress)\n            loss, value = -own",
        f"{PARALLEL}::test_gradients_are_added_up_only_through_the_wrapper",
    ),
    Mutant(
        "ranks: the mean of the gradients in place of their sum",
        "training/step.py",
        "scaled.backward()",
        "loss.backward()",
        f"{PARALLEL}::test_gradients_are_added_up_only_through_the_wrapper",
    ),
    Mutant(
        "ranks: a rank without a row counts the copy it was given",
        "system/parallel.py",
        "Share(0, 1, total, 0.0)",
        "Share(0, 1, total, 1.0)",
        f"{PARALLEL}::test_two_processes_train_as_one",
    ),
    Mutant(
        "ranks: equal shares, and the rows left over are lost",
        "system/parallel.py",
        "[number * total // count for",
        "[number * (total // count) for",
        f"{PARALLEL}::test_every_row_is_in_one_share",
    ),
    Mutant(
        "ranks: results in another order than their tasks",
        "system/parallel.py",
        "for each in _gather(result)[: len(now)]:",
        "for each in _gather(result)[: len(now)][::-1]:",
        f"{PARALLEL}::test_tasks_are_divided_and_their_results_come_in_order",
    ),
    Mutant(
        "ranks: weights that differ are let pass",
        "system/parallel.py",
        "if each != digests[0]]",
        "if each == digests]",
        f"{PARALLEL}::test_the_ranks_agree",
    ),
    Mutant(
        "ranks: an error of one is kept from the others",
        "system/parallel.py",
        "raise result.error",
        "return result.error",
        f"{PARALLEL}::test_an_error_of_one_is_an_error_of_all",
    ),
    Mutant(
        "ranks: who follows ends with a code of its own",
        "system/parallel.py",
        'return False, int(_store.get("code"))',
        "return False, code",
        f"{PARALLEL}::test_who_fails_first_speaks_and_all_end_with_its_code",
    ),
    Mutant(
        "ranks: all of them speak",
        "cli/app.py",
        "if launch.launched():  # one process speaks for all",
        "if launch.launched() > 9:  # one process speaks for all",
        f"{PARALLEL}::test_an_error_is_said_once_and_ends_both",
    ),
    Mutant(
        "ranks: a restart begins anew",
        "runs/fit.py",
        'if left is not None and any((left / "checkpoints").glob("step-*")):',
        'if left is not None and any((left / "checkpoint").glob("step-*")):',
        f"{PARALLEL}::test_a_killed_process_is_an_error_and_torchrun_goes_on_from_the_last_checkpoint",
    ),
    # --- Memory -----------------------------------------------------------------------------------------------------------
    Mutant(
        "memory: each micro-batch draws on where the one before ended",
        "training/step.py",
        "            set_generator_states(before)\n            with own.noise(",
        "            with own.noise(",
        f"{MEMORY}::test_a_step_in_micro_batches_is_the_step",
    ),
    Mutant(
        "memory: what was freed is kept, but for large tensors",
        "system/memory.py",
        "        mallopt(M_MMAP_THRESHOLD, LARGEST)\n",
        "",
        f"{MEMORY}::test_what_was_freed_is_kept_unless_a_person_said_how",
    ),
    Mutant(
        "memory: a person's settings of malloc are overruled",
        "system/memory.py",
        'startswith(("MALLOC_", "GLIBC_TUNABLES"))',
        'startswith("GLIBC_TUNABLES")',
        f"{MEMORY}::test_what_was_freed_is_kept_unless_a_person_said_how",
    ),
    Mutant(
        "memory: chains that were computed apart are mixed up",
        "evidence/annealing.py",
        "zip(*parts, strict=True)",
        "zip(*parts[::-1], strict=True)",
        f"{MEMORY}::test_annealing_with_fewer_chains_at_a_time",
    ),
    Mutant(
        "memory: after a compiled step only the first weight has counted",
        "training/step.py",
        "            self._count_all()\n            self._graph = None",
        "            self._graph = None",
        f"{MEMORY}::test_a_compiled_step_goes_on_eagerly",
    ),
    Mutant(
        "memory: a failed chunk is left out",
        "system/memory.py",
        "                continue  # leaves",
        "                first += rows\n                continue  # leaves",
        f"{MEMORY}::test_chunks_are_halved_from_then_on",
    ),
    Mutant(
        "compiled step: its average is not compared",
        "training/graph.py",
        "[*trial.trainable, *trial.averaged] for",
        "[*trial.trainable, *trial.trainable] for",
        f"{STEP}::test_a_compiler_that_makes_a_mistake_is_found_out",
    ),
    Mutant(
        "rate: a given one gives way to the usual one",
        "runs/assemble.py",
        "    if rate is None:\n        rate = usual_rate(data)\n",
        "    rate = usual_rate(data)\n",
        BUILD,
    ),
    Mutant(
        "pace: weights stay laid out for the form that was not taken",
        "training/pace.py",
        "compiled.lay_out(torch.contiguous_format)",
        "pass",
        f"{STEP}::test_convolutions_are_laid_out_for_the_form_of_the_step",
    ),
    Mutant(
        "compiled step: a graph that is known gets weights in another layout",
        "training/step.py",
        "        self.lay_out(torch.channels_last)\n        if key not in known:",
        "        self.lay_out(torch.contiguous_format if key in known else torch.channels_last)\n  "
        "      if key not in known:",
        f"{STEP}::test_convolutions_are_laid_out_for_the_form_of_the_step",
    ),
    Mutant(
        "memory: only the innermost group has a limit",
        "system/memory.py",
        "for group in (folder, *folder.parents):",
        "for group in (folder,):",
        f"{MEMORY}::test_available_memory_is_what_the_limits_of_a_container_leave",
    ),
    Mutant(
        "memory: a resumed run begins with whole batches",
        "training/checkpoint.py",
        "for name in SCALARS}",
        'for name in SCALARS if name != "micro_batches"}',
        f"{MEMORY}::test_a_run_records_it_and_resumes_with_it",
    ),
    # --- Folders and signals ----------------------------------------------------------------------------------------------
    Mutant(
        "signals: a step is broken off",
        "system/signals.py",
        "    if not _watch.held and not _watch.ending:",
        "    if not _watch.ending:",
        "tests/test_signals.py",
    ),
    Mutant(
        "signals: the second one disturbs the end",
        "system/signals.py",
        "    if not _watch.held and not _watch.ending:",
        "    if not _watch.held:",
        "tests/test_signals.py",
    ),
    Mutant(
        "manifest: a file is replaced before it is announced",
        "system/storage.py",
        "    write_json(folder / MANIFEST, dict(sorted((manifest | known).items())))\n",
        "",
        "tests/test_folders.py::test_killed_anywhere_a_finished_run_stays_whole",
    ),
    Mutant(
        "lock: one whose process is gone is waited for",
        "system/locks.py",
        "    except ProcessLookupError:\n        return True",
        "    except ProcessLookupError:\n        return False",
        "tests/test_folders.py::test_a_lock_that_was_left",
    ),
    Mutant(
        "lock: a later process with the same number is taken for its own",
        "system/locks.py",
        "another = bool(began and noted and began != noted)",
        "another = False",
        "tests/test_folders.py::test_a_lock_that_was_left",
    ),
    Mutant(
        "a source may change while it streams",
        "data/tables/parquet.py",
        "if mark(path) != self.marks[file]:",
        "if False:",
        "tests/test_folders.py::test_a_source_that_changes_while_it_streams_ends_the_training_and_the_state_is_saved",
    ),
    Mutant(
        "checkpoint: names are compared as texts",
        "training/checkpoint.py",
        'key=lambda path: int(path.name.removeprefix("step-"))',
        "key=lambda path: path.name",
        "tests/test_storage.py::test_what_is_no_checkpoint_is_left_alone",
    ),
    Mutant(
        "run.json of an unfinished run is believed",
        "system/storage.py",
        'return "sha256" not in value or fingerprinted(value)["sha256"] == value["sha256"]',
        "return True",
        "tests/test_folders.py::test_every_flipped_byte_of_an_unfinished_run_is_seen",
    ),
    Mutant(
        "numbers in accounting brackets are positive",
        "data/tables/notation.py",
        "        return -value\n",
        "        return value\n",
        "tests/test_notation.py",
    ),
    Mutant(
        "the order of day and month is the other one",
        "data/tables/notation.py",
        'if order != "DMY":',
        'if order != "MDY":',
        "tests/test_notation.py",
    ),
    Mutant(
        "a zone is added to the time where it must be taken away",
        "data/tables/notation.py",
        'if zone[0] == "+":',
        'if zone[0] == "-":',
        "tests/test_notation.py",
    ),
    Mutant(
        "tree: a child's message without its own potentials",
        "distributions/trees.py",
        "message = _product(below[nodes], tree",
        "message = _product(potentials[nodes], tree",
        EXACT_MODELS,
    ),
    Mutant(
        "tree: transitions read from child to parent",
        "distributions/trees.py",
        "tree.transitions[nodes].exp().mT)",
        "tree.transitions[nodes].exp())",
        EXACT_MODELS,
    ),
    Mutant(
        "tree: what a node says comes back to it from its parent",
        "distributions/trees.py",
        "rest = up.below[parents] + above[parents] - up.messages[nodes]",
        "rest = up.below[parents] + above[parents]",
        EXACT_MODELS,
    ),
    Mutant(
        "tree: posterior draws of a child by the prior's step",
        "distributions/trees.py",
        "return given + self.passed.below[node]",
        "return given + 0 * self.passed.below[node]",
        EXACT_MODELS,
    ),
    Mutant(
        "tree: most probable states node by node",
        "distributions/trees.py",
        "z[:, node] = chosen[node].gather(1, z[:, parent, None])[:, 0]",
        "z[:, node] = best[node].argmax(-1)",
        EXACT_MODELS,
    ),
    Mutant(
        "emissions: a density without the slope of its warp",
        "models/emissions.py",
        "gap, within = torch.zeros_like(value), at.log_slope.T + slope",
        "gap, within = torch.zeros_like(value), 0 * at.log_slope.T + slope",
        EXACT_MODELS,
    ),
    Mutant(
        "emissions: a value keeps the marginal's share of its cell",
        "models/emissions.py",
        "log_p = log_p - torch.where(outside, 0.0, _logistic_mass(*ends, whole))",
        "log_p = log_p - 0 * torch.where(outside, 0.0, _logistic_mass(*ends, whole))",
        f"{EXACT_MODELS}::test_an_integer_column_of_many_values_is_normalised",
    ),
    Mutant(
        "emissions: a Normal learns from the middle of a cell",
        "models/emissions.py",
        "torch.where(thin, middle, loc + scale * mean),",
        "middle,",
        f"{EXACT_MODELS}::test_expected_counts_are_gradients",
    ),
    Mutant(
        "emissions: pseudo-counts without their share in the totals",
        "models/emissions.py",
        "table /= _sums(self.owner, len(self.kinds), table)[self.owner]",
        "table /= _sums(self.owner, len(self.kinds), counts.table + 1)[self.owner]",
        EXACT_MODELS,
    ),
    Mutant(
        "emissions: a Normal keeps its own share of the cell's rows",
        "models/emissions.py",
        "states[d] - near - far)",
        "states[d])",
        f"{EXACT_MODELS}::test_expected_counts_are_gradients",
    ),
    Mutant(
        "cell scores: the posterior's mean of p instead of that of 1 / p",
        "models/trees.py",
        "-(log_states - each).logsumexp(-1).T",
        "(log_states + each).logsumexp(-1).T",
        EXACT_MODELS,
    ),
    Mutant(
        "exact models: the last pass is kept instead of the best",
        "models/trees.py",
        "kept = self._state()",
        "kept = None",
        f"{EXACT_MODELS}::test_training_is_the_same_again_and_keeps_the_best_pass",
    ),
    Mutant(
        "structure: columns of many bins depend on each other by chance",
        "models/structure.py",
        "- chance) / n)",
        ") / n)",
        f"{EXACT_MODELS}::test_mutual_information_by_hand",
    ),
    Mutant(
        "forest: every tree is the first again",
        "models/forest.py",
        "information[[node, parent], [parent, node]] -= less",
        "pass",
        f"{FOREST}::test_a_pair_that_no_tree_can_have_is_in_the_next",
    ),
    Mutant(
        "forest: a tree is trained as if it were alone",
        "models/forest.py",
        "yield from tree.fitted(train, validation, states, max_passes, seed, others)",
        "yield from tree.fitted(train, validation, states, max_passes, seed)",
        f"{FOREST}::test_stopped_early_it_has_the_best_so_far",
    ),
    Mutant(
        "forest: a tree is added that makes the mixture worse",
        "models/forest.py",
        "better = not reached <= best",
        "better = True",
        f"{FOREST}::test_trees_are_added_as_long_as_the_validation_rows_gain",
    ),
    Mutant(
        "forest: the states of a row come from another tree than its values",
        "models/forest.py",
        "z = torch.where((chosen == m)[..., None], own, z)",
        "z = torch.where((chosen != m)[..., None], own, z)",
        f"{FOREST}::test_samples_have_the_frequencies",
    ),
    Mutant(
        "forest: cells are scored as if all trees were equally probable",
        "models/forest.py",
        "log_share = self._each(x).log_softmax(1).T",
        "log_share = (0 * self._each(x)).log_softmax(1).T",
        f"{FOREST}::test_conditionals_scores_and_filled_gaps_are_exact",
    ),
    Mutant(
        "structure: rows in which one of the two is missing count",
        "models/structure.py",
        "codes = np.full(len(values), -1)",
        "codes = np.full(len(values), 0)",
        f"{EXACT_MODELS}::test_mutual_information_by_hand",
    ),
    Mutant(
        "flow: the inverse of an affine coupling says the slope of the map",
        "couplings.py",
        "return (x - shift) * torch.exp(-log_scale), -log_scale",
        "return (x - shift) * torch.exp(-log_scale), log_scale",
        FLOWS,
    ),
    Mutant(
        "flow: the log-determinant of the last layer alone",
        "couplings.py",
        "total = total + slope.sum(-1)",
        "total = slope.sum(-1)",
        FLOWS,
    ),
    Mutant(
        "flow: the density of the base at z, without its scale",
        "distributions/flows.py",
        "return _standard(u) + log_det - self.scale.log().sum(-1)",
        "return _standard(u) + log_det",
        FLOWS,
    ),
    Mutant(
        "flow: one scale of the prior for ever",
        "priors.py",
        "self.min_scale + positive(self.raw_scale)\n        layers = ",
        "self.min_scale + positive(0 * self.raw_scale)\n        layers = ",
        f"{FLOWS}::test_a_prior_is_the_normal_of_its_place_and_scale_until_its_layers_bend",
    ),
    Mutant(
        "spline: the inverse says the slope of the spline",
        "distributions/flows.py",
        "log_slope = -log_slope",
        "log_slope = log_slope + 0",
        FLOWS,
    ),
    Mutant(
        "tighten: a flow starts bent and not as the Gaussian it came from",
        "couplings.py",
        "nn.init.zeros_(parameter)",
        "nn.init.normal_(parameter)",
        f"{FLOWS}::test_zeros_are_the_identity",
    ),
    Mutant(
        "autoregressive: a dimension sees itself",
        "autoregressive.py",
        "MaskedAffine(answers[:, None] > degrees)",
        "MaskedAffine(answers[:, None] >= degrees)",
        f"{AUTOREGRESSIVE}::test_an_output_sees_all_dimensions_before_it_and_no_other",
    ),
    Mutant(
        "autoregressive: the last dimension but one is seen by none",
        "autoregressive.py",
        "* (dim - 1 - lowest) // width",
        "* (dim - 2 - lowest) // width",
        f"{AUTOREGRESSIVE}::test_an_output_sees_all_dimensions_before_it_and_no_other",
    ),
    Mutant(
        "autoregressive: the inverse takes the layers in the order of the map",
        "autoregressive.py",
        "in reversed(layers) if inverse else layers:",
        "in layers:",
        f"{AUTOREGRESSIVE}::test_the_log_determinant_is_that_of_the_jacobian",
    ),
    Mutant(
        "autoregressive: a prior's layers take their slow way for densities",
        "priors.py",
        "hidden, bins, density=True)",
        "hidden, bins, density=False)",
        f"{AUTOREGRESSIVE}::test_a_prior_of_three_dimensions_is_bent_given_all_those_before",
    ),
    Mutant(
        "importance: a slow density is asked for at the samples it came with",
        "evidence/importance.py",
        "    if log_r is not None:\n",
        "    if False:\n",
        f"{AUTOREGRESSIVE}::test_a_linear_layer_is_the_exact_posterior_of_a_linear_model",
    ),
    Mutant(
        "annealing: chains ask for a density that costs D passes",
        "evidence/annealing.py",
        "_fast(model.encode(*whole))",
        "model.encode(*whole)",
        f"{AUTOREGRESSIVE}::test_annealing_starts_at_the_gaussian_of_mean_and_variances",
    ),
    Mutant(
        "tighten: a flow whose density costs D passes is asked for it at each step",
        "runs/tighten.py",
        "TIGHTENING_SLOW if slow else TIGHTENING",
        "TIGHTENING",
        "tests/test_tighten.py::test_it_starts_as_the_posterior_it_came_from",
    ),
    Mutant(
        "latents: as many rows though each density costs D passes",
        "evidence/latents_section.py",
        "if not scene.model.slow_density:",
        "if True:",
        f"{AUTOREGRESSIVE}::test_an_audit_takes_few_rows_where_their_densities_cost_most",
    ),
    Mutant(
        "sphere: the reflection goes across mu - e_1, which may have no length",
        "distributions/sphere.py",
        "sign = torch.where(first > 0, 1.0, -1.0)",
        "sign = torch.where(first > 0, -1.0, -1.0)",
        f"{SPHERE}::test_around_an_axis_or_its_opposite_nothing_is_divided_by_zero",
    ),
    Mutant(
        "sphere: samples without the gradient of the angle",
        "distributions/sphere.py",
        "near, far = Dirichlet(parameters, validate_args=False).rsample(sample_shape).unbind(-1)",
        "near, far = Dirichlet(parameters, validate_args=False).sample(sample_shape).unbind(-1)",
        f"{SPHERE}::test_samples_have_the_moments_and_their_gradients_the_slopes",
    ),
    Mutant(
        "sphere: the normalizer of one dimension less",
        "distributions/sphere.py",
        "- beta * math.log(4 * math.pi)",
        "- (beta - 0.5) * math.log(4 * math.pi)",
        f"{SPHERE}::test_density_mean_variance_and_divergence_are_those_of_quadrature",
    ),
    Mutant(
        "sphere: log-gamma functions cancel in float32",
        "distributions/sphere.py",
        "LARGE = 8.0 ",
        "LARGE = 1e9 ",
        f"{SPHERE}::test_float32_knows_densities_and_divergences_of_the_smallest_spread",
    ),
    Mutant(
        "sphere: the ladder anneals where no chain can move",
        "evidence/rows.py",
        "not can_move(support)",
        "(support is not None and support.is_discrete)",
        f"{SPHERE}::test_rows_that_the_encoder_does_not_serve_are_looked_at_again_on_a_sphere",
    ),
    Mutant(
        "sphere: the point that stands for a data point lies in the ball",
        "model.py",
        "return nearest(q, q.mean)",
        "return q.mean",
        f"{SPHERE}::test_importance_sampling_and_bounds_on_a_sphere_are_right",
    ),
    Mutant(
        "tasks: an interval of 90 % holds 91 of 100 ranks",
        "evidence/task_gaps.py",
        "INSIDE = 99, (5, 94)",
        "INSIDE = 99, (5, 95)",
        "tests/test_tasks.py::test_the_interval_holds_nine_tenths_of_exchangeable_values",
    ),
    Mutant(
        "tasks: a level is not counted among its draws",
        "evidence/task_gaps.py",
        "often = (every[:, None] == every[None]).sum(1)",
        "often = (every[:, None] == draws[None]).sum(1)",
        "tests/test_tasks.py::test_the_interval_holds_nine_tenths_of_exchangeable_values",
    ),
    Mutant(
        "tasks: a planted row is compared with what it was",
        "evidence/task_odd.py",
        "others = counts.sum(1)[:, None] - counts[:, origin]",
        "others = counts.sum(1)[:, None] - 0 * counts[:, origin]",
        "tests/test_tasks.py::test_of_rows_without_an_error_the_stated_rate_is_found",
    ),
    Mutant(
        "tasks: an error that changes nothing",
        "evidence/task_odd.py",
        "if value != row[i] and not np.isnan(value)",
        "if not np.isnan(value)",
        "tests/test_tasks.py::test_an_error_is_of_its_kind",
    ),
    Mutant(
        "tasks: copies are nearer, and called farther",
        "evidence/task_synthetic.py",
        "area(-near(some), -near(real))",
        "area(near(some), near(real))",
        "tests/test_tasks.py::test_copied_rows_are_seen",
    ),
    Mutant(
        "tasks: labels of other rows",
        "runs/audit.py",
        'generator=generator(seed, "audit", 1))[: counts[1]]',
        'generator=generator(seed, "audit"))[: counts[1]]',
        "tests/test_tasks.py::test_labels_stand_beside_their_rows",
    ),
    Mutant(
        "constraints: the rows that hold are drawn again, too",
        "data/tables/constraints.py",
        "rows = np.concatenate([rows, good]) if len(rows) else good",
        "rows = good",
        "tests/test_constraints.py",
    ),
    Mutant(
        "constraints: a missing entry breaks one",
        "data/tables/constraints.py",
        "return np.asarray(~(less >= more))",
        "return np.asarray(less < more)",
        "tests/test_constraints.py",
    ),
    Mutant(
        "constraints: what fills a gap need not keep them",
        "runs/making.py",
        "again = (gaps & ~keeps(filled).all(0))",
        "again = (gaps & ~keeps(filled[:1]).all(0))",
        "tests/test_constraints.py",
    ),
    Mutant(
        "constraints: what two columns hold by their ranges is learned",
        "data/tables/constraints.py",
        "return chance >= SHARE and",
        "return chance >= 0 or",
        "tests/test_constraints.py",
    ),
    Mutant(
        "gaps: full Gaussians are looked for where nobody asks",
        "evidence/gaps.py",
        "if full and full_starts and not",
        "if full_starts and not",
        "tests/test_gaps.py::test_the_best_of_the_family_is_the_same_without_the_full_gaussians",
    ),
    Mutant(
        "images: an uncompressed YCbCr TIFF is always taken for misread",
        "data/image_files.py",
        'ycbcr and raw == "RGBX" and image',
        "ycbcr and image",
        "tests/test_images.py::test_b08_other_colours_are_converted",
    ),
    Mutant(
        "candidates: a factor analyser whatever the grid of the data",
        "runs/candidates.py",
        "return all(c.step <= FINE * float(s) for c, s in zip(columns, spread, strict=True))",
        "return len(columns) == len(spread)",
        "tests/test_exact_runs.py::"
        "test_no_factor_analyser_where_its_density_could_exceed_the_precision_of_the_data",
    ),
    Mutant(
        "candidates: the first of two exact models instead of the better one",
        "runs/candidates.py",
        "best = max(fits, key=lambda fit: fit.reached)",
        "best = fits[0]",
        "tests/test_exact_runs.py::test_a_table_of_real_numbers_has_the_better_of_two_exact_models",
    ),
    Mutant(
        "doctor: twice the passes of all numbers of states together",
        "evidence/doctor.py",
        'epochs = 2 * (known.get("max_epochs") or epochs)',
        "epochs = 2 * epochs",
        "tests/test_progress.py::test_passes_of_em_are_cut_by_their_limit_alone",
    ),
    Mutant(
        "VampPrior: one with an encoder of its own shares that of the model",
        "priors.py",
        "        if self.own is None:\n",
        "        if True:\n",
        f"{TIGHTEN}::test_a_prior_that_shares_the_encoder_stays_where_it_was",
    ),
    Mutant(
        "VampPrior: what was started is started again",
        "build/start.py",
        "if not isinstance(prior, VampPrior) or prior.started:",
        "if not isinstance(prior, VampPrior):",
        f"{VAMP}::test_it_starts_at_rows_of_the_training",
    ),
    Mutant(
        "VampPrior: the pseudo-inputs are not learned",
        "priors.py",
        "seen: Tensor = self.pseudo_inputs",
        "seen: Tensor = self.pseudo_inputs.detach()",
        f"{VAMP}::test_the_bound_moves_pseudo_inputs_and_encoder_through_the_prior",
    ),
    Mutant(
        "refit: the encoder is trained, too",
        "runs/folder.py",
        "        if name != TRAINED_ALONE[word]:\n",
        '        if name == "likelihood":\n',
        f"{REFIT}::test_the_prior_alone_is_another",
    ),
    Mutant(
        "refit: what the old prior gains over the new one",
        "runs/gain.py",
        "torch.stack([(after - was).mean(0),",
        "torch.stack([(was - after).mean(0),",
        f"{REFIT}::test_the_gain_is_that_of_the_closed_form",
    ),
    Mutant(
        "refit: the prior that was there is not kept",
        "runs/refit.py",
        "for key, value in theirs.prior.unshared().items()}",
        "for key, value in theirs.prior.unshared().items() if 0 * value.numel()}",
        f"{REFIT}::test_what_was_gained_is_printed_and_kept",
    ),
    Mutant(
        "refit: a module of the old prior is imported unasked",
        "runs/folder.py",
        'if "refitted" in info:',
        'if "nothing" in info:',
        f"{REFIT}::test_the_prior_that_was_there_is_not_imported_unasked",
    ),
    Mutant(
        "gated network: value and gate change places",
        "networks.py",
        "functional.glu(layer(units), -1)",
        "functional.glu(layer(units).roll(self.hidden[0], -1), -1)",
        f"{INSTANCES}::test_a_gated_layer_by_hand",
    ),
    Mutant(
        "after training: rows drawn from few are as unsure as new ones",
        "evidence/after_training.py",
        'now["test_error"] * math.sqrt(left_out)',
        'now["test_error"]',
        "tests/test_one_number.py::test_a_part_of_the_rows_differs_by_the_draw_of_them",
    ),
    Mutant(
        "after training: nothing says that its number was unsure",
        "evidence/after_training.py",
        "known is not None and known < RELIABLE",
        "known is not None and known < 0",
        "tests/test_one_number.py::test_a_number_after_training_that_was_not_reliable_is_called_so",
    ),
    Mutant(
        "report: the curve leaves the frame after the kept step",
        "report/figures.py",
        "max(last, low - FALL * span)",
        "low",
        REPORT + "::test_the_curve_after_the_kept_step_stays_in_the_frame",
    ),
    Mutant(
        "report: columns of few rows differ by chance as those of many do",
        "evidence/column_shapes.py",
        "(1 / len(real) + 1 / len(made))",
        "(1 / len(real))",
        "tests/test_report_columns.py::test_levels_have_the_shares_that_they_have",
    ),
    Mutant(
        "report: a training that was cut is called good",
        "evidence/verdict.py",
        '"Not trained to the end, but" if unfinished else "Good:"',
        '"Good:"',
        "tests/test_terminal.py::test_a_training_that_was_cut_is_not_called_good",
    ),
    Mutant(
        "factor analysis: its density is rounded like float32",
        "models/factor_analysis.py",
        "_Parameters(*map(wide, self._components())).log_prob(self._standardized(wide(x)))",
        "self._components().log_prob(self._standardized(x))",
        "tests/test_factor_analysis.py::test_in_float32_the_density_is_that_of_float64",
    ),
]


def copy(source: Path, folder: Path) -> Path:
    """Copies what the tests need. There ``taut`` must be that of the copy.

    If not, nothing is collected and nothing killed.
    """
    for name in ("src", "tests"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", folder)
    conftest = source / "tests" / "conftest.py"
    own = (
        f"\nimport taut\n\nassert taut.__file__ == "
        f"{str(folder / 'src' / 'taut' / '__init__.py')!r}, taut.__file__\n"
    )
    (folder / "tests" / "conftest.py").write_text(
        conftest.read_text().partition("\nimport taut\n\nassert")[0] + own
    )
    return folder


def run_tests(folder: Path, own: Path, *tests: str, plugins: Sequence[object] = ()) -> None:
    """Runs tests of a copy. The process is forked from one that has imported everything but taut.

    That takes most of the time.
    """
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.path[:] = [str(folder / "src"), *(p for p in sys.path if Path(p) != ROOT / "tests")]
    log = os.open(own / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    options = [
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:hypothesispytest",
        "--no-header",
        "--tb=short",
    ]
    if all("::" in test for test in tests):
        options += ["-m", ""]  # a test that is named runs, slow or not
    sys.exit(
        int(
            pytest.main(
                [
                    *options,
                    "--junitxml",
                    str(own / "report"),
                    "--basetemp",
                    str(own / "temporary"),
                    *tests,
                ],
                plugins,
            )
        )
    )


def failing(
    folder: Path, *tests: str, target: Callable[..., None] = run_tests
) -> tuple[str | None, str]:
    """Returns the first test that failed, or None, and why the tests say nothing, if so."""
    own = Path(tempfile.mkdtemp(dir=folder))
    process = get_context("forkserver").Process(target=target, args=(folder, own, *tests))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, f"hangs: {SECONDS} s are over"
    if process.exitcode == 2 and "KeyboardInterrupt" in (own / "log").read_text():
        return "an interrupt ends the tests", ""
    if process.exitcode not in (0, 1) or not (own / "report").exists():
        return None, f"pytest exits with {process.exitcode}: {(own / 'log').read_text()[-2000:]}"
    for case in ElementTree.parse(own / "report").iter("testcase"):
        for kind in case:
            if kind.tag == "error" or (
                kind.tag == "failure" and kind.get("message", "").startswith(BROKEN)
            ):
                return None, f"{case.get('name')}: {kind.get('message')}"
            if kind.tag == "failure":
                return case.get("name"), ""
    return (None, "") if process.exitcode == 0 else (None, "pytest exits with 1 and no test failed")


def plant(clean: Path, mutant: Mutant) -> str:
    """Returns the text of the file with the bug in it."""
    source = (clean / "src" / "taut" / mutant.file).read_text()
    if source.count(mutant.before) != 1:
        raise SystemExit(
            f"{mutant.name}: {source.count(mutant.before)} times in {mutant.file}, not once: "
            f"{mutant.before!r}"
        )
    text = source.replace(mutant.before, mutant.after)
    compile(text, mutant.file, "exec")
    return text


def try_out(clean: Path, mutant: Mutant) -> bool:
    """Tells whether a test catches the mutant, and prints which."""
    with tempfile.TemporaryDirectory(prefix="taut-mutant-") as name:
        folder = copy(clean, Path(name).resolve())
        (folder / "src" / "taut" / mutant.file).write_text(plant(clean, mutant))
        test, problem = failing(folder, mutant.tests)
    print(
        f"killed    {mutant.name}  [{test}]"
        if test
        else f"SURVIVED  {mutant.name}  [{problem or mutant.tests}]",
        flush=True,
    )
    return test is not None


def main() -> None:
    chosen = [
        m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])
    ]
    if not chosen:
        raise SystemExit(f"no mutant has a name with {' or '.join(sys.argv[1:])} in it")
    os.environ["OMP_NUM_THREADS"] = "1"
    set_forkserver_preload(
        [
            "torch._dynamo",
            "pytest",
            "beartype",
            "sklearn.datasets",
            "safetensors.torch",
            "PIL.Image",
        ]
    )
    with (
        tempfile.TemporaryDirectory(prefix="taut-clean-") as name,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        clean = copy(ROOT, Path(name).resolve())
        for mutant in chosen:
            plant(clean, mutant)
        targets = {m.tests for m in chosen}
        whole = {
            t for t in targets if t.partition("::")[0] not in targets - {t}
        }  # a test of a file that runs anyway is in it
        found = pool.map(lambda tests: failing(clean, tests), sorted(whole))
        for tests, (test, problem) in zip(sorted(whole), found, strict=True):
            if test or problem:
                raise SystemExit(f"{tests}: not green without a bug: {test or problem}")
        killed = sum(pool.map(lambda mutant: try_out(clean, mutant), chosen))
    print(f"killed {killed} of {len(chosen)}")
    sys.exit(killed < len(chosen))


if __name__ == "__main__":
    main()
