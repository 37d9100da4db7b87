"""Database drivers that are there only if somebody installed them."""

from __future__ import annotations

from importlib.util import find_spec

import sqlalchemy as sa

from optimizer.errors import ConfigError

INSTALL = "pip install 'overnight-prompt-optimizer[postgres]'"  # or its one package, psycopg[binary]


def require_driver(url: str) -> None:
    """Find out before anything is opened whether PostgreSQL can be spoken to.

    Raises:
        ConfigError: the driver that the URL names is not installed.
    """
    if not url.startswith("postgresql"):
        return
    parsed = sa.engine.make_url(url)
    if find_spec(driver := parsed.get_driver_name()) is None:
        raise ConfigError(
            f"storage: {parsed.render_as_string()!r} wants the package {driver!r}, which is not installed; {INSTALL} "
            "and write postgresql+psycopg://USER@HOST/NAME"
        )
