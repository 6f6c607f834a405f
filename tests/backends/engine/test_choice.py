"""One sequence's tokens as events, token by token: what is held back, cut off, counted and scored."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from headrace.backends.engine.choice import AnswerOptions, Choice, Echo
from headrace.backends.engine.stream import Stream
from headrace.engine.engine import Output
from headrace.engine.sequence import FinishReason, Logprobs, SamplingParams, Sequence
from headrace.models.catalog import Model
from headrace.text import toolcalls
from headrace.text.reasoning import Splitter, Thinking
from headrace.text.stops import Stops
from headrace.text.tokenizer import Tokenizer
from headrace.types import Event, Finished, ReasoningDelta, Started, TextDelta, Tool, ToolCallDelta

END = 2
THINKING = Thinking("<think>", "</think>")
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "sky"}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer(default_model: Model) -> Tokenizer:
    return Tokenizer(default_model.folder)


def sequence(**params: Any) -> Sequence:
    ends = frozenset({END})
    return Sequence([1, 9690], SamplingParams(max_tokens=500, stop_token_ids=ends, logprobs=0, **params))


def events_of(choice: Choice, tokens: list[int], reason: FinishReason = "length") -> list[Event]:
    """The events of these tokens; the last one ends the sequence with `reason`."""
    events: list[Event] = []
    for place, token in enumerate(tokens):
        end = reason if place == len(tokens) - 1 else None
        events += pushed(choice, Output(choice.sequence, token, end, Logprobs(-float(place))))
        if choice.is_finished:
            break
    return events


def pushed(choice: Choice, output: Output) -> list[Event]:
    return [event.write() if isinstance(event, Echo) else event for event in choice.push(output)]


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def scored(events: list[Event]) -> bytes:
    return b"".join(one.raw for event in events if isinstance(event, TextDelta) for one in event.logprobs)


def counted(events: list[Event]) -> int:
    deltas = (TextDelta, ReasoningDelta, ToolCallDelta)
    return sum(event.tokens for event in events if isinstance(event, deltas))


def finished(events: list[Event]) -> Finished:
    [end] = [event for event in events if isinstance(event, Finished)]
    assert events[-1] is end
    return end


def calling(tokenizer: Tokenizer, **members: Any) -> AnswerOptions:
    format, tools = toolcalls.FORMATS["hermes"], (Tool("look"),)
    return AnswerOptions(tokenizer, parser=lambda: toolcalls.Parser(format, tools), **members)


def thinking(tokenizer: Tokenizer, *, is_open: bool = False) -> AnswerOptions:
    return AnswerOptions(tokenizer, splitter=lambda: Splitter(THINKING, is_open=is_open))


def test_text_comes_as_it_is_generated_and_is_counted(tokenizer: Tokenizer) -> None:
    whole = "Rivers are long. 😀 Naïve λ!"
    tokens = tokenizer.encode(whole)
    events = events_of(Choice(sequence(), 3, AnswerOptions(tokenizer)), tokens)
    assert isinstance(events[0], Started)
    assert {event.index for event in events} == {3}
    assert (text(events), scored(events).decode()) == (whole, whole)
    end = finished(events)
    assert (end.reason, end.usage.prompt_tokens) == ("length", 2)
    assert counted(events) == end.usage.completion_tokens == len(tokens)


def test_a_character_comes_when_it_is_whole(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("😀")
    assert len(tokens) > 1
    whole = events_of(Choice(sequence(), 0, AnswerOptions(tokenizer)), tokens)
    [delta] = [event for event in whole if isinstance(event, TextDelta)]
    assert (delta.text, delta.tokens, len(delta.logprobs)) == ("😀", len(tokens), len(tokens))
    cut = events_of(Choice(sequence(), 0, AnswerOptions(tokenizer)), tokens[:-1])
    assert text(cut) == "\ufffd"
    assert counted(cut) == len(tokens) - 1
    assert scored(cut) == "😀".encode()[: len(scored(cut))]


@pytest.mark.parametrize("stop", ["two three", "o three f", " ", "four", "x", "four five"])
def test_stop_string_cuts_text_and_scores_alike(tokenizer: Tokenizer, stop: str) -> None:
    whole = "one two three four"
    events = events_of(
        Choice(sequence(), 0, AnswerOptions(tokenizer, stops=Stops((stop,)))), tokenizer.encode(whole)
    )
    assert text(events) == whole.split(stop)[0]
    assert finished(events).reason == ("stop" if stop in whole else "length")
    shown = scored(events).decode()
    assert shown.startswith(text(events))
    tokens = [tokenizer.token_text(token) for token in tokenizer.encode(whole)]
    expected = next(n for n in range(len(tokens) + 1) if len("".join(tokens[:n])) >= len(text(events)))
    assert shown == "".join(tokens[:expected]), "those of which any is shown, and no others"


def test_stop_strings_wait_for_the_least_number_of_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("a b a b a b")
    events = events_of(
        Choice(sequence(min_tokens=4), 0, AnswerOptions(tokenizer, stops=Stops((" b",)))), tokens
    )
    assert text(events) == "a b a"
    assert finished(events).usage.completion_tokens == 4


def test_end_token_is_no_text_and_its_score_comes_last(tokenizer: Tokenizer) -> None:
    events = events_of(
        Choice(sequence(), 0, AnswerOptions(tokenizer)), [*tokenizer.encode("Yes."), END], "stop"
    )
    assert text(events) == scored(events).decode() == "Yes."
    end = finished(events)
    assert end.reason == "stop"
    assert [one.token for one in end.logprobs] == ["<|im_end|>"]
    assert end.usage.completion_tokens == counted(events) + 1


def test_echo_comes_first_with_the_prompts_scores(tokenizer: Tokenizer) -> None:
    seq = sequence(prompt_logprobs=True)
    seq.prompt_logprobs = [Logprobs(-1.5)]
    choice = Choice(seq, 0, AnswerOptions(tokenizer), echo="<|im_start|>system")
    started, echo, *rest = events_of(choice, tokenizer.encode("Hi"))
    assert isinstance(started, Started)
    assert isinstance(echo, TextDelta)
    assert (echo.text, echo.tokens) == ("<|im_start|>system", 0)
    assert [one.logprob for one in echo.logprobs] == [None, -1.5]
    assert text(rest) == "Hi"


def test_prompt_alone_ends_without_a_token(tokenizer: Tokenizer) -> None:
    seq = sequence()
    events = pushed(Choice(seq, 0, AnswerOptions(tokenizer), echo="a"), Output(seq, None, "length"))
    assert [type(event) for event in events] == [Started, TextDelta, Finished]
    assert finished(events).usage.completion_tokens == 0


def test_a_call_is_split_from_text(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("Let me see.\n" + CALL)
    events = events_of(Choice(sequence(), 0, calling(tokenizer)), [*tokens, END], "stop")
    assert text(events) == "Let me see."
    assert scored(events).decode() == "Let me see."
    pieces = [event for event in events if isinstance(event, ToolCallDelta)]
    assert [(piece.call, piece.name) for piece in pieces if piece.id] == [(0, "look")]
    assert "".join(piece.arguments for piece in pieces) == '{"at": "sky"}'
    assert finished(events).reason == "tool_calls"
    assert counted(events) <= finished(events).usage.completion_tokens == len(tokens) + 1


@pytest.mark.parametrize("size", range(1, 30))
def test_cut_call_is_nothing_or_keeps_its_beginning(tokenizer: Tokenizer, size: int) -> None:
    tokens = tokenizer.encode(CALL)[:size]
    events = events_of(Choice(sequence(), 0, calling(tokenizer)), tokens)
    end = finished(events)
    arguments = "".join(event.arguments for event in events if isinstance(event, ToolCallDelta))
    assert '{"at": "sky"}'.startswith(arguments)
    if any(isinstance(event, ToolCallDelta) for event in events):
        assert size >= 10
        assert text(events) == ""
    else:
        assert size < 12
        assert text(events) == ("<" if size == 1 else "")
        assert scored(events).decode() == tokenizer.decode(tokens)
    assert end.reason == "length"


def test_thoughts_are_split_from_the_answer_and_counted(tokenizer: Tokenizer) -> None:
    for is_open, whole in (
        (False, "<think>\nHm, so.\n</think>\n\nYes <b>"),
        (True, "Hm, so.</think>Yes <b>"),
    ):
        tokens = tokenizer.encode(whole)
        events = events_of(Choice(sequence(), 0, thinking(tokenizer, is_open=is_open)), tokens)
        thoughts = [event for event in events if isinstance(event, ReasoningDelta)]
        assert "".join(thought.text for thought in thoughts) == "Hm, so."
        assert (text(events), scored(events).decode()) == ("Yes <b>", "Yes <b>")
        usage = finished(events).usage
        assert counted(events) == usage.completion_tokens == len(tokens)
        assert len(tokenizer.encode("Hm, so.")) <= usage.reasoning_tokens < len(tokens) - 3


def test_answer_that_only_begins_like_a_mark_is_text(tokenizer: Tokenizer) -> None:
    for whole in ("<thin air", " <", "\n\nYes", "<b>think</b>"):
        events = events_of(Choice(sequence(), 0, thinking(tokenizer)), tokenizer.encode(whole))
        assert (text(events), scored(events).decode()) == (whole, whole)
        assert finished(events).usage.reasoning_tokens == 0


def test_what_the_engine_computed_beyond_a_stop_string_is_dropped(tokenizer: Tokenizer) -> None:
    async def read() -> tuple[list[Event], list[Sequence]]:
        aborted: list[Sequence] = []
        seq = sequence()
        choices = [Choice(seq, 0, AnswerOptions(tokenizer, stops=Stops((" two",))))]
        stream = Stream(iter(choices), len(choices), lambda sequence: aborted.append(sequence))
        assert stream.begin() is seq
        for token in tokenizer.encode("one two three"):
            stream.push(Output(seq, token, None, Logprobs(0.0)))
        return [event async for event in stream], aborted

    events, aborted = asyncio.run(read())
    assert text(events) == "one"
    assert finished(events).reason == "stop"
    assert len(aborted) == 1


def test_scores_of_a_long_prompt_are_written_by_whoever_reads_them(tokenizer: Tokenizer) -> None:
    """Off the event loop: there may be a hundred thousand of them."""
    seq = Sequence([5] * 2000, SamplingParams(max_tokens=0, logprobs=2, prompt_logprobs=True))
    seq.prompt_logprobs = [Logprobs(-1.0, ((5, -1.0), (6, -2.0)))] * 1999

    async def read() -> list[Event]:
        stream = Stream(iter([Choice(seq, 0, AnswerOptions(tokenizer), echo="a")]), 1, lambda _: None)
        stream.begin()
        stream.push(Output(seq, None, "length"))
        return [event async for event in stream]

    started, echo, end = asyncio.run(read())
    assert isinstance(started, Started)
    assert isinstance(echo, TextDelta)
    assert len(echo.logprobs) == 2000
    assert len(echo.logprobs[1].top) == 2
    assert isinstance(end, Finished)
