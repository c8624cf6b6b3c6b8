"""Bugs planted on purpose, each of which a test must catch: ``python tests/mutants.py [NAME ...]``.

Each row of ``MUTANTS`` is a bug that a real library has had or that a careless edit would make. For each, ``src`` and
``tests`` are copied to a temporary folder, ``before`` is replaced by ``after`` there, and the named tests run on the copy.
A mutant is *killed* if a test fails; one that cannot be imported, breaks a fixture, uses an unknown name or hangs is not.
First all those tests run on a copy without a bug and must be green. The last line is ``killed N of N``; a survivor exits with 1.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context, set_forkserver_preload
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKERS = 2
SECONDS = 120  # for one mutant; the slowest needs a tenth on a free core
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


OBJECTIVES, LIKELIHOODS, PROBLEMS = "tests/test_objectives.py", "tests/test_likelihoods.py", "tests/test_problems.py"
EVIDENCE, BUILD, DATA, LOOP = "tests/test_evidence.py", "tests/test_build.py", "tests/test_data.py", "tests/test_loop.py"
INSTANCES, STORAGE, RUN = "tests/test_instances.py", "tests/test_storage.py", "tests/test_run.py"
PARETO = "tests/test_pareto.py"

MUTANTS = [
    # --- Objectives -------------------------------------------------------------------------------------------------------
    Mutant(
        "ELBO: value with the sign of a loss (vdvae, blackjax)",
        "objectives.py",
        "Bound(draw.log_weight.detach().mean(0), surrogate,",
        "Bound(-draw.log_weight.detach().mean(0), surrogate,",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: beta leaks into the value",
        "objectives.py",
        "Bound(draw.log_weight.detach().mean(0), surrogate,",
        "Bound((draw.log_likelihood - self.beta * (draw.log_posterior - draw.log_prior)).detach().mean(0), surrogate,",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: warm-up leaks into the value",
        "objectives.py",
        "Bound(draw.log_weight.detach().mean(0), surrogate,",
        "Bound((draw.log_likelihood - beta / self.beta * (draw.log_posterior - draw.log_prior)).detach().mean(0), surrogate,",
        OBJECTIVES,
    ),
    Mutant(
        "ELBO: the two sides of the KL swapped",
        "objectives.py",
        "kl_divergence(draw.posterior, draw.prior)",
        "kl_divergence(draw.prior, draw.posterior)",
        OBJECTIVES,
    ),
    Mutant(
        "free bits: on each datum instead of the batch mean",
        "objectives.py",
        "torch.where(rate.mean(0) > self.free_bits",
        "torch.where(rate > self.free_bits",
        OBJECTIVES,
    ),
    Mutant("log K forgotten", "objectives.py", "a.logsumexp(-2) - math.log(a.shape[-2])", "a.logsumexp(-2)", OBJECTIVES),
    Mutant(
        "IWAE: mean of logs instead of log of mean",
        "objectives.py",
        "bound = log_mean_exp(model.draw(x, self.num_samples, context=context).log_weight)",
        "bound = model.draw(x, self.num_samples, context=context).log_weight.mean(0)",
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
    Mutant("DReG: mean for sum", "objectives.py", "(weight * log_weight).sum(0)", "(weight * log_weight).mean(0)", OBJECTIVES),
    Mutant(
        "DReG: the surrogate reported as the value (pythae)",
        "objectives.py",
        "Bound(log_mean_exp(log_weight).detach(), (weight",
        "Bound((weight * log_weight).sum(0).detach(), (weight",
        OBJECTIVES,
    ),
    Mutant(
        "DReG: hook forgotten", "objectives.py", "lambda gradient: weight[..., None] * gradient", "lambda _: None", OBJECTIVES
    ),
    Mutant("posterior not stopped", "model.py", "with frozen(self.posterior), untouched():", "with untouched():", OBJECTIVES),
    Mutant(
        "score function: weights not detached",
        "objectives.py",
        "log_weight = draw.log_weight.detach()\n        baseline",
        "log_weight = draw.log_weight\n        baseline",
        OBJECTIVES,
    ),
    Mutant(
        "score function: biased baseline (includes its own sample)",
        "objectives.py",
        "baseline = (log_weight.sum(0) - log_weight) / (self.num_samples - 1)",
        "baseline = log_weight.mean(0)",
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
        "likelihoods.py",
        "scale = self.data_scale * (self.min_scale + positive(self.raw_scale))",
        "scale = self.min_scale + positive(self.raw_scale)",
        LIKELIHOODS,
    ),
    Mutant(
        "Bernoulli: probabilities taken for logits (pythae)",
        "likelihoods.py",
        "_independent(BernoulliDistribution(logits=logits,",
        "_independent(BernoulliDistribution(logits=logits.sigmoid(),",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: one level too few",
        "likelihoods.py",
        "levels = int(high) - self.low + 1",
        "levels = int(high) - self.low",
        LIKELIHOODS,
    ),
    Mutant(
        "mixture: weights not normalised",
        "likelihoods.py",
        "        return _independent(mixture, self.event_dims)",
        "        mixture.log_prob = lambda x: (parts.log_prob(x[..., None]) + logits).logsumexp(-1)\n"
        "        return _independent(mixture, self.event_dims)",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: lowest level forgotten in the mass",
        "distributions.py",
        "(value - self.low).long()",
        "value.long()",
        LIKELIHOODS,
    ),
    Mutant(
        "categorical: lowest level forgotten in the draw",
        "distributions.py",
        "(super().sample(sample_shape) + self.low)",
        "super().sample(sample_shape)",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: end levels without their tails",
        "distributions.py",
        "torch.where(value <= self.low, log_below, torch.where(value >= self.high, log_above, inner))",
        "inner",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: constant dropped",
        "distributions.py",
        "log_below + log_above + torch.log(-torch.expm1(-1 / self.scale))",
        "log_below + log_above",
        LIKELIHOODS,
    ),
    Mutant(
        "discretized logistic: edges off by half a level",
        "distributions.py",
        "upper = (value + 0.5 - self.loc) / self.scale\n        lower = (value - 0.5 - self.loc)",
        "upper = (value + 1.0 - self.loc) / self.scale\n        lower = (value - self.loc)",
        LIKELIHOODS,
    ),
    Mutant(
        "standardizing forgets the mean", "networks.py", "return (x - self.loc) / self.scale", "return x / self.scale", INSTANCES
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
        "evidence/importance.py",
        "model.eval()",
        "model.train()",
        EVIDENCE,
    ),
    Mutant(
        "evidence: last block lost",
        "evidence/importance.py",
        "range(0, len(x), data_rows)",
        "range(0, max(1, len(x) - data_rows + 1), data_rows)",
        EVIDENCE,
    ),
    Mutant(
        "evidence: encoder run for each chunk of samples (pythae, NVAE)",
        "evidence/importance.py",
        "reparameterize=False, posterior=posterior)",
        "reparameterize=False)",
        EVIDENCE,
    ),
    Mutant(
        "evidence: the same noise in every block",
        "evidence/importance.py",
        'stream(seed, "importance", number)',
        'stream(seed, "importance")',
        EVIDENCE,
    ),
    Mutant(
        "evidence: more samples drawn than divided by (scVI)",
        "evidence/importance.py",
        "count = min(rows, num_samples - first)",
        "count = rows",
        EVIDENCE,
    ),
    Mutant(
        "streaming: weights not re-shifted to the new maximum",
        "evidence/importance.py",
        "self.w = self.w * shrink + w.sum(0)",
        "self.w = self.w + w.sum(0)",
        EVIDENCE,
    ),
    Mutant(
        "streaming: squared weights re-shifted once",
        "evidence/importance.py",
        "self.w_squared * shrink.square()",
        "self.w_squared * shrink",
        EVIDENCE,
    ),
    Mutant(
        "streaming: w log w not re-shifted",
        "evidence/importance.py",
        "self.w_log = self.w_log * shrink",
        "self.w_log = self.w_log",
        EVIDENCE,
    ),
    Mutant(
        "ESS: K in place of its formula",
        "evidence/importance.py",
        "ess = torch.where(self.w > 0, self.w.square() / self.w_squared, 0.0)",
        "ess = torch.where(self.w > 0, float(k), 0.0).expand_as(self.w)",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: K for K - 1 in the weights",
        "evidence/importance.py",
        "(k / ess - 1).clamp_min(0) / (k - 1)",
        "(k / ess - 1).clamp_min(0) / k",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: K for K - 1 in the terms",
        "evidence/importance.py",
        "(k / (k - 1) if k > 1 else math.nan)",
        "(1.0 if k > 1 else math.nan)",
        EVIDENCE,
    ),
    Mutant(
        "Monte Carlo error: variance for standard error",
        "evidence/importance.py",
        "log_evidence_error=relative.sqrt(),",
        "log_evidence_error=relative,",
        EVIDENCE,
    ),
    Mutant(
        "gap error: covariance ignored",
        "evidence/importance.py",
        "(relative + errors[0].square() - 2 * shared)",
        "(relative + errors[0].square())",
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
        "statistics: N - 1 for N", "build.py", "else square / len(dataset.train)", "else square / (len(dataset.train) - 1)", BUILD
    ),
    Mutant("statistics: variance for standard deviation", "build.py", "variance.sqrt().to(dtype)", "variance.to(dtype)", BUILD),
    Mutant(
        "baseline: frequencies not smoothed",
        "build.py",
        "return (counts + extra) / (n + extra * schema.num_levels)",
        "return counts / n",
        BUILD,
    ),
    Mutant(
        "split: by position instead of hash",
        "data/split.py",
        "_, group, sizes = np.unique(row_hashes(array), return_inverse=True, return_counts=True)",
        "group, sizes = np.arange(len(array)), np.ones(len(array), int)",
        DATA,
    ),
    Mutant(
        "split: copies of a row on both sides",
        "data/split.py",
        "_, group, sizes = np.unique(row_hashes(array), return_inverse=True, return_counts=True)",
        "group, sizes = row_hashes(array).argsort().argsort(), np.ones(len(array), int)",
        DATA,
    ),
    Mutant(
        "binarize: <= for <",
        "data/dataset.py",
        "random_(0, 255, generator=generator) < x",
        "random_(0, 255, generator=generator) <= x",
        DATA,
    ),
    Mutant(
        "binarize: test set drawn anew each time",
        "data/dataset.py",
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
    Mutant("k-hat: not drawn toward one half", "evidence/pareto.py", "(m * k + 10 * 0.5) / (m + 10)", "k", PARETO),
    Mutant("k-hat: tail of the first chunk alone", "evidence/importance.py", "torch.cat([self.tail, log_w])", "log_w", PARETO),
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
        "model: another dropout mask when q is evaluated again", "model.py", "set_generator_states(before)", "pass", OBJECTIVES
    ),
    Mutant("model: a forgotten Independent broadcasts", "model.py", "!= (num_samples, len(x))", "== ()", OBJECTIVES),
    Mutant(
        "test-set error: copies of a row count as data", "evidence/results.py", "if groups is not None:", "if False:", EVIDENCE
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
        "build.py",
        "(dataset.train, dataset.validation, dataset.test)",
        "(dataset.train, dataset.validation)",
        BUILD,
    ),
    Mutant(
        "continuous Bernoulli: not normalised",
        "distributions.py",
        "a.log() - torch.log(-torch.expm1(-a))",
        "a.log()",
        LIKELIHOODS,
    ),
    Mutant(
        "baseline: pseudo-count by the fit and not by what is left out",
        "build.py",
        "(counts - 1 + extra).log()",
        "(counts + extra).log()",
        BUILD,
    ),
    Mutant("evidence: a few samples called reliable", "evidence/results.py", " & ~self.khat.isnan()", "", EVIDENCE),
    Mutant("loop: a value that is not finite is counted", "training/loop.py", " & torch.isfinite(value)", "", LOOP),
    # --- Training ---------------------------------------------------------------------------------------------------------
    Mutant(
        "loop: wrong sign",
        "training/loop.py",
        "loss, value = -bound.surrogate.mean()",
        "loss, value = bound.surrogate.mean()",
        LOOP,
    ),
    Mutant(
        "loop: sum for mean",
        "training/loop.py",
        "loss, value = -bound.surrogate.mean()",
        "loss, value = -bound.surrogate.sum()",
        LOOP,
    ),
    Mutant("loop: gradients pile up", "training/loop.py", "optimizer.zero_grad()", "pass", LOOP),
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
        "epoch, start = divmod(step * size, rows)",
        "epoch, start = step // (rows // size), step % (rows // size) * size",
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
        "training/loop.py",
        "optimizer.found_inf = (~finite)",
        "optimizer.found_inf = torch.zeros_like(finite)",
        LOOP,
    ),
    Mutant("loop: clip not applied", "training/loop.py", "(norm / config.clip_norm)", "torch.ones_like(norm)", LOOP),
    Mutant("loop: rollback at the same rate", "training/loop.py", "state.lr_scale /= 2", "state.lr_scale /= 1", LOOP),
    Mutant(
        "loop: rollback without the weights",
        "training/loop.py",
        "    _restore(state.tensors, model, optimizer, average)\n    state.rollbacks += 1",
        "    state.rollbacks += 1",
        LOOP,
    ),
    Mutant(
        "loop: decay of the running average swapped",
        "training/loop.py",
        "_foreach_lerp_(averaged, parameters, 1 - decay)",
        "_foreach_lerp_(averaged, parameters, decay)",
        LOOP,
    ),
    Mutant("loop: buffers of the average left behind", "training/loop.py", "kept.copy_(buffer)", "pass", LOOP),
    Mutant(
        "validation: in training mode",
        "training/loop.py",
        "model.eval()\n    value = target = 0.0",
        "value = target = 0.0",
        LOOP,
    ),
    Mutant(
        "validation: last batch lost",
        "training/loop.py",
        "enumerate(x.split(size))",
        "enumerate(x.split(size)[: max(1, len(x) // size)])",
        LOOP,
    ),
    Mutant(
        "validation: mean of batch means (pythae, scVI)",
        "training/loop.py",
        "value += float(bound.value.sum(dtype=torch.float64))",
        "value += float(bound.value.mean(dtype=torch.float64)) * len(x) / len(x.split(size))",
        LOOP,
    ),
    Mutant(
        "validation: new noise at each call",
        "training/loop.py",
        'with stream(seed, "validation", number):',
        "if number >= 0:",
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
        'best = "best." if any(k.startswith("best.") for k in state.tensors) else "average."',
        'best = "average."',
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
        "seeds.py",
        "    finally:\n        set_generator_states(before)",
        "    finally:\n        pass",
        LOOP,
    ),
    # --- The run ----------------------------------------------------------------------------------------------------------
    Mutant(
        "run: seed set after initialisation (pythae)",
        "fitting.py",
        'with stream(config.training.seed, "init"), _going_together():',
        "with _going_together():",
        RUN + "::test_the_same_seed_gives_the_same_bits_and_another_does_not",
    ),
    Mutant(
        "run: measured on the validation data",
        "measure.py",
        '"test" if len(data.test) else "validation"',
        '"validation"',
        RUN + "::test_what_is_measured",
    ),
    Mutant(
        "run: bits per dimension without log 2",
        "measure.py",
        "-1 / (schema.num_elements * math.log(2))",
        "-1 / schema.num_elements",
        RUN + "::test_what_is_measured",
    ),
    Mutant("manifest not checked", "storage.py", "if manifest.get(path.name) != _sha256(content):", "if not manifest:", STORAGE),
]


def copy(source: Path, folder: Path) -> Path:
    """Copies what the tests need. There ``taut`` must be that of the copy: if not, nothing is collected and nothing killed."""
    for name in ("src", "tests"):
        shutil.copytree(source / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(source / "pyproject.toml", folder)
    conftest = source / "tests" / "conftest.py"
    own = f"\nimport taut\n\nassert taut.__file__ == {str(folder / 'src' / 'taut' / '__init__.py')!r}, taut.__file__\n"
    (folder / "tests" / "conftest.py").write_text(conftest.read_text().partition("\nimport taut\n\nassert")[0] + own)
    return folder


def run_tests(folder: Path, own: Path, tests: str) -> None:
    """Runs tests of a copy. The process is forked from one that has imported everything but taut: that takes most of the time."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder / "src")
    sys.path[:] = [str(folder / "src"), *(p for p in sys.path if Path(p) != ROOT / "tests")]
    log = os.open(own / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", "--no-header", "--tb=short"]
    sys.exit(int(pytest.main([*options, "--junitxml", str(own / "report"), "--basetemp", str(own / "temporary"), tests])))


def failing(folder: Path, tests: str) -> tuple[str | None, str]:
    """Returns the first test that failed, or None, and why the tests say nothing, if so."""
    own = Path(tempfile.mkdtemp(dir=folder))
    process = get_context("forkserver").Process(target=run_tests, args=(folder, own, tests))
    process.start()
    process.join(SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return None, f"hangs: {SECONDS} s are over"
    if process.exitcode not in (0, 1) or not (own / "report").exists():
        return None, f"pytest exits with {process.exitcode}: {(own / 'log').read_text()[-2000:]}"
    for case in ElementTree.parse(own / "report").iter("testcase"):
        for kind in case:
            if kind.tag == "error" or (kind.tag == "failure" and kind.get("message", "").startswith(BROKEN)):
                return None, f"{case.get('name')}: {kind.get('message')}"
            if kind.tag == "failure":
                return case.get("name"), ""
    return (None, "") if process.exitcode == 0 else (None, "pytest exits with 1 and no test failed")


def plant(clean: Path, mutant: Mutant) -> str:
    """Returns the text of the file with the bug in it."""
    source = (clean / "src" / "taut" / mutant.file).read_text()
    if source.count(mutant.before) != 1:
        raise SystemExit(f"{mutant.name}: {source.count(mutant.before)} times in {mutant.file}, not once: {mutant.before!r}")
    text = source.replace(mutant.before, mutant.after)
    compile(text, mutant.file, "exec")
    return text


def try_out(clean: Path, mutant: Mutant) -> bool:
    """Tells whether a test catches the mutant, and prints which."""
    with tempfile.TemporaryDirectory(prefix="taut-mutant-") as name:
        folder = copy(clean, Path(name).resolve())
        (folder / "src" / "taut" / mutant.file).write_text(plant(clean, mutant))
        test, problem = failing(folder, mutant.tests)
    print(f"killed    {mutant.name}  [{test}]" if test else f"SURVIVED  {mutant.name}  [{problem or mutant.tests}]", flush=True)
    return test is not None


def main() -> None:
    chosen = [m for m in MUTANTS if not sys.argv[1:] or any(word in m.name for word in sys.argv[1:])]
    if not chosen:
        raise SystemExit(f"no mutant has a name with {' or '.join(sys.argv[1:])} in it")
    os.environ["OMP_NUM_THREADS"] = "1"
    set_forkserver_preload(["torch._dynamo", "pytest", "beartype", "sklearn.datasets", "safetensors.torch", "PIL.Image"])
    with tempfile.TemporaryDirectory(prefix="taut-clean-") as name, ThreadPoolExecutor(WORKERS) as pool:
        clean = copy(ROOT, Path(name).resolve())
        for mutant in chosen:
            plant(clean, mutant)
        for test, problem in pool.map(lambda tests: failing(clean, tests), sorted({m.tests for m in chosen})):
            if test or problem:
                raise SystemExit(f"not green without a bug: {test or problem}")
        killed = sum(pool.map(lambda mutant: try_out(clean, mutant), chosen))
    print(f"killed {killed} of {len(chosen)}")
    sys.exit(killed < len(chosen))


if __name__ == "__main__":
    main()
