"""Find private keys, tokens and passwords in a text, by the forms that their issuers publish.

A text that goes to a service, or that is shown beside another file, is without the lines that hold one. All patterns
are our own and take linear time: they are tried only at runs of characters that tokens are made of, and each begins
with a literal. Knows no files.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from functools import lru_cache

# Letters, digits and the punctuation of tokens, keys and URLs: almost all code is in shorter runs.
_RUN = re.compile(r"[\w+/=.:~@%$-]{16,}")
_DIGIT = re.compile(r"[0-9]")
_REACH = 64  # characters before a run that belong to the assignment of its value
_MAX_RUN = 8192  # characters of a run that are looked at
_BEGIN = re.compile(r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}|PuTTY-User-Key-File-\d")
_END = re.compile(r"-{4,5} ?END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)? ?-{4,5}|Private-MAC: [0-9a-f]{16}")
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{16}")  # a line of a key's body has such a run
_MAX_KEY = 16_000  # characters of a key
_A = "[A-Za-z0-9]"
_W = r"[\w-]"
# A literal, and the pattern that begins with it or has it near its beginning.
_TOKENS: tuple[tuple[str, str], ...] = (
    # Clouds.
    *((prefix, rf"{prefix}[A-Z2-7]{{16}}\b") for prefix in ("AKIA", "ASIA", "ABIA", "ACCA")),
    *(("AIza", rf"AIza{_W}{{35}}"), ("ya29.", rf"ya29\.{_W}{{20}}"), ("GOCSPX-", rf"GOCSPX-{_W}{{20}}")),
    *(("LTAI", rf"LTAI{_A}{{17,21}}\b"), ("AKID", rf"AKID{_A}{{32}}\b"), ("dapi", r"dapi[a-f0-9]{32}")),
    *((f"do{kind}_v1_", rf"do{kind}_v1_[a-f0-9]{{64}}") for kind in "opr"),
    *(("AccountKey=", r"AccountKey=[A-Za-z0-9+/]{40}"), ("SharedAccessKey=", r"SharedAccessKey=[A-Za-z0-9+/]{40}")),
    *(("Q~", rf"{_W}{{3}}\dQ~[\w.~-]{{31}}"), ("FlyV1", r"FlyV1 [\w+/=,-]{40}"), ("HRKU-", rf"HRKU-{_W}{{30}}")),
    # Code hosts and packages.
    *((f"gh{kind}_", rf"gh{kind}_{_A}{{36}}") for kind in "pousr"),
    *(("github_pat_", r"github_pat_\w{22}"), ("ATBB", rf"ATBB{_A}{{28}}"), ("ATATT3", r"ATATT3[\w=-]{60}")),
    *((prefix, rf"{prefix}{_W}{{20}}") for prefix in ("glpat-", "gldt-", "glrt-", "glptt-", "glcbt-", "glsoat-")),
    *(("GR1348941", rf"GR1348941{_W}{{20}}"), ("npm_", rf"npm_{_A}{{36}}"), ("pypi-AgE", rf"pypi-AgE{_W}{{50}}")),
    *(("rubygems_", r"rubygems_[a-f0-9]{48}"), ("dckr_pat_", rf"dckr_pat_{_W}{{20}}"), ("oy2", r"oy2[a-z0-9]{43}\b")),
    *(("AKCp", rf"AKCp{_A}{{60}}"), ("_authToken=", r"_authToken=[\w+/=.-]{16}"), ("NRAK-", r"NRAK-[A-Z0-9]{27}")),
    # Models.
    *((prefix, rf"{prefix}{_W}{{20}}") for prefix in ("sk-", "pplx-", "xai-", "gsk_", "r8_", "nvapi-")),
    ("hf_", rf"hf_{_A}{{30}}"),
    # Chats and mail.
    *((f"xox{kind}-", rf"xox{kind}-[\w-]{{10}}") for kind in "abceoprs"),
    *(("xapp-", r"xapp-\d-[\w-]{20}"), ("hooks.slack.com/", r"hooks\.slack\.com/(?:services|workflows)/[\w/]{20}")),
    *(("discord", r"discord(?:app)?\.com/api/webhooks/\d{1,20}/[\w-]{30}"), (":AA", r"\b\d{8,10}:AA[\w-]{33}")),
    *(("SG.", rf"SG\.{_W}{{16,24}}\.{_W}{{30}}"), ("-us", r"\b[a-f0-9]{32}-us\d"), ("key-", r"\bkey-[a-f0-9]{32}\b")),
    # Payments and shops.
    *((f"{kind}_{mode}_", rf"{kind}_{mode}_{_A}{{10}}") for kind in ("sk", "rk") for mode in ("live", "test", "prod")),
    *(("whsec_", r"whsec_[\w+/]{24}"), ("sq0", rf"sq0(?:atp|csp|idp)-{_W}{{22}}"), ("EAAA", rf"EAAA[lE]{_W}{{56}}")),
    *((f"shp{kind}_", rf"shp{kind}_[a-fA-F0-9]{{32}}") for kind in ("at", "ca", "pa", "ss")),
    ("access_token$", r"access_token\$production\$[a-z0-9]{16}\$[a-f0-9]{32}"),
    # Infrastructure.
    *((prefix, rf"{re.escape(prefix)}{_W}{{24}}") for prefix in ("hvs.", "hvb.", "hvr.", "glsa_", "glc_", "pul-")),
    *((".atlasv1.", rf"{_A}{{14}}\.atlasv1\.{_W}{{60}}"), ("dp.", rf"dp\.(?:pt|st|ct|sa|scim|audit)\.{_A}{{40}}")),
    *(("tskey-", r"tskey-[\w-]{20}"), ("PMAK-", r"PMAK-[\w-]{50}"), ("sntry", rf"sntry[su]_{_A}{{30}}")),
    *(
        ("pscale_", rf"pscale_(?:tkn|pw|oauth)_{_W}{{32}}"),
        ("sbp_", r"sbp_[a-f0-9]{40}"),
        ("lin_api_", rf"lin_api_{_A}{{40}}"),
    ),
    *(("ntn_", rf"ntn_{_A}{{40}}"), ("secret_", rf"secret_{_A}{{43}}\b"), ("figd_", rf"figd_{_W}{{40}}")),
    *(
        ("sk.eyJ", rf"sk\.eyJ{_W}{{20}}"),
        ("phc_", rf"phc_{_A}{{43}}"),
        ("AGE-SECRET-KEY-1", r"AGE-SECRET-KEY-1[A-Z0-9]{20}"),
    ),
    *(
        ("sdk-", r"\bsdk-[a-f0-9]{8}-[a-f0-9]{4}-[a-f0-9]{4}-"),
        ("EZAK", rf"EZAK{_A}{{54}}"),
        ("CCIPAT_", rf"CCIPAT_{_W}{{40}}"),
    ),
    # Of any issuer: a JSON web token, a key of Kubernetes or WireGuard, a header, a password in a URL.
    *(
        ("eyJ", rf"\beyJ{_W}{{10,2000}}\.eyJ{_W}{{10}}"),
        ("client-key-data", r"client-key-data[\"']?:\s{0,9}[\"']?[\w+/=]{40}"),
    ),
    *(("PrivateKey", r"PrivateKey\s{0,9}=\s{0,9}[A-Za-z0-9+/]{42}[\w=]"), ("Bearer ", r"\bBearer [\w.~+/=-]{20}")),
    *(
        ("Basic ", r"\bBasic [A-Za-z0-9+/]{16,500}={0,2}(?![\w.])"),
        ("://", r"\b[a-z][a-z0-9+]{1,20}://[^\s:/@{}<>$]{0,80}:[^\s:/@{}<>$]{3,80}@"),
    ),
)
_COMPILED = tuple((marker, re.compile(rf"(?<![A-Za-z0-9_]){pattern}")) for marker, pattern in _TOKENS)
# A long value without words that is assigned to a name of this kind.
_ASSIGNED = re.compile(
    r"(?:key|token|secret|passw(?:or)?d|passwd|pwd|credential|auth)\w{0,20}[\"']?\s{0,9}(?::=|=>|[:=])\s{0,9}[\"']?"
    r"([\w+/=.~-]{16,256})(?![\w(.])",
    re.IGNORECASE,
)
_MIN_ENTROPY = 3.6  # bits per character; names and words have less


def holds_secret(text: str) -> bool:
    """Return whether a text holds a key, token or password."""
    return bool(_find_spans(text))


@lru_cache(maxsize=32)
def find_secret_lines(text: str) -> tuple[tuple[int, int], ...]:
    """Find the lines that hold a secret, as spans of offsets with their line ends, in order and apart."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(_find_spans(text)):
        start = text.rfind("\n", 0, start) + 1
        end = text.find("\n", max(end - 1, start)) + 1 or len(text)
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return tuple(found)


@lru_cache(maxsize=32)
def remove_secret_lines(text: str) -> str:
    """Return a text without the lines that hold a secret."""
    kept, position = [], 0
    for start, end in find_secret_lines(text):
        kept.append(text[position:start])
        position = end
    return "".join((*kept, text[position:])) if kept else text


def _find_spans(text: str) -> list[tuple[int, int]]:
    """Find the secrets of a text as spans of offsets."""
    found = _find_private_keys(text) if "PRIVATE KEY" in text or "PuTTY-" in text or "Private-MAC" in text else []
    tokens = [(marker, pattern) for marker, pattern in _COMPILED if marker in text]
    for run in _RUN.finditer(text):
        may_be_random = _DIGIT.search(text, run.start(), run.end()) is not None
        if not tokens and not may_be_random:
            continue
        near = text[max(0, run.start() - _REACH) : min(run.end() + 1, run.start() + _MAX_RUN)]
        is_token = any(marker in near and pattern.search(near) for marker, pattern in tokens)
        if is_token or (may_be_random and _is_assigned(near)):
            found.append(run.span())
    return found


def _find_private_keys(text: str) -> list[tuple[int, int]]:
    """Find private keys, also without the line that begins or ends one."""
    found = []
    ends = [match.span() for match in _END.finditer(text)]
    for match in _BEGIN.finditer(text):
        index = bisect_left(ends, (match.end(), 0))
        end = ends[index][1] if index < len(ends) else len(text)
        found.append((match.start(), end if end - match.start() <= _MAX_KEY else _extend(text, match.end())))
    used = {end for _, end in found}
    return found + [(_extend_back(text, start), end) for start, end in ends if end not in used]


def _extend(text: str, at: int) -> int:
    """Return the end of the lines of a key's body that follow."""
    limit = min(len(text), at + _MAX_KEY)
    line_end = text.find("\n", at, limit)
    while line_end >= 0:
        following = text.find("\n", line_end + 1, limit)
        if not _KEY_LINE.search(text, line_end + 1, following if following >= 0 else limit):
            return line_end
        line_end = following
    return limit


def _extend_back(text: str, at: int) -> int:
    """Return the start of the lines of a key's body that precede."""
    limit = max(0, at - _MAX_KEY)
    start = max(text.rfind("\n", limit, at) + 1, limit)
    while start > limit:
        earlier = max(text.rfind("\n", limit, start - 1) + 1, limit)
        if not _KEY_LINE.search(text, earlier, start):
            return start
        start = earlier
    return start


def _is_assigned(near: str) -> bool:
    """Return whether a text assigns a value that looks random to a name of a key."""
    return any(_looks_random(match[1]) for match in _ASSIGNED.finditer(near))


def _looks_random(value: str) -> bool:
    """Return whether a value has digits and letters in no order that words have (Shannon's entropy, as gitleaks)."""
    if not any(map(str.isdigit, value)) or not any(map(str.isalpha, value)) or "/" in value[:2]:
        return False
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts) >= _MIN_ENTROPY
