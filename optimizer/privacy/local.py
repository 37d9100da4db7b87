"""`privacy: local`: nothing may leave this machine. Decides which addresses are here, and refuses all others.

Reads the environment, too: a proxy could carry off what is sent to an address on this machine.
What a user's own program or metric does is beyond this: their code may call whatever it likes.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from optimizer.config.keys import LM, Config
from optimizer.errors import ConfigError

IN_PROCESS = ("embedded", "gguf:")
CURES = {
    "lm": "use `embedded`, `gguf:PATH`, or an api_base on this machine such as http://127.0.0.1:8000/v1",
    "tracking.uri": "leave it out (MLflow's store is then a file in the runs folder), or name a server on this machine "
    "such as http://127.0.0.1:5000",
    "storage": "leave it out (the study is then a file in its folder), or name a server on this machine such as "
    "postgresql+psycopg://127.0.0.1/NAME",
    "notify.webhook_env": "leave it out, or let the variable hold an address on this machine such as "
    "http://127.0.0.1:9000",
}


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


def unused_notes(config: Config) -> list[str]:
    """Name a judge that is elsewhere and that nothing asks: it is let pass, and refused once a metric asks it."""
    judge = config.lm.judge
    if config.privacy != "local" or judge is None or config.metric.asks_judge:
        return []
    place = _place("judge", judge)
    if place.is_here:
        return []
    where = f"at {_host(place.address)}" if place.address else "at its provider"
    return [
        f"lm.judge: {place.model!r} {where} is not on this machine; the metric does not ask it, so nothing is sent; "
        "with `metric: judge` it would be refused"
    ]


def require_local(config: Config) -> None:
    """Refuse a study that may send anything elsewhere, if it asks for that.

    Raises:
        ConfigError: a model, the tracking server, the database or the webhook is not here; or a proxy stands between.
    """
    if config.privacy != "local":
        return
    require_local_models(config)
    _refuse(_services_elsewhere(config))
    uris = [config.tracking.uri, _webhook(config)]
    for address in filter(None, uris):
        _refuse_proxy(address)


def require_local_models(config: Config) -> None:
    """Refuse models that are elsewhere, if the study asks for that: all that a command sends rows to.

    Raises:
        ConfigError: a model is not here, or a proxy stands in between.
    """
    if config.privacy != "local":
        return
    _refuse(_models_elsewhere(config))
    for place in places(config):
        if place.address:
            _refuse_proxy(place.address)


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


def _refuse(found: Iterable[tuple[str, str]]) -> None:
    for path, what in found:
        cure = CURES["lm" if path.startswith("lm.") else path]
        raise ConfigError(f"privacy: local, but {path} is {what}; {cure}, or remove `privacy: local`")


def _models_elsewhere(config: Config) -> Iterator[tuple[str, str]]:
    for place in places(config):
        if not place.is_here:
            at = f"at {_host(place.address)}" if place.address else "at its provider"
            yield f"lm.{place.role}", f"{place.model!r} {at}"


def _services_elsewhere(config: Config) -> Iterator[tuple[str, str]]:
    uri = config.tracking.uri or ""
    if config.tracking.enabled and "://" in uri and not uri.startswith(("sqlite:", "file:")) and not is_here(uri):
        yield "tracking.uri", f"at {_host(uri)}"
    if config.tracking.enabled and uri.startswith("databricks"):
        yield "tracking.uri", uri
    for host in _database_hosts(config.storage or ""):
        if not is_here(f"//{host}"):
            yield "storage", f"at {host!r}"
    if (url := _webhook(config)) and not is_here(url):
        yield "notify.webhook_env", f"an address at {_host(url)}"


def _database_hosts(storage: str) -> list[str]:
    """Every host that a database may be reached at: of the address, its `?host=`, or else the environment's."""
    if not storage or storage.startswith("sqlite"):
        return []
    parts = urlsplit(storage)
    options = parse_qs(parts.query)
    named = [parts.hostname or "", *options.get("host", []), *options.get("hostaddr", [])]
    named = named if any(named) else [os.environ.get("PGHOST", ""), os.environ.get("PGHOSTADDR", "")]
    hosts = [host for each in named for host in each.split(",")]
    return [host for host in hosts if host and not host.startswith("/")]  # a path is a socket on this machine


def _webhook(config: Config) -> str | None:
    """The address that a message would go to; one that is not set is refused where it is needed."""
    return os.environ.get(config.notify.webhook_env) if config.notify.webhook_env else None


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
