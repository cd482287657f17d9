"""The front desk: one port for the health check, the carrier's webhook, the calls and Segue's events."""

import asyncio
import json
import re
from collections import deque
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from aiohttp import web

from brain import Brain, Memory, Turn
from calllog import CallLog, say
from ear import ENDPOINT_MS
from faults import Fault
from stream import Call
from stt import Recogniser
from tts import CannotSpeak, Speaker

# A request body: a webhook's form or an event, never more than a page.
BODY_BYTES_MAX = 64 * 1024
# One message of a call is a frame of audio or two.
MESSAGE_BYTES_MAX = 64 * 1024
# Time between pings of a call's socket; one that does not answer is gone.
PING_SECONDS = 30.0
# Events remembered, since one whose answer was lost is sent again.
EVENTS_KEPT = 256
# Ids as carriers make them; anything else is not put into an address.
CALL_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")
HOST = re.compile(r"[A-Za-z0-9_.:\[\]-]{1,255}")


@dataclass(frozen=True)
class Settings:
    """How it behaves, beside what it says: the worker's own configuration."""

    voice: str = "slt"
    endpoint_ms: int = ENDPOINT_MS
    barge_in: bool = True


@dataclass
class Desk:
    """What all calls of this process share."""

    brain: Brain
    recogniser: Recogniser
    speaker: Speaker
    store: object
    log: CallLog
    settings: Settings
    fault: Fault
    about: dict

    def recognise(self, sentence: bytes) -> str | None:
        return None if self.fault.kind == "stt" else self.recogniser.recognise(sentence)

    async def think(self, memory: Memory, heard: str | None) -> Turn:
        if self.fault.kind == "llm":
            raise RuntimeError("no answer, as told")
        if self.fault.kind == "slow":
            await asyncio.sleep(self.fault.slow_ms / 1_000)
        if self.fault.kind == "wrong":
            heard = None
        return self.brain.answer(memory, heard)

    def speak(self, text: str) -> bytes:
        if self.fault.kind == "tts":
            raise CannotSpeak("no voice, as told")
        return self.speaker.speak(text)


class Server:
    """Serves until it is told to stop and its calls have ended."""

    def __init__(self, desk: Desk):
        self._desk = desk
        self._calls: set[Call] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._stopping = False
        self._retiring = False
        self._known: deque[str] = deque(maxlen=EVENTS_KEPT)
        app = web.Application(client_max_size=BODY_BYTES_MAX)
        app.router.add_get("/healthz", self._health)
        app.router.add_post("/voice", self._voice)
        app.router.add_get("/ws/{call}", self._call)
        app.router.add_post("/segue/events", self._event)
        self._runner = web.AppRunner(app, access_log=None)

    async def serve(self, host: str, port: int, stop: asyncio.Event):
        """Listens; after `stop`, takes nothing new and waits for the calls, however long."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        port = self._runner.addresses[0][1]
        say(f"listening on {host}:{port}, speaking with {self._desk.speaker.engine}")
        await stop.wait()
        self._stopping = True
        await site.stop()
        if self._calls:
            say(f"no new calls; {len(self._calls)} go on")
        await self._empty.wait()
        await self._runner.cleanup()

    async def _health(self, _request):
        ready = not self._stopping
        body = {
            "ready": ready,
            "retiring": self._retiring,
            "calls": len(self._calls),
            **self._desk.about,
        }
        return web.json_response(body, status=200 if ready else 503)

    async def _voice(self, request):
        """The carrier asks what to do with a call: connect it to a stream whose path names it."""
        form = await request.post()
        call = str(form.get("CallSid", ""))
        host = request.headers.get("X-Forwarded-Host") or request.host
        if not CALL_ID.fullmatch(call) or not HOST.fullmatch(host):
            return web.Response(status=400, text="CallSid or Host is missing or malformed\n")
        url = quoteattr(f"wss://{host}/ws/{call}")
        twiml = f"<Response><Connect><Stream url={url}/></Connect></Response>"
        head = '<?xml version="1.0" encoding="UTF-8"?>'
        return web.Response(text=head + twiml, content_type="text/xml")

    async def _call(self, request):
        call = request.headers.get("X-Segue-Call-Id") or request.match_info["call"]
        if not CALL_ID.fullmatch(call):
            return web.Response(status=400, text="no such call id\n")
        if self._stopping:
            return web.Response(status=503, text="no new calls\n")
        socket = web.WebSocketResponse(heartbeat=PING_SECONDS, max_msg_size=MESSAGE_BYTES_MAX)
        resumes = request.headers.get("X-Segue-Resume") == "true"
        # Its caller is still on the line and does not know that another worker was there before us.
        rescued = "X-Segue-Rescue" in request.headers
        talk = Call(self._desk, socket, call, resumes, rescued)
        # Counted before it is answered, so that a stop cannot miss it.
        self._calls.add(talk)
        self._empty.clear()
        by, code = "error", None
        self._desk.log.write("call.started", call)
        try:
            await socket.prepare(request)
            by, code = await talk.run()
        finally:
            self._desk.log.write("call.ended", call, by=by, code=code)
            self._calls.discard(talk)
            if not self._calls:
                self._empty.set()
        await socket.close()
        return socket

    async def _event(self, request):
        """What Segue tells a worker, as a CloudEvent."""
        if "X-Segue-Release" in request.headers or "X-Forwarded-For" in request.headers:
            # It came in through the gateway, from anybody. Segue itself speaks to us directly.
            return web.Response(status=403, text="events come from Segue itself\n")
        try:
            event = json.loads(await request.text())
            kind, number, data = str(event["type"]), str(event["id"]), event.get("data") or {}
            named = data.get("call") or event.get("subject")
        except (ValueError, KeyError, TypeError, AttributeError):
            return web.Response(status=400, text="not a CloudEvent\n")
        if number in self._known:
            return web.Response(status=204)
        calls = [call for call in self._calls if call.id == named]
        prompt = self._desk.brain.prompt
        if kind == "dev.segue.worker.retiring":
            self._retiring = True
            say("its release retires: no new calls will come")
        elif kind == "dev.segue.worker.resumed":
            self._retiring = False
            say("its release takes new calls again")
        elif kind in ("dev.segue.call.announce", "dev.segue.call.hand-off") and not calls:
            return web.Response(status=404, text="no such call here\n")
        elif kind == "dev.segue.call.announce":
            for call in calls:
                call.announce(prompt.announce)
        elif kind == "dev.segue.call.hand-off":
            for call in calls:
                call.hand_off(prompt.hand_off)
        else:
            say(f"an event it has no use for: {kind[:80]!r}")
        self._known.append(number)
        return web.Response(status=204)
