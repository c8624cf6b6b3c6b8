"""The server behind the page: local, of a few fixed addresses, with a fixed answer to nonsense.

Whatever it is sent, it answers in bounded memory: a body has at most 64 KiB, numbers have ranges,
one request at a time uses the models and 16 wait, of 400 connections none waits longer than ten
seconds for a request, or 30 for an answer to be read. Only pages of this server may ask (``Host``,
``Origin``), so that no other page in the same browser reads the data; nothing is read from the disk
by a name that came with a request.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from taut.explorer.shelf import Shelf
from taut.explorer.views import View, compared, overview
from taut.system.errors import TautError, UsageError

__all__ = ["make_app", "open_socket", "serve"]

HOST, PORT = "127.0.0.1", 8765
MOST_BODY = 64 * 1024  # bytes
MOST_READ = 16 * 1024 * 1024  # bytes that are read to be dropped
TOO_LARGE = (413, "the body is too large")
WAITING = 16  # requests that wait for a model
CONNECTIONS = 400
PATIENCE = 10.0  # seconds for a whole request to come
IDLE = 30  # seconds without a request, or of an answer that is not read; then a connection ends
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/map.js": ("map.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
NONSENSE = "the request is not one that this page makes"
BUG = "this is a bug of ours: the terminal that runs taut explore says more"

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Count = Annotated[int, Field(ge=1, le=64)]
Given = Annotated[
    dict[Annotated[str, Field(max_length=1000)], Annotated[str, Field(max_length=1000)]],
    Field(max_length=100),
]
Number = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Place = Annotated[int, Field(ge=0, lt=2**31)]


class Asked(BaseModel):
    """What a request may hold; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)
    given: Given = {}
    seed: Seed = 0


class AskedDecode(Asked):
    """A latent point to decode."""

    z: Annotated[list[Number], Field(min_length=1, max_length=8192)]
    draw: bool = False


class AskedSamples(Asked):
    """Rows to make."""

    count: Count = 24
    mean: bool = False


class AskedLevels(Asked):
    """Rows to make that share the first levels."""

    kept: Annotated[int, Field(ge=0, le=64)] = 1
    count: Count = 24
    row: Place | None = None


class Turns:
    """Gives computations their turn, one at a time; of those that wait there are so many at most.

    Args:
        waiting: How many may wait.
    """

    def __init__(self, waiting: int) -> None:
        self.waiting, self.there, self.lock = waiting, 0, asyncio.Lock()

    async def take(self, compute: Callable[[], Any]) -> Response:
        """Returns what a function computes, as JSON.

        Raises:
            HTTPException: too many wait.
        """
        if self.there > self.waiting:
            raise HTTPException(429, "too many requests at once", {"retry-after": "1"})
        self.there += 1
        try:
            async with self.lock:
                return await run_in_threadpool(lambda: _json(compute()))
        finally:
            self.there -= 1


def make_app(shelf: Shelf, hosts: Iterable[str] = (HOST, "localhost")) -> ASGIApp:
    """Returns the application.

    Args:
        shelf: The runs.
        hosts: The names by which a browser may call it.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    turns = Turns(WAITING)
    folder = resources.files("taut.explorer").joinpath("static")
    for address, (name, kind) in FILES.items():
        app.get(address)(_of_file(folder.joinpath(name).read_bytes(), kind))

    _shown(app, shelf, turns)
    _made(app, shelf, turns)
    _refused(app)
    return Guard(app, hosts)


def _shown(app: FastAPI, shelf: Shelf, turns: Turns) -> None:
    """Adds what is read of a run."""
    placing = Turns(WAITING)

    @app.get("/api/runs")
    async def runs() -> Response:
        return await run_in_threadpool(lambda: _json({"runs": shelf.about()}))

    @app.get("/api/runs/{run}/about")
    async def about(run: int) -> Response:
        return await turns.take(lambda: _about(shelf, _known(shelf, run)))

    @app.get("/api/runs/{run}/overview")
    async def numbers(run: int) -> Response:
        return await turns.take(lambda: overview(_view(shelf, run).run))

    @app.get("/api/runs/{run}/history")
    async def history(run: int) -> Response:
        number = _known(shelf, run)
        return await run_in_threadpool(lambda: _json(shelf.history(number)))

    @app.get("/api/runs/{run}/map")
    async def plane(
        run: int,
        by: Literal["rates", "pca", "umap"] = "rates",
        a: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        b: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    ) -> Response:
        if (a is None) != (b is None):
            raise HTTPException(422, NONSENSE)
        dims = None if a is None or b is None else (a, b)
        order = turns
        if by == "umap":
            order = placing  # half a minute the first time, in which sliders go on
        return await order.take(lambda: _view(shelf, run).map(by, dims))

    @app.get("/api/runs/{run}/colour")
    async def colour(run: int, name: Annotated[str, Query(max_length=1000)]) -> Response:
        return await turns.take(lambda: _view(shelf, run).colour(name))

    @app.get("/api/runs/{run}/scores")
    async def scores(run: int) -> Response:
        return await turns.take(lambda: _view(shelf, run).scores())

    @app.get("/api/runs/{run}/rows/{row}")
    async def one(run: int, row: int, closer: bool = False) -> Response:
        return await turns.take(lambda: _view(shelf, run).row(row, closer))

    @app.get("/api/runs/{run}/traversals")
    async def traversals(
        run: int, dim: Annotated[int | None, Query(ge=0, lt=2**31)] = None, draw: bool = False
    ) -> Response:
        dims = None if dim is None else (dim,)
        return await turns.take(lambda: _view(shelf, run).traversals(dims, draw))


def _made(app: FastAPI, shelf: Shelf, turns: Turns) -> None:
    """Adds what a run is made to do."""

    @app.post("/api/runs/{run}/decode")
    async def decode(run: int, asked: AskedDecode) -> Response:
        return await turns.take(
            lambda: _view(shelf, run).decode(asked.z, asked.given, asked.draw, asked.seed)
        )

    @app.post("/api/runs/{run}/samples")
    async def samples(run: int, asked: AskedSamples) -> Response:
        return await turns.take(
            lambda: _view(shelf, run).samples(asked.count, asked.seed, asked.mean, asked.given)
        )

    @app.post("/api/runs/{run}/levels")
    async def levels(run: int, asked: AskedLevels) -> Response:
        return await turns.take(
            lambda: _view(shelf, run).levels(
                asked.kept, asked.count, asked.seed, asked.row, asked.given
            )
        )

    @app.post("/api/compare")
    async def compare() -> Response:
        return await turns.take(lambda: shelf.comparison(compared))


def _refused(app: FastAPI) -> None:
    """Adds the answers to what cannot be answered."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _json({"error": NONSENSE}, 422)

    @app.exception_handler(StarletteError)
    async def refused(request: Request, error: StarletteError) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(TautError)
    async def explained(request: Request, error: TautError) -> Response:
        return _json({"error": str(error)}, 422)

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        return _json({"error": BUG}, 500)


class Guard:
    """Creates an application that answers only what its own pages ask, reads a small body within a
    time, and sends the headers that keep a page to itself.

    Args:
        app: The application.
        hosts: The names by which a browser may call it.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self.app, self.hosts = app, frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        body = b""
        if refusal is None:
            refusal, body = await _body(headers, receive)
        if refusal is not None:
            status, why = refusal
            await _json({"error": why}, status, HEADERS | {"connection": "close"})(
                scope, receive, send
            )
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()  # that the client went away
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        await self.app(scope, replay, with_headers)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str] | None:
        """Returns the status and the reason for which a request is refused."""
        host = headers.get(b"host", "")
        if host.rpartition(":")[0] not in self.hosts and host not in self.hosts:
            return 400, "this server is called by another name"
        origin = headers.get(b"origin")
        if origin is not None and origin != f"http://{host}":
            return 403, "another page asked"
        site = headers.get(b"sec-fetch-site", "none")
        if site not in ("same-origin", "none") and scope["path"] != "/":
            return 403, "another page asked"
        if scope["method"] not in ("GET", "POST"):
            return 405, "GET and POST alone"
        kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and kind != "application/json":
            return 415, "a body is JSON"
        return None


async def _body(
    headers: dict[bytes, str], receive: Receive
) -> tuple[tuple[int, str] | None, bytes]:
    """Returns why a body is refused, and the body. What is too large is read and dropped, so that
    the client, which answers nothing before it has sent all, hears of it.
    """
    length = headers.get(b"content-length", "0")
    known = length.isdecimal() and len(length) <= 12
    if not known or int(length) > MOST_READ:
        return TOO_LARGE, b""
    body, read = b"", 0
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await receive()
                part = message.get("body", b"")
                read += len(part)
                body = body + part if read <= MOST_BODY else b""
                if read > MOST_READ:
                    return TOO_LARGE, b""
                if not message.get("more_body"):
                    return (TOO_LARGE if read > MOST_BODY else None), body
    except TimeoutError:
        return (408, "the body did not come in time"), b""


class Patient(H11Protocol):
    """A connection that ends if a request does not come whole in time, or an answer is not read."""

    deadline: asyncio.TimerHandle | None = None
    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            transport.abort()
            return
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.call_later(IDLE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread is not None:
            self.unread.cancel()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # what was not read by now is dropped

    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _wait(self) -> None:
        if not self._idle():
            if self.deadline is not None:
                self.deadline.cancel()
                self.deadline = None
        elif self.deadline is None:
            self.deadline = self.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        self.deadline = None
        if self._idle():
            self.transport.abort()


def open_socket(port: int | None) -> socket.socket:
    """Returns a socket of this machine alone; without a port the usual one, or any that is free.

    Raises:
        UsageError: another program has the port.
    """
    wanted = [PORT, 0] if port is None else [port]
    for number in wanted:
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, number))
            opened.listen()
        except OSError:
            opened.close()
        else:
            return opened
    raise UsageError(f"port {port} is taken: give another, or none for one that is free")


def serve(shelf: Shelf, opened: socket.socket) -> None:
    """Serves the page until a signal comes."""
    make_server(shelf).run(sockets=[opened])


def make_server(shelf: Shelf) -> uvicorn.Server:
    """Returns the server, which tells of nothing but bugs."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Server(
        uvicorn.Config(
            make_app(shelf),
            http=Patient,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE,
            timeout_graceful_shutdown=2,
        )
    )


def _of_file(content: bytes, kind: str) -> Callable[[], Any]:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


def _known(shelf: Shelf, number: int) -> int:
    if not 0 <= number < len(shelf):
        raise HTTPException(404, "there is no such run")
    return number


def _view(shelf: Shelf, number: int) -> View:
    return shelf.view(_known(shelf, number))


def _about(shelf: Shelf, number: int) -> dict[str, Any]:
    if shelf.there(number) and not shelf.finished(number):
        return {"finished": False}
    return shelf.view(number).about()


def _json(values: Any, status: int = 200, headers: Any = None) -> Response:
    content = json.dumps(values, allow_nan=False, separators=(",", ":"))
    return Response(content, status, headers, "application/json")


def address(opened: socket.socket) -> str:
    """Returns where a browser finds the page."""
    return f"http://{HOST}:{opened.getsockname()[1]}/"
