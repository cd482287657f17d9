"""A LiveKit agent whose jobs do what their metadata says: for trying out deployments.

    LIVEKIT_URL=ws://127.0.0.1:7080/w/<token> LIVEKIT_API_KEY=... LIVEKIT_API_SECRET=... \\
        python worker.py start

It is an ordinary worker; nothing in it knows Segue. A job's metadata is a JSON object:
    {"seconds": 5}       how long the call takes (default: 1)
    {"end": "raise"}     the entrypoint raises; "crash": the job's process dies; default: it finishes
    {"connect": true}    join the room, too; else it only pretends to talk
The environment: AGENT_NAME (jobs by name only; default: every room), AGENT_RELEASE and AGENT_WORKER
(for the log), AGENT_CALL_LOG (a file that gets a line of JSON when a job starts and when it ends),
AGENT_IDLE (processes kept warm, default 1), AGENT_DRAIN_SECONDS (default 3600, LiveKit's own),
HEALTH_PORT (where it answers whether it is ready, default any).
"""

import asyncio
import json
import os
import signal
import time

from livekit.agents import AgentServer, JobContext, cli

IDLE = int(os.environ.get("AGENT_IDLE", "1"))
DRAIN_SECONDS = int(os.environ.get("AGENT_DRAIN_SECONDS", "3600"))
# Always the same, so that a busy machine never makes the worker refuse.
LOAD = 0.1

server = AgentServer(
    load_fnc=lambda: LOAD,
    num_idle_processes=IDLE,
    drain_timeout=DRAIN_SECONDS,
    # Where Segue asks whether it is ready; by itself, any.
    port=int(os.environ.get("HEALTH_PORT", "0")),
)


def log(event: str, ctx: JobContext, **fields: object) -> None:
    path = os.environ.get("AGENT_CALL_LOG")
    if not path:
        return
    line = {
        "event": event,
        "at_ms": time.time_ns() // 1_000_000,
        "job": ctx.job.id,
        "room": ctx.job.room.name,
        "release": os.environ.get("AGENT_RELEASE", ""),
        "worker": os.environ.get("AGENT_WORKER", ""),
        "pid": os.getpid(),
        **fields,
    }
    # One write of one short line to a file opened for appending: lines of processes do not mix.
    with open(path, "ab", buffering=0) as file:
        file.write(json.dumps(line).encode() + b"\n")


@server.rtc_session(agent_name=os.environ.get("AGENT_NAME", ""))
async def entrypoint(ctx: JobContext) -> None:
    asked = json.loads(ctx.job.metadata or "{}")
    log(
        "job.started",
        ctx,
        url=ctx._info.url,
        token=ctx._info.token,
        bytes=ctx.job.SerializeToString().hex(),
    )
    if asked.get("connect"):
        await ctx.connect()
    began = time.monotonic()
    try:
        await asyncio.sleep(asked.get("seconds", 1))
    except asyncio.CancelledError:
        log("job.ended", ctx, how="cut", seconds=time.monotonic() - began)
        raise
    how = asked.get("end", "finish")
    log("job.ended", ctx, how=how, seconds=time.monotonic() - began)
    if how == "raise":
        raise RuntimeError("as the metadata asked")
    if how == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    ctx.shutdown("finished")


if __name__ == "__main__":
    cli.run_app(server)
