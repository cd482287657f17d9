"""uvicorn that ends with its last call.

As it comes, it closes every WebSocket with 1012 within a tenth of a second of SIGTERM. Here a signal
begins a drain, and the server ends when that is over:

    segue.uvicorn.run(app, pool=AgentPool(), host="0.0.0.0", port=8080)
"""

import asyncio
import signal
from types import FrameType
from typing import Any

import uvicorn

from .asgi import App, Calls
from .pool import AgentPool


class Server(uvicorn.Server):
    """A server whose end is that of its pool's last call."""

    def __init__(self, config: uvicorn.Config, pool: AgentPool):
        super().__init__(config)
        self._pool = pool

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Nor does the second one cut anything short. Who means that has SIGKILL, or a policy.
        self._pool.begin_drain(signal.Signals(sig).name)

    async def serve(self, sockets: Any = None) -> None:
        ends = asyncio.create_task(self._end_with_the_last_call())
        try:
            async with self._pool:
                await super().serve(sockets)
        finally:
            ends.cancel()

    async def shutdown(self, sockets: Any = None) -> None:
        # Whatever ends the server, such as `limit_max_requests`: nobody comes in any more, and who is
        # here, or came in at the last moment, stays to the end.
        for server in self.servers:
            server.close()
        self._pool.begin_drain("the server ends")
        await self._pool.drained()
        await super().shutdown(sockets)

    async def _end_with_the_last_call(self) -> None:
        await self._pool.drained()
        self.should_exit = True


def run(app: App, *, pool: AgentPool, notify_path: str | None = None, **options: Any) -> None:
    """`uvicorn.run` for one process, with every WebSocket of `app` a call of `pool`."""
    for option in ("workers", "reload"):
        if options.pop(option, None) not in (None, False, 1):
            raise ValueError(f"{option}: a pool is one process; have Segue start more of them")
    calls = Calls(app, pool, notify_path=notify_path)
    Server(uvicorn.Config(calls, **options), pool).run()
