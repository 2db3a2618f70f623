"""What is private in a row goes, the same value to the same pseudonym, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from factory.tools.masking import Masker


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Write to ann.lee+x@mail.example.org now", "Write to EMAIL_1 now"),
        ("Call +47 22 34 56 78 or (030) 123 4567", "Call PHONE_1 or PHONE_2"),
        ("Call 555-123-4567", "Call PHONE_1"),
        ("Card 4111 1111 1111 1111, please", "Card CARD_1, please"),
        ("From DE89 3704 0044 0532 0130 00 to me", "From IBAN_1 to me"),
        ("SSN 078-05-1120", "SSN ID_1"),
        ("Order 123456789 is late", "Order NUMBER_1 is late"),
        ("Ping 192.168.10.3", "Ping IP_1"),
        ("Use sk-abcdefghijklmnop1234 here", "Use KEY_1 here"),
        ("my api key is q9x-77ab3c", "my api key is KEY_1"),
        ("password: hunter22!", "password: KEY_1"),
        ("Send it to 12 Old Mill Road.", "Send it to ADDRESS_1"),
        ("Nach Lange Str. oder Hauptstraße 7b", "Nach Lange Str. oder ADDRESS_1"),
        ("My name is Ilse Brandt and I wait", "My name is NAME_1 and I wait"),
        ("Book for Dr. Okafor and Emma Stone", "Book for Dr. NAME_1 and NAME_2"),
    ],
)
def test_what_is_private_is_masked(text: str, masked: str) -> None:
    assert Masker().mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "Book a table for 4 at 19:30 on 2026-12-01 for 250.50 euros",
        "Is 12/11/2026 or 3.4.2026 better than 1 2026-01-02?",
        "Convert 1,000,000 to thousands, then add 123456",
        "Which Road is longest? Street food, please. Reset the password",
        "Use version 3.11.7 and set x to 0.125",
        "Translate: The token economy is growing; mark my words, will you?",
    ],
)
def test_what_a_request_is_about_stays(text: str) -> None:
    masker = Masker()
    assert masker.mask(text) == text and not masker.counts


def test_a_value_has_one_pseudonym_in_a_row() -> None:
    masker = Masker()
    text = masker.mask("Mail ann@x.org, call +47 22345678, account 99887766; again ANN@x.org")
    assert text == "Mail EMAIL_1, call PHONE_1, account NUMBER_1; again EMAIL_1"
    arguments: dict[str, Any] = {
        "to": "ann@x.org",
        "phone": "+47 22 34 56 78",
        "account": 99887766,
        "people": 4,
        "urgent": True,
        "when": ["2026-12-01", None, 1.5],
    }
    masked = masker.mask(arguments)
    assert (masked["to"], masked["phone"]) == ("EMAIL_1", "PHONE_1")
    assert type(masked["account"]) is int and masked["account"] != 99887766
    assert masked["people"] == 4 and masked["urgent"] is True
    assert masked["when"] == ["2026-12-01", None, 1.5]
    assert masker.counts == {"EMAIL": 1, "PHONE": 1, "NUMBER": 1}
    assert Masker().mask("Mail ann@x.org") == "Mail EMAIL_1"


def test_arguments_tell_what_a_text_does_not() -> None:
    masker = Masker()
    arguments = {"guestName": "Qiu Ma", "city": "Oslo", "deep": [{"contact_name": "Bo"}]}
    masker.learn(arguments)
    assert masker.mask("A room for Qiu Ma and Bo in Oslo") == "A room for NAME_1 and NAME_2 in Oslo"
    assert masker.mask(arguments) == {
        "guestName": "NAME_1",
        "city": "Oslo",
        "deep": [{"contact_name": "NAME_2"}],
    }


def test_masking_again_changes_nothing() -> None:
    once = Masker().mask("Dr. Okafor, ann@x.org, +47 22345678, password: hunter22!")
    assert Masker().mask(once) == once
