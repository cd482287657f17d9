"""Workers of `livekit-agents`. Nothing of it is imported here: these are plain functions for it.

A job runs in a process of its own. The pool of the worker's process sees offers and no calls; the one
of a job's process sees one call, which was accepted before: `pool.call(ctx.job.id, assigned=True)`.
"""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from .pool import AgentPool, Event


def on_request(
    pool: AgentPool, accept: Callable[[Any], Awaitable[None]] | None = None
) -> Callable[[Any], Awaitable[None]]:
    """Answers offers: no, at once, while the pool drains; else as `accept` does, or yes.

    A no here means "not this worker". LiveKit's own `reject()` means "nobody", unless it is told
    otherwise: the server takes the job for done.
    """

    async def answer(request: Any) -> None:
        pool.start()
        if pool.draining:
            await request.reject(terminate=False)
        elif accept is not None:
            await accept(request)
        else:
            await request.accept()

    return answer


def drain_with(pool: AgentPool) -> None:
    """Makes `pool.begin_drain()` LiveKit's own drain, in the worker's process: it says that it is
    full, finishes its jobs and ends. Call it where `cli.run_app` is called, so not in jobs.

    Set `AgentServer(drain_timeout=…)` longer than any call. And signal it once: LiveKit ends at the
    second SIGTERM, calls and all.
    """
    this = os.getpid()

    def told(event: Event) -> None:
        if event.name == "draining" and os.getpid() == this:
            os.kill(this, signal.SIGTERM)

    pool.on_event(told)
