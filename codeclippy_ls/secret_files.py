"""Recognise files that may hold keys or passwords, by their names and folders.

Their text is never shown in another file's prompt and never sent to a service. The names are those of scanners for
secrets (gitleaks, GitHub's) and of the tools' own documentation. Knows no disk.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from urllib.parse import unquote

from codeclippy_ls.uris import parse_path

# In lower case. `*` is any text, `?` a separator of words, `{data}` the ending of a file that is no program.
_NAMES = """
    .env .env.* .env?* *.env .envrc .envrc.* .flaskenv .dev.vars* *.tfvars *.tfvars.json *.tfstate *.tfstate.*
    .terraformrc terraform.rc *kubeconfig *kubeconfig*.{data} *.dockercfg .dockerconfigjson local.settings.json
    wp-config*.php nuget.config settings-security.xml database.yml knife.rb *.publishsettings

    secret secrets secrets.* .secret* secret*.{data} *?secret *?secrets *?secrets.* *?secret.{data} *?secrets?*.{data}
    *?secret?*.{data} credential credentials credentials.* credential.{data} .credential* *?credentials
    *?credentials.* *credentials*.{data} client?secret* *service?account*.json *serviceaccount*.json
    *firebase-adminsdk*.json adc.json token tokens token.{data} tokens.{data} .token .tokens *.token *?token.{data}
    *apikey*.{data} *api?key*.{data} passwd passwords password.{data} passwords.{data} *?password.{data}
    *?passwords.{data} shadow gshadow vault.{data} *?vault.{data} .vault* vault?pass* *.vault *.sops.{data}

    *.pem *.pem.* *.key *.p12 *.pfx *.p8 *.pk8 *.pkcs8 *.pkcs12 *.ppk *.jks *.jceks *.bks *.keystore *.truststore
    *.keytab *.kdb *.kdbx *.gpg *.asc *.pgp *.agekey *.ovpn *.snk *.mobileprovision *.keychain *.keychain-db
    *.agilekeychain *.opvault *.psafe3 *.jwk *.jwks id_rsa* id_dsa* id_ecdsa* id_ed25519* id_xmss* *?rsa *?dsa *?ecdsa
    *?ed25519 ssh_host_*_key private?key privatekey private?key.{data} privatekey.{data} *?private?key.{data}
    privkey* deploy?key deploy?key.{data} *.private wallet.dat *.wallet utc--* mnemonic.{data} krb5cc_* secring.*
    wg[0-9]*.conf

    .netrc _netrc .npmrc .yarnrc.yml .pypirc pip.conf pip.ini .gemrc .htpasswd .htdigest .pgpass pgpass.conf .my.cnf
    my.cnf .mylogin.cnf .git-credentials .gitcredentials .hgrc .s3cfg .boto .passwd-s3fs .rclone.conf rclone.conf
    .smbcredentials* .databrickscfg .msmtprc .mutt*rc .fetchmailrc .esmtprc .ftpconfig sftp-config.json sftp.json
    .remote-sync.json filezilla.xml sitemanager.xml recentservers.xml winscp.ini ws_ftp.ini *.rdp proftpdpasswd
    kaggle.json logins.json key3.db key4.db signons.sqlite cookies.sqlite .tugboat .trc .wgetrc .curlrc _curlrc

    .*_history .*-history .history .*history fish_history consolehost_history.txt .lesshst .viminfo
"""
# Files below such a folder, or with such an end of the path.
_PATHS = """
    */.ssh/* */.gnupg/* */.aws/* */.azure/* */.gcloud/* */gcloud/* */.kube/* */.docker/* */.oci/* */.password-store/*
    */.pki/* */.secrets/* */.vault/* */.snowsql/* */.snowflake/* */.dbt/* */.config/gh/* */.config/hub */.config/op/*
    */.config/doctl/* */.config/rclone/* */.config/sops/* */.config/heroku/* */.config/configstore/*
    */.config/git/credentials */.huggingface/* */huggingface/token */.terraform.d/* */.m2/settings*.xml
    */.gradle/*.properties */.cargo/credentials* */.chef/* */.kaggle/* */.netlify/* */.circleci/cli.yml */keyrings/*
    */etc/ssl/private/* */etc/wireguard/* */etc/openvpn/* */etc/shadow* */run/secrets/* */.mozilla/* */.bitcoin/*
    */.ethereum/* */.electrum/* */secrets/*.{data}
"""
_DATA = r"(?:json5?|jsonc|ya?ml|toml|ini|cfg|conf|config|txt|csv|tsv|xml|properties|plist|env|md)"
_PARTS = {"*": r"[^\n]*", "?": "[-_. ]", "{data}": _DATA, "[0-9]": "[0-9]"}


def _compile(table: str) -> re.Pattern[str]:
    """Compile a table of patterns."""
    patterns = (re.split(r"(\*|\?|\{data\}|\[0-9\])", pattern) for pattern in table.split())
    joined = ("".join(_PARTS.get(part, re.escape(part)) for part in parts) for parts in patterns)
    return re.compile(f"(?:{'|'.join(joined)})\\Z")


_SECRET_NAME, _SECRET_PATH = _compile(_NAMES), _compile(_PATHS)
# A copy of a file is as secret as the file: what editors, file managers and backups add to its name.
_COPY_MARKS = r"copy|kopie|copie|backup|bak|old|orig|original|save|saved|swp|swo|swn|tmp|temp|new|dist"
_COPY_END = re.compile(
    rf"(?:~|\.~?\d{{1,3}}~?|[ ._-]{{1,3}}(?:{_COPY_MARKS})(?:[ ._-]?\d{{1,3}})?|[ ._-]?\(\d{{1,3}}\)"
    r"|[ ._-]\d{4}[-_]?\d\d[-_]?\d\d|\.(?:gz|zip|b64|base64|txt|enc|part)|#|::?\$data|:zone\.identifier|[. ])\Z"
)
_COPY_START = re.compile(r"copy of |kopie von |backup of |backup[-_]|old[-_]|\.#|#|\._|\.~lock\.|~\$|\.(?=\.)")
_MAX_COPIES = 6  # of copies
_MAX_DECODINGS = 3  # of a URI that was encoded more than once
_SEPARATORS = re.compile(r"[?#&=\"',;|{}\[\]<>\r\n\t\x00]+")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


@lru_cache(maxsize=1024)
def is_secret_uri(uri: str) -> bool:
    """Return whether the file of a URI may hold keys or passwords.

    Its path is looked at, and everything else in it that may be one: some clients have the path of a version or of a
    cell in the query, and some encode twice.
    """
    paths, decoded = {parse_path(uri)}, uri
    for _ in range(_MAX_DECODINGS):
        decoded = unquote(decoded)
        paths.add(parse_path(decoded))
        paths |= {part for part in _SEPARATORS.split(decoded) if "/" in part or "\\" in part or part.startswith(".")}
    return any(is_secret_path(path) for path in paths)


def is_secret_path(path: str) -> bool:
    """Return whether a file of this path, or of this name alone, may hold keys or passwords."""
    path = _INVISIBLE.sub("", unicodedata.normalize("NFKC", path)).lower().replace("\\", "/").rstrip("/")
    folder, _, name = path.rpartition("/")
    return any(_SECRET_NAME.match(one) or _SECRET_PATH.match(f"/{folder}/{one}") for one in _list_originals(name))


def _list_originals(name: str) -> list[str]:
    """List a name, and the names of the files that it may be a copy of."""
    names = [name]
    for _ in range(_MAX_COPIES):
        shorter = _COPY_END.sub("", _COPY_START.sub("", names[-1], count=1))
        stem, dot, ending = names[-1].rpartition(".")
        if shorter == names[-1] and dot:  # `tokens copy.json`: the mark is in front of the ending
            shorter = _COPY_END.sub("", stem) + dot + ending
        if not shorter or shorter == names[-1]:
            break
        names.append(shorter)
    return names
