"""Credentials that expire: a proxy gives out keys of its own and signs what it passes on with the store's.

AWS Signature Version 4, https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, with an unsigned
payload.
"""

import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

UNSIGNED = "UNSIGNED-PAYLOAD"
ALGORITHM = "AWS4-HMAC-SHA256"
NAMED = re.compile(r"Credential=([^/,\s]+)/")
EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>on purpose</Message></Error>"


@dataclass
class Keys:
    """The keys that a proxy takes, and those of the store behind it.

    Attributes:
        store_id: id of the store's own key.
        store_secret: that key.
        file: the shared credentials file from which clients read the proxy's key.
        region: that is signed.
        valid: id of the key that the proxy takes now.
        refused: number of requests with another key.
    """

    store_id: str
    store_secret: str = field(repr=False)
    file: Path
    region: str = "us-east-1"
    valid: str = ""
    refused: int = 0

    def renew(self) -> None:
        """Write a new key into the file, then take no other."""
        fresh = f"chaos{secrets.token_hex(6)}"
        text = f"[default]\naws_access_key_id = {fresh}\naws_secret_access_key = {secrets.token_hex(16)}\n"
        ready = self.file.with_suffix(".new")
        ready.touch(mode=0o600)
        ready.write_text(text)
        ready.replace(self.file)
        self.valid = fresh

    def takes(self, authorization: str) -> bool:
        """Whether a request with this header is signed with the valid key; counted if not."""
        named = NAMED.search(authorization)
        taken = named is not None and named[1] == self.valid
        self.refused += not taken
        return taken

    def signed(self, verb: str, path: str, headers: Mapping[str, str], now: datetime | None = None) -> dict[str, str]:
        """The headers of a request, signed with the store's key.

        Args:
            verb: GET, PUT, …
            path: with the query, as it is sent.
            headers: names in lower case; must hold host.
            now: the time, UTC; None for the clock's.
        """
        moment = f"{now or datetime.now(UTC):%Y%m%dT%H%M%SZ}"
        kept = {name: value for name, value in headers.items() if name not in ("authorization", "x-amz-security-token")}
        kept |= {"x-amz-date": moment, "x-amz-content-sha256": UNSIGNED}
        chosen = sorted(name for name in kept if name == "host" or name.startswith("x-amz-"))
        url = urlsplit(path)
        query = "&".join(sorted(part if "=" in part else f"{part}=" for part in url.query.split("&") if part))
        lines = [verb, url.path, query, *(f"{name}:{kept[name].strip()}" for name in chosen), "", ";".join(chosen),
                 UNSIGNED]  # fmt: skip
        scope = f"{moment[:8]}/{self.region}/s3/aws4_request"
        text = "\n".join((ALGORITHM, moment, scope, sha256("\n".join(lines).encode()).hexdigest()))
        key = f"AWS4{self.store_secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        kept["authorization"] = (
            f"{ALGORITHM} Credential={self.store_id}/{scope}, SignedHeaders={';'.join(chosen)}, Signature={signature}"
        )
        return kept
