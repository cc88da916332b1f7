"""The S3 client of this process, with its timeouts; `io.retries` tries a call again.

Credentials come from boto3's usual chain (environment, profile, instance role) and the endpoint from
`AWS_ENDPOINT_URL`; neither is ever stored.
"""

import os
from functools import cache
from typing import Any

from camrobust.io.retries import CONNECT_TIMEOUT_S, CONNECTIONS, READ_TIMEOUT_S, polars_retries


def client(*, anonymous: bool = False) -> Any:
    """The S3 client of this process; it tries a call once, with a time limit.

    Args:
        anonymous: use no credentials.
    """
    return _client(os.getpid(), anonymous)


def forget_clients() -> None:
    """Drop the clients of this process, so that the next call reads the credentials again from where they are from."""
    _client.cache_clear()


@cache
def _client(process: int, anonymous: bool) -> Any:
    """The client of one process: a client must not be carried over a fork."""
    del process
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config

    if _endpoint():
        for kind in ("AWS_REQUEST_CHECKSUM_CALCULATION", "AWS_RESPONSE_CHECKSUM_VALIDATION"):
            os.environ.setdefault(kind, "when_required")
    return boto3.Session().client(
        "s3",
        region_name=_region(),
        config=Config(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            max_pool_connections=CONNECTIONS,
            signature_version=UNSIGNED if anonymous else None,
        ),
    )


def _region() -> str:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def polars_options(uri: str) -> dict[str, Any] | None:
    """Storage options with which polars reads the same store, None for a folder; never to be stored or logged."""
    if not uri.startswith("s3://"):
        return None
    import boto3

    credentials = boto3.Session().get_credentials()
    options: dict[str, Any] = {"aws_region": _region(), **polars_retries()}
    endpoint = _endpoint()
    if endpoint:
        options |= {"aws_endpoint_url": endpoint, "aws_allow_http": str(endpoint.startswith("http://")).lower()}
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        options |= {"aws_access_key_id": frozen.access_key, "aws_secret_access_key": frozen.secret_key}
        if frozen.token:
            options["aws_session_token"] = frozen.token
    return options
