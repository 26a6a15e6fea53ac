"""What the schemas of /openapi.json cannot say, told to the fuzzer: texts of a form that no pattern describes, and fields that only
fit together. Whatever is left out here is named, with why."""

import datetime

import schemathesis
from hypothesis import strategies as st

INT64 = 2**63 - 1


def soon(days):
    now = datetime.datetime.now(datetime.timezone.utc)
    return st.integers(7200, days * 86400).map(
        lambda seconds: (now + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    )


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12)
LETTERS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=12)

FORMATS = {
    # Times of events lie ahead, and not more than a year.
    "date-time": soon(300),
    "email-or-named": st.tuples(WORD, LETTERS).map(lambda parts: "%s@%s.example" % parts),
    "web-url": LETTERS.map(lambda host: "https://%s.example/hook" % host),
    "link": st.tuples(st.sampled_from(["https", "myapp"]), LETTERS).map(lambda parts: "%s://%s" % parts),
    "cron": st.sampled_from(["0 9 * * MON-FRI", "@daily", "30 0 12 * * *"]),
    "time-zone": st.sampled_from(["UTC", "Europe/Berlin", "America/New_York"]),
    "template": st.sampled_from(["Hello {{ name }}", "Hello", ""]),
    "json-schema": st.just({}),
    "provider": st.none(),
    # No recipient fits all channels but this one.
    "recipient": st.just("+12025550100"),
    "recipient-lines": st.lists(WORD, min_size=1, max_size=5).map(
        lambda words: "\n".join('{"payload": {"message": "%s"}}' % word for word in words)
    ),
    # Cursors are made by the service alone.
    "cursor": st.just("AQAAAZ0AAAAAYQ"),
    "letter-cursor": st.just("5.0.9"),
    "suppression-id": st.just("sms-0123456789abcdef0123456789abcdef"),
}
for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)


LINES = "application/x-ndjson"


@schemathesis.serializer(LINES)
def lines(context, value):
    return value.encode("utf-8", errors="replace") if isinstance(value, str) else value


def walk(value):
    yield value
    if isinstance(value, dict):
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def is_readable(body):
    """Numbers of more than 64 bits are refused wherever any JSON may stand: they would be changed."""
    return all(not isinstance(v, int) or isinstance(v, bool) or -INT64 <= v <= INT64 for v in walk(body))


def fits(event):
    """Times after each other, and one provider, not two."""
    if not isinstance(event, dict):
        return True
    first, last = event.get("scheduledAt"), event.get("expiresAt")
    # The time in examples of answers, which is borrowed for requests, lies further ahead than a year.
    if isinstance(first, str) and first.startswith("2030-"):
        return False
    if isinstance(first, str) and isinstance(last, str) and last <= first:
        return False
    starts, ends = event.get("startsAt"), event.get("endsAt")
    if isinstance(starts, str) or isinstance(ends, str):
        return False
    metadata = event.get("metadata")
    inner = metadata.get("provider") if isinstance(metadata, dict) else None
    if inner is not None and event.get("provider") not in (None, inner):
        return False
    return fits_event_of(event)


def fits_event_of(event):
    payload = event.get("payload")
    if isinstance(payload, dict):
        # All recipients of an email together are bounded, not only each list.
        given = [payload.get(name) for name in ("to", "cc", "bcc")]
        if sum(len(each) if isinstance(each, list) else 1 for each in given if each is not None) > 1000:
            return False
        # What the HTML calls a file is its own name alone.
        files = payload.get("attachments")
        files = [file for file in files if isinstance(file, dict)] if isinstance(files, list) else []
        names = [file["contentId"] for file in files if isinstance(file.get("contentId"), str)]
        if len(set(names)) < len(names):
            return False
    inner = event.get("event")
    return fits(inner) if isinstance(inner, dict) else True


def has_own_language(template):
    """Each channel says something in the template's own language, and every variable that a text uses is one of the schema's."""
    if not isinstance(template, dict) or not isinstance(template.get("channels"), dict):
        return True
    own = template.get("locale", "en")
    is_said = all(own in texts for texts in template["channels"].values() if isinstance(texts, dict))
    return is_said and template.get("variables", {}) in ({}, True)


def fits_config(config):
    """A destination is among the destinations."""
    if not isinstance(config, dict) or config.get("destinations") is None:
        return True
    return config.get("destination") is None or config["destination"] in config["destinations"]


def fits_filter(body):
    """A time before another."""
    times = body.get("filter") if isinstance(body, dict) else None
    return not isinstance(times, dict) or "from" not in times or "until" not in times


def is_over(time):
    """A time that was learnt from an answer is over."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M")
    return isinstance(time, str) and time[:16] <= now


def is_recipient(channel, recipient):
    if recipient is None:
        return True
    forms = {"sms": recipient.startswith("+1202"), "email": "@" in recipient, "webhook": False, None: False}
    return forms.get(channel, recipient.isascii() and recipient.isprintable() and recipient.strip() != "")


def is_positive(case):
    return case.meta is not None and case.meta.generation.mode.value == "positive"


@schemathesis.hook
def filter_case(context, case):
    query = case.query or {}
    # A stream ends when its reader goes.
    if str(query.get("follow")).lower() == "true":
        return False
    if not is_positive(case):
        # Any text is lines, and what is no text becomes one.
        return case.media_type != LINES
    path, body = case.operation.path, case.body
    headers = case.headers or {}
    if "If-Match" in headers and ("If-None-Match" in headers or not headers["If-Match"]):
        # One or the other.
        return False
    if path == "/broadcasts" and case.method == "POST":
        # What the message and a recipient make together is judged as an event.
        return False
    if case.media_type == LINES:
        # What a line holds is judged line by line, unless all are taken or none.
        return "atomic" not in query
    items = body if isinstance(body, list) else [body]
    if not is_readable(body) or not all(fits(item) for item in items):
        return False
    if path == "/templates/{code}":
        return has_own_language(body)
    if path == "/configs/{code}":
        return fits_config(body)
    if path == "/replay-dead-letter":
        return fits_filter(body)
    if path == "/suppressions":
        # Lists are for one or the other, and a recipient is of its channel's form.
        if any(is_over(item.get("until")) for item in items if isinstance(item, dict)):
            return False
        pairs = [(query.get("channel"), query.get("recipient"))]
        pairs += [(item.get("channel"), item.get("recipient")) for item in items if isinstance(item, dict)]
        is_list = "limit" in query or "cursor" in query
        return all(is_recipient(*pair) for pair in pairs) and not ("recipient" in query and is_list)
    if path == "/keys" and case.method == "POST":
        return not isinstance(body, dict) or not is_over(body.get("expiresAt"))
    if path == "/dead-letters":
        return "groupBy" not in query or "cursor" not in query
    return True
