#!/usr/bin/env python3
"""A LiveKit agent that shows the SDK.

    LIVEKIT_URL=… LIVEKIT_API_KEY=… LIVEKIT_API_SECRET=… python agent.py start

LiveKit runs each job in a process of its own, so there are two kinds of pools. The worker's own
answers offers; `begin_drain` there, and SIGTERM, is a drain of LiveKit's that lasts as long as the last
call. A job's has one call, which somebody has accepted already: `assigned`.
"""

import asyncio
import os

from livekit.agents import AgentServer, JobContext, cli

import segue.livekit
from segue import AgentPool

pool = AgentPool()
server = AgentServer(port=int(os.environ.get("HEALTH_PORT", "8081")))


@server.rtc_session(on_request=segue.livekit.on_request(pool))
async def entrypoint(ctx: JobContext):
    # Whatever is raised in here is reported as a failure; LiveKit itself calls it a success.
    async with pool.call(ctx.job.id, assigned=True) as call:
        over = asyncio.Event()
        ctx.room.on("disconnected", lambda *_: over.set())
        await ctx.connect()
        await over.wait()
        call.report("success")
    # The process ends soon; what it has to report may take a moment.
    await pool.flush()


if __name__ == "__main__":
    segue.livekit.drain_with(pool, server)
    cli.run_app(server)
