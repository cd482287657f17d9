"""WebSockets of an ASGI application as calls: FastAPI, Starlette, Pipecat's transport, whatever.

    app = Calls(FastAPI(), pool)

Each connection is one call for as long as the application has it. A worker that drains answers 503
before the handshake, so that who routes calls tries another one; but not to a call that lost its line
and comes back. What Segue posts to `notify_path`
becomes an event of the pool.
"""

import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._native import Refused
from .pool import AgentPool, CallEnded

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Try again later (IANA), for servers that cannot answer a handshake with a status.
TRY_AGAIN_LATER = 1013
# What a call hears that the policy ends.
GOING_AWAY = 1001
# Largest notification, in bytes: they name a call and a release.
NOTIFICATION_BYTES_MAX = 64 * 1024
# Longest call id, as Segue has it.
CALL_ID_CHARS_MAX = 128


def call_id(scope: Scope) -> str:
    """The call's id as Segue's gateway says it, else `X-Call-Id`, else the end of the path."""
    headers = dict(scope.get("headers", ()))
    for name in (b"x-segue-call-id", b"x-call-id"):
        if name in headers:
            return _usable(headers[name].decode("latin-1"))
    return _usable(str(scope.get("path", "")).rstrip("/").rpartition("/")[2])


def comes_back(scope: Scope) -> bool:
    """Whether Segue's gateway says that this call lost its line and comes back to its release."""
    return (b"x-segue-resume", b"true") in list(scope.get("headers", ()))


def routed(scope: Scope) -> bool:
    """Whether Segue's gateway has chosen this worker for the call. It goes by the same membership."""
    return any(name == b"x-segue-release" for name, _ in scope.get("headers", ()))


def _usable(text: str) -> str:
    good = text.isascii() and all(is_.isalnum() or is_ in "._-" for is_ in text)
    if good and text and not text.startswith(".") and len(text) <= CALL_ID_CHARS_MAX:
        return text
    return uuid.uuid4().hex


class Calls:
    """An ASGI application whose WebSockets are calls of a pool."""

    def __init__(
        self,
        app: App,
        pool: AgentPool,
        *,
        call_id: Callable[[Scope], str] = call_id,
        notify_path: str | None = None,
    ):
        self._app, self._pool = app, pool
        self._call_id, self._notify_path = call_id, notify_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "websocket":
            await self._call(scope, receive, send)
        elif kind == "http" and self._notify_path and scope["path"] == self._notify_path:
            await self._notified(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        # To refuse a call that comes back would end a conversation. And who is admitted again hears of
        # it later than the gateway, whose calls it must not refuse meanwhile.
        assigned = comes_back(scope) or (routed(scope) and not self._pool.draining)
        call = self._pool.call(self._call_id(scope), assigned=assigned)
        try:
            await call.__aenter__()
        except Refused as error:
            await _refuse(scope, receive, send, str(error))
            return
        # By hand, and not `async with`: what the application raises is not what entering raises.
        try:
            await self._app(scope, receive, send)
        except BaseException as error:
            try:
                await call.__aexit__(type(error), error, error.__traceback__)
            except CallEnded as ended:
                await send(
                    {"type": "websocket.close", "code": GOING_AWAY, "reason": str(ended)}
                )
                return
            raise
        await call.__aexit__(None, None, None)

    async def _notified(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""
        while scope["method"] == "POST" and len(body) <= NOTIFICATION_BYTES_MAX:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        is_ours = len(body) <= NOTIFICATION_BYTES_MAX and self._pool.notified(body)
        await send(
            {"type": "http.response.start", "status": 204 if is_ours else 400, "headers": []}
        )
        await send({"type": "http.response.body", "body": b""})


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    await receive()
    if "websocket.http.response" in (scope.get("extensions") or {}):
        headers = [(b"content-type", b"text/plain"), (b"retry-after", b"1")]
        await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": f"{why}\n".encode()})
    else:
        await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": why})
