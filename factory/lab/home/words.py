"""The words of the home world: parameter kinds, their wordings and values, and the domains.

Four splits never share a tool or an open value: `seed` trains the seed model, `fresh` feeds
rounds, `dev` decides which checkpoint is kept, `home` is the benchmark. Wordings come in two
styles, `seed` and `fresh`; requests of the two measured splits use both.

`novel` and `wild` are `seed` with many words invented, nouns and wordings among them: what a model
can only get right by copying, and by reading around a word that it does not know. `wild` has more
of them, made of any pieces of words, and words put into any phrase.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import starmap
from typing import Literal, cast

Split = Literal["seed", "novel", "wild", "fresh", "home", "dev"]
ValueKind = Literal[
    "places", "companies", "languages", "rooms", "person", "date", "time", "code", "email",
    "title", "phrase", "integer", "float", "enum", "boolean", "words", "people",
]  # fmt: skip
"""What a parameter takes: the first four are word lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One kind of parameter. Example: Parameter(name="city", phrases=("in {}",), ...)."""

    name: str
    """Key in a tool's properties."""
    alias: str
    """Another key that catalogue tools may use for it."""
    label: str
    """How a tool's description mentions it."""
    description: str
    """Its description in a tool document."""
    value: ValueKind
    phrases: tuple[str, ...]
    """Seed-style wordings; `{}` stands for the value. Booleans: (true wording, false wording)."""
    fresh: tuple[str, ...]
    """Fresh-style wordings, same form."""
    choices: tuple[str, ...]
    """Enumerated values, in document order."""
    low: int
    """Smallest number; floats are tenths between low and high."""
    high: int
    """Largest number."""
    optional: bool
    """Optional by nature: never in `required`."""

    @property
    def type(self) -> str:
        """ToolDev type word: string, integer, float, boolean or array (of strings)."""
        if self.value in ("integer", "float", "boolean"):
            return self.value
        return "array" if self.value in ("words", "people") else "string"


_PARAMETERS = """\
city, location; Name of the city.; places
  in {}, in the city of {}; somewhere in {}, located in {}
origin, departure; Place to start from.; places
  from {}, starting in {}; coming from {}, departing from {}
destination, arrival; Place to go to.; places
  to {}, going to {}; headed to {}, travelling to {}
date, day; Calendar date.; date
  on {}, for {}; on the day of {}, planned for {}
time, start_time; Time of day.; time
  at {}, starting at {}; exactly at {}, beginning at {}
customer, contact_name; Full name of the customer.; person
  under the name {}, in the name of {}; booked under the name {}, listed in the name of {}
recipient, receiver; Person who receives it.; person
  to {}, addressed to {}; that goes to {}, clearly addressed to {}
owner, assignee; Person in charge.; person
  assigned to {}, owned by {}; now owned by {}, that gets assigned to {}
people, party_size; Number of people.; integer 2-40
  for {} people, for a party of {}; with {} guests, seating {} of us
minutes, duration; Length in minutes.; integer 5-240
  lasting {} minutes, for {} minutes; {} minutes long, that takes {} minutes
nights, stay_length; Number of nights.; integer 2-30
  for {} nights, staying {} nights; over {} nights, with a stay of {} nights
quantity, count; Number of units.; integer 2-500
  with a quantity of {}, in a batch of {}; with the quantity {}, sold in a batch of {}
max_price, price_limit, maximum price; Highest price in dollars.; float 5-900 optional
  under {} dollars, costing at most {} dollars; with a budget of {} dollars, not above {} dollars
amount, sum; Amount in dollars.; float 5-5000
  of {} dollars, worth {} dollars; totalling {} dollars, with a sum of {} dollars
weight, mass; Weight in kilos.; float 1-90
  weighing {} kilos, with a weight of {} kilos; that weighs {} kilos, that is {} kilos heavy
distance, radius; Distance in miles.; float 1-80
  within {} miles, no further than {} miles; inside a radius of {} miles, at most {} miles away
temperature, degrees; Temperature in degrees.; integer 10-99
  at {} degrees, set to {} degrees; holding {} degrees, reaching {} degrees
rating, min_stars; Lowest rating in stars.; float 1-5 optional
  rated at least {} stars, with {} stars or more; that has {} stars or more, with at least {} stars
year, model_year; Four digit year.; integer 1950-2025
  from the year {}, of the year {}; going back to the year {}, dating from the year {}
percent, rate; Percentage.; float 1-60
  at {} percent, with a rate of {} percent; using {} percent, with {} percent in all
bedrooms, rooms; Number of bedrooms.; integer 1-9
  with {} bedrooms, having {} bedrooms; that has {} bedrooms, offering {} bedrooms
pages, page_count; Number of pages.; integer 2-300
  of {} pages, with {} pages; {} pages long, filling {} pages
floor, level; Floor number.; integer 1-60
  on floor {}, for floor {}; up on floor {}, serving floor {}
limit, max_results; Largest number of results.; integer 2-100 optional
  showing {} results, limited to {} results; with no more than {} results, listing {} results
color, shade; Color of the item.; enum red blue green black white optional
  in {} color, colored {}; with a {} color, nicely colored {}
size, fit; Size of the item.; enum small medium large
  in size {}, of {} size; that has the size {}, being {} in size
cabin, travel_class; Travel class.; enum economy business first
  in {} class, with a {} class seat; travelling {} class, using the {} class fare
priority, urgency; How urgent it is.; enum low normal high urgent optional
  with {} priority, marked as {} priority; treated as {} priority, that has {} priority
format, file_type; File format.; enum pdf csv json html
  as {}, in {} format; saved as {}, with the {} format
frequency, interval; How often it repeats.; enum hourly daily weekly monthly
  repeating {}, on a {} basis; always repeating {}, done on a {} basis
genre, style; Genre.; enum jazz rock folk drama comedy
  in the {} genre, of the {} kind; with a {} genre, being of the {} kind
language, tongue; Language name.; languages
  written in {}, in the {} language; spoken in the language {}, fully written in {}
order_id, reference, order number; Reference code.; code
  with order number {}, under reference {}; carrying the order number {}, that has the reference {}
account, account_id; Account code.; code
  from account {}, on account {}; using account {}, charged to account {}
email, mail_address; Email address.; email
  with the email {}, using the email {}; that has the email {}, along with the email {}
title, heading; Title text.; title
  titled "{}", called "{}"; with the title "{}", now called "{}"
topic, subject; What it is about.; phrase
  about {}, on the topic of {}; all about {}, with the topic {}
company, organization; Company name.; companies
  from the company {}, made by {}; sold by the company {}, which is made by {}
room, zone; Room of the house.; rooms
  in the {}, for the {}; over in the {}, meant for the {}
tags, labels; List of tags.; words optional
  tagged {}, with the tags {}; that carry the tags {}, already tagged {}
ingredients, contents; List of ingredients.; words
  containing {}, using {}; mostly containing {}, made by using {}
guests, attendees; Names of the guests.; people
  inviting {}, together with {}; along together with {}, also inviting {}
breakfast, with_breakfast; Whether breakfast is included.; boolean optional
  with breakfast, without breakfast; but with breakfast, but without breakfast
insurance, insured; Whether insurance is included.; boolean optional
  with insurance, without insurance; but with insurance, but without insurance
gift_wrap, wrapped; Whether it is gift wrapped.; boolean optional
  with gift wrap, without gift wrap; but with gift wrap, but without gift wrap
reminder, remind_me; Whether a reminder is sent.; boolean optional
  with a reminder, without a reminder; but with a reminder, but without a reminder
parking, has_parking; Whether parking is needed.; boolean optional
  with parking, without parking; but with parking, but without parking
subtitles, captions; Whether subtitles are shown.; boolean optional
  with subtitles, without subtitles; but with subtitles, but without subtitles
"""
"""A parameter's name, alias and, where it is not the name, label; its description; its values, with
a number's span, an enum's choices and `optional`; seed-style wordings; fresh-style wordings."""


def _records(text: str) -> list[list[str]]:
    """Fields of each record: a line and the indented ones after it, parted at `; `."""
    return [record.split("; ") for record in text.strip().replace("\n  ", "; ").split("\n")]


def _to_parameter(names: str, description: str, values: str, phrases: str, fresh: str) -> Parameter:
    name, alias, *label = names.split(", ")
    value, *limits = values.split()
    optional = limits[-1:] == ["optional"]
    if optional:
        limits.pop()
    low, high = limits[0].split("-") if value in ("integer", "float") else (0, 0)
    return Parameter(
        name=name,
        alias=alias,
        label=label[0] if label else name.replace("_", " "),
        description=description,
        value=cast(ValueKind, value),
        phrases=tuple(phrases.split(", ")),
        fresh=tuple(fresh.split(", ")),
        choices=tuple(limits) if value == "enum" else (),
        low=int(low),
        high=int(high),
        optional=optional,
    )


PARAMETERS = {found.name: found for found in starmap(_to_parameter, _records(_PARAMETERS))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A field of life. Example: Domain(name="dining", verbs=("book",), nouns=("table",), ...)."""

    name: str
    verbs: tuple[str, ...]
    """What one does there."""
    parameters: tuple[str, ...]
    """Names of the parameter kinds its tools take."""
    nouns: tuple[str, ...]
    """Nouns whose pairs with the verbs are shared out among the splits."""
    fresh_nouns: tuple[str, ...]
    """Nouns of split `fresh` alone, with the first verb."""
    held_nouns: tuple[str, ...]
    """Nouns of the measured splits alone, with the first verb: the last of them is `dev`'s."""


_DOMAINS = """\
dining; book reserve find cancel move; picnic spot, bar stool; rooftop table, tea party, supper
  table, booth, brunch, dinner, buffet, lunch, tasting, banquet, terrace seat, private room
  people city date time customer max_price parking
stays; book find reserve extend compare; treehouse, houseboat; chalet, motel, farm stay
  hotel, hostel, cabin, villa, suite, apartment, campsite, guest house, lodge, single room
  city date nights people rating breakfast parking max_price
travel; book find change track compare; tram, helicopter; coach, gondola, monorail
  flight, train, ferry, bus, cruise, taxi, shuttle, night train, ticket, transfer
  origin destination date time cabin people insurance
rental; rent find return inspect insure; kayak, jeep; canoe, tractor, minibus
  car, van, bike, boat, truck, scooter, trailer, tent, motorcycle, camper
  city date customer year company insurance distance
calendar; schedule create move cancel list; seminar, standup; webinar, retreat, briefing
  meeting, event, call, interview, workshop, lesson, review, appointment, training, demo
  date time minutes title guests frequency reminder
mail; send draft forward archive print; telegram, apology; bulletin, reminder note, thank you card
  letter, message, email, invitation, notice, reply, postcard, newsletter, memo, greeting
  recipient topic title email priority language
shopping; order buy find return reserve; umbrella, kettle; sofa, blender, raincoat
  jacket, lamp, chair, phone, shirt, desk, camera, watch, backpack, carpet
  size color quantity max_price company gift_wrap order_id
delivery; ship track send collect insure; barrel, wardrobe; basket, toolbox, fragile box
  parcel, package, box, crate, pallet, envelope, container, bundle, suitcase, gift
  origin destination weight date order_id insurance recipient
bank; transfer pay check open freeze; dividend, pension; donation, tax bill, overdraft
  deposit, loan, bill, salary, invoice, fee, refund, fund, mortgage, credit card
  amount account date customer percent frequency
kitchen; cook bake prepare plan find; risotto, smoothie; casserole, dumpling, pancake
  soup, salad, cake, pizza, stew, bread, curry, pasta, pie, omelette
  ingredients people minutes temperature rating
home; set start stop check adjust; dishwasher, humidifier; sprinkler, fireplace, air filter
  heater, oven, light, fan, thermostat, alarm, radio, vacuum, curtain, washer
  room time temperature minutes percent frequency
media; play find rent download rate; musical, trailer clip; opera, sitcom, short film
  movie, song, album, podcast, series, concert, show, playlist, documentary, audiobook
  title genre year language subtitles limit rating
office; create print export share translate; brochure, transcript; handbook, budget sheet, proposal
  report, contract, memo file, chart, table sheet, presentation, form, manual, summary, plan
  topic pages format language title owner
support; open close assign update escalate; outage, dispute; defect, grievance, audit
  ticket case, bug, complaint, request, incident, claim, task, issue, question, warning
  owner priority topic order_id tags date email
housing; find list rent inspect compare; bungalow, penthouse; mansion, townhouse, basement
  house, flat, studio, office, garage, loft, duplex, cottage, warehouse, shop
  city bedrooms max_price distance floor parking year
health; book find cancel record renew; surgery, xray; dental visit, physical, allergy test
  checkup, prescription, vaccine, therapy, scan, massage, blood test, eye test, diet, workout
  customer date time city minutes reminder frequency
study; find enroll grade review plan; thesis, tutorial; homework, dictionary, spelling test
  course, exam, book, essay, class, lecture, quiz, paper, degree, project
  topic language pages year owner limit date
sports; book watch join organize find; regatta, sauna; skate park, relay, derby
  match, race, court, gym, team, league, yoga class, pool lane, marathon, tournament
  city date time people distance guests minutes
"""
"""A domain's name; its verbs; its fresh nouns; its held nouns; its nouns; its parameters."""

DOMAINS = tuple(
    Domain(
        name=name,
        verbs=tuple(verbs.split()),
        parameters=tuple(parameters.split()),
        nouns=tuple(nouns.split(", ")),
        fresh_nouns=tuple(fresh.split(", ")),
        held_nouns=tuple(held.split(", ")),
    )
    for name, verbs, fresh, held, nouns, parameters in _records(_DOMAINS)
)

MATCHING_VERBS = frozenset({"find", "list", "compare", "check", "watch", "track"})
"""Verbs whose tools return matches; the others return a confirmation."""
FRAMES: dict[str, tuple[str, ...]] = {
    "seed": ("{Act}.", "Please {act}.", "Can you {act}?", "I want to {act}.", "I need to {act}.",
             "Could you {act}?"),
    "fresh": ("I would like to {act}.", "It is time to {act}.", "Help me {act}, thanks.",
              "Hello, I hope to {act}.", "We have to {act} soon.", "Is it possible to {act}?"),
}  # fmt: skip
"""Sentence frames by style; `{act}` is verb, noun and parameter phrases."""
NEXT_SAME: dict[str, tuple[str, ...]] = {
    "seed": (" and ", " and another one ", ", and also one "),
    "fresh": (" and likewise ", ", and once more ", " and one more "),
}
"""What joins the second call of the same tool."""
NEXT_OTHER: dict[str, tuple[str, ...]] = {
    "seed": (" and ", " and then ", ", and also "),
    "fresh": (", and after that ", " and, when done, ", ", and later on "),
}
"""What joins a call of another tool."""
UNITS = frozenset(
    "people party minutes nights quantity dollars kilos weight miles degrees stars year percent "
    "bedrooms pages floor results color colored size class priority format basis repeating genre "
    "kind language written order number reference account email topic about company tags tagged "
    "containing inviting".split()
)
"""Words of a phrase that tell its parameter; the others around them are only habit."""
FILLERS = tuple(
    "just around near by being which that it some also there over more than up kept given while "
    "having taken as with about only well right when is so far all onto within per plus like "
    "us me we our your next then once please kindly maybe today still now very quite".split()
)
"""Words that invented wordings are padded with."""
NEUTRAL = tuple(
    "just there some also now it that which so all well right when still quite very only maybe "
    "please again being kept given taken having then really mainly simply gladly ideally perhaps "
    "preferably if possible say fine good nice new old same best first last great kind sort".split()
)
"""Words that tell nothing, put in front of phrases."""
WORD_LISTS: dict[str, tuple[str, str, str]] = {
    "places": (
        "Lisbon Oslo Berlin Madrid Paris Vienna Prague Dublin Rome Athens Warsaw Munich Milan "
        "Boston Denver Dallas Chicago Seattle Toronto Tokyo Osaka Seoul Delhi Mumbai Cairo Lima "
        "Quito Sydney Perth Lyon Porto Bergen Geneva Zurich Naples Austin Miami Houston Montreal "
        "Havana San_Diego New_York Cape_Town Hong_Kong Los_Angeles",
        "Helsinki Turin Hamburg Bristol Leeds Krakow Seville Ghent Phoenix Detroit Ottawa Kyoto "
        "Busan Jakarta Nairobi Bogota Auckland Bilbao Salzburg Tampa Santa_Fe Buenos_Aires "
        "San_Jose",
        "Stockholm Valencia Florence Antwerp Glasgow Gdansk Portland Memphis Calgary Nagoya "
        "Manila Hanoi Accra Santiago Brisbane Malmo Bordeaux Leipzig Omaha Tucson Las_Vegas "
        "San_Juan Kuala_Lumpur",
    ),
    "first_names": (
        "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar Paula "
        "Robert Sara Tom Victor",
        "Alice Bruno Clara Diego Elena Felix Hanna Ivan Julia Kevin Laura Martin",
        "Amelia Boris Cecilia Dylan Esther Gavin Isabel Jonas Lydia Marcus Noelle Simon",
    ),
    "last_names": (
        "Smith Miller Garcia Brown Jones Wilson Moore Taylor Lopez Clark Lewis Walker Young King "
        "Wright Scott Green Baker Adams Nelson",
        "Turner Collins Parker Evans Morris Reed Cook Bell Murphy Romero Foster Gray",
        "Hughes Price Fuller Barnes Fisher Henderson Coleman Jenkins Perry Powell Sullivan Ortega",
    ),
    "companies": (
        "Acme Globex Initech Umbra Vertex Nimbus Orion Zenith Apex Lumen Polaris Quanta Solis "
        "Titan Vega Atlas",
        "Corvus Delphi Equinox Fulcrum Halcyon Ionix Kestrel Meridian",
        "Northwind Obsidian Paragon Redwood Sterling Tundra Wavecrest Yonder",
    ),
    "languages": (
        "English French German Spanish Italian Polish Greek Turkish Arabic Hindi Dutch Danish",
        "Swedish Finnish Czech Korean Latvian Hungarian",
        "Norwegian Portuguese Japanese Romanian Swahili Icelandic",
    ),
    "rooms": (
        "kitchen bedroom bathroom hallway garage office attic cellar lounge nursery",
        "library pantry studio workshop balcony",
        "basement veranda laundry playroom greenhouse",
    ),
    "words": (
        "garlic onion tomato basil pepper rice cheese butter lemon honey ginger spinach sales "
        "budget garden music history energy travel safety climate market design winter summer "
        "river ocean forest family school annual final weekly draft modern simple secret golden "
        "silver early local global team product security network finance research planning "
        "support spring light stone paper glass cotton mint olive apple carrot bean",
        "mushroom potato celery walnut coconut publishing autumn desert island robot culture "
        "hiring payroll logistics quality vintage rural urban digital regional inventory strategy "
        "harvest bridge tunnel signal pottery cycling",
        "zucchini parsley almond pumpkin cinnamon volcano glacier orchard satellite textile "
        "hygiene staffing pricing branding nutrition migration heritage quarterly bilingual "
        "coastal medieval hybrid lunar onboarding compliance chemistry fishing sailing",
    ),
}
"""Words of the splits `seed`, `fresh`, and of the measured two; a blank within one is `_`."""


@cache
def listed(name: str, split: Split) -> tuple[str, ...]:
    """A split's words of WORD_LISTS; every third of the held ones is `dev`'s."""
    seed, fresh, held = (text.split() for text in WORD_LISTS[name])
    chosen = {
        "fresh": fresh,
        "home": [word for n, word in enumerate(held) if n % 3 != 1],
        "dev": held[1::3],
    }.get(split, seed)
    return tuple(word.replace("_", " ") for word in chosen)
