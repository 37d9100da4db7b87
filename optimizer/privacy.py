"""`privacy: local`: nothing may leave this machine. Decides which addresses are here, and refuses all others.

Reads the environment, too: a proxy could carry off what is sent to an address on this machine.
What a user's own program or metric does is beyond this: their code may call whatever it likes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from optimizer.config import LM, Config
from optimizer.errors import ConfigError

IN_PROCESS = ("embedded", "gguf:")


class Place(NamedTuple):
    """Where a model is: in this process (no address), or at an address."""

    role: str
    model: str
    address: str | None
    is_here: bool


def places(config: Config) -> list[Place]:
    """Return where each model of a study is, task model first; roles that share a model are listed once each."""
    judge = [("judge", config.judge)] if config.metric.asks_judge else []
    return [_place(role, lm) for role, lm in (("task", config.lm.task), ("proposer", config.proposer), *judge)]


def require_local(config: Config) -> None:
    """Refuse a study that may send anything elsewhere, if it asks for that.

    Raises:
        ConfigError: a model, the tracking server or the database is not here; or a proxy stands in between.
    """
    if config.privacy != "local":
        return
    for path, what in _elsewhere(config):
        raise ConfigError(
            f"privacy: local, but {path} is {what}; use `embedded`, `gguf:PATH`, or an api_base on this machine such "
            "as http://127.0.0.1:8000/v1, or remove `privacy: local`"
        )
    addresses = [place.address for place in places(config) if place.address]
    for address in [*addresses, *([config.tracking.uri] if config.tracking.uri else [])]:
        _refuse_proxy(address)


def is_here(url: str) -> bool:
    """Tell whether an address is this machine's own: `localhost` or a loopback number; no name is looked up."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _place(role: str, lm: LM) -> Place:
    if lm.model.startswith(IN_PROCESS):
        return Place(role, lm.model, None, True)
    return Place(role, lm.model, lm.api_base, lm.api_base is not None and is_here(lm.api_base))


def _elsewhere(config: Config) -> Iterator[tuple[str, str]]:
    for place in places(config):
        if not place.is_here:
            at = f"at {_host(place.address)}" if place.address else "at its provider"
            yield f"lm.{place.role}", f"{place.model!r} {at}"
    uri = config.tracking.uri or ""
    if config.tracking.enabled and "://" in uri and not uri.startswith(("sqlite:", "file:")) and not is_here(uri):
        yield "tracking.uri", f"at {_host(uri)}"
    if config.tracking.enabled and uri.startswith("databricks"):
        yield "tracking.uri", uri
    storage = config.storage or ""
    if storage and not storage.startswith("sqlite") and urlsplit(storage).hostname and not is_here(storage):
        yield "storage", f"at {_host(storage)}"


def _host(url: str | None) -> str:
    return repr(urlsplit(url or "").hostname or "an address that cannot be read")


def _refuse_proxy(address: str) -> None:
    parts = urlsplit(address)
    proxies = getproxies_environment()
    names = [f"{name}_proxy" for name in (parts.scheme, "all") if name in proxies]
    if names and not proxy_bypass(parts.hostname or ""):
        raise ConfigError(
            f"privacy: local, but the environment sends {parts.hostname} through a proxy ({', '.join(names)}); "
            f"run: export NO_PROXY={parts.hostname}"
        )
