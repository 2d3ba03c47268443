"""Recognise files that may hold keys or passwords, by name.

Their text is never shown in another file's prompt and never sent to a service.
"""

from __future__ import annotations

from fnmatch import fnmatch

from codeclippy_ls.uris import parse_name

_PATTERNS = (
    ".env",
    ".env.*",
    "*.env",
    "*.pem",
    "*.key",
    "*.p12",
    "*.pfx",
    "*.keystore",
    "*.jks",
    "id_rsa*",
    "id_dsa*",
    "id_ecdsa*",
    "id_ed25519*",
    ".netrc",
    "_netrc",
    ".npmrc",
    ".pypirc",
    ".pgpass",
    ".htpasswd",
    "*.tfvars",
    "*.tfvars.json",
    "credentials",
    "credentials.*",
    "secrets.*",
    "*.kdbx",
    "*.gpg",
    "*.asc",
)


def is_secret_uri(uri: str) -> bool:
    """Return whether the file of a URI may hold keys or passwords."""
    return is_secret_name(parse_name(uri))


def is_secret_name(name: str) -> bool:
    """Return whether a file of this name may hold keys or passwords."""
    return any(fnmatch(name.lower(), pattern) for pattern in _PATTERNS)


def refuse_secret_file(name: str) -> None:
    """Refuse to send a file that may hold keys or passwords.

    Raises:
        ValueError: the message is for the user.
    """
    if is_secret_name(name):
        raise ValueError(
            f"{name} may hold keys or passwords; such files never leave this machine, and the model runs elsewhere"
        )
