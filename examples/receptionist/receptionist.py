#!/usr/bin/env python3
"""A receptionist on the phone: a voice agent that needs no network, no key and no model server.

It hears with pocketsphinx, thinks with the rules of its prompt, speaks with flite or espeak-ng, and
takes calls as Twilio Media Streams. It is an agent to deploy with Segue, and to break on purpose.
"""

import argparse
import asyncio
import os
import signal
import sys
import tomllib
from dataclasses import fields
from pathlib import Path

import prompt as prompts
from brain import Brain
from calllog import CallLog, say
from faults import Fault
from server import Desk, Server, Settings
from state import HttpStore, MemoryStore
from stt import Recogniser, UnknownWord
from tts import CannotSpeak, Speaker

HERE = Path(__file__).parent


def arguments() -> argparse.Namespace:
    env = os.environ.get
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=int(env("PORT", "8090")), help="or $PORT")
    parser.add_argument("--release", default=env("RECEPTIONIST_RELEASE", "dev"), help="its label")
    parser.add_argument("--worker", default=env("RECEPTIONIST_WORKER", "dev"), help="its name")
    parser.add_argument(
        "--prompt",
        type=Path,
        default=Path(env("SEGUE_PROMPT") or HERE / "prompts/front-desk.toml"),
        help="what it knows and says (TOML), or $SEGUE_PROMPT",
    )
    parser.add_argument("--model", default=env("SEGUE_MODEL") or "rules", help="or $SEGUE_MODEL")
    parser.add_argument(
        "--config",
        type=Path,
        default=Path(env("SEGUE_CONFIG")) if env("SEGUE_CONFIG") else None,
        help="voice, endpoint_ms, barge_in (TOML), or $SEGUE_CONFIG",
    )
    parser.add_argument("--call-log", default=env("AGENT_CALL_LOG"), help="JSON lines")
    parser.add_argument(
        "--fault",
        default=env("RECEPTIONIST_FAULT", ""),
        help="stt, llm, tts, wrong or slow:MS, or $RECEPTIONIST_FAULT",
    )
    return parser.parse_args()


def settings(path: Path | None) -> Settings:
    """Reads the worker's own configuration."""
    if path is None:
        return Settings()
    table = tomllib.loads(path.read_text())
    known = {field.name: field.type for field in fields(Settings)}
    for key, value in table.items():
        if type(value) is not known.get(key):
            raise ValueError(f"{path}: `{key}` is unknown or of the wrong type")
    return Settings(**table)


def open_store():
    """Where calls are remembered."""
    url, token = os.environ.get("SEGUE_API_URL"), os.environ.get("SEGUE_TOKEN_FILE")
    if url:
        return HttpStore(url, Path(token) if token else None)
    say("no $SEGUE_API_URL: calls are remembered in this process only")
    return MemoryStore()


async def main(args: argparse.Namespace):
    prompt, fault, chosen = prompts.load(args.prompt), Fault.parse(args.fault), settings(args.config)
    identity = {"release": args.release, "worker": args.worker}
    about = {**identity, "prompt": prompt.digest, "model": args.model, "fault": args.fault}
    desk = Desk(
        brain=Brain(prompt),
        recogniser=Recogniser(prompt.sentences()),
        speaker=Speaker(chosen.voice),
        store=open_store(),
        log=CallLog(args.call_log, **identity, pid=os.getpid()),
        settings=chosen,
        fault=fault,
        about=about,
    )
    if fault.kind != "tts":
        # The first caller is not to wait for it; and without a voice there is no agent.
        await asyncio.to_thread(desk.speak, prompt.greeting)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await Server(desk).serve(args.host, args.port, stop)
    finally:
        await desk.store.close()


def run() -> int:
    try:
        asyncio.run(main(arguments()))
    except UnknownWord as error:
        say(f"the prompt has words that pocketsphinx cannot spell: {error}")
        say("hint: say it in other words; its dictionary is that of American English")
    except (prompts.BadPrompt, ValueError) as error:
        say(f"{error}")
        say("hint: prompts/front-desk.toml shows every key of a prompt, --help every option")
    except (CannotSpeak, OSError) as error:
        say(f"{error}")
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(run())
