"""What the personal-data report recognises, and what it leaves alone."""

from __future__ import annotations

import itertools
import time

import pytest

from optimizer.privacy.personal_data import count_findings, findings


@pytest.mark.parametrize(
    ("text", "kind", "part"),
    [
        ("write to anna.berg+shop@mail.example.org today", "e-mail address", "anna.berg+shop@mail.example.org"),
        ("call +44 20 7946 0958 please", "phone number", "+44 20 7946 0958"),
        ("call (202) 555-0143 after five", "phone number", "(202) 555-0143"),
        ("mon numéro est le 01 42 68 53 00", "phone number", "01 42 68 53 00"),
        ("pay to DE89 3704 0044 0532 0130 00 now", "bank account", "DE89 3704 0044 0532 0130 00"),
        ("card 4111 1111 1111 1111 was charged twice", "payment card", "4111 1111 1111 1111"),
        ("SSN 536-90-4399 on file", "social security number", "536-90-4399"),
        ("NHS number 943 476 5919", "health number", "NHS number 943 476 5919"),
        ("MRN: 00482913, seen today", "record number", "MRN: 00482913"),
        ("DOB 03/11/1961, presents with", "date of birth", "DOB 03/11/1961"),
        ("Patientin, geb. 14.02.1950, klagt", "date of birth", "geb. 14.02.1950"),
        ("生年月日:1980年4月2日", "date of birth", "生年月日:1980年4月2日"),
        ("referred by Dr. Okonkwo for", "name", "Dr. Okonkwo"),
        ("My name is Ada Byron and", "name", "My name is Ada Byron"),
        ("lives at 12 Harbour Road with", "street address", "12 Harbour Road"),
        ("wohnt Lindenstraße 7b seit", "street address", "Lindenstraße 7b"),
        ("login from 203.0.113.77 failed", "IP address", "203.0.113.77"),
        ("my password is hunter22", "key or password", "password is hunter22"),
    ],
)
def test_what_points_to_a_person_is_found(text: str, kind: str, part: str) -> None:
    """Each kind is named, with the stretch of text that it covers."""
    found = [(each.kind, each.text) for each in findings(text)]
    assert found == [(kind, part)]
    each = findings(text)[0]
    assert each.masked in (f"{part[0]}…{part[-1]}", "…")
    assert text[each.start : each.end] == part


@pytest.mark.parametrize(
    "text",
    [
        "The lamp flickers and the manual is no help.",
        "Order 2025550143 has not come, invoice 4111-22.",
        "Version 10.2.3 fails since 2024-05-01.",
        "We ordered 18 lamps at 24 each, 3 of 21 came.",
        "Ticket 1234567890123 says 12:30:45.",
        "http://127.0.0.1:8000 answers",
        "Müssen wir zahlen? 返金はいつですか 😀",
        "",
    ],
)
def test_what_points_to_nobody_is_left_alone(text: str) -> None:
    """Order numbers, dates, versions and amounts are no personal data by themselves."""
    assert findings(text) == []


def test_findings_do_not_overlap_and_stand_in_order() -> None:
    """Whoever masks a text can go through the findings from left to right."""
    text = "Mrs Alder (anna@example.org, +33 1 42 68 53 00) was born 1 May 1950."
    found = findings(text)
    assert [each.kind for each in found] == ["name", "e-mail address", "phone number", "date of birth"]
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def test_a_masked_finding_shows_its_ends_only() -> None:
    """A report that is passed on does not repeat what it warns of."""
    assert findings("to anna@example.org")[0].masked == "a…g"


def test_texts_are_counted_not_occurrences() -> None:
    """A row with three addresses is one row."""
    texts = ["a@example.org b@example.org", "c@example.org", "Mr Pine"]
    assert count_findings(texts) == {"e-mail address": 2, "name": 1}


def test_long_and_hostile_texts_are_read_in_a_moment() -> None:
    """No text can make the patterns run for ever."""
    started = time.monotonic()
    for piece in ("a", "1", "@", "a.", "1 ", "A1 ", "Mr ", "Aa ", ":a", "12 A"):
        findings(piece * 10_000)
    assert time.monotonic() - started < 20
