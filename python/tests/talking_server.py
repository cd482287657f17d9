"""A server with a call in it, for the tests: stock uvicorn, or ours."""

import sys

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect

import segue.uvicorn
from segue import AgentPool

app = FastAPI()


@app.get("/healthz")
async def healthz():
    return {"ready": True}


@app.websocket("/ws/{call}")
async def talk(socket: WebSocket, call: str):
    await socket.accept()
    try:
        while True:
            await socket.send_text(f"{call}: {await socket.receive_text()}")
    except WebSocketDisconnect:
        pass


if __name__ == "__main__":
    kind, port = sys.argv[1], int(sys.argv[2])
    options = {"host": "127.0.0.1", "port": port, "log_level": "warning"}
    if kind == "stock":
        uvicorn.run(app, **options)
    else:
        ends = {"drain_timeout": 0.01, "on_straggler": "end"} if kind == "ends" else {}
        if kind == "limited":
            options["limit_max_requests"] = 1
        segue.uvicorn.run(app, pool=AgentPool(**ends), notify_path="/notify", **options)
