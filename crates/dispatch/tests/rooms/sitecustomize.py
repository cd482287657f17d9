"""Rooms that are only played, for tests of `examples/livekit-agent`, which is run as it is.

There is no LiveKit server whose rooms it could join. With this folder in PYTHONPATH, joining is done at
once, and the caller hangs up after as many seconds as the job's metadata says. Both are written down
as examples/livekit-worker writes its calls down. SIGUSR1 has the worker's process begin a drain from
inside.
"""

import asyncio
import json
import os
import signal
import sys
import time

_PLAYING = set()


def _log(event, ctx, **fields):
    line = {
        "event": event,
        "at_ms": time.time_ns() // 1_000_000,
        "job": ctx.job.id,
        "room": ctx.job.room.name,
        "release": os.environ["AGENT_RELEASE"],
        "worker": os.environ["AGENT_WORKER"],
        "pid": os.getpid(),
        **fields,
    }
    with open(os.environ["AGENT_CALL_LOG"], "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


async def _connect(ctx, *_args, **_kwargs):
    _log(
        "job.started",
        ctx,
        url=ctx._info.url,
        token=ctx._info.token,
        bytes=ctx.job.SerializeToString().hex(),
    )

    async def hang_up():
        began = time.monotonic()
        try:
            await asyncio.sleep(json.loads(ctx.job.metadata)["seconds"])
        except asyncio.CancelledError:
            _log("job.ended", ctx, how="cut", seconds=time.monotonic() - began)
            raise
        _log("job.ended", ctx, how="finish", seconds=time.monotonic() - began)
        ctx.room.emit("disconnected", None)
        ctx.shutdown("the caller has hung up")

    playing = asyncio.create_task(hang_up())
    _PLAYING.add(playing)
    playing.add_done_callback(_PLAYING.discard)


def _begin_drain(*_):
    sys.modules["__main__"].pool.begin_drain("from inside")


if "AGENT_CALL_LOG" in os.environ and "resource_tracker" not in " ".join(sys.orig_argv):
    from livekit.agents import JobContext

    JobContext.connect = _connect
    if sys.orig_argv[1:2] and sys.orig_argv[1].endswith("agent.py"):
        signal.signal(signal.SIGUSR1, _begin_drain)
