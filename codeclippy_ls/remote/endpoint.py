"""Where a service is and what opens it: the endpoint's URL and the key, both looked at before anything is sent. Pure.

The messages name settings and hosts, never a key: a key that somebody puts where its variable's name belongs is not
repeated either.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The URL up to its paths, without a slash at its end; ``loopback`` where it is this machine's.

    Attributes:
        host: the host's name, which must belong to this machine where it is no number (``localhost``).
    """

    url: str
    host: str
    loopback: bool


def parse_endpoint(url: str) -> Endpoint:
    """The endpoint of a setting; without a path it is `/v1`, as all of these services have it.

    Raises:
        ValueError: it is none, or not one to which code may be sent; the message is for the user.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError('setting "model.endpoint" is no URL; one is "http://127.0.0.1:8080/v1"') from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError('setting "model.endpoint" must begin with https://, or http:// for this machine')
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            'setting "model.endpoint" may hold no user, password, query or fragment; a key comes from the '
            'variable that "model.endpointKeyVariable" names'
        )
    loopback = _is_loopback(host)
    if parts.scheme == "http" and not loopback:
        raise ValueError(
            f'setting "model.endpoint": {host} is another machine, to which nothing goes but over https; '
            "use https://, or a tunnel to a port of this machine"
        )
    shown = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(f"{parts.scheme}://{shown}{f':{port}' if port else ''}{path}", host, loopback)


def read_key(variable: str, environment: Mapping[str, str]) -> str:
    """The key that a variable of the environment holds; none where no variable is set.

    Raises:
        ValueError: the variable's name is none, or it holds no key; the message is for the user.
    """
    if not variable:
        return ""
    if not _NAME.match(variable):
        raise ValueError(
            'setting "model.endpointKeyVariable" is no name of an environment variable; it names the '
            "variable that holds the key, and never is the key itself"
        )
    key = environment.get(variable, "").strip()
    if not key:
        raise ValueError(
            f'the environment variable {variable} holds no key (setting "model.endpointKeyVariable"); '
            "set it where the editor is started"
        )
    if not _KEY.match(key):
        raise ValueError(
            f"the environment variable {variable} holds something that is no key: it has blanks or signs beyond ASCII"
        )
    return key


def is_loopback_address(address: str) -> bool:
    """Whether an address, a number, is this machine's own."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or is_loopback_address(host)
