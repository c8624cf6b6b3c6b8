"""Two processes that know each other as ``torchrun`` would have them: started once, they run what
the tests hand them.

``Ranks()(function, *arguments)`` calls a function of a module in both, joined, and returns both
results; ``Ranks().taut(*arguments)`` runs a command in both, each with a terminal of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

SECONDS = 60.0


class Printed(NamedTuple):
    code: int
    out: str
    err: str


class Ranks:
    """Creates the processes, which wait for work."""

    def __init__(self, world: int = 2) -> None:
        context = get_context("spawn")
        self.pipes, self.processes = [], []
        for rank in range(world):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(there, rank, world), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return self._run(
            _joined, (function.__module__.rpartition(".")[2], function.__name__, *arguments), {}
        )

    def taut(self, *arguments: object, **environment: str) -> list[Printed]:
        return self._run(_command, tuple(map(str, arguments)), environment)

    def _run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str]
    ) -> list[Any]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        for pipe in self.pipes:
            pipe.send((function, arguments, environment))
        answers = []
        for pipe in self.pipes:
            if not pipe.poll(SECONDS):
                self.close()
                raise TimeoutError("a rank does not answer")
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, _Failed):
                raise AssertionError(answer.text)
        return answers

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.join()


class _Failed(NamedTuple):
    text: str


def _joined(module: str, name: str, *arguments: Any) -> Any:
    from taut.system import parallel

    with parallel.ranks(minutes=0.5):
        return getattr(importlib.import_module(module), name)(*arguments)


def _serve(pipe: Connection, rank: int, world: int) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world)
    )
    while True:
        function, arguments, environment = pipe.recv()
        os.environ.update(environment)
        torch.set_default_dtype(torch.float32)
        try:
            result = function(*arguments)
        except Exception:
            result = _Failed(f"in rank {rank}\n{traceback.format_exc()}")
        for name in environment:
            del os.environ[name]
        pipe.send(result)


def _command(*arguments: str) -> Printed:
    from taut.cli.app import main

    def leave(code: int) -> None:
        raise SystemExit(code)

    os._exit = leave  # type: ignore[assignment]  # so do commands among several; these processes are needed again
    with _captured() as read:
        sys.argv = ["taut", *arguments]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
    return Printed(code, *read())


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], tuple[str, str]]]:
    """Sends what is printed to files, whoever prints it."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("out", "err")]
        before = sys.stdout, sys.stderr, sys.__stderr__
        with files[0].open("w") as out, files[1].open("w") as err:
            sys.stdout, sys.stderr, sys.__stderr__ = out, err, err  # type: ignore[misc]
            try:
                texts = ("", "")
                yield lambda: texts
            finally:
                sys.stdout, sys.stderr, sys.__stderr__ = before  # type: ignore[misc]
        texts = files[0].read_text(), files[1].read_text()
