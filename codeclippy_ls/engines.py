"""Choose and open the engine that the settings ask for: a thread of this process, the shared host, or a service.

``auto`` is the shared host: less memory from the second editor on, a warm model when an editor opens again, and an
event loop that no decoding holds up (figures in bench/LOG.md). While the host cannot be used, for whatever reason, it
is a thread; on Windows, where the host was only partly tried, always. The only module that knows all three engines.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

from codeclippy_ls.engine.thread_engine import ThreadEngine
from codeclippy_ls.engine.worker import ModelWorker
from codeclippy_ls.fallback_engine import FallbackEngine
from codeclippy_ls.host.address import HostAddress, resolve_host_address
from codeclippy_ls.host.client import HostEngine, ReachableListener
from codeclippy_ls.host.messages import Notifications
from codeclippy_ls.host.start import HostConnection, connect_or_start
from codeclippy_ls.inference.engine import Engine, StatusListener
from codeclippy_ls.inference.spec import ModelSpec
from codeclippy_ls.model_specs import resolve_model_specs
from codeclippy_ls.remote.engine import RemoteEngine
from codeclippy_ls.settings import Settings
from codeclippy_ls.tasks.model_info import describe_model


def open_engine(settings: Settings, on_status: StatusListener | None = None) -> Engine:
    """Open the engine that the settings ask for. Nothing is loaded, started or sent yet.

    Args:
        on_status: called from any thread when a model's status changes.
    """
    if settings.model.endpoint:
        return RemoteEngine(settings.model, resolve_model_specs(settings), on_status)
    if settings.model.engine == "shared":
        return open_host_engine(settings, on_status)
    if settings.model.engine == "in-process" or sys.platform == "win32":
        return open_thread_engine(settings, on_status)
    return open_fallback_engine(settings, on_status)


def open_thread_engine(settings: Settings, on_status: StatusListener | None = None) -> ThreadEngine:
    """Open an engine that runs models on a thread of this process."""
    return make_thread_engine(settings.model.cache_megabytes, resolve_model_specs(settings), on_status)


def make_thread_engine(
    cache_megabytes: int, specs: Mapping[str, ModelSpec], on_status: StatusListener | None
) -> ThreadEngine:
    """Make a thread engine over models on this machine, each with a prefix cache of ``cache_megabytes``."""
    return ThreadEngine(lambda: ModelWorker(cache_megabytes << 20, describe_model), specs, on_status)


def open_fallback_engine(settings: Settings, on_status: StatusListener | None = None) -> FallbackEngine:
    """Open a client of the user's engine host that runs the models on a thread while the host cannot be used."""
    return FallbackEngine(
        resolve_model_specs(settings),
        partial(open_host_engine, settings),
        partial(make_thread_engine, settings.model.cache_megabytes),
        on_status,
    )


def open_host_engine(
    settings: Settings,
    on_status: StatusListener | None = None,
    on_reachable: ReachableListener | None = None,
) -> HostEngine:
    """Open a client of the user's engine host, which is started when the first request needs it."""

    async def find(notifications: Notifications) -> HostConnection:
        address = resolve_host_address(settings)
        command = make_host_command(address, settings)
        return await connect_or_start(address, command, settings.model.idle_minutes * 60.0, notifications)

    return HostEngine(find, resolve_model_specs(settings), on_status, on_reachable)


def make_host_command(address: HostAddress, settings: Settings) -> list[str]:
    """Return the command line that starts the host."""
    return [
        sys.executable,
        "-m",
        "codeclippy_ls",
        "host",
        f"--at={address.folder / address.name}",
        f"--cache-megabytes={settings.model.cache_megabytes}",
    ]
