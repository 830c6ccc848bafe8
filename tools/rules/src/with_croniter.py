"""What croniter answers: a line of JSON for each line `{"cron", "tz", "from", "end", "count"}`, instants in seconds."""

import datetime
import json
import sys
import zoneinfo

import croniter

WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]


def spelled(rule):
    """The rule as croniter writes it: 5L for the last Friday is L5, and has no name."""
    *fields, weekdays = rule.split()

    def entry(text):
        day = text[:-1].lower()
        if text[-1] not in "Ll" or not day:
            return text
        return f"L{WEEKDAYS.index(day) if day in WEEKDAYS else day}"

    return " ".join([*fields, ",".join(map(entry, weekdays.split(",")))])


def answer(question):
    """Its fires up to an error, if it has one."""
    found = []
    after = datetime.datetime.fromtimestamp(question["from"], datetime.timezone.utc)
    try:
        fires = croniter.croniter(
            spelled(question["cron"]),
            after.astimezone(zoneinfo.ZoneInfo(question["tz"])),
            ret_type=float,
            second_at_beginning=True,
        )
        while len(found) < question["count"]:
            at = fires.get_next()
            if question["end"] is not None and at > question["end"]:
                break
            found.append(at)
    except Exception as error:  # Whatever it is: it is its answer.
        return {"next": found, "error": f"{type(error).__name__}: {error}"}
    return {"next": found}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))))
