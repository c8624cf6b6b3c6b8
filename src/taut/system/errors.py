"""The errors that a user can cause or fix.

Each is one line that says what is wrong, where, and how to fix it, and has an exit code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence, Sized


def shown(text: object) -> str:
    """Returns a text fit for one line of a terminal: line breaks and control characters are
    escaped.
    """
    string = str(text)
    return string if string.isprintable() else ascii(string)


def and_more(listed: Sized, most: int) -> str:
    """Returns ' and ... more' for a list of which only the first ``most`` are named, if it is
    longer.

    Examples:
        >>> and_more("abcde", 3), and_more("abc", 3)
        (' and 2 more', '')
    """
    if len(listed) > most:
        return f" and {len(listed) - most} more"
    return ""


class TautError(Exception):
    """Base of every error that taut reports as one clear line.

    Any other exception is a bug in taut (exit code 1).
    """

    exit_code = 1


class UsageError(TautError):
    """A command, option, specification or configuration is wrong."""

    exit_code = 2


class DataError(TautError):
    """The data are refused; ``problems`` lists everything that is wrong with them, a line each."""

    exit_code = 3

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class DivergedError(TautError):
    """Training met non-finite numbers that skipping, rolling back and a lower rate did not cure."""

    exit_code = 4


class StorageError(TautError):
    """A file of a run could not be read, written or trusted."""

    exit_code = 5


class OutOfMemoryError(TautError):
    """The data need more memory than there is."""

    exit_code = 6


class ParallelError(TautError):
    """The processes of one run lost each other, or no longer agree."""

    exit_code = 7


class TautWarning(UserWarning):
    """Something that the user should know, but that stops nothing; the command line prints one
    line.
    """


def clause(form: str, value: object) -> str:
    """Returns a text with a value in it; nothing where the value is None, 0 or empty.

    Examples:
        >>> clause(", {} steps skipped", 3), clause(", {} steps skipped", 0)
        (', 3 steps skipped', '')
    """
    if not value:
        return ""
    return form.format(value)


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns '; did you mean ...?' with the known word nearest to a wrong one, or an empty text.

    Examples:
        >>> nearest("num_sample", ["num_samples", "baseline"])
        "; did you mean 'num_samples'?"
    """
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean {lower[close[0]]!r}?" if close else ""


def choose_from(word: str, known: Iterable[str]) -> str:
    """Returns what follows a wrong word: the nearest known one, if any is near, and all of them.

    Examples:
        >>> choose_from("offf", ["on", "off"])
        "; did you mean 'off'? Choose from on, off"
        >>> choose_from("zzz", ["on", "off"])
        '; choose from on, off'
    """
    words = list(known)
    near = nearest(word, words)
    if near:
        return f"{near} Choose from {', '.join(words)}"
    return f"; choose from {', '.join(words)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns 'did you mean ...? ' with the known word nearest to a wrong one, or an empty text.

    Examples:
        >>> did_you_mean("count", ["counts", "X"]), did_you_mean("zzz", ["counts", "X"])
        ('did you mean counts? ', '')
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    if close:
        return f"did you mean {shown(close[0])}? "
    return ""
