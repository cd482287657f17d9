"""A telephone at the end of a Twilio media stream: speaks at real time, keeps what it hears."""

import asyncio
import base64
import json
from dataclasses import dataclass, field

import aiohttp

import ulaw
from ear import Voice

# Time to connect.
CONNECT_SECONDS_MAX = 10.0
# Quiet after which an answer is over; longer than a pause between two parts of a sentence.
SETTLE_SECONDS = 0.7
# Longest answer listened to.
ANSWER_SECONDS_MAX = 30.0
# How often the phone looks whether something was heard; one frame.
LOOK_SECONDS = ulaw.FRAME_MS / 1_000


class Gone(Exception):
    """The far end has hung up."""


@dataclass
class Heard:
    """What was heard in one go."""

    codes: bytearray = field(default_factory=bytearray)
    # When the first voice was played, by the loop's clock; None: there was none.
    first_voice: float | None = None


class Phone:
    """One connection of a call."""

    def __init__(self, socket, call: str):
        self._socket = socket
        self._call = call
        self._stream = f"MZ{call}"
        self._now = asyncio.get_running_loop().time
        self._to_say: list[bytes] = []
        self._spoken = asyncio.Event()
        self._voice = Voice()
        self._heard = Heard()
        self._last_voice = 0.0
        self._played_until = 0.0
        self._tasks: list[asyncio.Task] = []
        self.connected_at = self._now()
        # When the last voiced frame of a sentence went out.
        self.last_said = 0.0
        # What the agent told of its last answer, if it does.
        self.stages: dict | None = None
        self.clears = 0
        # The code of the far end's close; 1006 when the line just broke.
        self.closed: int | None = None

    @classmethod
    async def dial(cls, session, url: str, call: str) -> "Phone":
        """Connects and says which call this is."""
        dialling = session.ws_connect(url, max_msg_size=1 << 20)
        socket = await asyncio.wait_for(dialling, CONNECT_SECONDS_MAX)
        phone = cls(socket, call)
        await phone._send("connected", protocol="Call", version="1.0.0")
        sound = {"encoding": "audio/x-mulaw", "sampleRate": ulaw.RATE_HZ, "channels": 1}
        start = {"streamSid": phone._stream, "callSid": call, "tracks": ["inbound"]}
        start |= {"accountSid": "AC0", "mediaFormat": sound, "customParameters": {}}
        await phone._send("start", sequenceNumber="1", start=start)
        phone._tasks = [asyncio.create_task(phone._receive()), asyncio.create_task(phone._pace())]
        return phone

    async def _send(self, event: str, **more):
        await self._socket.send_str(json.dumps({"event": event, "streamSid": self._stream, **more}))

    async def _pace(self):
        """Sends 20 ms every 20 ms, silence where nothing is said."""
        silence = bytes([ulaw.SILENCE]) * ulaw.FRAME_BYTES
        began, sent = self._now(), 0
        try:
            while self.closed is None:
                frame = self._to_say.pop(0) if self._to_say else silence
                await self._send(
                    "media",
                    sequenceNumber=str(sent + 2),
                    media={
                        "track": "inbound",
                        "chunk": str(sent + 1),
                        "timestamp": str(sent * ulaw.FRAME_MS),
                        "payload": base64.b64encode(frame).decode(),
                    },
                )
                if frame is not silence and not self._to_say:
                    self.last_said = self._now()
                    self._spoken.set()
                sent += 1
                await asyncio.sleep(max(0.0, began + sent * LOOK_SECONDS - self._now()))
        except (aiohttp.ClientError, ConnectionError):
            # The receiver learns how the line ended.
            pass

    async def _receive(self):
        async for message in self._socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            message = json.loads(message.data)
            event = message.get("event")
            if event == "media":
                self._hear(base64.b64decode(message["media"]["payload"]))
            elif event == "clear":
                self.clears += 1
                self._played_until = min(self._played_until, self._now())
                self._last_voice = min(self._last_voice, self._now())
            elif event == "mark":
                self._note(message["mark"]["name"])
        self.closed = self._socket.close_code or 1006
        self._spoken.set()

    def _hear(self, codes: bytes):
        for frame in ulaw.frames(codes):
            start = max(self._played_until, self._now())
            self._played_until = start + LOOK_SECONDS
            self._heard.codes += frame
            if self._voice.is_voiced(frame):
                self._last_voice = self._played_until
                if self._heard.first_voice is None:
                    self._heard.first_voice = start

    def _note(self, name: str):
        """Keeps the stage timings that an agent puts into the names of its marks."""
        try:
            content = json.loads(name)
        except ValueError:
            return
        if isinstance(content, dict) and content.get("segue") == "stages":
            self.stages = {key: content[key] for key in content if key != "segue"}

    async def say(self, codes: bytes):
        """Speaks; returns after the last voiced frame. What was heard before is forgotten."""
        self._spoken.clear()
        self.stages = None
        self._to_say.extend(ulaw.frames(codes))
        await self._spoken.wait()
        if self.closed is not None:
            raise Gone
        self._heard = Heard()

    async def listen(self, within: float, settle: bool = True, voiced: float = 0.5) -> Heard:
        """Waits for a voice and to its end, or, without `settle`, until it spoke for `voiced`."""
        until = self._now() + within
        while self._heard.first_voice is None and self._now() < until:
            self._check()
            await asyncio.sleep(LOOK_SECONDS)
        if (first := self._heard.first_voice) is not None:
            while self._now() < first + ANSWER_SECONDS_MAX:
                if self._now() > self._last_voice + SETTLE_SECONDS:
                    break
                if not settle and self._now() > first + voiced:
                    break
                if self.closed is not None:
                    # What was said before the end has been heard.
                    break
                await asyncio.sleep(LOOK_SECONDS)
        heard, self._heard = self._heard, Heard()
        return heard

    def _check(self):
        if self.closed is not None:
            raise Gone

    async def hang_up(self):
        """Ends the call as the carrier does."""
        await self._send("stop", stop={"accountSid": "AC0", "callSid": self._call})
        await self._socket.close()
        await self._end()

    async def break_off(self):
        """Loses the line without a word, as a bad network does."""
        self._socket._response.connection.transport.abort()
        await self._end()

    async def _end(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
