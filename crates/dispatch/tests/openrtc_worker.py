"""A worker of OpenRTC with the jobs of examples/livekit-worker: what is tried out is its drain.

SIGUSR1 calls `begin_drain()`. Its own entrypoint joins a room and speaks, for which it needs a
LiveKit server with media; here the jobs are those of the other workers, run by its pool.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "livekit-worker"))

from livekit.agents import Agent  # noqa: E402
from openrtc import AgentPool  # noqa: E402

import worker  # noqa: E402


class Desk(Agent):
    def __init__(self) -> None:
        super().__init__(instructions="Answer.")


pool = AgentPool(
    agent=Desk,
    agent_name=os.environ.get("AGENT_NAME"),
    deployment_version=os.environ.get("AGENT_RELEASE"),
    drain_timeout=worker.DRAIN_SECONDS,
    port=0,
)
pool.server._entrypoint_fnc = worker.entrypoint
pool.server.setup_fnc = lambda process: None
# Its own rises with the lag of its event loop, so that on a busy machine it refuses calls.
pool.server._coroutine_load_fnc = lambda: worker.LOAD

if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, lambda *_: pool.begin_drain())
    pool.run()
