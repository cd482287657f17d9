"""Whole calls, with sound, against the server in this process."""

import asyncio
import json
import os
import tempfile
import unittest
from pathlib import Path

import aiohttp

import stt
from brain import Brain
from calllog import CallLog
from faults import Fault
from phone import Gone, Phone
from server import Desk, Server, Settings
from state import HttpStore
from stt import Recogniser
from tests.fake_segue import TOKEN, FakeSegue
from tests.test_understanding import desk
from tts import Speaker

AROUND = b"\xff" * 1_600
# Time an answer may take on a busy machine.
PATIENCE = 10.0


class Calls(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        prompt = desk()
        self.segue = FakeSegue()
        url = await self.segue.start()
        self.addAsyncCleanup(self.segue.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.log = Path(folder.name) / "calls.jsonl"
        token = Path(folder.name) / "token"
        token.write_text(TOKEN)
        log = CallLog(str(self.log), release="v1", worker="w")
        self.addCleanup(os.close, log._file)
        store = HttpStore(url, token)
        self.addAsyncCleanup(store.close)
        self.speaker = Speaker()
        recogniser = Recogniser(prompt.sentences())
        self.stop = asyncio.Event()
        server = Server(
            Desk(Brain(prompt), recogniser, self.speaker, store, log, Settings(), Fault(), {})
        )
        self.serving = asyncio.create_task(server.serve("127.0.0.1", 0, self.stop))
        self.addAsyncCleanup(self.end)
        while not server._runner.addresses:
            await asyncio.sleep(0.01)
        self.port = server._runner.addresses[0][1]
        self.session = aiohttp.ClientSession()
        self.addAsyncCleanup(self.session.close)
        known = [prompt.greeting, prompt.sorry, prompt.announce, prompt.hand_off]
        known += [answer.say for answer in prompt.answers]
        known += ["your table for four is booked for tonight"]
        known += ["welcome back. you asked for a table. how many people will you be"]
        known += ["how many people will you be"]
        self.ear = Recogniser(known)

    async def end(self):
        self.stop.set()
        await asyncio.wait_for(self.serving, PATIENCE)

    async def dial(self, call: str, **headers) -> Phone:
        url = f"http://127.0.0.1:{self.port}/ws/{call}"
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        session = aiohttp.ClientSession(headers=headers)
        self.addAsyncCleanup(session.close)
        return await Phone.dial(session, url, call)

    async def heard(self, phone: Phone) -> str | None:
        heard = await phone.listen(PATIENCE)
        return self.ear.recognise(AROUND + bytes(heard.codes) + AROUND)

    async def ask(self, phone: Phone, question: str) -> str | None:
        await phone.say(self.speaker.speak(question))
        return await self.heard(phone)

    async def event(self, kind: str, call: str, **headers) -> int:
        event = {"specversion": "1.0", "id": f"{kind} {call}", "source": "segue", "type": kind}
        event["data"] = {"call": call}
        url = f"http://127.0.0.1:{self.port}/segue/events"
        async with self.session.post(url, json=event, headers=headers) as answer:
            return answer.status

    def lines(self, event: str) -> list[dict]:
        lines = map(json.loads, self.log.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    async def test_a_call_that_comes_back_goes_on_where_it_was(self):
        phone = await self.dial("CA1")
        self.assertEqual(await self.heard(phone), stt.words(desk().greeting))
        answer = await self.ask(phone, "can I book a table for tonight")
        self.assertEqual(answer, "with pleasure how many people will you be")
        await phone.break_off()
        self.assertEqual(self.segue.states["CA1"][0]["wants"], "people")
        phone = await self.dial("CA1", X_Segue_Resume="true")
        welcome = "welcome back you asked for a table how many people will you be"
        self.assertEqual(await self.heard(phone), welcome)
        answer = await self.ask(phone, "for four people")
        self.assertEqual(answer, "your table for four is booked for tonight")
        await phone.hang_up()
        ends = [line["by"] for line in self.lines("call.ended")]
        self.assertEqual(ends, ["error", "caller"])

    async def test_a_call_whose_worker_died_goes_on_without_a_word_about_it(self):
        phone = await self.dial("CA7")
        await self.heard(phone)
        await self.ask(phone, "can I book a table for tonight")
        while self.segue.states["CA7"][0]["saying"] is not None:
            await asyncio.sleep(0.01)
        await phone.break_off()
        rescue = {"X_Segue_Resume": "true", "X_Segue_Rescue": "1"}
        phone = await self.dial("CA7", **rescue)
        self.assertEqual(await self.heard(phone), "how many people will you be")
        answer = await self.ask(phone, "for four people")
        self.assertEqual(answer, "your table for four is booked for tonight")
        await phone.break_off()
        # Cut off in mid-sentence: said again.
        state, version = self.segue.states["CA7"]
        self.segue.states["CA7"] = ({**state, "saying": "we are open from nine to five"}, version)
        phone = await self.dial("CA7", **rescue)
        self.assertEqual(await self.heard(phone), "we are open from nine to five")
        await phone.hang_up()

    async def test_a_rescued_call_with_nothing_left_to_say_listens(self):
        state = {"turns": [{"topic": "hours", "heard": "when are you open", "said": "from nine"}]}
        self.segue.states["CA8"] = (state, 1)
        phone = await self.dial("CA8", X_Segue_Resume="true", X_Segue_Rescue="1")
        answer = await self.ask(phone, "where can I find you")
        self.assertEqual(answer, "you will find us at twelve harbour street")
        await phone.hang_up()

    async def test_it_announces_hands_off_and_ends_only_after_its_calls(self):
        phone = await self.dial("CA2")
        await self.heard(phone)
        retiring = await self.event("dev.segue.worker.retiring", "")
        foreign = await self.event("dev.segue.call.announce", "CA9")
        outside = await self.event("dev.segue.call.hand-off", "CA2", **{"X-Segue-Release": "v1"})
        self.assertEqual((retiring, foreign, outside), (204, 404, 403))
        # The second one is the first, sent again because its answer was lost: said once.
        for _ in range(2):
            self.assertEqual(await self.event("dev.segue.call.announce", "CA2"), 204)
        self.assertEqual(await self.heard(phone), stt.words(desk().announce))
        self.stop.set()
        answer = await self.ask(phone, "what are your opening hours")
        self.assertEqual(answer, "we are open from nine to five")
        with self.assertRaises(aiohttp.ClientError):
            await self.dial("CA3")
        self.assertFalse(self.serving.done())
        await self.event("dev.segue.call.hand-off", "CA2")
        self.assertEqual(await self.heard(phone), stt.words(desk().hand_off))
        with self.assertRaises(Gone):
            await phone.listen(PATIENCE)
        self.assertEqual(phone.closed, 1000)
        await asyncio.wait_for(self.serving, PATIENCE)
        self.assertEqual(self.lines("call.ended")[-1]["by"], "worker")
        self.assertEqual(len(self.segue.states["CA2"][0]["turns"]), 1)

    async def test_a_caller_who_speaks_over_it_is_listened_to(self):
        phone = await self.dial("CA4")
        await phone.listen(PATIENCE, settle=False)
        answer = await self.ask(phone, "where can I find you")
        self.assertEqual(answer, "you will find us at twelve harbour street")
        self.assertEqual(phone.clears, 1)
        self.assertEqual(len(self.lines("call.interrupted")), 1)
        await phone.hang_up()

    async def test_the_webhook_puts_the_call_into_the_path_and_nothing_else(self):
        url = f"http://127.0.0.1:{self.port}/voice"
        headers = {"X-Forwarded-Host": "voice.example"}
        async with self.session.post(url, data={"CallSid": "CA5"}, headers=headers) as answer:
            text = await answer.text()
            self.assertIn('<Connect><Stream url="wss://voice.example/ws/CA5"/></Connect>', text)
        for call in ("", 'CA"/><Hangup/>', "a" * 200, "CA/../x"):
            async with self.session.post(url, data={"CallSid": call}) as answer:
                self.assertEqual(answer.status, 400, call)

    async def test_nonsense_on_the_line_does_not_end_the_call(self):
        phone = await self.dial("CA6")
        for text in ("{", "3", '{"event":"media"}', '{"event":"media","media":{"payload":"%"}}'):
            await phone._socket.send_str(text)
        self.assertEqual(await self.heard(phone), stt.words(desk().greeting))
        await phone.hang_up()
