"""A call state API in a few lines, for tests without Segue."""

from aiohttp import web

TOKEN = "a token"


class FakeSegue:
    """Keeps versions, asks for the token, refuses what comes too late."""

    def __init__(self):
        self.states: dict[str, tuple[dict, int]] = {}
        # Answers that get lost after the write has been done.
        self.lose = 0
        app = web.Application()
        app.router.add_get("/v1/calls/{call}/state", self._get)
        app.router.add_put("/v1/calls/{call}/state", self._put)
        self._runner = web.AppRunner(app)

    async def start(self) -> str:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self):
        await self._runner.cleanup()

    def _answer(self, call: str) -> web.Response:
        state, version = self.states[call]
        body = {"call": call, "version": version, "state": state, "expires_at": 0}
        return web.json_response(body, headers={"ETag": f'"{version}"'})

    def _allow(self, request):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise web.HTTPUnauthorized

    async def _get(self, request):
        self._allow(request)
        call = request.match_info["call"]
        return self._answer(call) if call in self.states else web.Response(status=404)

    async def _put(self, request):
        self._allow(request)
        call = request.match_info["call"]
        version = self.states.get(call, (None, 0))[1]
        follows = request.headers.get("If-Match")
        if follows is not None and follows != f'"{version}"':
            return web.Response(status=412)
        self.states[call] = (await request.json(), version + 1)
        if self.lose:
            self.lose -= 1
            return web.Response(status=502)
        return self._answer(call)
