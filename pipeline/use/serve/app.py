"""The way of a request: read, asked of the engine, answered whole or as a stream, given up when the client is gone."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from pipeline.data.shapes.fields import BadRow
from pipeline.data.shapes.turns import check_asks, turns_of, unweighted
from pipeline.errors import PipelineError
from pipeline.use import asking
from pipeline.use.asking import Defaults, Unshowable
from pipeline.use.engine.request import Answers, Full, Piece, Ticket, Token
from pipeline.use.engine.request import Request as Asked
from pipeline.use.loaded import Policy
from pipeline.use.serve.bodies import BadRequest, ChatBody, CompletionBody, read
from pipeline.use.serve.failures import SERVER_ERROR, failure
from pipeline.use.serve.guard import Guard
from pipeline.use.serve.replies import Chat, Choice, Completion, error

_LARGEST = 32 << 20  # bytes of a body
PAGE = Path(__file__).parent / "page.html"


class Server:
    """The endpoints over an engine."""

    def __init__(self, policies: Sequence[Policy], engine: Answers):
        self._policies = {one.subject.name: one for one in policies}
        self._defaults = {one.subject.name: Defaults.of(one) for one in policies}
        self._engine = engine

    async def health(self, request: Request) -> Response:
        alive = self._engine.alive
        told = {"status": "ok" if alive else "the engine has stopped", "requests": self._engine.under_way}
        return JSONResponse(told | {"waiting": self._engine.waiting}, 200 if alive else 503)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._policies]})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._model(self._named(request.path_params["name"]).subject.name))

    def _model(self, name: str) -> dict:
        policy = self._policies[name]
        made = int(policy.subject.folder.stat().st_mtime)
        return {
            "id": name,
            "object": "model",
            "created": made,
            "owned_by": "align",
            "max_model_len": policy.context,
        }

    def _named(self, name: str) -> Policy:
        if name not in self._policies:
            there = f"There is no model {name!r}; there are {', '.join(self._policies)}."
            raise BadRequest(there, param="model", code="model_not_found", status=404)
        return self._policies[name]

    async def chat(self, request: Request) -> ASGIApp:
        body: ChatBody = read(ChatBody, await _json(request))
        policy = self._named(body.model)
        try:
            turns, _ = unweighted(turns_of({"messages": body.messages}, "messages"))
            check_asks(turns, "messages")
        except BadRow as reason:
            raise BadRequest(str(reason), param="messages") from None
        defaults = self._defaults[body.model]
        most = body.most_tokens or defaults.most_tokens
        sampling = defaults.changed(**body.sampling)
        asked = asking.chat_request(policy, turns, most, sampling, stop=body.stops, logprobs=body.likeliest)
        shape = Chat(body.model, body.likeliest is not None, body.wants_usage)
        return Reply(self._engine, _choices([asked], body.n or 1), [len(asked.ids)], shape, body)

    async def complete(self, request: Request) -> ASGIApp:
        body: CompletionBody = read(CompletionBody, await _json(request))
        policy = self._named(body.model)
        sampling = self._defaults[body.model].changed(**body.sampling)
        ids = [_ids(policy, prompt) for prompt in body.prompts]
        options = {"stop": body.stops, "logprobs": body.logprobs, "continues": True}
        asked = [
            asking.request(policy, one, body.max_tokens, sampling, echo=_echoed(policy, prompt, body.echo), **options)
            for prompt, one in zip(body.prompts, ids, strict=True)
        ]
        shape = Completion(body.model, body.logprobs is not None, body.wants_usage)
        return Reply(self._engine, _choices(asked, body.n or 1), [len(one.ids) for one in asked], shape, body)


def _ids(policy: Policy, prompt: str | list[int]) -> list[int]:
    """A prompt as it is, with what the tokenizer puts before a text; special tokens in it are tokens."""
    ids = policy.tokenizer(prompt).input_ids if isinstance(prompt, str) else prompt
    if not ids:
        raise BadRequest("The prompt is empty.", param="prompt")
    if max(ids) >= len(policy.tokenizer):
        raise BadRequest(f"{max(ids)} is no token: there are {len(policy.tokenizer)}.", param="prompt")
    return ids


def _echoed(policy: Policy, prompt: str | list[int], echo: bool | None) -> str | None:
    if not echo:
        return None
    return prompt if isinstance(prompt, str) else policy.tokenizer.backend_tokenizer.decode(prompt)


def _choices(asked: Sequence[Asked], n: int) -> list[Asked]:
    """Each request n times; with a seed, each time with another that follows from it."""
    made = []
    for one in asked:
        seed = one.sampling.seed
        seeds = [seed if seed is None or not number else f"{seed}:{number}" for number in range(n)]
        made += [replace(one, sampling=replace(one.sampling, seed=each)) for each in seeds]
    return made


async def _json(request: Request) -> object:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST:
            raise BadRequest(f"The body has more than {_LARGEST >> 20} MiB.", status=413)
    try:
        said = json.loads(bytes(body))
    except (ValueError, RecursionError) as reason:
        raise BadRequest(f"The body is not valid JSON: {reason}.") from None
    try:
        asking.check_characters(said)
    except Unshowable as reason:
        raise BadRequest(reason.what) from None
    return said


class Reply:
    """Answers one request, in OpenAI's shape. What is still generated when the client goes away is cancelled."""

    def __init__(self, engine: Answers, asked: Sequence[Asked], prompts: Sequence[int], shape: Chat | Completion, body):
        self._shape, self._prompts, self._body = shape, prompts, body
        self._choices = [Choice(index) for index in range(len(asked))]
        self._arriving: asyncio.Queue[tuple[Choice, Piece]] = asyncio.Queue()
        self._tickets: list[Ticket] = []
        loop = asyncio.get_running_loop()
        try:
            for choice, one in zip(self._choices, asked, strict=True):
                hand_over = partial(_hand_over, loop, self._arriving, choice)
                self._tickets.append(engine.ask(one, hand_over if body.stream else Together(hand_over)))
        except Full:
            self._cancel()
            raise

    def _cancel(self) -> None:
        for ticket in self._tickets:
            ticket.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = self._streamed(send) if self._body.stream else self._whole(scope, receive, send)
        try:
            await _while_there(receive, answering)
        except asyncio.CancelledError:  # the server ends, and has waited for this answer long enough
            await self._broken_off(scope, receive, send)
        finally:
            self._cancel()

    async def _broken_off(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = error("The server was ended before the answer was.", SERVER_ERROR)
        with suppress(RuntimeError, OSError):  # the client has left, or its answer was just sent
            if self._body.stream:
                await _send_events(send, [told])
                await send({"type": "http.response.body", "body": b""})
            else:
                await JSONResponse(told, 503)(scope, receive, send)

    async def _whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        failed = None
        async for _, piece in self._pieces():
            failed = failed or piece.error
        reply = (
            failure(failed, scope["path"]) if failed else JSONResponse(self._shape.answer(self._choices, self._prompts))
        )
        await reply(scope, receive, send)

    async def _streamed(self, send: Send) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send_events(send, [first for choice in self._choices if (first := self._shape.first(choice))])
        async for choice, piece in self._pieces():
            if piece.error:
                await _send_events(send, [error(piece.error.what, SERVER_ERROR)])
                break
            await _send_events(send, [self._shape.next(choice, piece.text, piece.tokens)])
        else:
            if self._body.wants_usage:
                await _send_events(send, [self._shape.last(self._choices, self._prompts)])
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _pieces(self) -> AsyncIterator[tuple[Choice, Piece]]:
        """Every piece, taken into its choice."""
        going = len(self._choices)
        while going:
            choice, piece = await self._arriving.get()
            choice.text += piece.text
            choice.tokens += piece.tokens
            choice.count, choice.finish = piece.count, piece.finish
            going -= piece.finish is not None
            yield choice, piece


class Together:
    """Hands an answer over when all of it is there: waking the server at every token would slow the engine down."""

    def __init__(self, hand_over: Callable[[Piece], None]):
        self._hand_over = hand_over
        self._texts: list[str] = []
        self._tokens: list[Token] = []

    def __call__(self, piece: Piece) -> None:
        self._texts.append(piece.text)
        self._tokens += piece.tokens
        if piece.finish:
            self._hand_over(replace(piece, text="".join(self._texts), tokens=tuple(self._tokens)))


def _hand_over(loop: asyncio.AbstractEventLoop, arriving: asyncio.Queue, choice: Choice, piece: Piece) -> None:
    """From the engine's thread to the server's; a server that has ended takes nothing any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(arriving.put_nowait, (choice, piece))


async def _send_events(send: Send, events: Sequence[dict]) -> None:
    body = "".join(f"data: {json.dumps(one, ensure_ascii=False, separators=(',', ':'))}\n\n" for one in events)
    if body:
        await send({"type": "http.response.body", "body": body.encode(), "more_body": True})


async def _while_there(receive: Receive, answering: Coroutine) -> None:
    """Answer as long as the client listens."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(answering), asyncio.ensure_future(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            with suppress(OSError):  # the client hung up in the middle of a word
                tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


def make_app(policies: Sequence[Policy], engine: Answers, key: str | None = None, page: bool = False) -> ASGIApp:
    server = Server(policies, engine)
    routes = [
        Route("/health", server.health),
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.model),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
        Route("/v1/completions", server.complete, methods=["POST"]),
    ]
    if page:
        routes.append(Route("/", lambda request: FileResponse(PAGE)))
    failing: dict[type[Exception], Callable] = dict.fromkeys(
        (BadRequest, PipelineError, HTTPException, Exception),
        lambda request, problem: failure(problem, request.url.path),
    )
    return Guard(Starlette(routes=routes, exception_handlers=failing), key)
