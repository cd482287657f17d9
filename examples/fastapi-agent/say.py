#!/usr/bin/env python3
"""say.py URL WORD…: says each word in one call and prints what is answered."""

import asyncio
import sys

import websockets


async def main(url: str, words: list[str]):
    async with websockets.connect(url, proxy=None) as call:
        for word in words:
            await call.send(word)
            print(await call.recv(), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2:]))
