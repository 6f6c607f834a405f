"""One process of many clients of a limit: `python -m tests.limits.clients URL CLIENTS LIMIT LEASE_S`.

Each client asks for tokens again and again, and uses some of what it was granted. The process prints the time
and the tokens of each grant, as they count. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from headrace.callers import Limits, Principal
from headrace.errors import RateLimited
from headrace.limits.demand import Demand
from headrace.limits.redis import RedisLimiter


async def nothing(_: str) -> tuple[int, int]:
    return 0, 0


async def client(limiter: RedisLimiter, who: Principal, number: int, closing: asyncio.Event) -> None:
    chance = random.Random(number)
    while not closing.is_set():
        prompt, answer = chance.randint(1, 6), chance.randint(1, 9)
        try:
            granted = await limiter.reserve(who, Demand(prompt, answer, answer))
        except RateLimited:
            await asyncio.sleep(0.1)
            continue
        at = time.time()
        await asyncio.sleep(chance.random() * 0.05)
        used = chance.randint(0, prompt + answer)
        await granted.settle(used, 0)
        print(f"{at:.6f} {used}", flush=True)


async def main(url: str, num_clients: int, limit: int, lease_s: float) -> None:
    limiter = RedisLimiter(url, nothing, when_down="closed", lease_s=lease_s)
    await limiter.start()
    who = Principal("key_shared", limits=Limits(tokens_per_minute=limit))
    closing = asyncio.Event()
    clients = [asyncio.create_task(client(limiter, who, number, closing)) for number in range(num_clients)]
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    closing.set()  # each client settles what it holds, and prints it: the test adds up what is printed
    await asyncio.gather(*clients)
    await limiter.aclose()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
