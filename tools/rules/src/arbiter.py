"""When does a schedule fire? The documented rules, taken literally and slowly.

This is the judge over job-scheduler's timetable and its rivals. It shares nothing with any of them: its own reading of a
rule, and a walk over the minutes of a zone's wall clock, one after the other, on Python's calendar and zone rules.

A line of JSON on standard input is a question, as `job-scheduler next --batch` takes it; a line on standard output is the
answer, `{"next": [...]}` with instants in seconds since 1970, or `{"error": "..."}`. With `--zones FIRST LAST NAME...` it
prints when the clocks of zones change instead.
"""

import calendar
import datetime
import json
import sys
import zoneinfo

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
# Within so many years after the reference every date of the calendar has come on every day of the week.
YEARS = 400
# No wall clock has gone back by more since 2000, and none is farther before or behind UTC.
LONGEST_REPEAT = 4 * HOUR
FARTHEST_EAST = 14 * HOUR
FARTHEST_WEST = 12 * HOUR

MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class Bad(Exception):
    """A schedule that cannot be used."""


class Rule:
    """What fires: a predicate on dates, and sets of hours, minutes and seconds."""

    def __init__(self, seconds, minutes, hours, months, is_day, years=None):
        self.seconds = sorted(seconds)
        self.minutes = set(minutes)
        self.hours = set(hours)
        self.months = set(months)
        self.is_day = is_day
        self.years = None if years is None else set(years)
        # A rule for every hour is finer than an hour, however it is written.
        self.names_hours = self.hours != set(range(24))

    def is_date(self, date):
        """Whether the rule fires on a date."""
        return (
            date.month in self.months
            and (self.years is None or date.year in self.years)
            and self.is_day(date)
        )


# Reading a cron rule.


def number(text, first, last, names=()):
    """A value of a field; the first name stands for the first value."""
    if text.lower() in names:
        return first + names.index(text.lower())
    if not (text.isascii() and text.isdigit()) or not first <= int(text) <= last:
        raise Bad(f"{text!r} is not within {first}-{last}")
    return int(text)


def entry(text, first, last, names=(), wild=("*",)):
    """The values of one entry of a list."""
    span, slash, step = text.partition("/")
    if slash and (not (step.isascii() and step.isdigit()) or int(step) == 0):
        raise Bad(f"{step!r} is not a step")
    begin, dash, end = span.partition("-")
    if span in wild:
        low, high = first, last
    elif dash:
        low, high = number(begin, first, last, names), number(end, first, last, names)
    else:
        low = number(span, first, last, names)
        high = last if slash else low
    if low > high:
        raise Bad(f"{span!r} runs backward")
    return set(range(low, high + 1, int(step) if slash else 1))


def values(text, first, last, names=()):
    """The values of a field."""
    return set().union(*(entry(part, first, last, names) for part in text.split(",")))


def is_last_date(date):
    """Whether a date is the last one of its month."""
    return date.day == calendar.monthrange(date.year, date.month)[1]


def weekday(date):
    """The day of the week, Sunday is 0."""
    return date.isoweekday() % 7


def dates_field(text):
    """A predicate for the field day-of-month."""
    days, last = set(), False
    for part in text.split(","):
        if part in ("L", "l"):
            last = True
        else:
            days |= entry(part, 1, 31, wild=("*", "?"))
    return lambda date: date.day in days or last and is_last_date(date)


def weekdays_field(text):
    """A predicate for the field day-of-week."""
    days, lasts, nths = set(), set(), set()
    for part in text.split(","):
        day, hash_mark, nth = part.partition("#")
        if hash_mark:
            nths.add((number(day, 0, 7, WEEKDAYS) % 7, number(nth, 1, 5)))
        elif part[-1:] in ("L", "l"):
            lasts.add(number(part[:-1], 0, 7, WEEKDAYS) % 7)
        else:
            days |= {day % 7 for day in entry(part, 0, 7, WEEKDAYS, wild=("*", "?"))}

    def matches(date):
        day = weekday(date)
        is_last = (date + datetime.timedelta(days=7)).month != date.month
        return day in days or day in lasts and is_last or (day, (date.day + 6) // 7) in nths

    return matches


def cron(text):
    """The rule that a cron rule means."""
    text = NAMED.get(text.strip().lower(), text)
    fields = text.split()
    if len(fields) not in (5, 6):
        raise Bad("a cron rule has 5 fields, or 6")
    if len(fields) == 5:
        fields = ["0", *fields]
    second, minute, hour, dates, month, weekdays = fields
    on_date, on_weekday = dates_field(dates), weekdays_field(weekdays)
    if dates in ("*", "?") or weekdays in ("*", "?"):
        is_day = lambda date: on_date(date) and on_weekday(date)
    else:
        is_day = lambda date: on_date(date) or on_weekday(date)
    return Rule(
        values(second, 0, 59), values(minute, 0, 59), values(hour, 0, 23), values(month, 1, 12, MONTHS), is_day
    )


# Reading the other forms.


def recurrence(fields):
    """The rule that a recurrence object means."""

    def field(name, first, last):
        value = fields.get(name)
        if name == "second" and name not in fields:
            value = 0
        entries = value if isinstance(value, list) else [value]
        if None in entries:
            return set(range(first, last + 1))
        found = {float(entry) for entry in entries}
        if not found or not all(value == int(value) and first <= value <= last for value in found):
            raise Bad(f"{name}: {value!r}")
        return {int(value) for value in found}

    dates, weekdays = field("date", 1, 31), field("dayOfWeek", 0, 6)
    months = {month + 1 for month in field("month", 0, 11)}
    years = field("year", 0, 9999) if fields.get("year") is not None else None
    is_day = lambda date: date.day in dates and weekday(date) in weekdays
    return Rule(field("second", 0, 59), field("minute", 0, 59), field("hour", 0, 23), months, is_day, years)


def instant(value):
    """Seconds since 1970 of a date: epoch milliseconds, or ISO 8601 with an offset, or a date alone."""
    if isinstance(value, (int, float)):
        return value / 1000
    date = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if date.tzinfo is None:
        if len(value) > 10:
            raise Bad(f"{value!r} has no offset")
        date = date.replace(tzinfo=datetime.timezone.utc)
    return date.timestamp()


def is_date_text(value):
    """Whether a text is a date rather than a cron rule."""
    return value[:4].isdigit() and value[4:5] == "-"


class Schedule:
    """A whole schedule_info."""

    def __init__(self, info, zone, read=cron):
        outer = info if isinstance(info, dict) else {"rule": info}
        rule = outer.get("rule")
        if rule is None:
            rule = outer
        inner_zone = rule.get("tz") if isinstance(rule, dict) else None
        self.zone = zoneinfo.ZoneInfo(outer.get("tz") or inner_zone or zone)
        self.start = instant(outer["start"]) if outer.get("start") else None
        self.end = instant(outer["end"]) if outer.get("end") else None
        self.once = self.rule = None
        if isinstance(rule, dict):
            self.rule = recurrence(rule)
        elif isinstance(rule, (int, float)) or is_date_text(rule):
            self.once = instant(rule)
        else:
            self.rule = read(rule)

    def fires(self, after, clock):
        """Every fire after an instant, ascending."""
        if self.once is not None:
            if self.once > after and (self.start is None or self.once >= self.start):
                yield from [self.once] if self.end is None or self.once <= self.end else []
            return
        if self.start is not None:
            after = max(after, self.start)
        for at in clock(self.rule, self.zone, after, self.end):
            if self.end is not None and at > self.end:
                return
            yield at


# The wall clock.


class WallClock:
    """A zone's wall clock in whole minutes since 1970."""

    def __init__(self, zone):
        self.zone = zone
        self.quarters = {}

    def asked(self, minute):
        """The offset from UTC in minutes, from the zone's rules."""
        at = datetime.datetime.fromtimestamp(minute * MINUTE, datetime.timezone.utc).astimezone(self.zone)
        offset = at.utcoffset() // datetime.timedelta(minutes=1)
        if at.utcoffset() != datetime.timedelta(minutes=offset):
            raise Bad("the zone's offset is no whole number of minutes")
        return offset

    def shows(self, minute):
        """What it shows at a minute of UTC."""
        quarter = minute // 15
        if quarter not in self.quarters:
            first, last = self.asked(quarter * 15), self.asked(quarter * 15 + 14)
            self.quarters[quarter] = first if first == last else None
        offset = self.quarters[quarter]
        return minute + (self.asked(minute) if offset is None else offset)


CLOCKS = {}


def clock_of(zone):
    """The clock of a zone, which remembers what it has looked up."""
    return CLOCKS.setdefault(zone.key, WallClock(zone))


def spans(rule, after, end):
    """Stretches of UTC minutes that hold every fire: around each date that matches, in order."""
    first = datetime.datetime.fromtimestamp(after, datetime.timezone.utc).date() - datetime.timedelta(days=2)
    last_year = min(first.year + YEARS, 9000)
    if end is not None:
        last_year = min(last_year, datetime.datetime.fromtimestamp(end, datetime.timezone.utc).year + 1)
    current = None
    for year in range(first.year, last_year + 1):
        if rule.years is not None and year not in rule.years:
            continue
        for month in sorted(rule.months):
            for day in range(1, calendar.monthrange(year, month)[1] + 1):
                date = datetime.date(year, month, day)
                if date < first or not rule.is_date(date):
                    continue
                midnight = calendar.timegm(date.timetuple())
                begin, stop = (midnight - FARTHEST_EAST) // MINUTE, (midnight + DAY + FARTHEST_WEST) // MINUTE
                if current is not None and begin <= current[1]:
                    current = (current[0], stop)
                    # Long stretches in pieces: few fires are asked for.
                    if stop - current[0] > 4 * DAY // MINUTE:
                        yield current
                        current = (stop, stop)
                    continue
                if current is not None:
                    yield current
                current = (begin, stop)
    if current is not None:
        yield current


def walk(rule, zone, after, end):
    """Looks at a wall clock minute by minute, from an instant on, wherever the rule may fire.

    Yields the minute of UTC, what the clock shows, what it has just jumped over, and whether it has shown that before: all
    in minutes.
    """
    clock = clock_of(zone)
    for begin, stop in spans(rule, after, end):
        begin = max(begin, int(after) // MINUTE)
        # Some hours earlier, to know what the clock has shown already.
        highest = max(clock.shows(minute) for minute in range(begin - LONGEST_REPEAT // MINUTE, begin))
        for minute in range(begin, stop):
            wall = clock.shows(minute)
            yield minute, wall, range(highest + 1, wall), wall <= highest
            if wall > highest:
                highest = wall


def matcher(rule):
    """A predicate on minutes of a wall clock."""
    dates = {}

    def matches(wall):
        day, minute = divmod(wall, DAY // MINUTE)
        if minute % 60 not in rule.minutes or minute // 60 not in rule.hours:
            return False
        if day not in dates:
            dates[day] = rule.is_date(datetime.date(1970, 1, 1) + datetime.timedelta(days=day))
        return dates[day]

    return matches


def documented(rule, zone, after, end=None):
    """Every fire after an instant, as the documentation of job-scheduler has it.

    A rule that names hours follows the wall clock. When the clock jumps forward over matching times, it fires once as the
    clock jumps. When the clock has gone back, what it shows again does not fire again. Other rules fire whenever the clock
    shows a matching time.
    """
    matches = matcher(rule)
    last = after
    for minute, wall, skipped, again in walk(rule, zone, after, end):
        if rule.names_hours:
            jumped = skipped and any(matches(time) for time in skipped)
            shown = not again and matches(wall)
        else:
            jumped = False
            shown = matches(wall)
        if not jumped and not shown:
            continue
        found = [minute * MINUTE] if jumped else []
        found.extend(minute * MINUTE + second for second in rule.seconds if shown)
        for at in found:
            if at > last:
                last = at
                yield at


# Questions and answers.


def answer(question, read=cron, clock=documented):
    """The answer to a line of `job-scheduler next --batch`."""
    zone = question.get("tz", "UTC")
    info = question.get("schedule_info")
    if info is None:
        info = {"rule": question["rule"], "tz": question.get("tz")}
    try:
        schedule = Schedule(info, zone, read)
        fires = schedule.fires(instant(question["from"]), clock)
        found = [at for at, _ in zip(fires, range(question["count"]))]
        if not found and next(schedule.fires(instant("2000-01-01"), clock), None) is None:
            raise Bad("it never fires")
    except (Bad, ValueError, zoneinfo.ZoneInfoNotFoundError) as error:
        return {"error": str(error)}
    return {"next": found}


def changes(zone, first, last):
    """When a zone changes its clocks, and its offset in seconds from then on; the first entry is the beginning."""
    offset = lambda at: int(
        datetime.datetime.fromtimestamp(at, datetime.timezone.utc).astimezone(zone).utcoffset().total_seconds()
    )
    found = [[first, offset(first)]]
    for noon in range(first, last, DAY // 2):
        before, after = noon, noon + DAY // 2
        if offset(before) == offset(after):
            continue
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if offset(middle) == offset(before) else (before, middle)
        found.append([after, offset(after)])
    return found


def main():
    """Answers on standard output."""
    if sys.argv[1:2] == ["--zones"]:
        first, last = int(sys.argv[2]), int(sys.argv[3])
        print(json.dumps({name: changes(zoneinfo.ZoneInfo(name), first, last) for name in sys.argv[4:]}))
        return
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))))


if __name__ == "__main__":
    main()
