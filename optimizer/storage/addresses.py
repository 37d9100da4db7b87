"""Addresses of databases and servers as they may be written down: without the passwords in them.

A password that stands in the configuration is used by the run and kept nowhere. What reads a study later wants it from
where the database's own client looks: PGPASSWORD or ~/.pgpass, for MLflow MLFLOW_TRACKING_USERNAME and _PASSWORD.
"""

from __future__ import annotations

from typing import cast
from urllib.parse import quote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from optimizer.candidate import JsonValue
from optimizer.config.keys import Config

SECRET_PARAMETERS = ("password", "sslpassword", "passwd", "pwd", "token")


def without_password(address: str) -> str:
    """Return an address without its password; one of a web server also without the user, who may be a token."""
    url = _parsed(address)
    if url is None or not (_in_query(url) or url.password or (_is_web(url) and url.username)):
        return address
    kept = url.difference_update_query(_in_query(url))
    user = None if _is_web(url) else kept.username
    bare = URL.create(
        kept.drivername, username=user, host=kept.host, port=kept.port, database=kept.database, query=kept.query
    )
    return bare.render_as_string(hide_password=False)


def passwords_in(*addresses: str | None) -> tuple[str, ...]:
    """Return every password of some addresses, as it is and as it stands in a URL."""
    found: list[str] = []
    for url in (_parsed(address) for address in addresses if address):
        if url is not None:
            found += [str(url.password or ""), *(str(url.query[name]) for name in _in_query(url))]
            found += [url.username] if _is_web(url) and url.username else []
    return tuple({form for secret in found if secret for form in (secret, quote(secret, safe=""), quote(secret))})


def written_settings(config: Config) -> dict[str, JsonValue]:
    """Return a configuration as it is kept in the study's database and shown in MLflow."""
    settings = cast("dict[str, JsonValue]", config.model_dump(mode="json"))
    if config.storage:
        settings["storage"] = without_password(config.storage)
    if config.tracking.uri:
        settings["tracking"] = {
            **config.tracking.model_dump(mode="json"),
            "uri": without_password(config.tracking.uri),
        }
    return settings


def _parsed(address: str) -> URL | None:
    try:
        return make_url(address)
    except (ArgumentError, ValueError):  # a folder, a profile's name
        return None


def _is_web(url: URL) -> bool:
    return url.drivername in ("http", "https")


def _in_query(url: URL) -> list[str]:
    return [name for name in url.query if name.lower() in SECRET_PARAMETERS]
