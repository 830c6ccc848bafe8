//! What the library does: jobs added, and handlers in the worker's process.

use super::{ALL, Beside, Drain, Group, Kind, LIMITS, OURS, OURS_RIVALS, Rate, Scale, Work, count};

const DRAIN: Work = Work::Drain(Drain::PLAIN);
const ONE_BY_ONE: Work = Work::Latency { rate: Rate::OneByOne };

fn single(notify: Option<&'static str>, beside: Beside) -> Work {
    Work::Add { mode: "single", clients: 10, notify, beside }
}

fn bulk(clients: u32) -> Work {
    Work::Add { mode: "bulk", clients, notify: None, beside: Beside::Nothing }
}

pub(super) fn drains(scale: &Scale) -> Group {
    let drain = |name, title, who, work| scale.scenario(name, title, who, scale.jobs, Work::Drain(work));
    Group {
        title: "Drain in process",
        note: "No-op handlers. The limit claims 500 rows with RETURNING and deletes them, on a table with a primary key \
               and one partial index.",
        scenarios: vec![
            drain("drain-1", "one worker", ALL, Drain::PLAIN),
            drain("drain-2", "two workers", ALL, Drain { workers: 2, ..Drain::PLAIN }).rivals_in_full(scale),
            drain("drain-lazy", "claims not durable", LIMITS, Drain { durable_claim: false, ..Drain::PLAIN }),
        ],
    }
}

pub(super) fn adds(scale: &Scale) -> Group {
    let one = |name, title, who, work| scale.scenario(name, title, who, scale.single, work).rivals(4);
    let many = |name, title, who, clients| scale.scenario(name, title, who, scale.jobs, bulk(clients));
    let (busy, drain) = (single(Some("demand"), Beside::BusyWorker), single(Some("demand"), Beside::Drain));
    Group {
        title: "Enqueue",
        note: "Single: one job a transaction, 10 at once. Bulk: each library's best bulk way, one client unless said \
               otherwise. The limit is a plain INSERT into the table above, 500 rows a statement in bulk.",
        scenarios: vec![
            one("single-always", "single, always NOTIFY", ALL, single(Some("always"), Beside::Nothing)),
            one("single-demand", "single, NOTIFY on demand, worker busy", OURS, busy),
            one("single-keeping-up", "single, NOTIFY on demand, a worker drains them", OURS, drain),
            one("single-raw", "single, no NOTIFY", LIMITS, single(None, Beside::Nothing)),
            many("bulk", "bulk", ALL, 1),
            many("bulk-2", "bulk, 2 clients", &[Kind::Limits, Kind::Ours], 2),
        ],
    }
}

pub(super) fn latencies(scale: &Scale) -> Group {
    let at = |name, title, who, jobs, rate| scale.scenario(name, title, who, jobs, Work::Latency { rate });
    Group {
        title: "Latency",
        note: "From the call that adds the job to the start of its handler. The limit is a plain INSERT with pg_notify, and a \
               listener that claims the row.",
        scenarios: vec![
            at("latency", "idle", ALL, scale.latency, Rate::OneByOne),
            at("latency-500", "at 500 jobs/s", OURS_RIVALS, 0, Rate::PerSecond(500)).rivals_in_full(scale),
            at("latency-half", "at half of its own single adds/s", OURS_RIVALS, 0, Rate::Half).rivals_in_full(scale),
        ],
    }
}

pub(super) fn not_due(scale: &Scale) -> Group {
    let [some, many] = scale.not_due;
    let drain = |name, who, fill| {
        scale.scenario(name, format!("drain, {} not due", count(fill)), who, scale.jobs, DRAIN).filled(fill)
    };
    let latency = |name, who, fill| {
        scale.scenario(name, format!("latency, {} not due", count(fill)), who, scale.latency, ONE_BY_ONE).filled(fill)
    };
    Group {
        title: "Rows that are not due",
        note: "Rows in the table that are due in a day; and the same without, in turn, since machines change their pace.",
        scenarios: vec![
            drain("not-due-0", OURS, 0),
            latency("not-due-0-latency", OURS, 0),
            drain("not-due", OURS_RIVALS, some).rivals_in_full(scale).seldom(),
            latency("not-due-latency", OURS_RIVALS, some).rivals_in_full(scale).seldom(),
            drain("not-due-many", OURS, many),
            latency("not-due-many-latency", OURS, many),
        ],
    }
}

pub(super) fn dead(scale: &Scale) -> Group {
    let [few, many] = scale.dead;
    let drain = |name, who, before, held| {
        let title = format!("{} dead rows, {}", count(before), if held { "snapshot held" } else { "no snapshot held" });
        scale.scenario(name, title, who, scale.jobs, Work::Drain(Drain { before, held, ..Drain::PLAIN }))
    };
    Group {
        title: "Dead rows under a held snapshot",
        note: "A forgotten transaction holds its snapshot from the beginning. Jobs are added and drained until the dead \
               rows are there (two a job), then the drain of the next jobs is timed; and the same without the transaction.",
        scenarios: vec![
            drain("dead", OURS_RIVALS, few, false).rivals_in_full(scale).seldom(),
            drain("dead-held", OURS_RIVALS, few, true).rivals_in_full(scale).seldom(),
            drain("dead-many", OURS, many, false),
            drain("dead-many-held", OURS, many, true),
        ],
    }
}

pub(super) fn payloads(scale: &Scale) -> Group {
    let drain = |name, title, jobs, work| {
        scale.scenario(name, title, OURS_RIVALS, jobs, Work::Drain(work)).rivals_in_full(scale).seldom()
    };
    Group {
        title: "Payloads",
        note: "A drain with one worker.",
        scenarios: vec![
            drain("payload-1k", "payloads of 1 KiB", scale.jobs, Drain { payload: 1_024, ..Drain::PLAIN }),
            drain("payload-64k", "payloads of 64 KiB", scale.jobs / 20, Drain { payload: 65_536, ..Drain::PLAIN }),
        ],
    }
}
