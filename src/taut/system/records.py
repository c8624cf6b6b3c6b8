"""The content of the JSON files of a run folder: a table of types for each, and one check.

A folder may come from someone else, or from a failed disk, so everything in it is checked before it
is used. A shape is a condition, a list of one shape for all its entries, or a mapping of names to
shapes; a name that ends in ``?`` may be missing or null. Names that are not in the table are
ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taut.system.errors import StorageError, shown

__all__ = ["AUDIT", "EVALUATION", "GRADIENTS", "HISTORY", "MANIFEST", "RUN", "STATE", "checked"]


class Is(NamedTuple):
    """A condition on a value, and its name in a message."""

    name: str
    holds: Callable[[Any], bool]


class Each(NamedTuple):
    """A mapping whose values all have one shape."""

    shape: Any


class Either(NamedTuple):
    """A value of one of some shapes."""

    shapes: tuple[Any, ...]


def _whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _finite(x: Any) -> bool:
    return _whole(x) or (isinstance(x, float) and math.isfinite(x))


COUNT = Is("a whole number of at least 0", lambda x: _whole(x) and 0 <= x < 2**63)
SIZE = Is("a whole number of at least 1", lambda x: _whole(x) and 0 < x < 2**63)
WHOLE = Is("a whole number", lambda x: _whole(x) and abs(x) < 2**64)
NUMBER = Is("a number", _finite)
TEXT = Is("a text", lambda x: isinstance(x, str))
TRUTH = Is("true or false", lambda x: isinstance(x, bool))
SECTION = Is("a mapping", lambda x: isinstance(x, Mapping))

KNOWN = Is("a number or null", lambda x: x is None or _finite(x))

ESTIMATE = {"value": KNOWN, "mc_error": KNOWN, "test_error": KNOWN}
BRIEF = {"value": KNOWN, "mc_error": KNOWN}
BITS = Each(ESTIMATE)
BRACKET = {"own": ESTIMATE, "left_out": ESTIMATE}
MEASURED = {
    "num_data": COUNT,
    "num_samples": COUNT,
    "latent_dim": COUNT,
    "active_units": COUNT,
    "warnings": [TEXT],
    "elbo": ESTIMATE,
    "rate?": ESTIMATE,
    "distortion?": ESTIMATE,
    "log_evidence": ESTIMATE,
    "inference_gap": ESTIMATE,
    "ess": {"mean": NUMBER, "median?": NUMBER, "smallest": NUMBER},
    "khat": {"threshold": KNOWN, "reliable_share": KNOWN},
    "reliable_share?": KNOWN,
}
BEFORE = dict.fromkeys(("elbo", "log_evidence", "inference_gap"), ESTIMATE) | {"num_samples": COUNT}
TIGHTENED = {"from": TEXT, "before": BEFORE}
REFITTED = {**TIGHTENED, "prior": TEXT}

EXACT = {"model": TEXT, "competes": TRUTH, "ended?": TEXT}
OF_MODEL: dict[str, Any] = {"model": TEXT, **ESTIMATE}
CANDIDATES = {
    "kept": TEXT,
    "num_data": COUNT,
    "models": [OF_MODEL],
    "difference": ESTIMATE,
    "filling?": {"exact": ESTIMATE, "vae": ESTIMATE, **ESTIMATE},
}

MANIFEST = Each(Either((TEXT, [TEXT])))
STATE = {
    "total_steps": SIZE,
    "step": COUNT,
    "lr_scale": NUMBER,
    "skipped": COUNT,
    "rollbacks": COUNT,
    "best_step": COUNT,
    "best_target": KNOWN,
    "done": TRUTH,
    "micro_batches?": SIZE,
    "since?": COUNT,
}
HISTORY = {
    "step": COUNT,
    "epoch": NUMBER,
    "bound?": NUMBER,
    "validation?": NUMBER,
    "learning_rate": NUMBER,
    "skipped": COUNT,
    "rollbacks": COUNT,
    "best": TRUTH,
    "micro_batches?": SIZE,
}
RUN = {
    "format": WHOLE,
    "taut": TEXT,
    "torch": TEXT,
    "python": TEXT,
    "machine": TEXT,
    "threads": SIZE,
    "device": TEXT,
    "source": TEXT,
    "test": TEXT,
    "fingerprint": TEXT,
    "rows": {"train": COUNT, "validation": COUNT, "test": COUNT},
    "notes": [TEXT],
    "pace": TEXT,
    "total_steps": SIZE,
    "config": SECTION,
    "data_seed?": WHOLE,
    "tightened?": TIGHTENED,
    "refitted?": REFITTED,
    "observed?": {"from": TEXT},
    "rescaled?": TIGHTENED,
    "exact?": EXACT,
    "candidates?": CANDIDATES,
    "ended?": TEXT,
    "extended?": [COUNT],
    "schema": {
        "kind": TEXT,
        "event_shape": [SIZE],
        "low": NUMBER,
        "high": NUMBER,
        "missing?": TRUTH,
        "condition?": [TEXT],
        "missing_values?": [TEXT],
        "columns?": [SECTION],
        "context?": [SECTION],
        "names?": [TEXT],
    },
}
EVALUATION = {
    **MEASURED,
    "by": Each(COUNT),
    "method?": TEXT,
    "seed": WHOLE,
    "data": TEXT,
    "baseline?": ESTIMATE,
    "gain?": ESTIMATE,
    "exact_baseline?": OF_MODEL,
    "levels?": [{"name": TEXT, **ESTIMATE}],
    "gain_over_exact?": ESTIMATE,
    "gain_of_prior?": {"elbo": ESTIMATE, "log_evidence": ESTIMATE},
    "bits_per_dimension?": BITS,
    "unfinished?": [TEXT],
}
PAIR = {"samples": ESTIMATE, "reference?": ESTIMATE, "held_out?": ESTIMATE}
SAMPLES = {  # of a model that makes samples and has no density
    "seed": WHOLE,
    "data": TEXT,
    "num_data": COUNT,
    "warnings": [TEXT],
    "samples?": Each(Either((PAIR, COUNT, [TEXT]))),
    "unfinished?": [TEXT],
}
FINDING = {
    "name": TEXT,
    "nats?": NUMBER,
    "error?": NUMBER,
    "raises?": TEXT,
    "what": TEXT,
    "evidence": TEXT,
    "action": TEXT,
    "command": TEXT,
    "most?": NUMBER,
    "most_error?": NUMBER,
}
AUDIT = {  # without its sections, each of which knows its own: taut.evidence.section.shape
    "taut": TEXT,
    "run": TEXT,
    "seed": WHOLE,
    "num_data": COUNT,
    "stopped?": TEXT,
    "notes": [TEXT],
    "findings": [FINDING],
    "data": {"name": TEXT, "part": TEXT, "rows": COUNT, "fingerprint": TEXT, "each?": TEXT},
    "model": Each(Either((TEXT, KNOWN))),
    "effort": Each(KNOWN),
    "history?": [
        {
            "epoch": NUMBER,
            "step": COUNT,
            "bound": KNOWN,
            "validation": KNOWN,
            "learning_rate?": NUMBER,
            "best?": TRUTH,
        }
    ],
    "measured?": Each(Either((TEXT, NUMBER))),
    "training?": {"ended?": TEXT, "minutes?": NUMBER, "max_epochs?": NUMBER},
    "missing?": Each(TEXT),
    "tightened?": {**TIGHTENED, "after?": BEFORE},
    "candidates?": CANDIDATES,
    "bits_per_dimension?": BITS,
}
IMPROVEMENT = {
    "source": TEXT,
    "minutes": NUMBER,
    "gain": NUMBER,
    "trials": SIZE,
    "max_epochs?": SIZE,
    "num_data": SIZE,
    "config?": SECTION,
    "guesses?": TRUTH,
    "seed": WHOLE,
    "seconds": NUMBER,
    "current": TEXT,
    "steps": [
        {
            "finding": TEXT,
            "from": TEXT,
            "run": TEXT,
            "remedy": TEXT,
            "decoder_stays": TRUTH,
            "bound": TEXT,
            "predicted?": Each(NUMBER),
            "came_true?": Each(KNOWN),
            "p_value?": NUMBER,
            "covered?": TRUTH,
            "kept": TRUTH,
            "refused?": TEXT,
            "minutes": NUMBER,
        }
    ],
    "ended?": TEXT,
    "test?": SECTION,
}
STUDY = {
    "source": TEXT,
    "fingerprint": TEXT,
    "minutes": NUMBER,
    "seeds": SIZE,
    "candidates": [Each(TEXT)],
    "config": SECTION,
    "halving?": SIZE,
}
HALF = {
    "relative_variance?": BRIEF,
    "signal_to_noise?": BRIEF,
    "variance?": BRIEF,
    "bias?": {"z": NUMBER},
}
GRADIENTS = {
    "taut": TEXT,
    "run": TEXT,
    "seed": WHOLE,
    "estimators": [
        {
            "name": TEXT,
            "target?": TEXT,
            "reason?": TEXT,
            "bound?": BRIEF,
            "seconds?": BRIEF,
            "repeats?": COUNT,
            "encoder?": HALF,
            "decoder?": HALF,
        }
    ],
}


def checked(value: Any, shape: Any, path: Path) -> Any:
    """Returns a value after checking its shape.

    Raises:
        StorageError: it has another, with the first place where.
    """
    if problem := next(_problems(value, shape, ""), None):
        raise StorageError(f"{shown(path)} is damaged: {problem}; restore it from a copy")
    return value


def _problems(value: Any, shape: Any, place: str) -> Iterator[str]:
    if isinstance(shape, Is):
        if not shape.holds(value):
            yield f"{shown(place) or 'it'} is not {shape.name}"
    elif isinstance(shape, Either):
        if all(next(_problems(value, each, place), None) for each in shape.shapes):
            yield next(_problems(value, shape.shapes[0], place))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{shown(place)} is not a list"
            return
        for number, each in enumerate(value):
            yield from _problems(each, shape[0], f"{place}[{number}]")
    elif not isinstance(value, Mapping):
        yield f"{shown(place) or 'it'} is not a mapping"
    elif isinstance(shape, Each):
        for name, each in value.items():
            yield from _problems(each, shape.shape, f"{place}.{name}".lstrip("."))
    else:
        for name, each in shape.items():
            key, inner = name.removesuffix("?"), f"{place}.{name.removesuffix('?')}".lstrip(".")
            if key not in value and name == key:
                yield f"{inner} is missing"
            elif name == key or value.get(key) is not None:
                yield from _problems(value[key], each, inner)
