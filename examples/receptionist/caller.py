#!/usr/bin/env python3
"""A synthetic caller: phones an agent as Twilio would, asks, and judges what it hears.

One JSON object a line on standard output: one per call, then a summary. The exit code is 0 if every
answer was understood and no call was dropped, else 1.
"""

import argparse
import asyncio
import json
import random
import sys
import tomllib
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from calllog import CallLog
from phone import Gone, Heard, Phone
from stt import Recogniser, word_error_rate, words
from tts import Speaker

HERE = Path(__file__).parent
# Callers that start together are spread over this.
SPREAD_SECONDS = 1.0
# Pause before a question.
PAUSE_SECONDS = 0.3
# Quiet around what is recognised, 0.2 s; the recogniser wants to hear a sentence begin and end.
AROUND = b"\xff" * 1_600


@dataclass(frozen=True)
class Scenario:
    """What is said and what is to be heard."""

    greeting: str
    turns: list[dict]
    farewell: str | None
    known: list[str]

    @classmethod
    def load(cls, path: Path) -> "Scenario":
        table = tomllib.loads(path.read_text())
        turns = table["turns"]
        known = [table["greeting"], *table.get("could_hear", [])]
        known += [table[key] for key in ("farewell", "announcement") if key in table]
        known += [turn[key] for turn in turns for key in ("expect", "back") if key in turn]
        return cls(table["greeting"], turns, table.get("farewell"), known)


class Caller:
    """Makes calls by one scenario."""

    def __init__(self, args, session):
        self._args = args
        self._session = session
        self._scenario = Scenario.load(args.scenario)
        self._ear = Recogniser(self._scenario.known)
        self._speaker = Speaker(args.voice)
        self._log = CallLog(args.call_log)

    async def call(self, number: int) -> dict:
        """One call to its end, with all of its connections."""
        call = f"{self._args.prefix}{number:04}"
        report = {"call": call, "greeting": None, "turns": [], "unasked": [], "clears": 0}
        self._log.write("call.dialled", call)
        try:
            end = await self._connections(call, report)
        except aiohttp.WSServerHandshakeError as error:
            self._log.write("call.refused", call, status=error.status)
            end = {"by": "refused", "code": error.status}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            end = {"by": "error", "code": None, "error": repr(error)}
        last = (report["unasked"] or [{}])[-1].get("heard")
        excused = self._scenario.farewell and last == words(self._scenario.farewell)
        dropped = end["by"] in ("remote", "error", "refused") and not excused
        return {**report, "end": end, "drop": dropped, "understood": _understood(report, excused)}

    async def _connections(self, call: str, report: dict) -> dict:
        url = await self._where(call)
        dialled = _now()
        phone = await Phone.dial(self._session, url, call)
        report["connect_ms"] = _ms(phone.connected_at - dialled)
        self._log.write("call.connected", call)
        done = 0
        if self._args.break_after is not None:
            done = self._args.break_after
            await self._talk(phone, report, self._scenario.greeting, self._scenario.turns[:done])
            await phone.break_off()
            report["clears"] += phone.clears
            greeting = self._scenario.turns[done - 1]["back"]
            await asyncio.sleep(self._args.away)
            phone = await Phone.dial(self._session, await self._where(call), call)
        else:
            greeting = self._scenario.greeting
        end = {"by": "caller", "code": 1000}
        try:
            await self._talk(phone, report, greeting, self._scenario.turns[done:])
            until = _now() + self._args.talk
            while _now() < until and self._args.talk:
                await self._talk(phone, report, None, self._scenario.turns)
            await self._linger(phone, report)
            await phone.hang_up()
        except (Gone, ConnectionError, aiohttp.ClientError):
            end = {"by": "remote", "code": phone.closed or 1006}
        report["clears"] += phone.clears
        heard = sum(turn["answer_wer"] == 0 for turn in report["turns"])
        self._log.write("call.ended", call, **end, turns=len(report["turns"]), turns_heard=heard)
        return end

    async def _where(self, call: str) -> str:
        """The address of the stream: told, or asked for at the agent's webhook."""
        if self._args.url:
            return self._args.url.replace("{call}", call)
        form = {"CallSid": call, "AccountSid": "AC0", "From": "+15005550006", "Direction": "inbound"}
        async with self._session.post(self._args.webhook, data=form) as answer:
            twiml = xml.fromstring(await answer.text())
        url = twiml.find("Connect/Stream").attrib["url"]
        return url.replace("wss://", "ws://", 1) if self._args.plain else url

    async def _talk(self, phone: Phone, report: dict, greeting: str | None, turns: list[dict]):
        if greeting is not None:
            heard = await phone.listen(self._args.within, settle=not _interrupts(turns, 0))
            line = await self._judge(heard, greeting)
            line["ttfa_ms"] = _ms(heard.first_voice and heard.first_voice - phone.connected_at)
            key = "greeting" if report["greeting"] is None else "welcome_back"
            report[key] = line
        for number, turn in enumerate(turns):
            if not turn.get("over"):
                await self._unasked(phone, report, PAUSE_SECONDS)
            await phone.say(await asyncio.to_thread(self._speaker.speak, turn["say"]))
            cut = _interrupts(turns, number + 1)
            heard = await phone.listen(self._args.within, settle=not cut)
            line = await self._judge(heard, turn["expect"])
            e2e = heard.first_voice and heard.first_voice - phone.last_said
            line |= {"said": turn["say"], "turn_e2e_ms": _ms(e2e), "cut": cut}
            report["turns"].append({**line, "stages": phone.stages})
            if phone.closed is not None:
                raise Gone

    async def _unasked(self, phone: Phone, report: dict, within: float):
        heard = await phone.listen(within)
        if heard.first_voice is not None:
            report["unasked"].append({"heard": await self._recognise(heard)})
        if phone.closed is not None:
            raise Gone

    async def _linger(self, phone: Phone, report: dict):
        until = _now() + self._args.linger
        while (left := until - _now()) > 0:
            await self._unasked(phone, report, left)

    async def _recognise(self, heard: Heard) -> str | None:
        return await asyncio.to_thread(self._ear.recognise, AROUND + bytes(heard.codes) + AROUND)

    async def _judge(self, heard: Heard, expect: str) -> dict:
        text = await self._recognise(heard) if heard.first_voice is not None else None
        return {"heard": text, "answer_wer": round(word_error_rate(expect, text), 3)}


def _interrupts(turns: list[dict], number: int) -> bool:
    return number < len(turns) and bool(turns[number].get("over"))


def _understood(report: dict, excused) -> bool:
    lines = [line for line in (report["greeting"], report.get("welcome_back")) if line]
    lines += [turn for turn in report["turns"] if not turn["cut"]]
    return bool(report["turns"] or excused) and all(line["answer_wer"] == 0 for line in lines)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1_000)


def percentile(values: list, share: float):
    """The smallest value that at least this share of them does not exceed."""
    ranked = sorted(value for value in values if value is not None)
    return ranked[max(0, -int(-len(ranked) * share // 1) - 1)] if ranked else None


def summary(reports: list[dict]) -> dict:
    """All calls in a few numbers."""
    turns = [turn for report in reports for turn in report["turns"]]
    whole = [turn for turn in turns if not turn["cut"]]
    e2e = [turn["turn_e2e_ms"] for turn in turns]
    greetings = [report["greeting"]["ttfa_ms"] for report in reports if report["greeting"]]
    stages = [turn["stages"] for turn in turns if turn["stages"]]
    numbers = {"turn_e2e_ms": e2e, "greeting_ttfa_ms": greetings}
    for stage in ("stt_ms", "llm_ms", "tts_ttfb_ms"):
        numbers[stage] = [line.get(stage) for line in stages]
    return {
        "calls": len(reports),
        "understood": sum(report["understood"] for report in reports),
        "dropped": sum(report["drop"] for report in reports),
        "turns": len(whole),
        "turns_understood": sum(turn["answer_wer"] == 0 for turn in whole),
        "silent": sum(value is None for value in e2e),
        **{
            name: {"p50": percentile(values, 0.50), "p95": percentile(values, 0.95)}
            for name, values in numbers.items()
        },
    }


async def main(args) -> int:
    gate = asyncio.Semaphore(args.concurrency)
    dice = random.Random(args.seed)

    async def one(caller: Caller, number: int) -> dict:
        async with gate:
            await asyncio.sleep(dice.random() * SPREAD_SECONDS if args.calls > 1 else 0)
            report = await caller.call(number)
            print(json.dumps(report), flush=True)
            return report

    headers = {"Host": args.host} if args.host else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        caller = Caller(args, session)
        reports = await asyncio.gather(*(one(caller, number) for number in range(args.calls)))
    print(json.dumps({"summary": summary(reports)}), flush=True)
    return 0 if all(report["understood"] and not report["drop"] for report in reports) else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of the stream, such as ws://127.0.0.1:8080/ws/{call}")
    where.add_argument("--webhook", help="to ask for the stream, as Twilio does")
    parser.add_argument("--plain", action="store_true", help="dial a webhook's wss:// without TLS")
    parser.add_argument("--scenario", type=Path, default=HERE / "scenarios/hours.toml")
    parser.add_argument("--calls", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=10)
    parser.add_argument("--talk", type=float, default=0.0, help="go on asking for these seconds")
    parser.add_argument("--linger", type=float, default=0.0, help="listen on for these seconds")
    parser.add_argument("--within", type=float, default=5.0, help="seconds an answer may take")
    parser.add_argument("--break-after", type=int, help="lose the line after so many turns, redial")
    parser.add_argument("--away", type=float, default=0.0, help="seconds until then")
    parser.add_argument("--host", help="name to ask for, where it is not that of the address")
    parser.add_argument("--prefix", default="CA", help="of call ids")
    parser.add_argument("--voice", default="rms", help="of the caller, where flite speaks")
    parser.add_argument("--call-log", help="JSON lines, as Segue's judge reads them")
    parser.add_argument("--seed", type=int, default=1, help="of the pauses between calls")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(arguments())))
