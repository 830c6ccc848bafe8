//! What holds jobs back: named queues, limits, rates, pauses, priorities; and an operator who changes many jobs.

use super::super::gates::{Behind, Command, Gate, Isolation, OneQueue, Priorities};
use super::{Drain, Group, OURS, OURS_RIVALS, Scale, Scenario, Work, count};

fn command(command: Command) -> Work {
    Work::Gate(Gate::Command(command))
}

impl Scale {
    /// A size or a time, for a full and for a quick run.
    fn pick(&self, full: u64, quick: u64) -> u64 {
        if self.quick { quick } else { full }
    }

    /// A scenario of this project alone.
    fn own(&self, name: &'static str, title: impl Into<String>, work: Work) -> Scenario {
        self.scenario(name, title, OURS, 0, work)
    }
}

pub(super) fn queues(scale: &Scale) -> Group {
    let drain = |name, title, jobs, queues| {
        let work = Work::Drain(Drain { queues, ..Drain::PLAIN });
        scale.scenario(name, title, OURS_RIVALS, jobs, work).rivals_in_full(scale).seldom()
    };
    let (few, many) = (scale.pick(3_000, 2_000), scale.pick(300_000, 60_000));
    let over_http = |name, waiting, done, held| {
        let what = if held { ", snapshot held" } else { "" };
        let after = if done > 0 { format!(" after {}", count(done)) } else { String::new() };
        let work = Work::Gate(Gate::OneQueue(OneQueue { timed: few, done, held }));
        Scenario {
            jobs: waiting,
            ..scale.own(name, format!("one queue over HTTP, {} waiting{after}{what}", count(waiting)), work)
        }
    };
    let done = scale.pick(10_000, 3_000);
    Group {
        title: "Named queues",
        note: "Jobs of a queue run one at a time. In process: a drain with one worker. Over HTTP: job-service against \
               the function whose answer ends the job; the next jobs after the first 300 are timed, or those of 10 s. Of \
               the others only graphile-worker (crate and npm) has named queues that jobs serialise on. Queues of \
               River, awa, apalis and pg-boss are what a worker subscribes to.",
        scenarios: vec![
            scale.scenario("queues-0", "no queue names", OURS, scale.jobs, Work::Drain(Drain::PLAIN)),
            drain("queues", "10,000 distinct queue names", scale.jobs, 10_000),
            drain("queue-1", "one queue", few, 1),
            over_http("queue-few", few, 0, false),
            over_http("queue-many", many, 0, false),
            over_http("queue-dead", few, done, false),
            over_http("queue-dead-held", few, done, true),
        ],
    }
}

pub(super) fn producers(scale: &Scale) -> Group {
    let seconds = scale.pick(4, 2);
    let add = |name, isolation: Isolation, queue| {
        let into = if queue { "the busy queue" } else { "no queue" };
        let work = command(Command::Producers { clients: 8, isolation, queue, seconds });
        scale.own(name, format!("{}, {into}", isolation.words()), work)
    };
    Group {
        title: "Adding to a busy queue",
        note: "8 producers, each transaction with a SELECT, which fixes its snapshot, and one add_job; meanwhile a worker \
               runs jobs of 2 ms from the queue. A transaction that Postgres refuses counts as not committed, and is not \
               tried again.",
        scenarios: vec![
            add("producers-rc-none", Isolation::ReadCommitted, false),
            add("producers-rc", Isolation::ReadCommitted, true),
            add("producers-rr-none", Isolation::RepeatableRead, false),
            add("producers-rr", Isolation::RepeatableRead, true),
            add("producers-ser-none", Isolation::Serializable, false),
            add("producers-ser", Isolation::Serializable, true),
        ],
    }
}

pub(super) fn claims(scale: &Scale) -> Group {
    let blocked = scale.pick(300_000, 60_000);
    let beside = |name, title: &str, behind| {
        let work = command(Command::Claims { claims: scale.pick(200, 100), behind, blocked, queues: 1_000 });
        scale.own(name, format!("{} {title}", count(blocked)), work)
    };
    Group {
        title: "Claims beside closed gates",
        note: "One claim of 100 jobs, by a worker's own statement, from the beginning of what is due. Before all that may \
               start stand those behind the closed gate; what may start are jobs in 1,000 named queues. What was claimed is \
               deleted before the next claim. A claim that finds nothing counts with the next one. A gate of a task is \
               set before its jobs are added; claims put them behind it, and until they have, find nothing: that time is \
               told apart.",
        scenarios: vec![
            beside("claims-queue", "jobs behind a full queue", Behind::Queue),
            beside("claims-limit", "jobs behind a full limit", Behind::Limit),
            beside("claims-pause", "jobs behind a pause", Behind::Pause),
            beside("claims-host", "jobs of 300 tasks behind the pause of a host", Behind::Host),
        ],
    }
}

pub(super) fn priorities(scale: &Scale) -> Group {
    let rows = scale.pick(1_000_000, 100_000);
    let waiting = |name, who, each, due| {
        let title = format!(
            "{}{}, {}",
            count(rows),
            if due { "" } else { " not due" },
            if each { "a priority each" } else { "one priority" },
        );
        let work = Work::Gate(Gate::Priorities(Priorities { rows, each, due }));
        let scenario = scale.scenario(name, title, who, scale.jobs, work).rivals_in_full(scale);
        Scenario { reps: scenario.reps.min(2), rival_reps: 1, ..scenario }
    };
    Group {
        title: "Priorities",
        note: "A drain with one worker, and before it claims of 100 jobs from the beginning of what is due. Where rows are \
               not due, what is drained has one priority. Priorities of graphile-worker end at 32,767, River has \
               four.",
        scenarios: vec![
            waiting("priorities-one", OURS_RIVALS, false, true),
            waiting("priorities-each", OURS_RIVALS, true, true),
            waiting("priorities-later-one", OURS, false, false),
            waiting("priorities-later-each", OURS, true, false),
        ],
    }
}

pub(super) fn limits(scale: &Scale) -> Group {
    let seconds = scale.pick(10, 4);
    let limit = command(Command::Limit { running: 50, job_ms: 20, workers: 8, seconds });
    let rate = command(Command::Rate { rate: 100, burst: 5, workers: 8, seconds: scale.pick(60, 15) });
    Group {
        title: "Limits and rates",
        note: "Of one task, by 8 workers of 24 slots, which could run far more. What ran at once is counted by the \
               handlers and by the rows of running jobs, and shown as the most of all. A limit is used up when it runs so \
               many all the time: a job takes what its handler measured. A rate is used up when all tokens of the bucket \
               are; starts are those that the database wrote down, and above the bucket is by how many starts the fullest \
               time exceeded it. Neither is compared: limits of River are each worker's, or in its commercial edition; \
               pg-boss counts what runs when it claims, and does not limit a rate of starts; graphile-worker \
               has neither.",
        scenarios: vec![
            scale.own("limit", "50 at once, jobs of 20 ms", limit),
            Scenario { reps: 1, ..scale.own("rate", "100/s, burst 5", rate) },
        ],
    }
}

pub(super) fn hosts(scale: &Scale) -> Group {
    let (seconds, jobs) = (scale.pick(60, 15), scale.pick(10_000, 3_000));
    let title = format!("{} waiting, down for {seconds} s", count(jobs));
    let scenario = scale.own("host", title, Work::Gate(Gate::Host { seconds }));
    Group {
        title: "A host that is down",
        note: "job-service and one function, which answers 503 to all requests for some time from the first one on, and then \
               as the fast one does. Attempts are those of the jobs that wait when it is back.",
        scenarios: vec![Scenario { jobs, reps: 1, ..scenario }],
    }
}

pub(super) fn fairness(scale: &Scale) -> Group {
    let work = command(Command::Fair {
        slots: 8,
        long_ms: 50,
        short_ms: 5,
        waiting: scale.pick(100_000, 20_000),
        jobs: scale.pick(100_000, 20_000),
        seconds: scale.pick(8, 3),
    });
    Group {
        title: "Fairness between tenants",
        note: "One worker of 8 slots; tenants are served by the least run time. The large one has jobs of 50 ms, the small \
               one of 5 ms. A wait is that from the call which adds a single job, each 50 ms, to the start of its handler, \
               alone and beside the other's backlog. The share is that of all run time while a thousandth as many of the \
               small one's jobs wait all the time: half is fair. The slots used are that run time, of what the slots \
               could run. The drain is of jobs of both that do nothing.",
        scenarios: vec![scale.own(
            "fair",
            format!("{} of the large one waiting", count(scale.pick(100_000, 20_000))),
            work,
        )],
    }
}

pub(super) fn bulk(scale: &Scale) -> Group {
    let change = scale.pick(50_000, 10_000);
    let work = command(Command::Bulk { jobs: change * 4, waiting: change * 3, change, job_ms: 2, workers: 3 });
    Group {
        title: "Changing many jobs under load",
        note: "Three workers run jobs of 2 ms; reschedule_jobs gives another priority to those that would start next. \
               Left out: jobs that waited all the while and were not changed. Unsettled: jobs that had ended, and whose rows \
               were there, at the most. The drain is that of the slowest half second, or of the whole call when it is \
               shorter.",
        scenarios: vec![scale.own("reschedule", format!("{} of {} waiting", count(change), count(change * 3)), work)],
    }
}
