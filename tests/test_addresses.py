"""Addresses may be written down; the passwords in them may not."""

from __future__ import annotations

import pytest

from optimizer.storage.addresses import passwords_in, without_password


@pytest.mark.parametrize(
    ("address", "bare", "secrets"),
    [
        ("postgresql+psycopg://me:s3cr%2Fet@db/n", "postgresql+psycopg://me@db/n", {"s3cr/et", "s3cr%2Fet"}),
        ("postgresql://me:pa/s@db:5432/n", "postgresql://me@db:5432/n", {"pa/s", "pa%2Fs"}),
        ("postgresql://db/n?user=me&password=xyz", "postgresql://db/n?user=me", {"xyz"}),
        ("postgresql://me@db/n", "postgresql://me@db/n", set()),
        ("postgresql://postgres:@/n?host=/run/x", "postgresql://postgres:@/n?host=/run/x", set()),
        ("http://me:token@host:5000/path", "http://host:5000/path", {"me", "token"}),
        ("https://token@host", "https://host", {"token"}),
        ("http://host:5000", "http://host:5000", set()),
        ("sqlite:////a/b.db", "sqlite:////a/b.db", set()),
        ("databricks", "databricks", set()),
        ("./mlruns", "./mlruns", set()),
    ],
)
def test_an_address_loses_its_password_and_nothing_else(address: str, bare: str, secrets: set[str]) -> None:
    """What is written down leads to the same place; what was taken out is known, as it is and as it is quoted."""
    assert without_password(address) == bare
    assert set(passwords_in(address, None)) == secrets
