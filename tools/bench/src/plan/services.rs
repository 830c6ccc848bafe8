//! What the services do, as processes of their own.

use std::time::Duration;

use super::super::schedules::{Fires, Schedules};
use super::{Function, Group, Kind, LIMITS, OURS, OURS_RIVALS, Scale, Scenario, Work};

/// The original claims one schedule a statement, and looks through those it has.
const RIVAL_SCHEDULES: u64 = 20;

pub(super) fn http(scale: &Scale) -> Group {
    let drain = |name, title, who, jobs, function| scale.scenario(name, title, who, jobs, Work::HttpDrain { function });
    let latency =
        |name, title, function| scale.scenario(name, title, OURS_RIVALS, scale.latency, Work::HttpLatency { function });
    let node = |workers| Function::Node { workers };
    Group {
        title: "HTTP",
        note: "job-service as shipped, against a minimal function in Rust. A job of the original always ends by a \
               callback.",
        scenarios: vec![
            scale.scenario(
                "http-post",
                "bare POSTs, 64 connections",
                LIMITS,
                scale.http * 2,
                Work::Post { clients: 64 },
            ),
            drain("http-answer", "the answer ends the job", OURS_RIVALS, scale.http, Function::Answer).rivals(4),
            drain("http-callback", "a callback ends the job", OURS_RIVALS, scale.http, Function::Callback).rivals(4),
            drain("http-node", "the original's function in Node", OURS_RIVALS, scale.http / 20, node(1)),
            drain("http-node-4", "the same, 4 workers of the original", &[Kind::Rival], scale.http / 20, node(4)),
            latency("http-latency", "idle, add to done, answer", Function::Answer),
            latency("http-latency-callback", "idle, add to done, callback", Function::Callback),
        ],
    }
}

pub(super) fn schedules(scale: &Scale) -> Group {
    let [start, rest, seconds] = scale.schedule_seconds;
    let (start, rest, due) = (Duration::from_secs(start), Duration::from_secs(rest), scale.due);
    let holding = |name, title, fires, rest| {
        let work = Work::Schedules(Schedules { fires, start, rest });
        scale.scenario(name, title, OURS_RIVALS, scale.schedules, work).rivals(RIVAL_SCHEDULES).rivals_in_full(scale)
    };
    Group {
        title: "Schedules",
        note: "job-scheduler alone; the original's scheduler; and, for one second that is the first of a minute, the cron in a \
               worker of graphile-worker. Rivals get a twentieth of the schedules, because the original looks through those \
               it holds to find the next: the time of its start grows with their square. Start-up: from the start of the \
               process until all are held. Lateness: from the instant of the rule until the last row of the transaction \
               that makes the job is written; for the original until that transaction begins, which is what it writes \
               down. Statements and CPU are those from 1 s before the first fire until all are made, or for a minute.",
        scenarios: vec![
            holding("schedules", format!("{due} due in each minute"), Fires::Spread { per_minute: due, seconds }, rest)
                .seldom(),
            holding(
                "schedules-together",
                format!("{due} due in the same second"),
                Fires::Together { due },
                Duration::ZERO,
            )
            .seldom(),
        ],
    }
}

pub(super) fn idle(scale: &Scale) -> Group {
    Group {
        title: "Idle",
        note: "job-service (worker, callback server, scheduler) without work; statements are counted in the server's log.",
        scenarios: vec![Scenario {
            reps: 1,
            ..scale.scenario("idle", "job-service", OURS, scale.idle_seconds, Work::Idle)
        }],
    }
}
