"""The parameters of Ollama's endpoints. wire/parameters.py explains the tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from headrace.features import Feature as F
from headrace.features import Use, Uses
from headrace.wire.elsewhere import ELSEWHERE, EMPTY, equals, without_master
from headrace.wire.ollama.models import CreateBody
from headrace.wire.ollama.request import (
    EmbedBody,
    OllamaChatBody,
    OllamaEmbeddingsBody,
    OllamaGenerateBody,
    goes_on,
)
from headrace.wire.parameters import Table, ignored, needs, ours, refused, sent, uses_of
from headrace.wire.tables import EXTENSION, GENERATION

# options about how Ollama itself loads a model
LOADING = (
    "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "use_mmap", "use_mlock", "numa", "num_thread",
    "vocab_only", "logits_all", "embedding_only", "num_gqa", "rope_frequency_base", "rope_frequency_scale",
)  # fmt: skip
# options that no backend but Ollama and llama.cpp has
OLDER = (
    "tfs_z", "typical_p", "repeat_last_n", "mirostat", "mirostat_tau", "mirostat_eta", "penalize_newline",
)  # fmt: skip
# option → the row of /v1 that it shares its meaning with
SAME = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repeat_penalty": "repetition_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
}  # fmt: skip


_OPTIONS: Table = {
    **{
        f"options.{name}": needs(known.feature, known.note, known.is_off, is_redundant=without_master(name))
        for name, known in ((name, ELSEWHERE[name]) for name in OLDER)
    },
    **{f"options.{name}": ignored("The server's own settings count.") for name in LOADING},
    **{
        f"options.{name}": replace(row, note=row.note.removeprefix(EXTENSION).strip())
        for name, row in ((name, GENERATION[known]) for name, known in SAME.items())
    },
    "options": sent("Sampling parameters by Ollama's names. What is not set is the model's recommendation."),
    "options.num_ctx": ignored("The context is as long as the model's, or as `engine.max_model_len`."),
    "options.num_keep": ignored("Nothing is cut out of the middle of a prompt."),
    "options.seed": needs(F.SEED, "-1: a random one.", equals(-1)),
    "options.num_predict": needs(F.MAX_TOKENS, "0, -1 or -2: no limit.", equals(0, -1, -2)),
    "options.stop": needs(F.STOP, "Strings, which are not part of the answer.", EMPTY),
}
_MODEL: Table = {
    "model": ours("A name that `/api/tags` shows; `:latest` may follow it."),
    "keep_alive": ours("How long the model stays in memory after this. It has no effect on a provider's."),
}
_ANSWER: Table = {
    **_MODEL,
    **_OPTIONS,
    "stream": ours("Default true."),
    "format": needs(F.JSON_SCHEMA, "`json`, or a JSON schema: the answer is forced into it.", equals("")),
    "think": needs(F.REASONING_EFFORT, "`true`: a medium effort. Dropped where the model knows none.",
        loss="dropped"),
    "truncate": needs(F.PROMPT_TRUNCATION,
        "`true`: the beginning of a prompt that is too long is cut off. Default: it is a 400.",
        equals(False), loss="ignored"),
    "shift": ignored("An answer ends with `length` where the context does.", equals(False)),
    "logprobs": needs(F.LOGPROBS, "", equals(False)),
    "top_logprobs": needs(F.LOGPROBS, "Up to 20.", equals(0)),
}  # fmt: skip
CHAT: Table = {
    **_ANSWER,
    "messages": sent("Images in base64. The engine reads text only. Without any the model is loaded."),
    "messages.thinking": needs(F.UNSIGNED_REASONING, "Anthropic takes only what it has signed."),
    "tools": needs(F.TOOLS, "Of type `function`.", EMPTY),
    "tools.function.strict": needs(F.STRICT_TOOLS, "", equals(False)),
}
GENERATE: Table = {
    **_ANSWER,
    "prompt": sent("A user's message; with `raw` or `suffix` a text to be continued. Without one the model "
        "is loaded."),
    "system": sent("A system message before it."),
    "images": sent("In base64. The engine reads text only."),
    "raw": needs(F.TEXT_COMPLETION, "The prompt as it is, without the chat template.", equals(False)),
    "suffix": needs(F.SUFFIX, "For models that can fill in the middle; 400 for others.", EMPTY),
    "context": refused("Use `/api/chat`.", EMPTY),
    "template": refused("The model's own is used.", EMPTY),
    **{name: refused("No images are made.", equals(0)) for name in ("width", "height", "steps")},
}  # fmt: skip
EMBED: Table = {
    **_MODEL,
    "input": sent("A string or strings, at most 2,048."),
    "dimensions": needs(F.DIMENSIONS, "The first ones, scaled to length 1 again."),
    "truncate": needs(F.INPUT_TRUNCATION, "`true`: a text that is too long is cut. Default: it is a 400.",
        equals(False)),
    "options": ignored("Nothing is sampled.", EMPTY),
}  # fmt: skip
EMBEDDINGS: Table = {
    **{name: row for name, row in EMBED.items() if name not in ("input", "truncate", "dimensions")},
    "prompt": sent("The text."),
}
CREATE: Table = {
    **{f"parameters{name.removeprefix('options')}": row for name, row in _OPTIONS.items()},
    "parameters": sent("By the names of `options`, for requests that do not set them."),
    "model": ours("The new name. One that a model has is refused; a created model of this name is replaced."),
    "name": ours("The older name of `model`."),
    "from": ours("A model that is served, or was created: that one's members count where this has none."),
    "system": sent("The system message of conversations that begin with no other."),
    "messages": sent("The first messages of each conversation."),
    "license": ours("`/api/show` shows it."),
    "stream": ours("Default true."),
    "template": refused("The model's own is used.", EMPTY),
    "files": refused("Files are served by path: docs/models.md.", EMPTY),
    "adapters": refused("Adapters are not loaded.", EMPTY),
    "quantize": refused("Models are converted when they are pulled.", EMPTY),
    "modelfile": refused("Send `from`, `system`, `parameters` and `messages`.", EMPTY),
    "path": refused("Files are served by path: docs/models.md.", EMPTY),
}
TABLES = {"chat": CHAT, "generate": GENERATE, "embed": EMBED, "embeddings": EMBEDDINGS}


def uses_of_chat(body: OllamaChatBody, *, strict: bool = False) -> Uses:
    """The features that a body uses, and its members without effect."""
    more = [Use("messages", F.CONTINUED_MESSAGE, F.CONTINUED_MESSAGE.loss)]
    return uses_of(body, CHAT, strict=strict, more=more if goes_on(body.messages or ()) else ())


def uses_of_generate(body: OllamaGenerateBody, *, strict: bool = False) -> Uses:
    return uses_of(body, GENERATE, strict=strict, more=_lost_beside_raw(body))


def uses_of_embed(body: EmbedBody | OllamaEmbeddingsBody, *, strict: bool = False) -> Uses:
    return uses_of(body, EMBED if isinstance(body, EmbedBody) else EMBEDDINGS, strict=strict)


def uses_of_create(body: CreateBody, *, strict: bool = False) -> Uses:
    return uses_of(body, CREATE, strict=strict)


def _lost_beside_raw(body: OllamaGenerateBody) -> Iterator[Use]:
    """The members that have no place in a prompt without the chat template."""
    if not body.raw and not body.suffix:
        return
    name = "raw" if body.raw else "suffix"
    for member in ("system", "images"):
        if getattr(body, member):
            yield Use(member, None, "refused", f"Not with {name}.")
    if body.think is not None:
        yield Use("think", None, "dropped")
