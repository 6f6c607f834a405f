"""A server as if it were far away: what is sent to it arrives later, and not always in order."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

MOST_S = 0.1


@contextmanager
def distant(port: int) -> Iterator[int]:
    """The port of a relay to a server on this machine."""
    loop, chance = asyncio.new_event_loop(), random.Random(1)

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        other_reader, other_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_passed(reader, other_writer, chance), _passed(other_reader, writer, None))

    server = loop.run_until_complete(asyncio.start_server(accepted, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, name="distance")
    thread.start()
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _passed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random | None
) -> None:
    """`chance`: of how much later it arrives; None: at once."""
    while data := await reader.read(2**16):
        if chance is not None:
            await asyncio.sleep(chance.uniform(0, MOST_S))
        writer.write(data)
    writer.close()
