"""Which engine the settings mean: a thread of this process, the user's host, or a service elsewhere.

`auto` is the host: less memory from the second editor on, a warm model when an editor opens again, and a loop that no
decoding holds up (bench/LOG.md). It is a thread where the host has no safe place, and on Windows, where hosts were
tried in parts only.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from codeclippy_ls.assist import model_specs
from codeclippy_ls.assist import open_engine as open_thread
from codeclippy_ls.engine.engine import EngineFace, Status
from codeclippy_ls.host.client import HostEngine
from codeclippy_ls.host.place import HostError, Place, place_for
from codeclippy_ls.host.start import Connection, Notifications, found
from codeclippy_ls.remote import open_remote
from codeclippy_ls.settings import Settings

log = logging.getLogger(__name__)


def open_engine(settings: Settings, watch: Callable[[str, Status], None] | None = None) -> EngineFace:
    """An engine for the models the settings name; nothing is loaded, started or sent yet."""
    if settings.model.endpoint:
        return open_remote(settings, watch)
    if not _hosted(settings):
        return open_thread(settings, watch)

    async def find(notifications: Notifications) -> Connection:
        place = place_for(settings)
        return await found(place, command(place, settings), settings.model.idle_minutes * 60.0, notifications)

    return HostEngine(find, model_specs(settings), watch)


def _hosted(settings: Settings) -> bool:
    if settings.model.engine != "auto":
        return settings.model.engine == "host"
    if sys.platform == "win32":
        return False
    try:
        place_for(settings)
    except HostError as error:
        log.warning("%s", error)
        return False
    return True


def command(place: Place, settings: Settings) -> list[str]:
    """What starts the host."""
    return [
        sys.executable,
        "-m",
        "codeclippy_ls",
        "host",
        f"--at={place.folder / place.name}",
        f"--cache-megabytes={settings.model.cache_megabytes}",
    ]
