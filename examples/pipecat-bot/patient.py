#!/usr/bin/env python3
"""The same bot, which lets its callers finish: SIGTERM means no new calls, and the last call's end is
the end of the process. Nothing in bot.py is changed for it.
"""

import sys

from loguru import logger

import segue.uvicorn
from bot import app, arguments
from segue import AgentPool

if __name__ == "__main__":
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    chosen = arguments()
    pool = AgentPool(deployment_version=chosen.release)
    segue.uvicorn.run(
        app(chosen), pool=pool, host="127.0.0.1", port=chosen.port, log_level="warning"
    )
