"""A worker of a release, and the calls it has."""

import asyncio
import atexit
import inspect
import json
import logging
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from ._native import NativePool

Verdict = Literal["success", "failure", "abandoned"]

_log = logging.getLogger("segue")

# How long the last reports may take at the end of a worker: its calls are over by then.
CLOSE_SECONDS = 5.0

# How long who forgets a pool waits for a sink that is just being told, in seconds.
LET_GO_SECONDS = 1.0


class CallEnded(RuntimeError):
    """The policy ended this call: its drain has lasted for `drain_timeout`, and `on_straggler` is
    "end"."""


@dataclass(frozen=True)
class Event:
    """What a worker is told.

    `name` is one of retiring, resumed, barred, admitted, draining, overdue, end, announce, hand-off,
    drained.
    """

    name: str
    calls: tuple[str, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class CallState:
    """What an agent wrote down of a call, and which version that is."""

    version: int
    state: dict[str, Any]


@dataclass(frozen=True)
class AuditEvent:
    """Who did what. `to_dict` has `fields` beside the others, as OpenRTC has it."""

    seq: int
    timestamp: float
    event: str
    actor: str
    target: str
    result: str
    version: str | None
    fields: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        fixed = {name: getattr(self, name) for name in _FIXED}
        return {**self.fields, **fixed}

    @classmethod
    def _read(cls, text: str) -> "AuditEvent":
        read = json.loads(text)
        fixed = {name: read.pop(name) for name in _FIXED}
        return cls(**fixed, fields=read)


_FIXED = ("seq", "timestamp", "event", "actor", "target", "result", "version")


@dataclass(frozen=True)
class PoolRuntimeSnapshot:
    """A worker at one moment."""

    timestamp: float
    uptime_seconds: float
    deployment_version: str | None
    agent: str | None
    worker: str | None
    draining: bool
    draining_since: float | None
    drained: bool
    retiring: bool
    active_sessions: int
    overdue_sessions: int
    total_sessions_started: int
    total_sessions_refused: int
    total_session_failures: int
    last_error: str | None
    drain_timeout_seconds: float | None
    on_straggler: str
    audit: dict[str, Any]
    reports: dict[str, Any]
    membership: dict[str, Any]
    segue: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


class AuditLog:
    """Events of the agent's own, in line with those of the pool."""

    def __init__(self, pool: "AgentPool"):
        self._pool = pool

    def emit(
        self,
        type: str,
        *,
        actor: str = "system",
        target: str = "",
        result: str = "ok",
        version: str | None = None,
        **fields: Any,
    ) -> AuditEvent:
        """Writes one down. A sink that fails gets it again, so this neither raises nor waits."""
        text = self._pool._native.audit(type, actor, target, result, version, json.dumps(fields))
        return AuditEvent._read(text)


class AgentPool:
    """A worker of a release, and the calls it has.

    What is not said is read from the environment that Segue gives its workers: SEGUE_RELEASE,
    SEGUE_AGENT, SEGUE_WORKER_ID, SEGUE_API_URL, SEGUE_TOKEN_FILE, SEGUE_MEMBERSHIP_TOKEN_FILE,
    SEGUE_MEMBERSHIP_KEY_FILE. Without an `api_url` nothing is reported, and all else works.

    Nothing runs before the first use, so a pool may be made before a fork.
    """

    def __init__(
        self,
        *,
        deployment_version: str | None = None,
        drain_timeout: float | None = None,
        on_straggler: Literal["wait", "end"] = "wait",
        audit_sink: Callable[[AuditEvent], object] | None = None,
        agent: str | None = None,
        worker: str | None = None,
        api_url: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        membership_token_file: str | os.PathLike[str] | None = None,
        membership_key_file: str | os.PathLike[str] | None = None,
    ):
        if audit_sink is not None and inspect.iscoroutinefunction(audit_sink):
            raise TypeError("audit_sink is called from a thread; give it a plain function")
        env = os.environ.get
        self._version = deployment_version or env("SEGUE_RELEASE") or None
        sink = None if audit_sink is None else lambda text: audit_sink(AuditEvent._read(text))
        token = token_file or env("SEGUE_TOKEN_FILE")
        membership = membership_token_file or env("SEGUE_MEMBERSHIP_TOKEN_FILE")
        key = membership_key_file or env("SEGUE_MEMBERSHIP_KEY_FILE")
        self._settings = (
            self._version,
            drain_timeout,
            on_straggler,
            sink,
            agent or env("SEGUE_AGENT") or None,
            worker or env("SEGUE_WORKER_ID") or None,
            api_url or env("SEGUE_API_URL") or None,
            *(os.fspath(path) if path else None for path in (token, membership, key)),
        )
        # A signal's handler may come while this thread holds it.
        self._lock = threading.RLock()
        self._left_behind: list[NativePool] = []
        self._listeners: list[Callable[[Event], object]] = []
        self.audit_log = AuditLog(self)
        # What the process that made it has, for who forgets it: nothing of the pool itself.
        self._own: list[tuple[int, NativePool]] = []
        self._make()
        # The threads must not outlive the interpreter, and the last reports should.
        atexit.register(_close, weakref.ref(self))
        weakref.finalize(self, _let_go, self._own).atexit = False

    def _make(self) -> None:
        self._pid = os.getpid()
        self._made = NativePool(*self._settings)
        self._own[:] = [(self._pid, self._made)]
        # The loops and tasks that hold a call, to end it where it is.
        self._tasks: dict[str, list[_Task]] = {}
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        # Weakly: who forgets a pool ends its threads.
        told = weakref.WeakMethod(self._told)

        def listen(name: str, calls: list[str], reason: str | None) -> None:
            if (tell := told()) is not None:
                tell(name, calls, reason)

        self._made.on_event(listen)

    @property
    def _native(self) -> NativePool:
        if self._pid != os.getpid():
            # After a fork: its threads are not here, and neither are its calls. It is kept, because
            # one of its locks may have been taken at that moment.
            self._lock = threading.RLock()
            self._left_behind.append(self._made)
            self._make()
        return self._made

    # Its life.

    def start(self) -> None:
        """Starts heartbeats, reports and the audit sink. Again, it changes nothing."""
        self._native.start()

    def begin(self) -> None:
        """The same on the way of a call, which must not be lost because a thread cannot be had: it is
        logged, and tried again the next time."""
        try:
            self.start()
        except OSError:
            _log.warning("heartbeats and reports could not be started", exc_info=True)

    async def flush(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Waits until outcomes and audit events are through. False: it took longer."""
        return await asyncio.to_thread(self._native.flush, timeout)

    def close(self, timeout: float = CLOSE_SECONDS) -> bool:
        """Ends them, for good, once what they hold is through, or the time is over. No call is touched."""
        return self._native.close(timeout)

    async def __aenter__(self) -> "AgentPool":
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __enter__(self) -> "AgentPool":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def deployment_version(self) -> str | None:
        return self._version

    @property
    def draining(self) -> bool:
        return self.runtime_snapshot().draining

    @property
    def takes_calls(self) -> bool:
        """Whether a call that is new here may come in: it does not drain, and its membership is not
        refused."""
        return self._native.takes_calls()

    @property
    def retiring(self) -> bool:
        return self.runtime_snapshot().retiring

    def runtime_snapshot(self) -> PoolRuntimeSnapshot:
        return PoolRuntimeSnapshot(**json.loads(self._native.snapshot()))

    # Drains.

    def begin_drain(self, reason: str = "begin_drain") -> None:
        """From here on new calls are refused; those that are here go on to their ends."""
        self._native.begin_drain(reason)

    async def drained(self) -> None:
        """Returns when the last call has ended in a drain."""
        loop = asyncio.get_running_loop()
        native = self._native
        while True:
            waiter = (loop, loop.create_future())
            with self._lock:
                self._waiting.append(waiter)
            try:
                # A call that was assigned meanwhile undoes it, so it is asked again.
                if native.wait_drained(0.0):
                    return
                await waiter[1]
            finally:
                with self._lock:
                    self._waiting.remove(waiter)

    def wait_drained(self, timeout: float | None = None) -> bool:
        """The same for threads; False: it took longer."""
        return self._native.wait_drained(timeout)

    def handle_signals(self, signals: Iterable[int] = (signal.SIGTERM, signal.SIGINT)) -> None:
        """Has these signals begin a drain, in the main thread. The second one changes nothing."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            for number in signals:
                signal.signal(number, lambda number, _frame: self._signalled(number))
        else:
            for number in signals:
                loop.add_signal_handler(number, self._signalled, number)

    def _signalled(self, number: int) -> None:
        self.begin_drain(signal.Signals(number).name)

    # Events.

    def on_event(self, listener: Callable[[Event], object]) -> None:
        """Calls `listener` with each event, from the thread on which it happened."""
        with self._lock:
            self._listeners.append(listener)

    def notified(self, body: bytes) -> bool:
        """Takes in what Segue posts to a worker's `notify` path. False: it was none of it."""
        return self._native.notified(body)

    def _told(self, name: str, calls: list[str], reason: str | None) -> None:
        with self._lock:
            listeners = list(self._listeners)
            waiting = list(self._waiting) if name == "drained" else []
            ending = [task for call in calls for task in self._tasks.get(call, ())]
        for loop, future in waiting:
            _soon(loop, _wake, future)
        if name == "end":
            for task in ending:
                _soon(task.loop, task.end)
        event = Event(name, tuple(calls), reason)
        for listener in listeners:
            try:
                listener(event)
            except Exception:
                _log.exception("a listener of %r has failed", name)

    # Calls.

    def call(self, call: str, *, assigned: bool = False) -> "Call":
        """A call for as long as the block of this `with` or `async with` runs.

        Raises `Draining` there when the worker drains, `Barred` when its membership is refused, unless
        the call is here already, or was accepted in this worker's name before (`assigned`), as in the
        entrypoint of a LiveKit job.
        """
        return Call(self, call, assigned)

    def report(
        self,
        call: str,
        verdict: Verdict,
        reason: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Says how a call went. It reaches Segue when that can be reached, and nobody waits."""
        self._native.report(call, verdict, reason, json.dumps(data or {}))

    async def get_state(self, call: str) -> CallState | None:
        """What was written down of a call, on this worker or another one."""
        found = await asyncio.to_thread(self._native.get_state, call)
        return None if found is None else CallState(found[0], json.loads(found[1]))

    async def put_state(self, call: str, state: dict[str, Any], after: int | None = None) -> int:
        """Writes it; answers its version. With `after` only on top of that one (0: of none), else
        `StaleState`."""
        return await self._write(call, state, after, False)

    async def patch_state(self, call: str, patch: dict[str, Any], after: int | None = None) -> int:
        """Merges into it (RFC 7396); answers its version."""
        return await self._write(call, patch, after, True)

    async def remove_state(self, call: str) -> None:
        await asyncio.to_thread(self._native.remove_state, call)

    async def _write(self, call: str, state: dict[str, Any], after: int | None, merge: bool) -> int:
        text = json.dumps(state)
        return await asyncio.to_thread(self._native.write_state, call, text, after, merge)


class Call:
    """One call. Made by `AgentPool.call`."""

    def __init__(self, pool: AgentPool, call: str, assigned: bool):
        self.id = call
        self._pool = pool
        self._assigned = assigned
        self._here: Any = None
        self._task: _Task | None = None
        self._reported = False

    def report(
        self,
        verdict: Verdict,
        reason: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Says how it went."""
        self._pool.report(self.id, verdict, reason, data)
        self._reported = True

    async def get_state(self) -> CallState | None:
        return await self._pool.get_state(self.id)

    async def put_state(self, state: dict[str, Any], after: int | None = None) -> int:
        return await self._pool.put_state(self.id, state, after)

    async def patch_state(self, patch: dict[str, Any], after: int | None = None) -> int:
        return await self._pool.patch_state(self.id, patch, after)

    def __enter__(self) -> "Call":
        if self._here is not None:
            raise RuntimeError("this call has entered already; each block asks for its own")
        self._pool.begin()
        self._here = self._pool._native.enter(self.id, self._assigned)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # An agent that raises has failed, whatever its framework says. The message may quote the
        # caller, so only the kind is told.
        if kind is not None and issubclass(kind, Exception) and not self._reported:
            self.report("failure", kind.__name__)
        self._here.exit()

    async def __aenter__(self) -> "Call":
        self.__enter__()
        task = asyncio.current_task()
        assert task is not None
        self._task = _Task(asyncio.get_running_loop(), task)
        with self._pool._lock:
            self._pool._tasks.setdefault(self.id, []).append(self._task)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        assert self._task is not None
        with self._pool._lock:
            tasks = self._pool._tasks[self.id]
            tasks.remove(self._task)
            if not tasks:
                del self._pool._tasks[self.id]
        ended = self._task.leave(kind)
        self.__exit__(None if ended else kind)
        if ended:
            raise CallEnded("this call was ended at the ceiling of the drain") from error


class _Task:
    """The task of a call, which the policy may end, as `asyncio.timeout` ends one."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: "asyncio.Task[Any]"):
        self.loop = loop
        self._task = task
        self._state: Literal["here", "ending", "gone"] = "here"
        self._cancelling = task.cancelling()

    def end(self) -> None:
        if self._state == "here":
            self._state = "ending"
            self._task.cancel()

    def leave(self, kind: type[BaseException] | None) -> bool:
        """Whether it leaves because it was ended, and for nothing else."""
        was, self._state = self._state, "gone"
        if was != "ending":
            return False
        cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
        return self._task.uncancel() <= self._cancelling and cancelled


def _close(pool: "weakref.ref[AgentPool]") -> None:
    if (alive := pool()) is not None:
        alive.close()


def _let_go(own: "list[tuple[int, NativePool]]") -> None:
    # A thread that is just within a sink must not be there when the interpreter ends.
    for pid, made in own:
        if pid == os.getpid():
            made.close(LET_GO_SECONDS)


def _soon(loop: asyncio.AbstractEventLoop, run: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(run, *args)
    except RuntimeError:
        # That loop has ended, and with it whoever waited there.
        pass


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
