"""What many callers at once, and one caller with large texts, cost everybody else.

    python -m bench.neighbours

Two parts: `/health` while 500 clients send a chat at the same time, four times; and the tokens a second of a
stream while another caller sends chats of 500 KB, one after the other.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import date
from pathlib import Path

if not __package__:  # run as a file: python bench/neighbours.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.hostile import IDLE_S, STARTS, Asking, Server
from bench.hostile_requests import CHAT, chat, said, text
from bench.machine import machine

CLIENTS, TIMES, REST_S = 500, 4, 2.0
TOKENS = 600  # of the stream
PATIENCE_S = 60.0


def main() -> int:
    print(f"{date.today().isoformat()}; {machine(('uvicorn', 'openvino'))}; load: {os.getloadavg()[0]:.1f}\n")
    with tempfile.TemporaryDirectory() as scratch, STARTS["headrace"](Path(scratch)) as server:
        _measure_arrivals(server)
        _measure_stream(server)
    return 0


def _measure_arrivals(server: Server) -> None:
    asking = Asking(server)
    try:
        print(f"Idle, /health waits up to {asking.longest_ms(lambda: time.sleep(IDLE_S)):.0f} ms.")
        for number in range(TIMES):
            statuses: Counter[int] = Counter()
            wait_ms = asking.longest_ms(lambda: statuses.update(asyncio.run(_arrive(server))))  # noqa: B023
            print(
                f"{CLIENTS} clients, time {number + 1}: {wait_ms:.0f} ms; statuses {dict(statuses)}",
                flush=True,
            )
            time.sleep(REST_S)
    finally:
        asking.close()


async def _arrive(server: Server) -> list[int]:
    body = json.dumps({"model": server.model, **chat()}).encode()
    return await asyncio.gather(*(_post(server, body) for _ in range(CLIENTS)))


async def _post(server: Server, body: bytes) -> int:
    """The status of a chat over a connection of its own; 0: there was no answer."""
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        return int(answer.split(b" ", 2)[1])
    except (OSError, TimeoutError, IndexError, ValueError):
        return 0


def _measure_stream(server: Server) -> None:
    alone = _tokens_a_second(server)
    is_over = threading.Event()
    caller = threading.Thread(target=_send_large, args=(server, is_over))
    caller.start()
    beside = _tokens_a_second(server)
    is_over.set()
    caller.join()
    print(
        f"A stream: {alone:.0f} tokens/s alone, {beside:.0f} beside chats of 500 KB ({beside / alone:.0%})."
    )


def _send_large(server: Server, is_over: threading.Event) -> None:
    body = json.dumps({"model": server.model, **said(text(0.5))})
    count = 0
    while not is_over.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()
        count += 1
    print(f"{count} chats of 500 KB")


def _tokens_a_second(server: Server) -> float:
    """Of one stream, after its first token."""
    wanted = {**chat(max_tokens=TOKENS, min_tokens=TOKENS, temperature=0), "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    body = json.dumps({"model": server.model, "detect_loops": False, **wanted})
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    times = [time.perf_counter() for line in connection.getresponse() if b'"content":"' in line]
    connection.close()
    return (len(times) - 1) / (times[-1] - times[0])


if __name__ == "__main__":
    sys.exit(main())
