"""The endpoint's URL and the API key, both checked before anything is sent. Pure.

The messages name settings and hosts, never a key. A key that is set in place of its variable's name is not repeated
either.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
# A name or an address, and a port; other alphabets are written as "xn--...". Parsers disagree on everything else, such
# as "127.0.0.1%2eevil.example" and "[::1].evil.example".
_HOST_AND_PORT = re.compile(r"(?:\w(?:[\w.-]{0,251}\w)?|\[[0-9a-f:]*:[0-9a-f:.]*\])(?::\d*)?", re.ASCII | re.IGNORECASE)
_KEY = re.compile(r"[\x21-\x7e]{1,4096}\Z")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A service's URL, up to its paths and without a slash at the end.

    Attributes:
        host: name or address. A name (``localhost``) may be used for this machine only if it resolves to it.
        loopback: whether it is this machine.
    """

    url: str
    host: str
    loopback: bool


def parse_endpoint(url: str) -> Endpoint:
    """Parse the setting; without a path it becomes `/v1`, which all of these services have.

    Raises:
        ValueError: it is not a URL, or not one to which code may be sent; the message is for the user.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError('setting "model.endpoint" is not a URL; set one such as "http://127.0.0.1:8080/v1"') from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError('setting "model.endpoint" must begin with https://, or with http:// for this machine')
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            'setting "model.endpoint" must not contain a user, password, query or fragment; put the key into an '
            'environment variable and name it in "model.endpointKeyVariable"'
        )
    if not _HOST_AND_PORT.fullmatch(parts.netloc):
        raise ValueError(f'setting "model.endpoint": {ascii(parts.netloc)[1:-1]} is neither a host name nor an address')
    loopback = _is_loopback_host(host)
    if parts.scheme == "http" and not loopback:
        raise ValueError(
            f'setting "model.endpoint": {host} is another machine, and code is sent to other machines only over https; '
            "use https://, or a tunnel to a port of this machine"
        )
    netloc = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/") or "/v1"
    return Endpoint(f"{parts.scheme}://{netloc}{f':{port}' if port else ''}{path}", host, loopback)


def read_key(variable: str, environment: Mapping[str, str]) -> str:
    """Read the API key from an environment variable; empty if the settings name no variable.

    Raises:
        ValueError: the variable's name is invalid, or its value is not a key; the message is for the user.
    """
    if not variable:
        return ""
    if not _VARIABLE_NAME.match(variable):
        raise ValueError(
            'setting "model.endpointKeyVariable" is not the name of an environment variable; set the name of the '
            "variable that holds the key, never the key itself"
        )
    key = environment.get(variable, "").strip()
    if not key:
        raise ValueError(
            f'the environment variable {variable} is empty or not set (setting "model.endpointKeyVariable"); '
            "set it where the editor is started"
        )
    if not _KEY.match(key):
        raise ValueError(
            f"the environment variable {variable} does not hold a key: it contains spaces or non-ASCII characters; "
            "correct it where the editor is started"
        )
    return key


def is_loopback_address(address: str) -> bool:
    """Return whether a numeric address is this machine's own; one of version 6 may name an interface."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_loopback_host(host: str) -> bool:
    return host == "localhost" or is_loopback_address(host)
