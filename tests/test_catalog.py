"""Models of other programs are found, named, described and chosen; nothing of theirs is changed."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.catalog import speeds
from codeclippy_ls.catalog.descriptions import describe
from codeclippy_ls.catalog.gguf_header import read_header
from codeclippy_ls.catalog.machine import measure_bandwidth
from codeclippy_ls.catalog.speeds import RecordedSpeed, SpeedEstimator, record_speed
from codeclippy_ls.catalog.stores import StoredModel, find_ollama_model, list_stored_models
from codeclippy_ls.cli import main
from codeclippy_ls.engine.loading.loader import load
from codeclippy_ls.inference.errors import ModelError
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.model_choices.choices import list_local_models
from codeclippy_ls.server.server import Server
from codeclippy_ls.settings import Settings, parse
from codeclippy_ls.user_config import find_user_config, read_user_settings
from tests import checkpoints, gguf_files
from tests.editor import Editor

DIGEST = "0123456789abcdef" * 4


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a home of its own, without any model."""
    for name in ("OLLAMA_MODELS", "LLAMA_CACHE", "HF_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/.cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/.config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home/.local/share"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Write a small model, and return the file's content."""
    changes = {"general.name": "Qwen2.5 Coder Toy", "general.license": "apache-2.0", "general.size_label": "0.1M"}
    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    gguf_files.write_model("llama", gguf_files.make_module("llama"), path, changes=changes)
    return path.read_bytes()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def put_in_ollama(store: Path, tag: str, content: bytes, layout: str = "manifests", digest: str = DIGEST) -> None:
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "f" * 64},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"},
    ]
    manifest = json.dumps({"schemaVersion": 2, "layers": layers}).encode()
    put(store / "blobs" / f"sha256-{digest}", content)
    if layout == "manifests":
        put(store / layout / tag, manifest)
    else:  # manifests are blobs, too, and tags are links to them
        blob = put(store / "blobs" / f"sha256-{'e' * 64}", manifest)
        (store / layout / tag).parent.mkdir(parents=True)
        (store / layout / tag).symlink_to(blob)


def list_names() -> list[tuple[str, str]]:
    return [(model.program, model.name) for model in list_stored_models()]


@pytest.mark.parametrize(
    ("layout", "tag", "name"),
    [
        ("manifests", "registry.ollama.ai/library/qwen2.5-coder/0.5b", "qwen2.5-coder:0.5b"),
        ("manifests", "registry.ollama.ai/someone/coder/latest", "someone/coder:latest"),
        ("manifests", "hf.co/owner/Model-GGUF/Q4_K_M", "hf.co/owner/Model-GGUF:Q4_K_M"),
        ("manifest-v2", "ollama.com/library/qwen2.5-coder/0.5b", "qwen2.5-coder:0.5b"),
    ],
)
def test_ollama_models_have_their_owners_names(layout: str, tag: str, name: str, home: Path, toy: bytes) -> None:
    put_in_ollama(home / ".ollama/models", tag, toy, layout)
    assert list_names() == [("Ollama", f"ollama:{name}")]
    assert find_ollama_model(name) == home / f".ollama/models/blobs/sha256-{DIGEST}"
    assert load(ModelSpec(f"ollama:{name}", "cpu", "float32", 1)).architecture == "llama"


def test_ollama_name_without_a_tag_is_the_latest(home: Path, toy: bytes) -> None:
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/coder/latest", toy)
    assert find_ollama_model("coder") is not None and find_ollama_model("coder:7b") is None
    with pytest.raises(ModelError, match="is not in Ollama's store"):
        load(ModelSpec("ollama:coder:7b"))


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b'{"layers": [{"digest": "sha256:../../x"}]}', b"\xff" * 9])
def test_broken_manifest_is_passed_by(manifest: bytes, home: Path, toy: bytes) -> None:
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/good/1b", toy)
    put(home / ".ollama/models/manifests/registry.ollama.ai/library/bad/1b", manifest)
    assert list_names() == [("Ollama", "ollama:good:1b")]


def test_manifest_cannot_name_a_file_outside_of_the_store(home: Path, toy: bytes) -> None:
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": f"../../../{'a' * 64}"}]
    put(home / ".ollama/models/manifests/registry.ollama.ai/library/x/1b", json.dumps({"layers": layers}).encode())
    put(home / ("a" * 64), toy)
    assert not list_names()


def test_models_of_every_program_are_found(home: Path, toy: bytes, tmp_path: Path) -> None:
    files = {
        "LM Studio": home / ".lmstudio/models/owner/repo/toy.gguf",
        "llama.cpp": home / ".cache/llama.cpp/toy.gguf",
        "Hugging Face Hub": home / ".cache/huggingface/hub/models--o--n/snapshots/abc/toy-00001-of-00002.gguf",
        "Jan": home / "jan/models/toy/toy.gguf",
        "Code Clippy": home / ".local/share/codeclippy-ls/models/o/n-GGUF/toy.gguf",
        "GPT4All": home / ".local/share/nomic.ai/GPT4All/toy.gguf",
    }
    if sys.platform == "darwin":
        files["llama.cpp"] = home / "Library/Caches/llama.cpp/toy.gguf"
    for path in files.values():
        put(path, toy)
    put(files["Hugging Face Hub"].with_name("toy-00002-of-00002.gguf"), toy)
    checkpoints.save_checkpoint(home / ".cache/huggingface/hub/models--owner--toy/snapshots/abc", "llama")
    names = {program: str(path) for program, path in files.items()} | {"Code Clippy": "o/n-GGUF/toy.gguf"}
    assert sorted(list_names()) == sorted([*names.items(), ("Hugging Face Hub", "owner/toy")])
    mine = put(tmp_path / "mine/deeper/toy.gguf", toy)
    assert StoredModel(str(mine), mine, "settings") in list_stored_models([str(tmp_path / "mine")])


@pytest.mark.skipif(sys.platform != "linux", reason="the places of other systems are others")
def test_newer_places_of_jan_are_searched(home: Path, toy: bytes) -> None:
    path = put(home / ".config/Jan/data/models/huggingface.co/owner/toy/toy.gguf", toy)
    assert list_names() == [("Jan", str(path))]


def test_folders_of_the_settings_are_searched(
    home: Path, toy: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "mine/toy.gguf", toy)
    put(find_user_config(), f"[model]\nfolders = [{json.dumps(str(tmp_path / 'mine'))}]\n".encode())
    assert main(["models"]) == 0
    assert f"{tmp_path / 'mine/toy.gguf'}\n" in capsys.readouterr().out


def test_environment_names_other_places(home: Path, toy: bytes, tmp_path: Path) -> None:
    put_in_ollama(tmp_path / "store", "registry.ollama.ai/library/a/1b", toy)
    put(tmp_path / "cache/toy.gguf", toy)
    environment = {"HOME": str(home), "OLLAMA_MODELS": str(tmp_path / "store"), "LLAMA_CACHE": str(tmp_path / "cache")}
    assert [model.program for model in list_stored_models(environment=environment)] == ["Ollama", "llama.cpp"]


def test_links_are_not_entered(home: Path, toy: bytes, tmp_path: Path) -> None:
    put(tmp_path / "elsewhere/toy.gguf", toy)
    (home / ".lmstudio/models").mkdir(parents=True)
    (home / ".lmstudio/models/loop").symlink_to(home / ".lmstudio/models")
    (home / ".lmstudio/models/out").symlink_to(tmp_path / "elsewhere")
    assert not list_names()


def test_description_says_what_a_model_is(home: Path, toy: bytes) -> None:
    path = put(home / "jan/models/toy.gguf", toy)
    description = describe(list_stored_models()[0])
    assert (description.title, description.model_type, description.size_label) == ("Qwen2.5 Coder Toy", "llama", "0.1M")
    assert description.licence == "apache-2.0" and description.nbytes == path.stat().st_size and not description.problem


def test_description_says_why_a_model_cannot_be_used(home: Path, toy: bytes) -> None:
    put(home / "jan/models/cut.gguf", toy[:40])
    put(home / "jan/models/page.gguf", b"<!doctype html>" * 9)
    path = home / "jan/models/vision.gguf"
    gguf_files.write_model("llama", gguf_files.make_module("llama"), path, changes={"general.type": "mmproj"})
    problems = {model.stored.path.name: model.problem for model in map(describe, list_stored_models())}
    assert "claims more than the file has" in problems["cut.gguf"]
    assert "does not begin with GGUF" in problems["page.gguf"]
    assert "is a vision projector" in problems["vision.gguf"]


def test_list_names_models_and_changes_nothing(home: Path, toy: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    put_in_ollama(home / ".ollama/models", "registry.ollama.ai/library/qwen2.5-coder/0.5b", toy)
    put(home / "jan/models/cut.gguf", toy[:40])
    put(home / "jan/models/other.gguf", toy)  # by its title
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    assert main(["models"]) == 0
    here, unusable, rest = re.split("\n\n(?:on this machine, but|shipped)", capsys.readouterr().out)
    assert "ollama:qwen2.5-coder:0.5b\n    qwen-coder: complete, infill; 0.1M mixed; 1 MB; about 1" in here
    assert here.count("apache-2.0; Ollama") == 1 and here.count("apache-2.0; Jan") == 1
    assert "~/jan/models/cut.gguf\n    cannot be used: it is damaged" in unusable
    assert "clippy" in rest and "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M" in rest
    after = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    assert {path: time for path, time in after.items() if path in before} == before
    ours = home / ".cache/codeclippy-ls/speeds.json"
    assert set(after) - set(before) <= {ours, *ours.parents}


def test_listing_does_not_import_torch() -> None:
    assert (
        os.system(
            f"{sys.executable} -c \"import sys, codeclippy_ls.model_commands; assert not {{'torch', 'numpy'}} & "
            'set(sys.modules)"'
        )
        == 0
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[model]\ncompletion = "ollama:a"\n'),
        ("# mine\n[edit]\nmaxTokens = 10", '# mine\n[edit]\nmaxTokens = 10\n\n[model]\ncompletion = "ollama:a"\n'),
        ('[model]\nedit = "b"\n', '[model]\ncompletion = "ollama:a"\nedit = "b"\n'),
        (
            '[model]\ncompletion = "b" # old\nedit = "c"\n[edit]\n',
            '[model]\ncompletion = "ollama:a"\nedit = "c"\n[edit]\n',
        ),
        ('[edit]\n[ model ] # x\n  completion="b"\n', '[edit]\n[ model ] # x\ncompletion = "ollama:a"\n'),
    ],
)
def test_choosing_a_model_changes_one_line(
    before: str, after: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = put(find_user_config(), before.encode())
    assert main(["models", "use", "ollama:a"]) == 0
    assert path.read_text(encoding="utf-8") == after
    assert f'{path}: model.completion = "ollama:a"' in capsys.readouterr().out
    assert read_user_settings()[0].model.completion == "ollama:a"


@pytest.mark.parametrize("content", ['model = { completion = "x" }\n', '[model]\ncompletion = """\nx"""\n', "[model\n"])
def test_unusual_file_is_left_as_it_is(content: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = put(find_user_config(), content.encode())
    assert main(["models", "use", "ollama:a"]) == 2
    assert str(path) in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == content


def test_path_is_written_in_full(
    home: Path, toy: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(home / 'models/a "b".gguf', toy)
    monkeypatch.chdir(home / "models")
    assert main(["models", "use", 'a "b".gguf', "--for", "edit"]) == 0
    capsys.readouterr()
    assert read_user_settings() == (parse({"model": {"edit": str(home / 'models/a "b".gguf')}})[0], [])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[model", "is ignored: "),
        (b"\xff\xfe", "is not UTF-8"),
        (b"[model]\ncompletion = 3\n", 'setting "model.completion" must be a string'),
        (b"x" * (1 << 20) + b"x", "is not a file of less than 1 MiB"),
    ],
)
def test_mistake_in_the_file_is_said_and_stops_nothing(content: bytes, problem: str, home: Path) -> None:
    path = put(find_user_config(), content)
    settings, problems = read_user_settings()
    assert settings == Settings() and len(problems) == 1
    assert problems[0].startswith(str(path)) and problem in problems[0]


def test_client_and_command_line_come_before_the_file(home: Path) -> None:
    put(find_user_config(), b'[model]\ncompletion = "a"\nedit = "b"\n[completion]\nmaxTokens = 9\n')
    base, _ = read_user_settings()
    client: dict[str, Any] = {"model": {"completion": "c", "edit": ""}}  # empty is not set
    settings, problems = parse(client, base)
    assert not problems
    assert (settings.model.completion, settings.model.edit, settings.completion.max_tokens) == ("c", "b", 9)


def test_headers_alone_are_read(home: Path, toy: bytes) -> None:
    """A model of 10 GB takes as long as a small one: nothing is stored behind its header."""
    for number in range(3):
        path = put(home / f"jan/models/{number}.gguf", toy)
        os.truncate(path, 10_000_000_000)
    descriptions = [describe(stored) for stored in list_stored_models()]
    assert [one.nbytes for one in descriptions] == [10_000_000_000] * 3
    blocks = sum(stored.path.stat().st_blocks * 512 for stored in list_stored_models())
    assert blocks < 100_000_000, "the test itself writes no 30 GB"


def test_weights_are_counted_as_the_tensors_have_them(tmp_path: Path) -> None:
    """All matrices but the embeddings, for every architecture; a tied head counts once."""
    for architecture in gguf_files.CONFIGS:
        path = tmp_path / f"{architecture}.gguf"
        gguf_files.write_model(architecture, gguf_files.make_module(architecture), path)
        tensors = {tensor.name: tensor.shape for tensor in read_header(path).tensors}
        matrices = [shape for name, shape in tensors.items() if len(shape) == 2 and not name.startswith("position")]
        expected = sum(rows * columns for rows, columns in matrices)
        if "output.weight" in tensors:
            expected -= tensors["token_embd.weight"][0] * tensors["token_embd.weight"][1]
        counted = describe(StoredModel("x", path, "")).num_weights
        assert counted == expected, f"{architecture}: {counted} counted, {expected} in the file"


def test_weights_of_a_folder_are_counted(tmp_path: Path) -> None:
    """An embedding beside a head of its own is not read for a token."""
    checkpoints.save_checkpoint(tmp_path / "toy", "llama")
    description = describe(StoredModel("toy", tmp_path / "toy", ""))
    config = json.loads((tmp_path / "toy/config.json").read_text())
    total = description.nbytes // (4 if description.number_format == "float32" else 2)
    embedding = 0 if config.get("tie_word_embeddings", True) else config["vocab_size"] * config["hidden_size"]
    assert 0 < description.num_weights == total - embedding


def test_family_of_a_folder_is_detected_by_its_tokens(tmp_path: Path) -> None:
    """Whatever the folder is called, and if the vocabulary is too long to be read."""
    checkpoints.save_checkpoint(tmp_path / "mine", "llama")
    tokens = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
    added = [{"id": 151659 + index, "content": token, "special": True} for index, token in enumerate(tokens)]
    vocabulary = {f"token{index}": index for index in range(100_000)}
    put(tmp_path / "mine/tokenizer.json", json.dumps({"added_tokens": added, "model": {"vocab": vocabulary}}).encode())
    put(tmp_path / "mine/README.md", b"---\nlanguage: en\nlicense: bsd-3-clause\n---\n# A model\n")
    estimator = SpeedEstimator()
    settings, _ = parse({"model": {"folders": [str(tmp_path)]}})
    (choice,) = (one for one in list_local_models(settings, estimator) if one.path == tmp_path / "mine")
    assert (choice.family, choice.jobs, choice.licence) == ("qwen-coder", ("complete", "infill"), "bsd-3-clause")


def test_speed_is_that_of_the_best_load(home: Path, toy: bytes) -> None:
    """Of this very file; a model of twice the size is taken to be twice as slow."""
    path = put(home / "jan/models/toy.gguf", toy)
    load(ModelSpec(str(path), "cpu", "auto", 1))
    measured = SpeedEstimator("cpu").estimate(1000, path)
    assert measured.is_measured and 0 < measured.seconds < 60
    other = put(home / "jan/models/other.gguf", toy + b"\0")
    assert not SpeedEstimator("cpu").estimate(1000, other).is_measured
    record_speed(other, RecordedSpeed("cpu", 500_000_000, 0.05))
    twice = SpeedEstimator("cpu").estimate(1_000_000_000)
    assert twice.seconds == pytest.approx(0.1) and twice.describe() == "about 100 ms a token"
    assert SpeedEstimator("cpu").estimate(500_000_000, other).describe() == "50 ms a token"
    record_speed(other, RecordedSpeed("cpu", 500_000_000, 0.2))  # the machine was busy
    assert SpeedEstimator("cpu").estimate(500_000_000, other).describe() == "50 ms a token"
    record_speed(other, RecordedSpeed("cuda", 500_000_000, 0.005))
    assert SpeedEstimator("cuda").estimate(500_000_000, other).describe() == "5 ms a token"
    record_speed(other, RecordedSpeed("cpu", 500_000_000, 0.05))
    put(other, toy + b"\0\0")  # replaced: what was measured was another model
    assert not SpeedEstimator("cpu").estimate(500_000_000, other).is_measured


def test_bandwidth_is_measured_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was never loaded reads its weights at that rate."""
    measured = iter((10e9, 20e9))
    monkeypatch.setattr(speeds, "measure_bandwidth", lambda: next(measured))
    times = [SpeedEstimator("cpu").estimate(500_000_000).seconds for _ in range(2)]
    assert times[0] == times[1] == pytest.approx(0.0635)


def test_bandwidth_is_that_of_a_memory() -> None:
    """Between an old laptop's, on a busy machine, and a large server's."""
    assert 2e8 < measure_bandwidth() < 5e12


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"version": 1, "bandwidth": "x", "models": {}}', b"\xff"])
def test_damaged_speeds_are_measured_again(content: bytes, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(home / ".cache/codeclippy-ls/speeds.json", content)
    monkeypatch.setattr(speeds, "measure_bandwidth", lambda: 10e9)
    assert SpeedEstimator("cpu").machine.bandwidth == 10e9


async def test_server_begins_with_the_file(home: Path, editor: Editor, server: Server) -> None:
    put(find_user_config(), b'[model]\ncompletion = "a"\nedit = "b"\n[completion]\nmaxTokens = 0\n')
    await editor.start(options={"model": {"completion": "c"}})
    assert (server.session.settings.model.completion, server.session.settings.model.edit) == ("c", "b")
    message = await editor.until("window/showMessage")
    assert 'config.toml: setting "completion.maxTokens" must be between' in message["message"]
