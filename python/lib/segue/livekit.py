"""Workers of `livekit-agents`. Nothing of it is imported here: these are plain functions for it.

A job runs in a process of its own. The pool of the worker's process sees offers and no calls; the one
of a job's process sees one call, which was accepted before: `pool.call(ctx.job.id, assigned=True)`.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

from .pool import AgentPool, Event

_log = logging.getLogger("segue")

# Set by LiveKit's command line for `dev` and `console`, where Ctrl-C is to end at once.
DEV_MODE = "LIVEKIT_DEV_MODE"


def on_request(
    pool: AgentPool, accept: Callable[[Any], Awaitable[None]] | None = None
) -> Callable[[Any], Awaitable[None]]:
    """Answers offers: no, at once, while the pool takes no new calls; else as `accept` does, or yes.

    A no here means "not this worker". LiveKit's own `reject()` means "nobody", unless it is told
    otherwise: the server takes the job for done.
    """

    async def answer(request: Any) -> None:
        pool.begin()
        if not pool.takes_calls:
            await request.reject(terminate=False)
        elif accept is not None:
            await accept(request)
        else:
            await request.accept()

    return answer


def drain_with(pool: AgentPool, server: Any) -> None:
    """Makes a drain of the pool one of LiveKit's worker (`AgentServer`) and SIGTERM a drain of both:
    the worker says that it is full, finishes its jobs and ends. Call it where `cli.run_app` is called,
    so not in jobs.

    LiveKit by itself ends at the second signal, jobs and all, whoever sent the first one. With this
    a signal only ever begins the drain. `drain_timeout` of the server does not count either: jobs are
    ended at the pool's, and only if that is to `end` stragglers. In `dev` and `console` signals stay
    LiveKit's.
    """
    _Drain(pool, server)


class _Drain:
    """The drain of one worker, whoever begins it."""

    def __init__(self, pool: AgentPool, server: Any):
        self._pool, self._server = pool, server
        self._pid = os.getpid()
        self._livekits_drain = server.drain
        self._livekits_exit: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain: asyncio.Future[None] | None = None
        self._ending: asyncio.Task[None] | None = None
        server.drain = self.drain
        server.once("worker_started", self._started)
        pool.on_event(self._told)

    def _started(self) -> None:
        # LiveKit's own handlers are in place now, and it has no jobs yet.
        self._loop = asyncio.get_running_loop()
        before = self._take_signals()
        # A signal that came earlier has put another one there, which ends the process at once; and
        # asyncio's own does nothing when it is called.
        is_exit = getattr(before, "__name__", "") != "_sighandler_noop"
        if self._drain is None and is_exit:
            self._livekits_exit = before
        if self._pool.draining:
            self._begin()

    def _take_signals(self) -> Any:
        """Answers whose SIGTERM was before."""
        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or os.environ.get(DEV_MODE) == "1":
            return None
        signal.signal(signal.SIGINT, self._signalled)
        return signal.signal(signal.SIGTERM, self._signalled)

    def _signalled(self, number: int, _frame: FrameType | None) -> None:
        self._pool.begin_drain(signal.Signals(number).name)

    def _told(self, event: Event) -> None:
        # In whatever thread.
        loop = self._loop
        if event.name != "draining" or loop is None or os.getpid() != self._pid:
            return
        try:
            loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            # It has ended, and the worker with it.
            pass

    def _begin(self) -> None:
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._to_the_end())

    async def _to_the_end(self) -> None:
        try:
            await self.drain()
        except TimeoutError:
            # The policy is to end them, which the end of the worker does.
            pass
        except Exception:
            # Its jobs may go on, so it stays.
            _log.exception("LiveKit's drain failed; the worker goes on")
            return
        # Only now is LiveKit told to exit: there is nothing left that its next signal could cut.
        if callable(self._livekits_exit):
            self._livekits_exit(signal.SIGTERM, None)
        else:
            await self._server.aclose()

    async def drain(self, *args: Any, **kwargs: Any) -> None:
        """LiveKit's own drain, once; who asks again waits for the end of that one. LiveKit's would
        return at once, and its command line then closes the worker."""
        # Before it drains, LiveKit puts a handler there that ends the process.
        self._take_signals()
        if self._drain is None:
            if not args and not kwargs:
                kwargs = {"timeout": self._ceiling()}
            self._drain = asyncio.ensure_future(self._livekits_drain(*args, **kwargs))
        self._pool.begin_drain("LiveKit drains")
        await asyncio.shield(self._drain)

    def _ceiling(self) -> float | None:
        policy = self._pool.runtime_snapshot()
        return policy.drain_timeout_seconds if policy.on_straggler == "end" else None
