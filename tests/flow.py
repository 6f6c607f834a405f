"""Prints which functions of the package a streamed chat enters on the event loop, from request to end.

A scripted backend answers, so that the way to and from a backend is what counts. `make sizes` runs it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType

import headrace
from headrace.app import create_app
from headrace.backends.fake import FakeBackend
from headrace.config import Config
from tests.serving import Served, eventually, serving

ROOT = str(Path(headrace.__file__).parent)
QUESTION = {"role": "user", "content": "What color is the sky?"}
CHAT = {"model": "fake", "messages": [QUESTION], "stream": True, "max_tokens": 16}


class Entered:
    """A profile function that collects the code of the package's functions that are called."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            self.codes.add(frame.f_code)

    def functions(self) -> set[tuple[str, str]]:
        """(file, name) of each; a comprehension or a generator expression belongs to its function."""
        return {
            (code.co_filename.removeprefix(ROOT + "/"), code.co_qualname.partition(".<locals>.<")[0])
            for code in self.codes
            if not code.co_name.startswith("<module")
        }


def streamed_chat(served: Served) -> Entered:
    """What a streamed chat enters in the thread of the event loop."""
    num_tasks = len(asyncio.all_tasks(served.loop))
    assert served.post("/v1/chat/completions", CHAT).status_code == 200  # whatever is made at first use
    entered = Entered()
    set_ = threading.Event()

    def start() -> None:
        sys.setprofile(entered)
        set_.set()

    served.loop.call_soon_threadsafe(start)
    set_.wait()
    answer = served.post("/v1/chat/completions", CHAT)
    # what runs after the last byte counts, too
    eventually(lambda: len(asyncio.all_tasks(served.loop)) <= num_tasks and not served.gateway.num_active)
    served.loop.call_soon_threadsafe(sys.setprofile, None)
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
    return entered


def entered() -> set[tuple[str, str]]:
    """The file and the name of each function that a streamed chat enters."""
    with serving(create_app(Config(), [FakeBackend(["Hello", " world"])])) as served:
        return streamed_chat(served).functions()


def main() -> None:
    functions = entered()
    if "--list" in sys.argv:
        print("\n".join(f"{file}: {name}" for file, name in sorted(functions)))
    print(
        f"a streamed chat enters {len(functions)} functions in {len({file for file, _ in functions})} files"
    )


if __name__ == "__main__":
    main()
