"""Why does another evaluator say something else? What is known of its reading and of its clock, each with a name.

A line of JSON on standard input is a question: `"rival"`, the `"cron"` rule with `"tz"`, `"from"`, `"end"` and `"count"`, and
the rival's `"answer"`. The answer is `{"reasons": [...]}`: the fewest quirks with which the rule gives exactly what the rival
answered; none when no quirk that is known does.

A quirk of the reading changes what a field means, and everything else must be as it follows from that. A quirk of the clock
concerns fires at skipped and at repeated times alone: those may be left out, added or moved as the quirk says, and no others.
"""

import calendar
import collections
import datetime
import itertools
import json
import sys
import zoneinfo

import arbiter
from arbiter import MINUTE, MONTHS, WEEKDAYS, Bad, Rule, matcher, number, walk, weekday

# So many quirks may come together in one rule.
MOST_TOGETHER = 4
# In which croniter looks for a date.
CRONITER_YEARS = 50
# For which cron-parser looks for the next fire, day by day.
CRON_PARSER_DAYS = 10_000
# The names that it knows.
CRON_PARSER_NAMES = ["@yearly", "@monthly", "@weekly", "@daily", "@hourly"]
# The days of a month as it counts them.
LENGTHS = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

# The quirks of the reading, each with what a rule must have in it for that to matter: in the whole text, in the hours,
# in day-of-month, in day-of-week.
READING = {
    "croniter": {
        "equal range": lambda text, hours, dates, weekdays: "-" in text,
        "wrapped range": lambda text, hours, dates, weekdays: "-" in text,
        "step to Saturday": lambda text, hours, dates, weekdays: "/" in weekdays,
        "* in a list": lambda text, hours, dates, weekdays: "*" in dates + weekdays and "," in dates + weekdays,
        "full day field": lambda text, hours, dates, weekdays: "*" in dates + weekdays and {dates, weekdays} != {"*"},
        "nth and date": lambda text, hours, dates, weekdays: is_special(weekdays) and is_restricted(dates),
        "nth without days": lambda text, hours, dates, weekdays: is_special(weekdays) and "," in weekdays,
        "nth beside days refused": lambda text, hours, dates, weekdays: is_special(weekdays) and "," in weekdays,
    },
    "cron-parser": {
        "step adds Sunday": lambda text, hours, dates, weekdays: "/" in weekdays,
        "days counted": lambda text, hours, dates, weekdays: is_restricted(dates) or is_restricted(weekdays),
        "hours counted": lambda text, hours, dates, weekdays: "," in hours,
        "nth and date": lambda text, hours, dates, weekdays: "#" in weekdays and is_restricted(dates),
        "nth in a list refused": lambda text, hours, dates, weekdays: "#" in weekdays and "," in weekdays,
        "day beyond the month refused": lambda text, hours, dates, weekdays: is_restricted(dates),
        "name refused": lambda text, hours, dates, weekdays: "@" in text,
        "four fields": lambda text, hours, dates, weekdays: len(text.split()) == 4,
    },
}


def is_restricted(text):
    """Whether a day field is restricted, as documented."""
    return text not in ("*", "?")


def is_special(weekdays):
    """Whether the last or the nth weekday of a month is among them."""
    return "#" in weekdays or any(part[-1:] in ("L", "l") for part in weekdays.split(","))


def possible(rival, text):
    """The quirks of the reading that can matter for a rule."""
    fields = text.split()
    hours, dates, weekdays = (fields[-4], fields[-3], fields[-1]) if len(fields) > 4 else ("*", "*", "*")
    return [quirk for quirk, matters in READING[rival].items() if matters(text, hours, dates, weekdays)]


# The fields of a rule, as somebody else reads them.


def entry(text, first, last, names, quirks):
    """The values of an entry, in the order and as often as they are listed."""
    span, slash, step = text.partition("/")
    begin, dash, end = span.partition("-")
    of_week = names is WEEKDAYS
    if span in ("*", "?"):
        low, high = first, last
    elif dash:
        low, high = number(begin, first, last, names), number(end, first, last, names)
    else:
        low = number(span, first, last, names)
        high = last if slash else low
    step = int(step) if slash else 1
    if step == 0:
        raise Bad("a step of 0")
    top = 6 if of_week else last
    if "equal range" in quirks and dash and (low == high or of_week and low % 7 == high % 7):
        low, high = first, top
    if "step to Saturday" in quirks and of_week and slash and not dash:
        low, high = low % 7, top
    if "wrapped range" in quirks and low > high:
        return [*range(low, top + 1, step), *range(first, high + 1, step)]
    if low > high:
        raise Bad("a backward range")
    found = list(range(low, high + 1, step))
    if of_week and not dash and not slash and span not in ("*", "?"):
        found = [low % 7]
    if "step adds Sunday" in quirks and of_week and high == 7 and (dash or slash) and 0 not in found:
        found.append(0)
    return found


def values(text, first, last, names, quirks):
    """The values of a field, in the order and as often as they are listed."""
    return [value for part in text.split(",") for value in entry(part, first, last, names, quirks)]


class DayFields:
    """Day-of-month and day-of-week."""

    def __init__(self, dates, weekdays, quirks):
        self.texts = dates, weekdays
        plain = [part for part in dates.split(",") if part not in ("L", "l")]
        self.dates = [value for part in plain for value in entry(part, 1, 31, (), quirks)]
        self.last_date = len(plain) < len(dates.split(","))
        self.weekdays, self.listed, self.lasts, self.nths = [], [], [], []
        for part in weekdays.split(","):
            day, hash_mark, nth = part.partition("#")
            if hash_mark:
                self.nths.append((number(day, 0, 7, WEEKDAYS) % 7, number(nth, 1, 5)))
            elif part[-1:] in ("L", "l"):
                self.lasts.append(number(part[:-1], 0, 7, WEEKDAYS) % 7)
            else:
                found = entry(part, 0, 7, WEEKDAYS, quirks)
                self.weekdays.extend(found)
                self.listed.extend(found if part != "*" else [])

    def on_date(self, date):
        return date.day in self.dates or self.last_date and arbiter.is_last_date(date)

    def on_plain_weekday(self, date):
        return weekday(date) in {day % 7 for day in self.weekdays}

    def on_last(self, date):
        return weekday(date) in self.lasts and (date + datetime.timedelta(days=7)).month != date.month

    def on_nth(self, date):
        return (weekday(date), (date.day + 6) // 7) in self.nths

    def on_weekday(self, date):
        return self.on_plain_weekday(date) or self.on_last(date) or self.on_nth(date)

    def is_restricted(self):
        return [is_restricted(text) for text in self.texts]


def joined(fields, restricted):
    """The documented way to join the two day fields."""
    if all(restricted):
        return lambda date: fields.on_date(date) or fields.on_weekday(date)
    return lambda date: fields.on_date(date) and fields.on_weekday(date)


def in_croniter(fields, months, quirks, year):
    """A predicate on dates."""
    restricted = fields.is_restricted()
    special = set(fields.lasts) | {day for day, _ in fields.nths}
    plain = {day % 7 for day in fields.listed}
    listed = len(plain | special) + ("*" in fields.texts[1].split(","))
    any_date = any_weekday = False
    if "* in a list" in quirks:
        any_date, any_weekday = ("*" in text.split(",") and text != "*" for text in fields.texts)
    if "full day field" in quirks:
        any_date = any_date or "*" in fields.texts[1] and len(set(fields.dates)) + fields.last_date == 31
        any_weekday = any_weekday or "*" in fields.texts[0] and plain | special == set(range(7))
    if any_date:
        fields.on_date, restricted[0] = lambda date: True, False
    if any_weekday:
        fields.on_plain_weekday, restricted[1] = lambda date: True, False
    if special and "nth beside days refused" in quirks and plain - special and listed != 7:
        raise Bad("days beside nth days")
    if special and "nth without days" in quirks:
        fields.on_plain_weekday = lambda date: False
    if special and "nth and date" in quirks and all(restricted):
        dates = (
            datetime.date(each, month, day)
            for each in range(year, year + CRONITER_YEARS + 1)
            for month in sorted(months)
            for day in range(1, calendar.monthrange(each, month)[1] + 1)
        )
        if not any(fields.on_date(date) and fields.on_weekday(date) for date in dates):
            raise Bad("no date")
        return fields.on_weekday
    return joined(fields, restricted)


def in_cron_parser(fields, months, quirks):
    """A predicate on dates."""
    count = len(fields.dates) + fields.last_date
    if len(months) == 1:
        longest = LENGTHS[next(iter(months)) - 1]
        if "day beyond the month refused" in quirks and fields.dates and min(fields.dates) > longest:
            raise Bad("a day that the month does not have")
        count = sum(date <= longest for date in fields.dates) + fields.last_date
    # It has Sunday twice in 1-7.
    counted = DayFields(*fields.texts, {*quirks, "step adds Sunday"})
    of_week = len(counted.weekdays) + len(counted.lasts) + len(counted.nths)
    if fields.nths and "nth in a list refused" in quirks and "," in fields.texts[1]:
        raise Bad("an nth day in a list")
    of_month = lambda date: True
    if fields.nths and "nth and date" in quirks:
        days, nth = {day for day, _ in fields.nths}, fields.nths[0][1]
        fields.on_nth = lambda date: weekday(date) in days
        of_month = lambda date: (date.day + 6) // 7 == nth

    is_day = joined(fields, fields.is_restricted())
    if "days counted" in quirks:

        def is_day(date):
            if of_week == 8:
                return fields.on_date(date)
            if count >= LENGTHS[date.month - 1]:
                return fields.on_weekday(date)
            return fields.on_date(date) or fields.on_weekday(date)

    return lambda date: is_day(date) and of_month(date)


def reading(rival, text, quirks, year):
    """The rule that the rival makes of a text with these quirks."""
    name = text.strip()
    if "name refused" in quirks and name.startswith("@") and name not in CRON_PARSER_NAMES:
        raise Bad("a name that is not known")
    fields = arbiter.NAMED.get(name.lower(), text).split()
    if "four fields" in quirks and len(fields) == 4:
        fields = ["*", *fields]
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise Bad("the number of fields")
    second, minute, hour, dates, month, weekdays = fields
    hours = values(hour, 0, 23, (), quirks)
    months = set(values(month, 1, 12, MONTHS, quirks))
    day_fields = DayFields(dates, weekdays, quirks)
    if rival == "croniter":
        is_day = in_croniter(day_fields, months, quirks, year)
    else:
        is_day = in_cron_parser(day_fields, months, quirks)
    rule = Rule(values(second, 0, 59, (), quirks), values(minute, 0, 59, (), quirks), hours, months, is_day)
    if "hours counted" in quirks:
        rule.names_hours = len(hours) != 24
    return rule


# The rival's clock.


class Clock:
    """What has to fire, and what may: collected minute by minute, for the quirks of a rival's clock."""

    def __init__(self, rival, rule):
        self.rival, self.rule = rival, rule
        self.matches = matcher(rule)
        # What must fire, unless it is in `optional`, which says why.
        self.plain, self.optional = set(), {}
        # Our fires at the end of gaps.
        self.late = set()
        # What only fires for a quirk, and for which.
        self.moved = {}
        # The minute after the latest one that was not a repetition, and what the clock showed then.
        self.back = self.before = None

    def seconds(self, minute):
        """The rule's seconds of a minute."""
        return [minute * MINUTE + second for second in self.rule.seconds]

    def look(self, minute, wall, skipped, again):
        """Takes in a minute, as `walk` yields it. Returns what has to fire in it."""
        if skipped and self.rule.names_hours:
            self.gap(minute, wall, skipped)
        if not again:
            self.back, self.before = minute + 1, wall
        if not self.matches(wall):
            return []
        if again and self.back is not None:
            self.repetition(minute, wall)
        if again and self.rule.names_hours:
            self.moved.update(dict.fromkeys(self.seconds(minute), "repeated time fires twice"))
            return []
        self.plain.update(self.seconds(minute))
        return self.seconds(minute)

    def gap(self, minute, wall, skipped):
        """The clock has jumped over some minutes."""
        jumped = [time for time in skipped if self.matches(time)]
        if jumped:
            self.late.add(minute * MINUTE)
        if jumped and self.rival == "croniter":
            self.moved[minute * MINUTE + self.rule.seconds[0]] = "skipped second kept"
        if self.rival != "cron-parser":
            return
        for time in jumped:
            self.moved.update(dict.fromkeys(self.seconds(minute + time - skipped[0]), "skipped time moved"))
        # It goes from hour to hour, and so passes over what is left of one before a gap, and moves what is of one after
        # it.
        for time in range(skipped[0] - skipped[0] % 60, skipped[0]):
            if self.matches(time):
                self.optional.update(dict.fromkeys(self.seconds(minute - skipped[0] + time), "hour cut by a gap"))
        for time in range(wall - wall % 60, wall - wall % 60 + 60) if wall % 60 else ():
            if self.matches(time):
                self.moved.update(dict.fromkeys(self.seconds(minute - wall + time + 60), "hour cut by a gap"))
            if self.matches(time) and time >= wall:
                self.optional.update(dict.fromkeys(self.seconds(minute - wall + time), "hour cut by a gap"))

    def repetition(self, minute, wall):
        """The clock shows a matching time for the second time."""
        # What it showed first after it had gone back.
        first = wall - (minute - self.back)
        if self.rival == "cron-parser" and (first - 1) // (24 * 60) < wall // (24 * 60) == self.before // (24 * 60):
            at = self.back - 1 - (self.before - wall)
            self.optional.update(dict.fromkeys(self.seconds(at), "first of a repeated midnight left out"))
        if self.rival == "croniter" and self.before + 1 - first < 60:
            self.optional.update(dict.fromkeys(self.seconds(minute), "repeated half hour left out"))


def clock_reasons(question, rule, found):
    """The quirks of the clock with which the rule fires just then; None when it does not."""
    after, end = question["from"], question["end"]
    if len(found) < question["count"] and end is None:
        return None
    if any(first >= second for first, second in itertools.pairwise([after, *found])):
        return None
    horizon = found[-1] if len(found) == question["count"] else end
    clock, rest, missed = Clock(question["rival"], rule), set(found), collections.deque()
    for minute, wall, skipped, again in walk(rule, zoneinfo.ZoneInfo(question["tz"]), after, horizon):
        begin = minute * MINUTE
        # Somewhat farther: what is repeated later can be left out now.
        if begin > horizon + arbiter.LONGEST_REPEAT:
            break
        while missed and begin > missed[0] + arbiter.LONGEST_REPEAT:
            if missed.popleft() not in clock.optional:
                return None
        fires = clock.look(minute, wall, skipped, again)
        missed.extend(at for at in fires if at > after and at not in rest)

    seen = lambda times: {time for time in times if after < time <= horizon}
    plain, late = seen(clock.plain), seen(clock.late)
    missing, added = plain - rest, rest - plain - late
    if not missing <= clock.optional.keys() or not added <= clock.moved.keys():
        return None
    reasons = {clock.moved[at] for at in added} | {clock.optional[at] for at in missing}
    for at in late - plain - rest:
        if question["rival"] == "croniter":
            if rule.seconds[0] == 0 or at + rule.seconds[0] not in rest:
                return None
            reasons.add("skipped second kept")
        elif not reasons & {"skipped time moved", "hour cut by a gap"}:
            reasons.add("skipped time left out")
    return sorted(reasons)


def gave_up(question, rule):
    """Whether the rule fires as found, and then not for longer than the rival looks."""
    found = question["answer"]["next"]
    if "loop limit" not in question["answer"]["error"]:
        return False
    if found and clock_reasons({**question, "count": len(found)}, rule, found) != []:
        return False
    last = found[-1] if found else question["from"]
    following = next(arbiter.documented(rule, zoneinfo.ZoneInfo(question["tz"]), last), None)
    return following is None or following - last > 0.95 * CRON_PARSER_DAYS * arbiter.DAY


def reasons(question):
    """The fewest quirks that explain an answer."""
    rival, answer = question["rival"], question["answer"]
    found = answer["next"]
    year = datetime.datetime.fromtimestamp(question["from"], datetime.timezone.utc).year
    for together in range(MOST_TOGETHER + 1):
        for quirks in itertools.combinations(possible(rival, question["cron"]), together):
            try:
                rule = reading(rival, question["cron"], quirks, year)
            except Bad:
                if "error" in answer and not found:
                    return list(quirks)
                continue
            if "error" in answer:
                if gave_up(question, rule):
                    return [*quirks, "gives up"]
                continue
            clock = clock_reasons(question, rule, found)
            if clock is not None:
                return [*quirks, *clock]
    return None


def main():
    """Answers on standard output."""
    for line in sys.stdin:
        question = json.loads(line)
        explained = reasons(question) or []
        print(json.dumps({"reasons": [f"{question['rival']}: {reason}" for reason in explained]}))


if __name__ == "__main__":
    main()
