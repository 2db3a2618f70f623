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
from typing import Literal

Split = Literal["seed", "novel", "wild", "fresh", "home", "dev"]
ValueKind = Literal[
    "place", "person", "date", "time", "code", "email", "title", "phrase", "company", "language",
    "room", "integer", "float", "enum", "boolean", "words", "people",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One kind of parameter. Example: Parameter(name="city", phrases=("in {}",), ...)."""

    name: str
    """Key in a tool's properties."""
    alias: str
    """Another key that catalogue tools may use for it."""
    type: str
    """ToolDev type word: string, integer, float, boolean or array (of strings)."""
    label: str
    """How a tool's description mentions it."""
    description: str
    """Its description in a tool document."""
    value: ValueKind
    """Which values it takes."""
    phrases: tuple[str, ...]
    """Seed-style wordings; `{}` stands for the value. Booleans: (true wording, false wording)…"""
    fresh: tuple[str, ...]
    """Fresh-style wordings, same form."""
    choices: tuple[str, ...] = ()
    """Enumerated values, in document order."""
    low: int = 0
    """Smallest number; floats are tenths between low and high."""
    high: int = 0
    """Largest number."""
    optional: bool = False
    """Optional by nature: never in `required`."""


def _p(
    name: str,
    alias: str,
    type: str,
    label: str,
    description: str,
    value: ValueKind,
    phrases: tuple[str, ...],
    fresh: tuple[str, ...],
    *,
    choices: str = "",
    span: tuple[int, int] = (0, 0),
    optional: bool = False,
) -> Parameter:
    return Parameter(
        name=name,
        alias=alias,
        type=type,
        label=label,
        description=description,
        value=value,
        phrases=phrases,
        fresh=fresh,
        choices=tuple(choices.split()),
        low=span[0],
        high=span[1],
        optional=optional,
    )


_PARAMETERS = (
    _p("city", "location", "string", "city", "Name of the city.", "place",
       ("in {}", "in the city of {}"), ("somewhere in {}", "located in {}")),
    _p("origin", "departure", "string", "origin", "Place to start from.", "place",
       ("from {}", "starting in {}"), ("coming from {}", "departing from {}")),
    _p("destination", "arrival", "string", "destination", "Place to go to.", "place",
       ("to {}", "going to {}"), ("headed to {}", "travelling to {}")),
    _p("date", "day", "string", "date", "Calendar date.", "date",
       ("on {}", "for {}"), ("on the day of {}", "planned for {}")),
    _p("time", "start_time", "string", "time", "Time of day.", "time",
       ("at {}", "starting at {}"), ("exactly at {}", "beginning at {}")),
    _p("customer", "contact_name", "string", "customer", "Full name of the customer.", "person",
       ("under the name {}", "in the name of {}"),
       ("booked under the name {}", "listed in the name of {}")),
    _p("recipient", "receiver", "string", "recipient", "Person who receives it.", "person",
       ("to {}", "addressed to {}"), ("that goes to {}", "clearly addressed to {}")),
    _p("owner", "assignee", "string", "owner", "Person in charge.", "person",
       ("assigned to {}", "owned by {}"), ("now owned by {}", "that gets assigned to {}")),
    _p("people", "party_size", "integer", "people", "Number of people.", "integer",
       ("for {} people", "for a party of {}"), ("with {} guests", "seating {} of us"),
       span=(2, 40)),
    _p("minutes", "duration", "integer", "minutes", "Length in minutes.", "integer",
       ("lasting {} minutes", "for {} minutes"), ("{} minutes long", "that takes {} minutes"),
       span=(5, 240)),
    _p("nights", "stay_length", "integer", "nights", "Number of nights.", "integer",
       ("for {} nights", "staying {} nights"), ("over {} nights", "with a stay of {} nights"),
       span=(2, 30)),
    _p("quantity", "count", "integer", "quantity", "Number of units.", "integer",
       ("with a quantity of {}", "in a batch of {}"),
       ("with the quantity {}", "sold in a batch of {}"),
       span=(2, 500)),
    _p("max_price", "price_limit", "float", "maximum price", "Highest price in dollars.", "float",
       ("under {} dollars", "costing at most {} dollars"),
       ("with a budget of {} dollars", "not above {} dollars"), span=(5, 900), optional=True),
    _p("amount", "sum", "float", "amount", "Amount in dollars.", "float",
       ("of {} dollars", "worth {} dollars"),
       ("totalling {} dollars", "with a sum of {} dollars"), span=(5, 5000)),
    _p("weight", "mass", "float", "weight", "Weight in kilos.", "float",
       ("weighing {} kilos", "with a weight of {} kilos"),
       ("that weighs {} kilos", "that is {} kilos heavy"), span=(1, 90)),
    _p("distance", "radius", "float", "distance", "Distance in miles.", "float",
       ("within {} miles", "no further than {} miles"),
       ("inside a radius of {} miles", "at most {} miles away"), span=(1, 80)),
    _p("temperature", "degrees", "integer", "temperature", "Temperature in degrees.", "integer",
       ("at {} degrees", "set to {} degrees"), ("holding {} degrees", "reaching {} degrees"),
       span=(10, 99)),
    _p("rating", "min_stars", "float", "rating", "Lowest rating in stars.", "float",
       ("rated at least {} stars", "with {} stars or more"),
       ("that has {} stars or more", "with at least {} stars"), span=(1, 5), optional=True),
    _p("year", "model_year", "integer", "year", "Four digit year.", "integer",
       ("from the year {}", "of the year {}"),
       ("going back to the year {}", "dating from the year {}"),
       span=(1950, 2025)),
    _p("percent", "rate", "float", "percent", "Percentage.", "float",
       ("at {} percent", "with a rate of {} percent"),
       ("using {} percent", "with {} percent in all"),
       span=(1, 60)),
    _p("bedrooms", "rooms", "integer", "bedrooms", "Number of bedrooms.", "integer",
       ("with {} bedrooms", "having {} bedrooms"), ("that has {} bedrooms", "offering {} bedrooms"),
       span=(1, 9)),
    _p("pages", "page_count", "integer", "pages", "Number of pages.", "integer",
       ("of {} pages", "with {} pages"), ("{} pages long", "filling {} pages"), span=(2, 300)),
    _p("floor", "level", "integer", "floor", "Floor number.", "integer",
       ("on floor {}", "for floor {}"), ("up on floor {}", "serving floor {}"), span=(1, 60)),
    _p("limit", "max_results", "integer", "limit", "Largest number of results.", "integer",
       ("showing {} results", "limited to {} results"),
       ("with no more than {} results", "listing {} results"), span=(2, 100), optional=True),
    _p("color", "shade", "string", "color", "Color of the item.", "enum",
       ("in {} color", "colored {}"), ("with a {} color", "nicely colored {}"),
       choices="red blue green black white", optional=True),
    _p("size", "fit", "string", "size", "Size of the item.", "enum",
       ("in size {}", "of {} size"), ("that has the size {}", "being {} in size"),
       choices="small medium large"),
    _p("cabin", "travel_class", "string", "cabin", "Travel class.", "enum",
       ("in {} class", "with a {} class seat"), ("travelling {} class", "using the {} class fare"),
       choices="economy business first"),
    _p("priority", "urgency", "string", "priority", "How urgent it is.", "enum",
       ("with {} priority", "marked as {} priority"),
       ("treated as {} priority", "that has {} priority"), choices="low normal high urgent",
       optional=True),
    _p("format", "file_type", "string", "format", "File format.", "enum",
       ("as {}", "in {} format"),
       ("saved as {}", "with the {} format"), choices="pdf csv json html"),
    _p("frequency", "interval", "string", "frequency", "How often it repeats.", "enum",
       ("repeating {}", "on a {} basis"), ("always repeating {}", "done on a {} basis"),
       choices="hourly daily weekly monthly"),
    _p("genre", "style", "string", "genre", "Genre.", "enum",
       ("in the {} genre", "of the {} kind"), ("with a {} genre", "being of the {} kind"),
       choices="jazz rock folk drama comedy"),
    _p("language", "tongue", "string", "language", "Language name.", "language",
       ("written in {}", "in the {} language"),
       ("spoken in the language {}", "fully written in {}")),
    _p("order_id", "reference", "string", "order number", "Reference code.", "code",
       ("with order number {}", "under reference {}"),
       ("carrying the order number {}", "that has the reference {}")),
    _p("account", "account_id", "string", "account", "Account code.", "code",
       ("from account {}", "on account {}"), ("using account {}", "charged to account {}")),
    _p("email", "mail_address", "string", "email", "Email address.", "email",
       ("with the email {}", "using the email {}"),
       ("that has the email {}", "along with the email {}")),
    _p("title", "heading", "string", "title", "Title text.", "title",
       ('titled "{}"', 'called "{}"'), ('with the title "{}"', 'now called "{}"')),
    _p("topic", "subject", "string", "topic", "What it is about.", "phrase",
       ("about {}", "on the topic of {}"), ("all about {}", "with the topic {}")),
    _p("company", "organization", "string", "company", "Company name.", "company",
       ("from the company {}", "made by {}"), ("sold by the company {}", "which is made by {}")),
    _p("room", "zone", "string", "room", "Room of the house.", "room",
       ("in the {}", "for the {}"), ("over in the {}", "meant for the {}")),
    _p("tags", "labels", "array", "tags", "List of tags.", "words",
       ("tagged {}", "with the tags {}"), ("that carry the tags {}", "already tagged {}"),
       optional=True),
    _p("ingredients", "contents", "array", "ingredients", "List of ingredients.", "words",
       ("containing {}", "using {}"), ("mostly containing {}", "made by using {}")),
    _p("guests", "attendees", "array", "guests", "Names of the guests.", "people",
       ("inviting {}", "together with {}"), ("along together with {}", "also inviting {}")),
    _p("breakfast", "with_breakfast", "boolean", "breakfast", "Whether breakfast is included.",
       "boolean", ("with breakfast", "without breakfast"),
       ("but with breakfast", "but without breakfast"), optional=True),
    _p("insurance", "insured", "boolean", "insurance", "Whether insurance is included.",
       "boolean", ("with insurance", "without insurance"),
       ("but with insurance", "but without insurance"), optional=True),
    _p("gift_wrap", "wrapped", "boolean", "gift wrap", "Whether it is gift wrapped.",
       "boolean", ("with gift wrap", "without gift wrap"),
       ("but with gift wrap", "but without gift wrap"), optional=True),
    _p("reminder", "remind_me", "boolean", "reminder", "Whether a reminder is sent.",
       "boolean", ("with a reminder", "without a reminder"),
       ("but with a reminder", "but without a reminder"), optional=True),
    _p("parking", "has_parking", "boolean", "parking", "Whether parking is needed.",
       "boolean", ("with parking", "without parking"),
       ("but with parking", "but without parking"), optional=True),
    _p("subtitles", "captions", "boolean", "subtitles", "Whether subtitles are shown.",
       "boolean", ("with subtitles", "without subtitles"),
       ("but with subtitles", "but without subtitles"), optional=True),
)  # fmt: skip

PARAMETERS: dict[str, Parameter] = {parameter.name: parameter for parameter in _PARAMETERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """A field of life. Example: Domain(name="dining", verbs=("book",), nouns=("table",), ...)."""

    name: str
    """One word."""
    verbs: tuple[str, ...]
    """What one does there."""
    nouns: tuple[str, ...]
    """Nouns whose pairs with the verbs are shared out among the splits."""
    fresh_nouns: tuple[str, ...]
    """Nouns of split `fresh` alone, with the first verb."""
    held_nouns: tuple[str, ...]
    """Nouns of the measured splits alone, with the first verb: the last of them is `dev`'s."""
    parameters: tuple[str, ...]
    """Names of the parameter kinds its tools take."""


def _d(name: str, verbs: str, nouns: str, fresh: str, held: str, parameters: str) -> Domain:
    return Domain(
        name=name,
        verbs=tuple(verbs.split()),
        nouns=tuple(noun.strip() for noun in nouns.split(",")),
        fresh_nouns=tuple(noun.strip() for noun in fresh.split(",")),
        held_nouns=tuple(noun.strip() for noun in held.split(",")),
        parameters=tuple(parameters.split()),
    )


DOMAINS: tuple[Domain, ...] = (
    _d("dining", "book reserve find cancel move",
       "table, booth, brunch, dinner, buffet, lunch, tasting, banquet, terrace seat, private room",
       "picnic spot, bar stool", "rooftop table, tea party, supper",
       "people city date time customer max_price parking"),
    _d("stays", "book find reserve extend compare",
       "hotel, hostel, cabin, villa, suite, apartment, campsite, guest house, lodge, single room",
       "treehouse, houseboat", "chalet, motel, farm stay",
       "city date nights people rating breakfast parking max_price"),
    _d("travel", "book find change track compare",
       "flight, train, ferry, bus, cruise, taxi, shuttle, night train, ticket, transfer",
       "tram, helicopter", "coach, gondola, monorail",
       "origin destination date time cabin people insurance"),
    _d("rental", "rent find return inspect insure",
       "car, van, bike, boat, truck, scooter, trailer, tent, motorcycle, camper",
       "kayak, jeep", "canoe, tractor, minibus",
       "city date customer year company insurance distance"),
    _d("calendar", "schedule create move cancel list",
       "meeting, event, call, interview, workshop, lesson, review, appointment, training, demo",
       "seminar, standup", "webinar, retreat, briefing",
       "date time minutes title guests frequency reminder"),
    _d("mail", "send draft forward archive print",
       "letter, message, email, invitation, notice, reply, postcard, newsletter, memo, greeting",
       "telegram, apology", "bulletin, reminder note, thank you card",
       "recipient topic title email priority language"),
    _d("shopping", "order buy find return reserve",
       "jacket, lamp, chair, phone, shirt, desk, camera, watch, backpack, carpet",
       "umbrella, kettle", "sofa, blender, raincoat",
       "size color quantity max_price company gift_wrap order_id"),
    _d("delivery", "ship track send collect insure",
       "parcel, package, box, crate, pallet, envelope, container, bundle, suitcase, gift",
       "barrel, wardrobe", "basket, toolbox, fragile box",
       "origin destination weight date order_id insurance recipient"),
    _d("bank", "transfer pay check open freeze",
       "deposit, loan, bill, salary, invoice, fee, refund, fund, mortgage, credit card",
       "dividend, pension", "donation, tax bill, overdraft",
       "amount account date customer percent frequency"),
    _d("kitchen", "cook bake prepare plan find",
       "soup, salad, cake, pizza, stew, bread, curry, pasta, pie, omelette",
       "risotto, smoothie", "casserole, dumpling, pancake",
       "ingredients people minutes temperature rating"),
    _d("home", "set start stop check adjust",
       "heater, oven, light, fan, thermostat, alarm, radio, vacuum, curtain, washer",
       "dishwasher, humidifier", "sprinkler, fireplace, air filter",
       "room time temperature minutes percent frequency"),
    _d("media", "play find rent download rate",
       "movie, song, album, podcast, series, concert, show, playlist, documentary, audiobook",
       "musical, trailer clip", "opera, sitcom, short film",
       "title genre year language subtitles limit rating"),
    _d("office", "create print export share translate",
       "report, contract, memo file, chart, table sheet, presentation, form, manual, summary, plan",
       "brochure, transcript", "handbook, budget sheet, proposal",
       "topic pages format language title owner"),
    _d("support", "open close assign update escalate",
       "ticket case, bug, complaint, request, incident, claim, task, issue, question, warning",
       "outage, dispute", "defect, grievance, audit",
       "owner priority topic order_id tags date email"),
    _d("housing", "find list rent inspect compare",
       "house, flat, studio, office, garage, loft, duplex, cottage, warehouse, shop",
       "bungalow, penthouse", "mansion, townhouse, basement",
       "city bedrooms max_price distance floor parking year"),
    _d("health", "book find cancel record renew",
       "checkup, prescription, vaccine, therapy, scan, massage, blood test, eye test, diet, "
       "workout",
       "surgery, xray", "dental visit, physical, allergy test",
       "customer date time city minutes reminder frequency"),
    _d("study", "find enroll grade review plan",
       "course, exam, book, essay, class, lecture, quiz, paper, degree, project",
       "thesis, tutorial", "homework, dictionary, spelling test",
       "topic language pages year owner limit date"),
    _d("sports", "book watch join organize find",
       "match, race, court, gym, team, league, yoga class, pool lane, marathon, tournament",
       "regatta, sauna", "skate park, relay, derby",
       "city date time people distance guests minutes"),
)  # fmt: skip

MATCHING_VERBS = frozenset({"find", "list", "compare", "check", "watch", "track"})
"""Verbs whose tools return matches; the others return a confirmation."""

FRAMES: dict[str, tuple[str, ...]] = {
    "seed": (
        "{Act}.",
        "Please {act}.",
        "Can you {act}?",
        "I want to {act}.",
        "I need to {act}.",
        "Could you {act}?",
    ),
    "fresh": (
        "I would like to {act}.",
        "It is time to {act}.",
        "Help me {act}, thanks.",
        "Hello, I hope to {act}.",
        "We have to {act} soon.",
        "Is it possible to {act}?",
    ),
}
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

_PLACES: dict[str, str] = {
    "seed": "Lisbon Oslo Berlin Madrid Paris Vienna Prague Dublin Rome Athens Warsaw Munich Milan "
    "Boston Denver Dallas Chicago Seattle Toronto Tokyo Osaka Seoul Delhi Mumbai Cairo Lima Quito "
    "Sydney Perth Lyon Porto Bergen Geneva Zurich Naples Austin Miami Houston Montreal Havana "
    "San_Diego New_York Cape_Town Hong_Kong Los_Angeles",
    "fresh": "Helsinki Turin Hamburg Bristol Leeds Krakow Seville Ghent Phoenix Detroit Ottawa "
    "Kyoto Busan Jakarta Nairobi Bogota Auckland Bilbao Salzburg Tampa Santa_Fe Buenos_Aires "
    "San_Jose",
    "held": "Stockholm Valencia Florence Antwerp Glasgow Gdansk Portland Memphis Calgary Nagoya "
    "Manila Hanoi Accra Santiago Brisbane Malmo Bordeaux Leipzig Omaha Tucson Las_Vegas San_Juan "
    "Kuala_Lumpur",
}
_FIRST: dict[str, str] = {
    "seed": "Anna Ben Carla David Emma Frank Grace Henry Irene Jack Karen Leo Maria Nina Oscar "
    "Paula Robert Sara Tom Victor",
    "fresh": "Alice Bruno Clara Diego Elena Felix Hanna Ivan Julia Kevin Laura Martin",
    "held": "Amelia Boris Cecilia Dylan Esther Gavin Isabel Jonas Lydia Marcus Noelle Simon",
}
_LAST: dict[str, str] = {
    "seed": "Smith Miller Garcia Brown Jones Wilson Moore Taylor Lopez Clark Lewis Walker Young "
    "King Wright Scott Green Baker Adams Nelson",
    "fresh": "Turner Collins Parker Evans Morris Reed Cook Bell Murphy Romero Foster Gray",
    "held": "Hughes Price Fuller Barnes Fisher Henderson Coleman Jenkins Perry Powell Sullivan "
    "Ortega",
}
_COMPANIES: dict[str, str] = {
    "seed": "Acme Globex Initech Umbra Vertex Nimbus Orion Zenith Apex Lumen Polaris Quanta Solis "
    "Titan Vega Atlas",
    "fresh": "Corvus Delphi Equinox Fulcrum Halcyon Ionix Kestrel Meridian",
    "held": "Northwind Obsidian Paragon Redwood Sterling Tundra Wavecrest Yonder",
}
_LANGUAGES: dict[str, str] = {
    "seed": "English French German Spanish Italian Polish Greek Turkish Arabic Hindi Dutch Danish",
    "fresh": "Swedish Finnish Czech Korean Latvian Hungarian",
    "held": "Norwegian Portuguese Japanese Romanian Swahili Icelandic",
}
_ROOMS: dict[str, str] = {
    "seed": "kitchen bedroom bathroom hallway garage office attic cellar lounge nursery",
    "fresh": "library pantry studio workshop balcony",
    "held": "basement veranda laundry playroom greenhouse",
}
_WORDS: dict[str, str] = {
    "seed": "garlic onion tomato basil pepper rice cheese butter lemon honey ginger spinach sales "
    "budget garden music history energy travel safety climate market design winter summer river "
    "ocean forest family school annual final weekly draft modern simple secret golden silver "
    "early local global team product security network finance research planning support spring "
    "light stone paper glass cotton mint olive apple carrot bean",
    "fresh": "mushroom potato celery walnut coconut publishing autumn desert island robot culture "
    "hiring payroll logistics quality vintage rural urban digital regional inventory strategy "
    "harvest bridge tunnel signal pottery cycling",
    "held": "zucchini parsley almond pumpkin cinnamon volcano glacier orchard satellite textile "
    "hygiene staffing pricing branding nutrition migration heritage quarterly bilingual coastal "
    "medieval hybrid lunar onboarding compliance chemistry fishing sailing",
}


def _split_words(table: dict[str, str], split: Split) -> tuple[str, ...]:
    """A split's words; every third of the held ones is `dev`'s."""
    held = split in ("home", "dev")
    key = "held" if held else "seed" if split in ("novel", "wild") else split
    listed = [word.replace("_", " ") for word in table[key].split()]
    if not held:
        return tuple(listed)
    return tuple(word for n, word in enumerate(listed) if (n % 3 == 1) == (split == "dev"))


def places(split: Split) -> tuple[str, ...]:
    """Cities of a split."""
    return _split_words(_PLACES, split)


def first_names(split: Split) -> tuple[str, ...]:
    """First names of a split."""
    return _split_words(_FIRST, split)


def last_names(split: Split) -> tuple[str, ...]:
    """Family names of a split."""
    return _split_words(_LAST, split)


def companies(split: Split) -> tuple[str, ...]:
    """Company names of a split."""
    return _split_words(_COMPANIES, split)


def languages(split: Split) -> tuple[str, ...]:
    """Languages of a split."""
    return _split_words(_LANGUAGES, split)


def rooms(split: Split) -> tuple[str, ...]:
    """Rooms of a house of a split."""
    return _split_words(_ROOMS, split)


def words(split: Split) -> tuple[str, ...]:
    """Plain words of a split, for titles, topics, tags and ingredients."""
    return _split_words(_WORDS, split)
