"""What SIGTERM does to a call: with uvicorn as it comes, and with ours."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import SOON

websockets = pytest.importorskip("websockets")
pytest.importorskip("uvicorn")
pytest.importorskip("fastapi")


@contextmanager
def server(kind):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(__file__).parent / "talking_server.py"
    process = subprocess.Popen([sys.executable, program, kind, str(port)])
    try:
        yield process, f"ws://127.0.0.1:{port}/ws/CA1"
    finally:
        process.kill()
        process.wait()


async def dial(url):
    """As soon as somebody listens."""
    async with asyncio.timeout(SOON):
        while True:
            try:
                return await websockets.connect(url, proxy=None)
            except OSError:
                await asyncio.sleep(0.05)


async def says(call, word):
    async with asyncio.timeout(SOON):
        await call.send(word)
        return await call.recv()


async def ended(process):
    async with asyncio.timeout(SOON):
        return await asyncio.to_thread(process.wait)


def test_as_it_comes_the_call_is_closed():
    async def main():
        with server("stock") as (process, url):
            call = await dial(url)
            assert await says(call, "hello") == "CA1: hello"
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SOON):
                await call.wait_closed()
            assert call.close_code == 1012

    asyncio.run(main())


def test_with_a_pool_the_call_goes_on_and_the_server_ends_with_it():
    async def main():
        with server("segue") as (process, url):
            call = await dial(url)
            assert await says(call, "hello") == "CA1: hello"
            process.send_signal(signal.SIGTERM)
            # Refused before the handshake, so that who routes calls tries another worker.
            async with asyncio.timeout(SOON):
                while True:
                    try:
                        await (await websockets.connect(url + "0", proxy=None)).close()
                    except websockets.InvalidStatus as refused:
                        assert refused.response.status_code == 503
                        break
            for number in range(3):
                process.send_signal(signal.SIGTERM)
                assert await says(call, str(number)) == f"CA1: {number}"
            # The same call on another connection belongs here.
            async with websockets.connect(url, proxy=None) as again:
                assert await says(again, "back") == "CA1: back"
            # So does one that has lost its line.
            back = {"X-Segue-Call-Id": "CA2", "X-Segue-Resume": "true"}
            path = url.replace("CA1", "stream")
            async with websockets.connect(path, additional_headers=back, proxy=None) as again:
                assert await says(again, "back") == "stream: back"
            assert process.poll() is None
            await call.close()
            assert await ended(process) == 0

    asyncio.run(main())


def test_a_policy_ends_it_with_a_word():
    async def main():
        with server("ends") as (process, url):
            call = await dial(url)
            await says(call, "hello")
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(SOON):
                await call.wait_closed()
            assert call.close_code == 1001
            assert await ended(process) == 0

    asyncio.run(main())


def test_a_server_that_ends_by_itself_cuts_nothing_either():
    def look(url):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(url, timeout=SOON).read()

    async def main():
        with server("limited") as (process, url):
            call = await dial(url)
            look_at = url.replace("ws:", "http:").replace("/ws/CA1", "/healthz")
            async with asyncio.timeout(SOON):
                while True:
                    try:
                        await asyncio.to_thread(look, look_at)
                    except OSError:
                        break
            for word in ("still", "here"):
                assert await says(call, word) == f"CA1: {word}"
            await call.close()
            assert await ended(process) == 0

    asyncio.run(main())


def test_without_calls_it_ends_at_once_and_notifications_are_taken():
    def post(url, body):
        request = urllib.request.Request(url, data=body, method="POST")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            return opener.open(request, timeout=SOON).status
        except urllib.error.HTTPError as error:
            return error.code

    async def main():
        with server("segue") as (process, url):
            await (await dial(url)).close()
            notify = url.replace("ws:", "http:").replace("/ws/CA1", "/notify")
            event = {"type": "dev.segue.worker.retiring", "data": {}}
            for body, status in [(json.dumps(event).encode(), 204), (b"<html>", 400)]:
                assert await asyncio.to_thread(post, notify, body) == status
            process.send_signal(signal.SIGINT)
            assert await ended(process) == 0

    asyncio.run(main())
