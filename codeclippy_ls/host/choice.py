"""Which engine the settings mean: a thread of this process, or the user's host."""

from __future__ import annotations

import sys
from collections.abc import Callable

from codeclippy_ls.assist import model_specs
from codeclippy_ls.assist import open_engine as open_thread
from codeclippy_ls.engine.engine import EngineFace, Status
from codeclippy_ls.host.client import HostEngine
from codeclippy_ls.host.place import Place, place_for
from codeclippy_ls.host.start import Connection, Notifications, found
from codeclippy_ls.settings import Settings


def open_engine(settings: Settings, watch: Callable[[str, Status], None] | None = None) -> EngineFace:
    """An engine for the models the settings name; nothing is loaded or started yet."""
    if settings.model.engine != "host":
        return open_thread(settings, watch)

    async def find(notifications: Notifications) -> Connection:
        place = place_for(settings)
        return await found(place, command(place, settings), settings.model.idle_minutes * 60.0, notifications)

    return HostEngine(find, model_specs(settings), watch)


def command(place: Place, settings: Settings) -> list[str]:
    """What starts the host."""
    return [sys.executable, "-m", "codeclippy_ls", "host", f"--at={place.folder / place.name}",
            f"--cache-megabytes={settings.model.cache_megabytes}"]
