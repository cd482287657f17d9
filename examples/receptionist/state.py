"""Where the memory of a call is kept: outside this process, so that another one can go on with it.

`PUT /v1/calls/{call}/state` takes the memory, `GET` gives it back with a version. A write names the
version it follows on. One that comes too late is dropped: the caller has reconnected elsewhere, and
what is written there is newer.
"""

import uuid
from pathlib import Path

import aiohttp

# A store on this machine answers in a few milliseconds; a call must not wait for one that is gone.
ANSWER_SECONDS_MAX = 2.0


class StateLost(RuntimeError):
    """The state could not be read or written, and why."""


class MemoryStore:
    """Keeps states in this process: they are gone with it."""

    def __init__(self):
        self._states: dict[str, dict] = {}

    async def get(self, call: str):
        """State and version, or None."""
        state = self._states.get(call)
        return (state, None) if state is not None else None

    async def put(self, call: str, state: dict, _version):
        self._states[call] = state

    async def close(self):
        pass


class HttpStore:
    """Keeps states with Segue."""

    def __init__(self, url: str, token_file: Path | None):
        self._url = url.rstrip("/")
        self._token_file = token_file
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS_MAX)
        self._session = aiohttp.ClientSession(timeout=timeout)

    def _address(self, call: str) -> str:
        return f"{self._url}/v1/calls/{call}/state"

    def _headers(self) -> dict[str, str]:
        # Read each time: a token may be replaced while this process runs.
        token = self._token_file.read_text().strip() if self._token_file else ""
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def get(self, call: str):
        """State and version, or None."""
        try:
            async with self._session.get(self._address(call), headers=self._headers()) as answer:
                if answer.status == 404:
                    return None
                body = await _json(answer)
                return body["state"], body["version"]
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
            raise StateLost(f"reading: {error!r}") from error

    async def put(self, call: str, state: dict, version):
        """Stores the state as the one after `version`; answers its version.

        None as version: whatever is there is replaced. None as answer: somebody else wrote since.
        """
        headers = self._headers()
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        try:
            async with self._session.put(
                self._address(call), json=state, headers=headers
            ) as answer:
                if answer.status in (409, 412):
                    return None
                return (await _json(answer))["version"]
        except (aiohttp.ClientError, TimeoutError, OSError, KeyError, ValueError) as error:
            raise StateLost(f"writing: {error!r}") from error

    async def close(self):
        await self._session.close()


async def _json(answer: aiohttp.ClientResponse) -> dict:
    if answer.status not in (200, 201):
        raise ValueError(f"status {answer.status}: {(await answer.text())[:200]}")
    return await answer.json(content_type=None)


class Notebook:
    """The stored memory of one call, as one connection of it sees it."""

    def __init__(self, store, call: str):
        self._store = store
        self._call = call
        self._version = None
        # Tells our own writes from those of a later connection of the same call.
        self._writer = uuid.uuid4().hex

    async def read(self) -> dict | None:
        """What an earlier connection left."""
        found = await self._store.get(self._call)
        if found is None:
            return None
        state, self._version = found
        return state

    async def write(self, memory: dict) -> bool:
        """Stores it. False: a later connection of this call has written, and ours is dropped."""
        state = {**memory, "writer": self._writer}
        version = await self._store.put(self._call, state, self._version)
        if version is None and self._version is not None:
            # Perhaps our own last write, whose answer was lost on the way.
            found = await self._store.get(self._call)
            if found is not None and found[0].get("writer") != self._writer:
                return False
            self._version = found[1] if found else None
            version = await self._store.put(self._call, state, self._version)
            if version is None and self._version is not None:
                return False
        self._version = version
        return True
