#!/usr/bin/env python3
"""A Pipecat bot on the phone: stock transport, serializer and voice detection, no key, no network.

What Pipecat would ask a cloud for is taken from the receptionist beside it: pocketsphinx hears, rules
answer, flite or espeak-ng speaks. The server is uvicorn as everybody runs it. Told to stop, it closes
its calls; that is what a deployment has to live with.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path

import uvicorn
from fastapi import FastAPI, WebSocket
from loguru import logger
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADParams
from pipecat.frames.frames import TranscriptionFrame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import WorkerRunner
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.audio.vad_processor import VADProcessor
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.runner.utils import parse_telephony_websocket
from pipecat.serializers.twilio import TwilioFrameSerializer
from pipecat.services.settings import STTSettings, TTSSettings
from pipecat.services.stt_service import SegmentedSTTService
from pipecat.services.tts_service import TTSService
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)

RECEPTIONIST = Path(__file__).resolve().parent.parent / "receptionist"
sys.path.insert(0, str(RECEPTIONIST))

import prompt as prompts  # noqa: E402
import ulaw  # noqa: E402
from brain import Brain, Memory  # noqa: E402
from calllog import CallLog  # noqa: E402
from stt import Recogniser  # noqa: E402
from tts import Speaker  # noqa: E402

# Quiet after which the caller has finished, as the receptionist has it.
STOP_SECONDS = 0.4
# Time pocketsphinx takes for a sentence on a busy machine; Pipecat wants to know.
DECODE_SECONDS = 0.3


class Hearing(SegmentedSTTService):
    """Pocketsphinx as a speech-to-text service."""

    def __init__(self, recogniser: Recogniser):
        super().__init__(
            sample_rate=ulaw.RATE_HZ,
            ttfs_p99_latency=DECODE_SECONDS,
            settings=STTSettings(model=None, language=None),
        )
        self._recogniser = recogniser

    @property
    def wants_wav_segments(self) -> bool:
        return False

    async def run_stt(self, audio: bytes):
        codes = ulaw.encode(memoryview(audio).cast("h"))
        heard = await asyncio.to_thread(self._recogniser.recognise, codes)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # Also what was not understood: the rules have an answer to that.
        yield TranscriptionFrame(heard or "", "caller", now)


class Thinking(FrameProcessor):
    """The receptionist's rules where a language model would be."""

    def __init__(self, brain: Brain, log: CallLog, call: str):
        super().__init__()
        self._brain, self._log, self._call = brain, log, call
        self._memory = Memory()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            turn = self._brain.answer(self._memory, frame.text or None)
            self._log.write("call.turn", self._call, heard=turn.heard, said=turn.said)
            await self.push_frame(TTSSpeakFrame(turn.said, append_to_context=False))
        else:
            await self.push_frame(frame, direction)


class Speaking(TTSService):
    """Flite or espeak-ng as a text-to-speech service."""

    def __init__(self, speaker: Speaker):
        super().__init__(
            sample_rate=ulaw.RATE_HZ,
            push_start_frame=True,
            push_stop_frames=True,
            settings=TTSSettings(model=None, voice=None, language=None),
        )
        self._speaker = speaker

    async def run_tts(self, text: str, context_id: str):
        codes = await asyncio.to_thread(self._speaker.speak, text)
        samples = ulaw.decode(codes).tobytes()
        yield TTSAudioRawFrame(samples, ulaw.RATE_HZ, 1, context_id=context_id)


def app(args: argparse.Namespace) -> FastAPI:
    """The bot as a web application."""
    prompt = prompts.load(args.prompt)
    brain, recogniser, speaker = Brain(prompt), Recogniser(prompt.sentences()), Speaker()
    log = CallLog(args.call_log, release=args.release, worker=args.worker)
    web = FastAPI()

    @web.get("/healthz")
    async def healthz():
        return {"ready": True, "release": args.release}

    @web.websocket("/ws/{call}")
    async def call(socket: WebSocket, call: str):
        await socket.accept()
        _, data = await parse_telephony_websocket(socket)
        log.write("call.started", call)
        serializer = TwilioFrameSerializer(
            stream_sid=data["stream_id"],
            params=TwilioFrameSerializer.InputParams(auto_hang_up=False),
        )
        transport = FastAPIWebsocketTransport(
            socket,
            FastAPIWebsocketParams(
                audio_in_enabled=True, audio_out_enabled=True, serializer=serializer
            ),
        )
        voice = SileroVADAnalyzer(params=VADParams(stop_secs=STOP_SECONDS))
        pipeline = Pipeline(
            [
                transport.input(),
                VADProcessor(vad_analyzer=voice),
                Hearing(recogniser),
                Thinking(brain, log, call),
                Speaking(speaker),
                transport.output(),
            ]
        )
        rates = PipelineParams(
            audio_in_sample_rate=ulaw.RATE_HZ, audio_out_sample_rate=ulaw.RATE_HZ
        )
        worker = PipelineWorker(pipeline, params=rates, enable_rtvi=False)

        @transport.event_handler("on_client_connected")
        async def greet(_transport, _client):
            await worker.queue_frame(TTSSpeakFrame(brain.greeting(), append_to_context=False))

        @transport.event_handler("on_client_disconnected")
        async def end(_transport, _client):
            # Pipecat knows that the socket is gone, not who ended it.
            log.write("call.ended", call, by="caller", code=None)
            await worker.cancel()

        runner = WorkerRunner(handle_sigint=False)
        await runner.add_workers(worker)
        await runner.run()

    return web


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8091)
    parser.add_argument("--release", default="dev", help="its label")
    parser.add_argument("--worker", default="dev", help="its name")
    parser.add_argument(
        "--prompt", type=Path, default=RECEPTIONIST / "prompts/front-desk.toml", help="TOML"
    )
    parser.add_argument("--call-log", default=os.environ.get("AGENT_CALL_LOG"), help="JSON lines")
    return parser.parse_args()


if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    chosen = arguments()
    uvicorn.run(app(chosen), host="127.0.0.1", port=chosen.port, log_level="warning")
