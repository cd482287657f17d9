#!/usr/bin/env python3
"""A WebSocket agent on FastAPI that shows the SDK: it counts the turns of a call, goes on counting
when its caller comes back on another worker, and says how the call went.

It talks text, so that it can be tried with any WebSocket client.
"""

import sys

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from segue import AgentPool, Event, SegueUnreachable
from segue.asgi import Calls
from segue.uvicorn import Server

pool = AgentPool(audit_sink=lambda event: print(event.to_dict(), flush=True))
app = FastAPI()


@app.get("/healthz")
async def healthz():
    # A worker that drains is as healthy as before: whoever looks here must not kill its calls.
    return {"ready": True}


@app.get("/snapshot")
async def snapshot():
    return pool.runtime_snapshot().to_dict()


@app.websocket("/ws/{call}")
async def talk(socket: WebSocket, call: str):
    await socket.accept()
    turns = await remembered(call)
    try:
        while True:
            said = await socket.receive_text()
            turns += 1
            await socket.send_text(f"{turns}: you said {said}")
            await remember(call, turns)
    except WebSocketDisconnect:
        pool.report(call, "success" if turns else "abandoned", data={"turns": turns})


async def remembered(call: str) -> int:
    try:
        state = await pool.get_state(call)
    except SegueUnreachable:
        # The conversation is worth more than its record.
        return 0
    return state.state["turns"] if state else 0


async def remember(call: str, turns: int):
    try:
        await pool.patch_state(call, {"turns": turns})
    except SegueUnreachable as error:
        print(f"turn {turns} of {call} is not remembered: {error}", flush=True)


def told(event: Event):
    if event.name == "retiring":
        print("a newer release takes the new calls", flush=True)


if __name__ == "__main__":
    pool.on_event(told)
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8092
    # `segue.uvicorn.run(app, pool=pool, …)` is the short form of this.
    calls = Calls(app, pool, notify_path="/segue")
    Server(uvicorn.Config(calls, host="127.0.0.1", port=port, log_level="warning"), pool).run()
