"""What is private in a row goes, the same value to the same pseudonym, and nothing else."""

from __future__ import annotations

import time
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
        ("Authorization: Bearer abcdefghijklmnop", "Authorization: Bearer KEY_1"),
        ("-H 'Authorization: Basic Ym9iOnB3'", "-H 'Authorization: Basic KEY_1'"),
        ("password=$ecret1 or password: X_9lives", "password=KEY_1 or password: KEY_2"),
        ("authorization: 12ab34cd", "authorization: KEY_1"),
        ("password: correcthorse", "password: KEY_1"),
        ("Log in, password: correcthorse and wait", "Log in, password: KEY_1 and wait"),
        ("my password is swordfish", "my password is KEY_1"),
        ("My password is swordfish. Log in", "My password is KEY_1. Log in"),
        ("api_key='12ab'", "api_key='KEY_1'"),
        ("AWS_SECRET_ACCESS_KEY=wJalr/K+x", "AWS_SECRET_ACCESS_KEY=KEY_1"),
        ("DB_PASSWORD=hunter dbPassword=hunter", "DB_PASSWORD=KEY_1 dbPassword=KEY_1"),
        ("GET https://x/y?access_token=abcdef&n=2", "GET https://x/y?access_token=KEY_1&n=2"),
        ("Open https://bob:s3cr3tpw@host/", "Open https://bob:KEY_1@host/"),
        ("Use postgres://bob:pw@db/x", "Use postgres://bob:KEY_1@db/x"),
        ("Use postgres://bob:pw@db.example.org/x", "Use postgres://bob:KEY_1@db.example.org/x"),
        ('Post {"password": "swordfish", "n": 1}', 'Post {"password": "KEY_1", "n": 1}'),
        (r'"{\"password\": \"swordfish\"}"', r'"{\"password\": \"KEY_1\"}"'),
        ("Ping 2001:db8::1: it is down", "Ping IP_1: it is down"),
        ("Ping fe80::1ff:fe23:4567:890a.", "Ping IP_1."),
        ("At [2001:db8:0:0:0:0:0:7]:443, 2001:db8::/32", "At [IP_1]:443, IP_2/32"),
        ("Send it to 12 Old Mill Road.", "Send it to ADDRESS_1"),
        ("Nach Lange Str. oder Hauptstraße 7b", "Nach Lange Str. oder ADDRESS_1"),
        ("My name is Ilse Brandt and I wait", "My name is NAME_1 and I wait"),
        ("Book for Dr. Okafor and Emma Stone", "Book for Dr. NAME_1 and NAME_2"),
        ("Dear Mark, ask Grace Lund", "Dear NAME_1, ask NAME_2"),
        ("Alte-Hauptstra\u00dfe 4 and E-Marktgasse 12b", "ADDRESS_1 and ADDRESS_2"),
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
        "Mark the task as done in Victoria, by the grace of Frank",
        "Since 1700000000 or 1700000000123?",
        "Amount 1234567 dollars, then $2345678, 12 345 678 kr and EUR 3456789",
        "The password is wrong, and my password is expired. Is the password is required a fault?",
        "Set a password: it must be long. Password: eight characters at least",
        "Is my password is not working a known bug? The wifi password is being changed",
        'Make {"password": "string", "token": null} of password=<password>, token=$TOKEN',
        "Authorization: Ensure you have it. Send Authorization: Bearer <token> or Bearer token",
        "Use max_tokens=2048 and token_count: 1234, tokens = 77",
        "The bearer of bad news is a certificate bearer responsible for it",
        "What does std::vector or a::b mean at 12:30:45, ratio 3:2:1, Acts 2:1-4?",
        "See https://example.org:8080/a@b and the secret: patience. A secret ingredient",
        "Keep it secret; pass the salt, pin the note, passport: Norway, key: C minor",
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
    texts = [
        "Dr. Okafor, ann@x.org, +47 22345678, password: hunter22!",
        "My password is swordfish. Authorization: Bearer abcdefghijklmnop; pin='12ab'",
        "mysql://bob:pw@db.example.org/x?token=abcdef&n=1, 2001:db8::1",
    ]
    for text in texts:
        once = Masker().mask(text)
        assert once != text and Masker().mask(once) == once


def test_all_texts_of_a_document_are_masked() -> None:
    """Those under keys of nobody's standard stayed, and patterns."""
    alphabet = "[ABCDEFGHIJKLMNOPQRSTUVWXYZ234567]{16}"
    document: dict[str, Any] = {
        "name": "mail",
        "x-note": "ask ann@example.org",
        "x-owners": ["ann@example.org", {"x-at": "2001:db8::1"}],
        "parameters": {
            "type": "object",
            "properties": {
                "pattern": {"type": "string", "pattern": rf"^(ann@example\.org|{alphabet})$"},
                "email": {"type": ["string", "null"], "format": "email"},
            },
            "required": ["email"],
            "dependentRequired": {"email": ["pattern"]},
        },
    }
    masker = Masker()
    made = masker.mask_document(document)
    assert made["x-note"] == "ask EMAIL_1"
    assert made["x-owners"] == ["EMAIL_1", {"x-at": "IP_1"}]
    schema = made["parameters"]
    pattern = schema["properties"]["pattern"]["pattern"]
    assert pattern == f"^(EMAIL_2|{alphabet})$"
    schema["properties"]["pattern"]["pattern"] = "x"
    document["parameters"]["properties"]["pattern"]["pattern"] = "x"
    assert schema == document["parameters"] and made["name"] == "mail"


@pytest.mark.parametrize(
    ("text", "arguments", "masked", "made"),
    [
        (
            "Book a table for 1, mail bob1@example.org",
            {"people": 1},
            "Book a table for 1, mail EMAIL_1",
            {"people": 1},
        ),
        ("To 40 Elm Street, 40 of them", {"count": 40}, "To ADDRESS_1, 40 of them", {"count": 40}),
        (
            "Key sk-abcdefghijklmnop1234567",
            {"n": 1234, "at": 1700000000},
            "Key KEY_1",
            {"n": 1234, "at": 1700000000},
        ),
        ("Move it", {"by": -12345678}, "Move it", {"by": -10000001}),
        (
            "Pay 1234567 dollars",
            {"sum": 1234567, "price": 7654321},
            "Pay 1234567 dollars",
            {"sum": 1234567, "price": 7654321},
        ),
        ("Call +47 22345678", {"number": 4722345678}, "Call PHONE_1", {"number": 1000000001}),
    ],
)
def test_only_a_number_that_is_private_is_another(
    text: str, arguments: Any, masked: str, made: Any
) -> None:
    masker = Masker()
    masker.learn(arguments)
    assert masker.mask(text) == masked and masker.mask(arguments) == made


@pytest.mark.parametrize(
    ("text", "arguments", "masked", "made"),
    [
        ("For zora  quill", {"guest_name": "Zora Quill"}, "For NAME_1", {"guest_name": "NAME_1"}),
        ("I will ask Will", {"first_name": "Will"}, "I will ask NAME_1", {"first_name": "NAME_1"}),
        (
            "Call 555-1234 4 times",
            {"phone": "5551234"},
            "Call PHONE_1 4 times",
            {"phone": "PHONE_1"},
        ),
        ("Or 5551234", {"phone": "+555-1234"}, "Or PHONE_1", {"phone": "PHONE_1"}),
        ("code 4821", {"password": 4821}, "code KEY_1", {"password": 1001}),
        ("It is (hunter!)!", {"password": "hunter!"}, "It is (KEY_1)!", {"password": "KEY_1"}),
        ("Go", {"seats": {"ann@x.org": 2}}, "Go", {"seats": {"EMAIL_1": 2}}),
        (
            "To rose cottage 3",
            {"address": "Rose Cottage 3"},
            "To ADDRESS_1",
            {"address": "ADDRESS_1"},
        ),
        (
            "Ask Bo and Qiu",
            {"guest_name": ["Bo", "Qiu"]},
            "Ask NAME_1 and NAME_2",
            {"guest_name": ["NAME_1", "NAME_2"]},
        ),
    ],
)
def test_a_known_value_goes_however_it_is_written(
    text: str, arguments: Any, masked: str, made: Any
) -> None:
    masker = Masker()
    masker.learn(arguments)
    assert masker.mask(text) == masked and masker.mask(arguments) == made


def test_how_something_is_sent_is_no_address() -> None:
    masker = Masker()
    arguments = {"shipping": "express", "delivery": "at noon", "home": "page", "billing": "monthly"}
    masker.learn(arguments)
    assert masker.mask(arguments) == arguments and not masker.counts


_LABELS = (
    *("passwords", "labels", "quoted", "tokens=", "hosts", "schemes", "words:", "numbers:"),
    "headers:",
)


@pytest.mark.parametrize(
    "value",
    [
        "a" * 200_000,
        "ab1" * 70_000,
        "eyJaaaaaaaa" * 20_000,
        "A-" * 50_000,
        "-----BEGIN KEY-----" * 10_000,
        "a@b." * 25_000,
        "password: aaaa" * 15_000,
        "password:" * 20_000 + " x",
        "password:'" * 20_000,
        "token=" * 30_000,
        "http://a:b" * 20_000,
        "://" * 60_000,
        "a:" * 100_000,
        "1:" * 100_000,
        "Authorization: " * 15_000,
        [f"My name is A{n} Bo, u{n}@x.org" for n in range(2_000)],
    ],
    ids=["letters", "mixed", "tokens", "hyphens", "headers", "addresses", *_LABELS, "values"],
)
def test_time_grows_with_the_length(value: Any) -> None:
    started = time.process_time()
    Masker().mask(value)
    assert time.process_time() - started < 5
