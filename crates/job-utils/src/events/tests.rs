//! Tests: who is told of what, and what telling costs.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::*;

fn attempt() -> Attempt<'static> {
    Attempt {
        task: Some("greet"),
        number: Some(2),
        max_attempts: Some(3),
        ..Attempt::new(Source::Worker, 7, "worker-0")
    }
}

#[test]
fn listeners_are_told_in_order_and_a_panic_of_one_is_the_others_business_in_no_way() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let to = |name: &'static str| {
        let told = told.clone();
        move |event: &Event<'_>| {
            if let Event::JobCompleted(attempt) = event {
                told.lock().unwrap().push((name, attempt.job_id));
            }
        }
    };
    let panics = Arc::new(AtomicUsize::new(0));
    let count = panics.clone();
    let events = Events::default().with(to("first")).with(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        panic!("a bug of the application");
    });
    let events = events.and(&Events::default().with(to("last")));
    for _ in 0..2 {
        events.emit(&Event::JobCompleted(attempt()));
        events.emit(&Event::AttemptStarted(attempt()));
    }
    assert_eq!(*told.lock().unwrap(), [("first", 7), ("last", 7), ("first", 7), ("last", 7)]);
    assert_eq!(panics.load(Ordering::Relaxed), 4, "it is called all the same");
}

/// A value that panics as it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("again");
    }
}

#[test]
fn what_a_listener_panics_with_does_not_unwind_into_who_tells() {
    let told = Arc::new(AtomicUsize::new(0));
    let count = told.clone();
    let events = Events::default().with(|_| std::panic::panic_any(Bomb));
    let events = events.with(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    events.emit(&Event::JobCompleted(attempt()));
    assert_eq!(told.load(Ordering::Relaxed), 1, "the next one is told");
}

#[test]
fn an_outcome_is_told_as_what_becomes_of_the_job() {
    let second = Duration::from_secs(1);
    let last = Attempt { number: Some(3), ..attempt() };
    let unknown = Attempt::new(Source::Callback, 7, "worker-0");
    for (attempt, outcome, told) in [
        (attempt(), Outcome::Complete, "JobCompleted"),
        (attempt(), Outcome::retry("no"), "JobRetrying"),
        (last, Outcome::retry("no"), "JobFailed"),
        (unknown, Outcome::retry("no"), "JobRetrying"),
        (attempt(), Outcome::discard("no"), "JobFailed"),
        (last, Outcome::snooze(second), "JobSnoozed"),
        (last, Outcome::release("no"), "JobReleased"),
    ] {
        let event = format!("{:?}", Event::settled(attempt, &outcome));
        assert!(event.starts_with(told), "{outcome:?}: {event}");
    }
}

/// What an event costs: `cargo test --release -p job-utils --lib events -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
fn what_an_event_costs() {
    const ROUNDS: u32 = 10_000_000;
    let measure = |name: &str, each: &dyn Fn(i64)| {
        let started = Instant::now();
        (0..i64::from(ROUNDS)).for_each(each);
        println!("{name}: {:.2} ns", started.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS));
    };
    let (silent, heard) = (
        Events::default(),
        Events::default().with(|event| {
            std::hint::black_box(event);
        }),
    );
    let completed = |id| Event::JobCompleted(Attempt { job_id: id, ..attempt() });
    let line = |id: i64| tracing::info!(job.id = id, job.task = "greet", duration_ms = 1, "job completed");
    measure("a loop", &|id| {
        std::hint::black_box(id);
    });
    measure("a line of the log that nobody reads", &|id| line(std::hint::black_box(id)));
    measure("an event that nobody hears", &|id| silent.emit(&completed(std::hint::black_box(id))));
    measure("an event with one listener", &|id| heard.emit(&completed(std::hint::black_box(id))));
}
