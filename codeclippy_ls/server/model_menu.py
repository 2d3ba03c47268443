"""`ModelMenu`: the client's list of models, and what the user picks: used at once, downloaded first if necessary.

The choice is written to the user's configuration file, which all editors read. Knows no engine.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from codeclippy_ls.catalog.downloads import (
    DownloadCancelledError,
    DownloadError,
    DownloadPlan,
    download,
    plan_download,
)
from codeclippy_ls.catalog.speeds import SpeedEstimator
from codeclippy_ls.inference.spec import ModelRole
from codeclippy_ls.model_choices.choices import list_local_models
from codeclippy_ls.model_choices.offers import describe_offer, find_better_model, note_offer, was_offered
from codeclippy_ls.model_choices.recommendations import choose_best, list_recommended
from codeclippy_ls.server.client import Client
from codeclippy_ls.server.convert import add_prefix
from codeclippy_ls.settings import Settings
from codeclippy_ls.user_config import UserConfigError, set_user_model

log = logging.getLogger(__name__)

OFFER_DELAY = 30.0  # seconds after the model is ready, and without a message or a question
_OFFER_CHECK_SECONDS = 5.0
_DOWNLOAD, _CANCEL = "Download", "Cancel"
_Result = TypeVar("_Result")

UseModels = Callable[[Settings], Awaitable[None]]


class ModelMenu:
    """Lists, gets and uses models for one client. Belongs to the loop thread.

    Args:
        is_trusted: the client may choose what is loaded: it started the server, or has its token.
        file_settings: those of the user's own file, without what the client and the command line set.
        use_models: called with settings that name other models, to load these.
    """

    def __init__(self, client: Client, is_trusted: bool, file_settings: Settings, use_models: UseModels) -> None:
        self._client = client
        self._is_trusted = is_trusted
        self._file_settings = file_settings
        self._use_models = use_models
        self._stop_download = threading.Event()

    def close(self) -> None:
        """End a download, which can be resumed."""
        self._stop_download.set()

    async def list_models(self, settings: Settings) -> dict[str, Any]:
        """Return the models on this machine and those that can be downloaded, for the client's list."""
        return await asyncio.to_thread(_list_models, settings)

    async def use(self, settings: Settings, name: str, role: ModelRole) -> None:
        """Make a model that of all editors, and load it here."""
        if self._refuse(settings):
            return
        if (path := Path(name).expanduser()).is_absolute():
            name = str(path)
        key = "completion" if role is ModelRole.COMPLETE else "edit"
        try:
            await asyncio.to_thread(set_user_model, key, name)
        except UserConfigError as error:
            self._client.show_message(str(error), types.MessageType.Error)
            return
        if getattr(settings.model, key) != getattr(self._file_settings.model, key):
            self._client.show_message(
                f'this editor or its command line sets "model.{key}", too, which takes precedence at the next start; '
                "remove it there"
            )
        self._file_settings = _set_model(self._file_settings, key, name)
        await self._use_models(_set_model(settings, key, name))

    async def get(self, settings: Settings, name: str, role: ModelRole) -> None:
        """Download a model, if the user agrees to its size and licence, and use it."""
        if self._refuse(settings):
            return
        try:
            plan = await asyncio.to_thread(plan_download, name)
            if await self._confirm(plan) and await self._download(plan):
                await self.use(settings, plan.model_name, role)
        except DownloadError as error:
            self._client.show_message(str(error), types.MessageType.Warning)

    async def offer_better(self, get_settings: Callable[[], Settings], is_busy: Callable[[], bool]) -> None:
        """Offer a user of the shipped model a better one, once for ever, when nothing else is going on."""
        if not self._is_trusted or not _uses_shipped(get_settings()) or await asyncio.to_thread(was_offered):
            return
        await asyncio.sleep(OFFER_DELAY)
        while is_busy() or not self._client.has_shown_nothing(OFFER_DELAY):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(_OFFER_CHECK_SECONDS)
        choice = await asyncio.to_thread(find_better_model, get_settings())
        if choice is None or not _uses_shipped(get_settings()) or not await asyncio.to_thread(note_offer, choice.name):
            return
        offer = describe_offer(choice)
        if self._client.shows_offers:
            self._client.send_offer(offer)
        else:
            action = "use" if choice.is_here else "get --use"
            self._client.show_message(f"{offer['message']}. To use it: codeclippy-ls models {action} {choice.name}")

    def _refuse(self, settings: Settings) -> bool:
        """Tell the user if models cannot be chosen here."""
        reason = ""
        if not self._is_trusted:
            reason = "models are chosen only by whoever started the server, or with its token (--token)"
        elif settings.model.endpoint:
            reason = 'the setting "model.endpoint" names a service that runs the models; remove it to choose another'
        if reason:
            self._client.show_message(reason, types.MessageType.Warning)
        return bool(reason)

    async def _confirm(self, plan: DownloadPlan) -> bool:
        size = f"{plan.missing_bytes / 1e6:.0f} MB" if plan.missing_bytes else ""
        if not size:
            return True
        question = f"{add_prefix('download')} {plan.model_name}, {size}, licence {plan.licence}?"
        try:
            return await self._client.ask(question, _DOWNLOAD, _CANCEL) == _DOWNLOAD
        except JsonRpcException as error:
            log.warning("the client cannot ask the user: %s", error)
            self._client.show_message(f"to download it: codeclippy-ls models get --use {plan.model_name}")
            return False

    async def _download(self, plan: DownloadPlan) -> bool:
        """Download with progress; return False if the user cancelled it."""
        self._stop_download.clear()
        progress = await self._client.begin_progress(
            add_prefix(f"downloading {plan.repository}"), "0 %", self._stop_download.set
        )
        loop, shown = asyncio.get_running_loop(), -1

        def report(done: int, total: int) -> None:  # on the download's thread
            nonlocal shown
            if self._stop_download.is_set():
                raise DownloadCancelledError
            if (percentage := 100 * done // max(total, 1)) != shown:
                shown = percentage
                text = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
                loop.call_soon_threadsafe(progress.report, text, percentage)

        try:
            await _run_in_daemon(partial(download, plan, report))
        except DownloadCancelledError:
            return False
        finally:
            progress.end()
        return True


async def _run_in_daemon(work: Callable[[], _Result]) -> _Result:
    """Run work on a thread that does not keep the process: a connection may hang for long."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_Result] = loop.create_future()

    def resolve(result: _Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[_Result | None, BaseException | None] = (work(), None)
        except BaseException as error:
            outcome = (None, error)
        try:
            loop.call_soon_threadsafe(resolve, *outcome)
        except RuntimeError:  # the loop has closed
            pass

    threading.Thread(target=run, name="codeclippy-download", daemon=True).start()
    return await future


def _list_models(settings: Settings) -> dict[str, Any]:
    estimator = SpeedEstimator(settings.model.device)
    here = list_local_models(settings, estimator)
    recommended = list_recommended(estimator, here)
    best = choose_best(recommended)
    rows = [choice.to_json() for choice in here]
    rows += [{**choice.to_json(), "recommended": choice == best} for choice in recommended]
    return {"models": rows, "completion": settings.model.completion, "edit": settings.model.edit}


def _set_model(settings: Settings, key: str, name: str) -> Settings:
    model = settings.model
    changed = replace(model, completion=name) if key == "completion" else replace(model, edit=name)
    return replace(settings, model=changed)


def _uses_shipped(settings: Settings) -> bool:
    return not settings.model.completion and not settings.model.endpoint
