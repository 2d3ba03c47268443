"""A client lists, uses and gets models without a restart; users of the shipped model are offered a better one once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from codeclippy_ls.catalog.speeds import SpeedEstimator
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.model_choices import offers, recommendations
from codeclippy_ls.model_choices.choices import ModelChoice, rank
from codeclippy_ls.server import model_menu
from codeclippy_ls.server.server import Server
from codeclippy_ls.tasks.model_info import ModelInfo
from codeclippy_ls.user_config import find_user_config, read_user_settings
from tests import gguf_files
from tests.editor import TIMEOUT, Editor, ServerError, in_process
from tests.hub import Hub, serve_hub
from tests.scripted import ScriptedWorker

REPOSITORY = "owner/coder-GGUF"
OFFER_OPTIONS = {"modelOffers": True}


class NamedWorker(ScriptedWorker):
    """A worker whose models have the names that they were loaded by."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def load(self, name: str, spec: ModelSpec) -> ModelInfo:
        self.loaded.append(spec.name)
        return replace(super().load(name, spec), name=spec.name)


@pytest.fixture
def worker() -> NamedWorker:
    return NamedWorker()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import close_session, constants

    with serve_hub() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield served
        close_session()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("toy") / "toy.gguf"
    changes = {"general.name": "Qwen2.5 Coder Toy Instruct"}
    gguf_files.write_model("llama", gguf_files.make_module("llama"), path, changes=changes)
    return path.read_bytes()


@pytest.fixture
def model(home: Path, toy: bytes) -> Path:
    """Put a model where LM Studio keeps them."""
    path = home / ".lmstudio/models/owner/coder/coder.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(toy)
    return path


async def execute(editor: Editor, command: str, **argument: Any) -> Any:
    return await editor.call("workspace/executeCommand", {"command": f"codeclippy.{command}", "arguments": [argument]})


async def read_message(editor: Editor) -> str:
    params = await editor.until("window/showMessage")
    return str(params["message"])


async def test_list_has_models_of_this_machine_and_of_the_hub(home: Path, model: Path, editor: Editor) -> None:
    await editor.start()
    answer = await execute(editor, "listModels")
    here, *others = answer["models"]
    assert (here["name"], here["program"], here["installed"]) == (str(model), "LM Studio", True)
    assert here["jobs"] == ["complete", "infill", "edit"] and here["milliseconds"] > 0
    assert "ms a token" in here["description"] and answer["completion"] == ""
    assert others and not any(row["installed"] for row in others)
    assert sum(row["recommended"] for row in others) <= 1


async def test_model_is_used_at_once_and_by_all_editors(
    home: Path, model: Path, editor: Editor, server: Server, worker: NamedWorker
) -> None:
    """The user's file names it; the old model's memory is released and its suggestions are dropped."""
    await editor.start()
    buffer = editor.open("def mean(values):\n    return ")
    worker.response = "old"
    assert (await editor.ghost(buffer, len(buffer.text)))[0]["insertText"].endswith("old")
    await execute(editor, "useModel", name=str(model))
    assert f"complete by {model.name}" in await read_message(editor)
    assert read_user_settings()[0].model.completion == str(model)
    assert worker.loaded == ["", str(model)] and "complete" in worker.unloaded
    worker.response = "new"
    assert (await editor.ghost(buffer, len(buffer.text)))[0]["insertText"].endswith("new")
    assert server.session.settings.model.completion == str(model)
    editor.notify("workspace/didChangeConfiguration", {"settings": {"codeclippy": {"completion": {"maxTokens": 9}}}})
    await execute(editor, "useModel", name="")  # back to the shipped one
    assert "complete by the shipped model" in await read_message(editor)
    assert server.session.settings.completion.max_tokens == 9


async def test_model_for_edits_leaves_the_completion_model(
    home: Path, model: Path, editor: Editor, server: Server
) -> None:
    await editor.start()
    await execute(editor, "useModel", name=str(model), role="edit")
    await read_message(editor)
    assert (read_user_settings()[0].model.completion, read_user_settings()[0].model.edit) == ("", str(model))
    assert server.session.settings.model.edit == str(model)


async def test_editors_own_setting_is_said_to_take_precedence(home: Path, model: Path, editor: Editor) -> None:
    await editor.start(options={"model": {"completion": "/mine"}})
    await execute(editor, "useModel", name=str(model))
    assert 'this editor or its command line sets "model.completion", too' in await read_message(editor)
    assert "complete by coder.gguf" in await read_message(editor)


async def test_file_that_cannot_be_changed_is_said(home: Path, model: Path, editor: Editor) -> None:
    find_user_config().parent.mkdir(parents=True)
    find_user_config().write_text('model = { dtype = "int8" }\n')
    await editor.start()
    await execute(editor, "useModel", name=str(model))
    assert "is not written in the usual form" in await read_message(editor)


async def test_model_that_cannot_be_loaded_is_said(
    home: Path, model: Path, editor: Editor, worker: NamedWorker
) -> None:
    await editor.start()
    worker.load_error = "the model is made of cheese"
    await execute(editor, "useModel", name=str(model))
    assert "made of cheese" in await read_message(editor)
    worker.load_error = ""
    await execute(editor, "useModel", name="")
    assert "the shipped model" in await read_message(editor)


@pytest.mark.parametrize("command", ["useModel", "getModel"])
async def test_strangers_cannot_choose(command: str, home: Path, model: Path, worker: NamedWorker) -> None:
    """Whoever comes over a port without the server's token."""
    async with in_process(Server(engine=worker.open, token="0123456789abcdef")) as editor:
        await editor.start()
        await execute(editor, command, name=str(model))
        assert "only by whoever started the server" in await read_message(editor)
        assert worker.loaded == [""] and not find_user_config().exists()
        await editor.stop()


async def test_services_models_are_not_replaced(home: Path, model: Path, editor: Editor) -> None:
    await editor.start(options={"model": {"endpoint": "http://127.0.0.1:9/v1"}})
    await execute(editor, "useModel", name=str(model))
    assert '"model.endpoint" names a service' in await read_message(editor)


@pytest.mark.parametrize("argument", [{}, {"name": 3}, {"name": "x", "role": "sing"}])
async def test_arguments_are_checked(argument: dict[str, Any], home: Path, editor: Editor) -> None:
    await editor.start()
    with pytest.raises(ServerError, match="takes one object"):
        await execute(editor, "useModel", **argument)


async def test_model_is_downloaded_after_a_question_and_used(
    home: Path, toy: bytes, hub: Hub, editor: Editor, worker: NamedWorker
) -> None:
    hub.repositories[REPOSITORY] = {"coder-q4_k_m.gguf": toy}
    hub.licences[REPOSITORY] = "apache-2.0"
    await editor.start(capabilities={"window": {"workDoneProgress": True}})
    editor.choices = ["Cancel", "Download"]
    await execute(editor, "getModel", name=f"{REPOSITORY}:Q4_K_M")
    question = (await editor.until("window/showMessageRequest"))["message"]
    assert question == f"Code Clippy: download {REPOSITORY}/coder-q4_k_m.gguf, 1 MB, licence apache-2.0?"
    assert worker.loaded == [""] and hub.sent < 5000
    await execute(editor, "getModel", name=f"{REPOSITORY}:Q4_K_M")
    await editor.until("window/showMessageRequest")
    assert "complete by coder-q4_k_m.gguf" in await read_message(editor)
    assert worker.loaded[-1] == f"{REPOSITORY}/coder-q4_k_m.gguf"
    values = [message["params"]["value"] for message in editor.seen if message.get("method") == "$/progress"]
    assert any("downloading" in value.get("title", "") for value in values)
    while any(message.get("method") == "window/workDoneProgress/create" for message in editor.unread):
        await editor.until("window/workDoneProgress/create")


async def test_download_is_cancelled(home: Path, toy: bytes, hub: Hub, editor: Editor, worker: NamedWorker) -> None:
    hub.repositories[REPOSITORY] = {"coder-q4_k_m.gguf": toy + bytes(60_000_000)}
    hub.stall_after = 12_000_000
    await editor.start(capabilities={"window": {"workDoneProgress": True}})
    await editor.until("window/workDoneProgress/create")
    editor.choices = ["Download"]
    await execute(editor, "getModel", name=REPOSITORY)
    await editor.until("window/showMessageRequest")
    token = (await editor.until("window/workDoneProgress/create"))["token"]
    await editor.until("$/progress", lambda m: m["params"]["token"] == token and "MB" in str(m["params"]["value"]))
    editor.notify("window/workDoneProgress/cancel", {"token": token})
    hub.stall_after = 0
    hub.release.set()
    await editor.until("$/progress", lambda m: m["params"]["token"] == token and m["params"]["value"]["kind"] == "end")
    assert worker.loaded == [""]


async def test_failed_download_is_one_sentence(home: Path, hub: Hub, editor: Editor) -> None:
    await editor.start()
    await execute(editor, "getModel", name=REPOSITORY)
    assert f"{REPOSITORY} is not on the hub, or it is private" in await read_message(editor)


def test_model_that_is_here_is_not_recommended_and_has_its_short_name_in_front(home: Path, model: Path) -> None:
    """By family and size, whatever the file is called."""
    estimator = SpeedEstimator("cpu")
    names = [choice.name for choice in recommendations.list_recommended(estimator)]
    here = [
        ModelChoice(name, "x", "qwen-coder", ("infill",), "0.5B", program="x", num_weights=494_000_000)
        for name in ("/a/coder.gguf", "ollama:coder")
    ]
    left = [choice.name for choice in recommendations.list_recommended(estimator, here)]
    assert set(names) - set(left) == {"Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M"}
    assert sorted(here, key=rank)[0].name == "ollama:coder"


# The offer.


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let offers come at once, if nothing else is going on."""
    monkeypatch.setattr(model_menu, "OFFER_DELAY", 0.0)
    monkeypatch.setattr(model_menu, "_OFFER_CHECK_SECONDS", 0.01)


@pytest.fixture
def better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the toy count as a large model."""
    monkeypatch.setattr(offers, "_MIN_WEIGHTS", 1)


async def test_model_on_the_disk_is_offered_once(
    home: Path, model: Path, worker: NamedWorker, soon: None, better: None
) -> None:
    """In one editor, and in no other one later."""
    for number in range(3):
        async with in_process(Server(engine=worker.open)) as editor:
            await editor.start(options=OFFER_OPTIONS)
            if number == 0:
                offer = await editor.until("codeclippy/modelOffer")
                assert offer["name"] == str(model) and offer["installed"]
                assert "is on this machine (LM Studio)" in offer["message"] and "ms a token" in offer["message"]
            await settle(editor)
            await editor.stop()
    assert offers.find_note().read_text() == f"{model}\n"


async def settle(editor: Editor) -> None:
    """Give a message that must not come the time to come."""
    for _ in range(3):
        await execute(editor, "showMetrics", quiet=True)
        await asyncio.sleep(0.05)


async def test_model_of_the_hub_is_offered_without_a_download(
    home: Path, worker: NamedWorker, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a client that shows no buttons, as a message with the shell's command."""
    fast = ModelChoice("o/fast", "Fast", "qwen-coder", ("infill",), "0.5B", "", 5_000_000, "Apache-2.0", "", 1000)
    monkeypatch.setattr(recommendations, "RECOMMENDED", (fast,))
    async with in_process(Server(engine=worker.open)) as editor:
        await editor.start()
        message = await read_message(editor)
        assert "Fast can be downloaded (5 MB, Apache-2.0)" in message
        assert message.endswith("codeclippy-ls models get --use o/fast")
        await editor.stop()
    assert not (home / ".local/share").exists()


@pytest.mark.parametrize("reason", ["chosen", "endpoint", "stranger", "nothing better"])
async def test_nothing_is_offered(
    reason: str, home: Path, model: Path, worker: NamedWorker, soon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To those who chose a model or a service or may not choose; or if nothing is better."""
    monkeypatch.setattr(recommendations, "RECOMMENDED", ())
    monkeypatch.setattr(offers, "_MIN_WEIGHTS", 1 if reason != "nothing better" else 1 << 40)
    options = {"chosen": {"completion": "/mine"}, "endpoint": {"endpoint": "http://127.0.0.1:9/v1"}}.get(reason, {})
    token = "0123456789abcdef" if reason == "stranger" else None
    async with in_process(Server(engine=worker.open, token=token)) as editor:
        await editor.start(options={"model": options, **OFFER_OPTIONS})
        await settle(editor)
        await editor.stop()
    assert not offers.was_offered()


async def test_offer_waits_until_nothing_else_is_shown(
    home: Path, model: Path, editor: Editor, server: Server, monkeypatch: pytest.MonkeyPatch, better: None
) -> None:
    """A message was just shown, or a question waits for an answer."""
    monkeypatch.setattr(model_menu, "_OFFER_CHECK_SECONDS", 0.01)
    busy = True

    def has_shown_nothing(self: Any, seconds: float) -> bool:
        return not busy

    monkeypatch.setattr("codeclippy_ls.server.client.Client.has_shown_nothing", has_shown_nothing)
    monkeypatch.setattr(model_menu, "OFFER_DELAY", 0.0)
    await editor.start(options=OFFER_OPTIONS)
    await settle(editor)
    assert not offers.was_offered()
    busy = False
    await editor.until("codeclippy/modelOffer")


async def test_client_knows_what_it_shows(home: Path, editor: Editor, server: Server) -> None:
    await editor.start()
    client = server.session.client
    assert client.has_shown_nothing(1e9)
    client.show_message("look")
    assert not client.has_shown_nothing(60.0)
    await read_message(editor)
    editor.choices = ["Yes"]
    asked = asyncio.ensure_future(client.ask("Really?", "Yes", "No"))
    await asyncio.sleep(0)
    assert not client.has_shown_nothing(0.0)
    await editor.until("window/showMessageRequest")
    assert await asyncio.wait_for(asked, TIMEOUT) == "Yes"
    assert client.has_shown_nothing(0.0)


def test_note_is_made_once(home: Path) -> None:
    """Two editors at the same moment make one offer; where no note can be kept, there is no offer."""
    assert not offers.was_offered()
    assert [offers.note_offer("a"), offers.note_offer("b")] == [True, False]
    assert offers.was_offered() and offers.find_note().read_text() == "a\n"
    offers.find_note().unlink()
    offers.find_note().parent.rmdir()
    offers.find_note().parent.parent.mkdir(parents=True, exist_ok=True)
    offers.find_note().parent.write_text("a file")
    assert not offers.note_offer("a")
