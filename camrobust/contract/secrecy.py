"""Recognises secrets in untrusted text: by the name of a setting, inside an address, or by their form.

A configuration is written into the run folder, so a configuration that holds a secret is refused. Reports, messages and
logs hide secrets that come from older folders and from libraries.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote_plus

from camrobust.contract.errors import UserError
from camrobust.contract.quoting import short

HIDDEN = "(hidden)"
WORD = re.compile(r"[a-z]{1,16}([_-][a-z]{1,16}){0,3}")
"""A few plain words, such as the name of a method. A password may look like this, so `WEAK` names no passwords."""
NAMES = re.compile(
    r"(password|passwd|passphrase|secret|credential|signature|connection_?string"
    r"|(^|_)(pwd|pass|sig|auth|authorization|bearer|cookie|jwt)"
    r"|(api|access|account|encryption|private|secret|security|signing)_?key(_?id)?)s?$"
)
WEAK = re.compile(r"((^|_)(sig|auth|pass|cookie)|signature|tokens?)$")
"""Names that settings of a network may have, too. Their value is a secret unless it is a number or a word."""
TOKENS = re.compile(r"(^|_|access|auth|api|bearer|id|refresh|security|session)tokens?$")
WORDS = re.compile(r"(^|_)(bos|class|cls|dist|end|eos|mask|pad|reg|register|sep|special|start|unk)_tokens?$")
"""Tokens of a network, which are not secret."""
FORMS = re.compile(
    r"\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bhf_[A-Za-z0-9]{20,}|\bgh[opsur]_[A-Za-z0-9]{30,}|\bgithub_pat_\w{30,}"
    r"|\bsk-(?=[\w-]*[A-Z])(?=[\w-]*[a-z])(?=[\w-]*[0-9])[\w-]{20,}|\bxox[abps]-[A-Za-z0-9-]{10,}"
    r"|\bglpat-[\w-]{16,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}"
    r"|\bBearer +\S{8,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Keys and tokens recognised by how they begin."""
USERINFO = re.compile(r"(?<=://)[^/\s@?#]*:[^/\s?#]*@")
PARAMETER = re.compile(r"(^|[?&;\s])([^=?&;\s]+)=([^&;#\s]*)")
QUERY = re.compile(r"(://[^?]*)\?.*", re.DOTALL)
WEB_QUERY = re.compile(r"""(https?://[^\s?#'"]*)\?[^\s'"]*""", re.I)


def called_secret(name: object) -> bool:
    """Whether a setting or parameter of this name holds a secret; case and separators are ignored.

    >>> called_secret("hfToken"), called_secret("X-Amz-Signature"), called_secret("class_token")
    (True, True, False)
    """
    words = _words(name)
    return bool(NAMES.search(words) or (TOKENS.search(words) and not WORDS.search(words)))


def _words(name: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower())


def secret_address(address: str) -> bool:
    """Whether an address holds a password before its host, or a secret in its query.

    Keys may look similar: `s3://bucket/sig=3/a.png` and `s3://bucket/a?x=1.png` are ordinary addresses.
    """
    _, separator, rest = address.partition("://")
    if not separator:
        return False
    user, at, _ = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")
    query = rest.partition("?")[2].partition("#")[0]
    names = (unquote_plus(part.partition("=")[0]) for part in re.split(r"[?&;]", query) if "=" in part)
    return bool(at and ":" in user) or any(map(called_secret, names))


def refuse_address(address: str) -> None:
    """Refuse an address that holds a secret, without quoting it: addresses are written into manifests and logs.

    Raises:
        UserError: the address holds a secret.
    """
    if secret_address(address):
        raise UserError(
            f"store: the {short(address.partition('://')[0])}:// address must not hold a secret, as addresses are "
            "written to results and logs; remove it and let credentials come from the environment (docs/running.md)"
        )


def refuse_secrets(data: Mapping[str, Any]) -> None:
    """Refuse a configuration that holds a secret: everyone who sees the results can read it in run.json.

    Raises:
        UserError: a value looks like a secret. Its key is named; the value is not quoted.
    """
    for place, named, value in _values(data, "", named=False):
        if isinstance(value, str):
            refuse_address(value)
        if named or (isinstance(value, str) and masked_text(value) != value):
            raise UserError(
                f"config: '{short(place)}' looks like a secret, and the configuration is written into run.json; "
                "leave it out and let your builder read it from the environment (os.environ)"
            )


def _values(value: Any, place: str, *, named: bool) -> Iterator[tuple[str, bool, Any]]:
    """Every text and number with its place, and whether a key above it has the name of a secret."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            secret = called_secret(key) and not (WEAK.search(_words(key)) and _harmless(below))
            yield from _values(below, f"{place}.{key}".lstrip("."), named=named or secret)
    elif isinstance(value, (list, tuple)):
        for number, below in enumerate(value):
            yield from _values(below, f"{place}.{number}", named=named)
    elif isinstance(value, (str, bytes, int, float)) and not isinstance(value, bool):
        yield place, named and value not in ("", b""), value


def _harmless(value: Any) -> bool:
    """Whether a value is a number, a word or a list of these, which is not secret under a `WEAK` name."""
    if isinstance(value, (list, tuple)):
        return all(map(_harmless, value))
    return (
        value is None
        or isinstance(value, (int, float))
        or (isinstance(value, str) and WORD.fullmatch(value) is not None)
    )


def masked(value: Any) -> Any:
    """Plain data with secret values hidden, and with secrets inside texts hidden."""
    if isinstance(value, Mapping):
        return {key: HIDDEN if called_secret(key) and below else masked(below) for key, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(member) for member in value]
    return masked_text(value) if isinstance(value, str) else value


def masked_text(text: str) -> str:
    """Text with passwords in addresses, secret parameters, and recognisable keys and tokens hidden."""

    def parameter(match: re.Match[str]) -> str:
        before, name, value = match.groups()
        secret = value and "/" not in name and called_secret(unquote_plus(name))
        return f"{before}{name}={HIDDEN}" if secret else match[0]

    return FORMS.sub(HIDDEN, PARAMETER.sub(parameter, USERINFO.sub(f"{HIDDEN}@", text)))


def without_query(value: object) -> object:
    """A value of a user's table for an error or a remark: of an address the whole query is hidden.

    >>> without_query("https://host/a.jpg?sig=1"), without_query(3)
    ('https://host/a.jpg?(hidden)', 3)
    """
    return masked_text(QUERY.sub(rf"\1?{HIDDEN}", value)) if isinstance(value, str) else value


def sentence(text: str) -> str:
    """A message with secrets hidden; in a web address, such as an endpoint, the whole query is hidden."""
    return masked_text(WEB_QUERY.sub(rf"\1?{HIDDEN}", text))
