"""What is a session's model road, from its opening to its end?

`ModelGateway` implements `ModelRoads`: it holds the upstream and its connections. `ModelRoad` is one session's
socket: who connects to it *is* that session, so no header, token or path can make a request of one session another's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from pathlib import Path
from socket import socket as BoundSocket
from typing import Any

from hostler.engine.model_port import Caller, Shortage, UpstreamHealth, Wait
from hostler.engine.ports import ModelRequestRecord, ModelRoadListener, SequenceStore
from hostler.engine.sockets import remove_stale_socket
from hostler.engine.tasks import Tasks
from hostler.gateway import sequence
from hostler.gateway.channel import MessagesChannel
from hostler.gateway.client import ClientConnection, ClientLimits
from hostler.gateway.desk import ONLY, Desk
from hostler.gateway.exchange import Exchange
from hostler.gateway.http1 import Request
from hostler.gateway.sequence import Call, Plan
from hostler.gateway.upstream import Upstream, UpstreamLimits


def one_upstream(upstream: Upstream, limits: UpstreamLimits | None = None) -> Desk:
    """A desk with this upstream and without any rules."""
    return Desk({ONLY: MessagesChannel(upstream, limits)})


class UsageNotRecorded(Exception):
    """The road is closed, but the listener never took in these records. They are lost unless the caller keeps them."""

    def __init__(self, records: tuple[ModelRequestRecord, ...]) -> None:
        super().__init__(f"usage of {len(records)} model requests could not be recorded")
        self.records = records


class ModelGateway:
    """Opens one unix socket per session to the upstreams of a desk. Implements `ModelRoads`.

    `socket_mode` is the mode of the sockets. The sandbox's user must be able to write to them, so they are open to
    everyone by default: put them in a directory that only the worker can enter.
    """

    def __init__(
        self,
        desk: Desk,
        *,
        socket_mode: int = 0o666,
        client_limits: ClientLimits | None = None,
    ) -> None:
        self._desk = desk
        self._client_limits = client_limits or ClientLimits()
        self._socket_mode = socket_mode
        self._roads: set[ModelRoad] = set()

    def health(self) -> tuple[UpstreamHealth, ...]:
        """How the upstreams do, in the order in which they are asked."""
        return self._desk.upstreams.health()

    async def open(
        self,
        session_id: str,
        socket: Path,
        listener: ModelRoadListener,
        *,
        one_call_at_a_time: bool,
        sequence: SequenceStore,
        allowed_models: frozenset[str] | None,
        bound: BoundSocket | None = None,
    ) -> ModelRoad:
        """Listens on `socket` (a left-over socket file there is replaced, unless it is `bound`).

        `allowed_models` None: any model.
        """
        road = ModelRoad(
            session_id,
            listener,
            sequence,
            self._desk,
            self._client_limits,
            one_call_at_a_time=one_call_at_a_time,
            allowed_models=allowed_models,
            on_close=self._roads.discard,
        )
        await road.start(socket, self._socket_mode, bound)
        self._roads.add(road)
        return road

    async def close(self) -> None:
        """Closes every road and every upstream connection."""
        lost: list[ModelRequestRecord] = []
        for road in list(self._roads):
            try:
                await road.close()
            except UsageNotRecorded as error:
                lost += error.records
        await self._desk.close()
        if lost:
            raise UsageNotRecorded(tuple(lost))


class ModelRoad:
    """One session's open model road. Made by `ModelGateway.open`."""

    def __init__(
        self,
        session_id: str,
        listener: ModelRoadListener,
        store: SequenceStore,
        desk: Desk,
        limits: ClientLimits,
        *,
        one_call_at_a_time: bool,
        allowed_models: frozenset[str] | None,
        on_close: Any,
    ) -> None:
        self.session_id = session_id
        self.limits = limits
        self.one_call_at_a_time = one_call_at_a_time
        self.allowed_models = allowed_models
        self._listener = listener
        self._store = store
        self._desk = desk
        self._on_close = on_close
        self._tasks = Tasks()
        self._connections: set[ClientConnection] = set()
        self._buffered = 0
        self._state = sequence.State()
        self._state_lock = asyncio.Lock()
        self._listener_lock = asyncio.Lock()
        self._unrecorded: deque[ModelRequestRecord] = deque()
        self._waiting: set[str] = set()
        """Ids of requests that wait before they are asked again."""
        self._server: asyncio.Server | None = None
        self._socket: Path | None = None
        self._closed = False

    async def start(self, socket: Path, mode: int, bound: BoundSocket | None) -> None:
        if self.one_call_at_a_time:
            self._state = sequence.load(await self._store.load())
        loop = asyncio.get_running_loop()
        self._socket = socket
        if bound is not None:
            self._server = await loop.create_unix_server(lambda: ClientConnection(self), sock=bound)
            return
        remove_stale_socket(socket)
        self._server = await loop.create_unix_server(lambda: ClientConnection(self), str(socket))
        os.chmod(socket, mode)

    async def close(self) -> None:
        """Ends the road: nobody connects any more, requests under way are broken off and still recorded.

        Idempotent. Raises UsageNotRecorded, after everything is closed, when the listener refuses records to the end.
        """
        if self._closed:
            return
        self._closed = True
        if self._server is not None:
            self._server.close()
        if self._socket is not None:
            self._socket.unlink(missing_ok=True)
        dropped = list(self._connections)
        for connection in dropped:
            connection.abort()
        for connection in dropped:
            await connection.lost.wait()
        await self._tasks.close(grace_seconds=10.0)
        self._on_close(self)
        with contextlib.suppress(Exception):
            async with asyncio.timeout(5.0):
                await self.settle_records()
        if self._unrecorded:
            raise UsageNotRecorded(tuple(self._unrecorded))

    # ------------------------------------------------------------------------------------------ Host of connections

    def joined(self, connection: ClientConnection) -> bool:
        if self._closed or len(self._connections) >= self.limits.connections:
            return False
        self._connections.add(connection)
        return True

    def left(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)

    def reserve(self, size: int) -> bool:
        if size > 0 and self._buffered + size > self.limits.buffered_bytes:
            return False
        self._buffered += size
        return True

    def begin(self, request: Request, connection: ClientConnection) -> Exchange:
        exchange = Exchange(self, self._desk, request, connection)
        self._tasks.spawn(exchange.run(), f"model-road-{self.session_id}")
        return exchange

    # --------------------------------------------------------------------------------------------- Session of requests

    async def plan(self, messages: list[Any]) -> tuple[Plan, int]:
        async with self._state_lock:
            plan = sequence.plan(self._state, messages)
            if plan.must_save:
                await self._store.save(sequence.dump(plan.state))
            self._state = plan.state
            return plan, plan.state.served

    async def hold(self, calls: list[Call], after: str | None) -> None:
        async with self._state_lock:
            state = sequence.add_group(self._state, calls, after)
            await self._store.save(sequence.dump(state))
            self._state = state
        async with self._listener_lock:
            await self._listener.on_calls_held(calls[0].id, [sequence.held_call(call) for call in calls[1:]])

    async def record(self, record: ModelRequestRecord) -> None:
        self._unrecorded.append(record)
        await self.settle_records()

    @property
    def caller(self) -> Caller:
        return self._listener.caller

    async def budget_reached(self, why: str, short: Shortage) -> None:
        await self._listener.on_budget_reached(why, short)

    def waiting(self, wait: Wait) -> None:
        self._waiting.add(wait.request_id)
        self._listener.on_waiting(wait)

    def going_on(self, request_id: str, *, quiet: bool) -> None:
        if request_id in self._waiting:
            self._waiting.discard(request_id)
            if not self._waiting and not quiet:
                self._listener.on_going_on()

    async def settle_records(self) -> None:
        if not self._unrecorded:
            return
        async with self._listener_lock:
            while self._unrecorded:
                await self._listener.on_model_request(self._unrecorded[0])
                self._unrecorded.popleft()


__all__ = ["ModelGateway", "ModelRoad", "UsageNotRecorded", "one_upstream"]
