"""One call: the messages of Twilio Media Streams on one side, hearing, thinking, speaking on the other."""

import asyncio
import base64
import binascii
import json
import time

import aiohttp

import ulaw
from brain import Memory
from calllog import say
from ear import Ear
from state import Notebook, StateLost
from tts import CannotSpeak

# How far ahead of real time audio is sent: enough that a late timer is not heard.
LEAD_SECONDS = 0.06
# Things to be said or answered that wait; a caller who asks faster loses the rest.
WAITING_MAX = 16
# How often an announcement looks for the pause it waits for.
PAUSE_POLL_SECONDS = 0.05
# What is still being written when a call ends gets this long.
LAST_WRITE_SECONDS = 5.0


class Line:
    """The socket: audio and marks out."""

    def __init__(self, socket):
        self._socket = socket
        self.stream = ""

    async def _send(self, event: str, **more):
        await self._socket.send_str(json.dumps({"event": event, "streamSid": self.stream, **more}))

    async def play(self, codes: bytes):
        """Sends audio at real time; returns when it has been played."""
        now = asyncio.get_running_loop().time
        began = now()
        end = began
        for frame in ulaw.frames(codes):
            ahead = end - LEAD_SECONDS - now()
            if ahead > 0:
                await asyncio.sleep(ahead)
            await self._send("media", media={"payload": base64.b64encode(frame).decode()})
            end += ulaw.FRAME_MS / 1_000
        await asyncio.sleep(max(0.0, end - now()))

    async def clear(self):
        """What was sent and not played yet is not to be played."""
        await self._send("clear")

    async def mark(self, **content):
        """Tells how long each stage took, in a mark's name: our convention on Twilio's message."""
        name = json.dumps({"segue": "stages", **content}, separators=(",", ":"))
        await self._send("mark", mark={"name": name})

    async def close(self, code: int):
        await self._socket.close(code=code)


class Call:
    """A conversation over one connection."""

    def __init__(self, desk, socket, call: str, resumes: bool, rescued: bool = False):
        self.id = call
        self._desk = desk
        self._socket = socket
        self._line = Line(socket)
        self._ear = Ear(desk.settings.endpoint_ms)
        self._memory = Memory()
        self._notebook = Notebook(desk.store, call)
        # Whether the caller was connected before, and whether it noticed that it is not any more.
        self._resumes = resumes
        self._rescued = rescued
        self._todo: asyncio.Queue = asyncio.Queue(WAITING_MAX)
        self._speech: asyncio.Task | None = None
        self._turn = 0
        self._we_closed = False

    async def run(self) -> tuple[str, int | None]:
        """Talks until the call is over; answers who ended it and the code of the close."""
        talking = asyncio.create_task(self._talk())
        try:
            return await self._listen()
        finally:
            tasks = [task for task in (talking, self._speech) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def announce(self, text: str):
        """Has a sentence said at the next pause."""
        self._want("announce", text)

    def hand_off(self, text: str):
        """Has a sentence said at the next pause, and the call ended after it."""
        self._want("hand_off", text)

    # === Hearing ===

    async def _listen(self) -> tuple[str, int | None]:
        async for message in self._socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            try:
                message = json.loads(message.data)
                event = message.get("event")
                if event == "start":
                    self._line.stream = str(message.get("streamSid", ""))
                    self._want("greet", None)
                elif event == "media":
                    await self._hear(base64.b64decode(message["media"]["payload"]))
                elif event == "stop":
                    return "caller", None
            except (ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
                say(f"call {self.id}: a message that is none of Twilio's: {error!r}")
        if self._we_closed:
            return "worker", 1000
        code = self._socket.close_code
        return ("error" if code in (None, 1006) else "caller"), code

    async def _hear(self, codes: bytes):
        for frame in ulaw.frames(codes):
            sentence = self._ear.hear(frame)
            if self._ear.is_interrupting and self._desk.settings.barge_in:
                await self._be_quiet()
            if sentence is not None:
                self._want("answer", sentence)

    async def _be_quiet(self):
        """The caller speaks over us: stop, at once, also what the carrier still holds."""
        if self._speech is None or self._speech.done():
            return
        self._speech.cancel()
        self._log("call.interrupted", turn=self._turn)
        await self._line.clear()

    def _want(self, what: str, content):
        try:
            self._todo.put_nowait((what, content))
        except asyncio.QueueFull:
            say(f"call {self.id}: too much at once, {what!r} is left out")

    # === Speaking ===

    async def _talk(self):
        acts = {
            "greet": self._greet,
            "answer": self._answer,
            "announce": self._announce,
            "hand_off": self._hand_off,
        }
        while True:
            what, content = await self._todo.get()
            try:
                await acts[what](content)
            except (aiohttp.ClientError, ConnectionError) as error:
                # The caller is gone; the listener notices as well and ends the call.
                say(f"call {self.id}: {error!r}")

    async def _greet(self, _):
        text = self._desk.brain.greeting()
        if self._resumes and await self._recall():
            brain, memory = self._desk.brain, self._memory
            text = brain.go_on(memory) if self._rescued else brain.welcome_back(memory)
        if text is not None:
            await self._say(text, "greeting")

    async def _recall(self) -> bool:
        try:
            state = await self._notebook.read()
        except StateLost as error:
            self._log("call.state", error=str(error))
            return False
        if state is None:
            return False
        self._memory = Memory.from_json(state)
        self._log("call.resumed", turns=len(self._memory.turns), slots=self._memory.slots)
        return True

    async def _answer(self, sentence: bytes):
        self._turn += 1
        stages: dict = {"turn": self._turn}
        began = time.perf_counter()
        heard = await asyncio.to_thread(self._desk.recognise, sentence)
        stages["stt_ms"] = _since(began)
        began = time.perf_counter()
        try:
            turn = await self._desk.think(self._memory, heard)
        except RuntimeError as error:
            self._log("call.turn", **stages, heard=heard, error=f"llm: {error}")
            await self._line.mark(turn=self._turn, error="llm")
            return
        stages["llm_ms"] = _since(began)
        # Stored while it is spoken: a connection that breaks in mid-sentence has had this turn.
        self._memory.saying = turn.said
        writing = asyncio.create_task(self._remember())
        try:
            await self._say(turn.said, turn.topic, stages, heard)
        finally:
            await asyncio.wait([writing], timeout=LAST_WRITE_SECONDS)
        self._memory.saying = None
        await self._remember()

    async def _remember(self):
        try:
            if not await self._notebook.write(self._memory.to_json()):
                self._log("call.state", error="another connection of this call has written since")
        except StateLost as error:
            # The conversation is worth more than its record.
            self._log("call.state", error=str(error))

    async def _announce(self, text: str):
        await self._pause()
        await self._say(text, "announce")

    async def _hand_off(self, text: str):
        await self._pause()
        await self._say(text, "hand_off")
        await self._remember()
        self._we_closed = True
        await self._line.close(1000)

    async def _pause(self):
        while self._ear.is_hearing:
            await asyncio.sleep(PAUSE_POLL_SECONDS)

    async def _say(self, text: str, topic: str, stages: dict | None = None, heard: str | None = None):
        stages = stages or {"turn": self._turn}
        began = time.perf_counter()
        try:
            codes = await asyncio.to_thread(self._desk.speak, text)
        except CannotSpeak as error:
            self._log("call.turn", **stages, heard=heard, topic=topic, error=f"tts: {error}")
            await self._line.mark(turn=self._turn, error="tts")
            return
        stages["tts_ttfb_ms"] = _since(began)
        self._log("call.turn", **stages, heard=heard, topic=topic, said=text)
        # The mark goes first: it says where the audio that follows comes from.
        await self._line.mark(**stages)
        self._speech = asyncio.create_task(self._line.play(codes))
        # Interrupted is as good as said; a broken line is the talker's business.
        await asyncio.wait([self._speech])
        if not self._speech.cancelled() and (error := self._speech.exception()):
            raise error

    def _log(self, event: str, **more):
        self._desk.log.write(event, self.id, **more)


def _since(began: float) -> float:
    return round((time.perf_counter() - began) * 1_000, 1)
