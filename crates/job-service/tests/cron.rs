//! A `cron::Schedule` as a rule fires when the crate cron says, and nowhere else.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a helper of a test fails its test")]

use chrono::{DateTime, Utc};
use job_scheduler::timetable::{TimeZone, Timestamp, Timetable};
use job_service::{Db, Field, IntoRule, NewJob, migrate, schedule};
use job_testkit::TestDb;

const RULES: usize = 400;
const INSTANTS: usize = 25;
/// Days, months and years of a rule that both can say.
const NAMES: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// A field: `*`, a value, a list, a range, a step.
fn field(random: &mut fastrand::Rng, first: u32, last: u32) -> String {
    let value = random.u32(first..=last);
    let other = random.u32(value..=last);
    match random.u32(0..8) {
        0..=2 => "*".to_owned(),
        3 => format!("{value}"),
        4 => format!("{value},{other}"),
        5 => format!("{value}-{other}"),
        6 => format!("*/{}", random.u32(1..=(last - first))),
        _ => format!("{value}-{other}/{}", random.u32(1..=7)),
    }
}

fn rule(random: &mut fastrand::Rng) -> String {
    let mut fields: Vec<String> =
        [(0, 59), (0, 59), (0, 23), (1, 31), (1, 12)].map(|(first, last)| field(random, first, last)).into();
    fields.push(match random.u32(0..4) {
        0 => NAMES[random.usize(..7)].to_owned(),
        _ => field(random, 1, 7),
    });
    if random.u32(0..4) == 0 {
        fields.push(field(random, 1990, 2100));
    }
    fields.join(" ")
}

#[test]
fn a_cron_schedule_fires_when_the_crate_says_at_ten_thousand_instants() {
    let mut random = fastrand::Rng::with_seed(32);
    let (mut compared, mut fires) = (0, 0);
    while compared < RULES * INSTANTS {
        let rule = rule(&mut random);
        let theirs: cron::Schedule = rule.parse().unwrap_or_else(|error| panic!("{rule}: {error}"));
        let ours = match (&theirs).into_rule() {
            Ok(ours) => Timetable::parse(&ours, &TimeZone::UTC).unwrap(),
            Err(error) => {
                assert!(error.to_string().contains("never fire"), "{rule}: {error}");
                let from: DateTime<Utc> = "1971-01-01T00:00:00Z".parse().unwrap();
                assert_eq!(theirs.after(&from).next(), None, "{rule}");
                continue;
            }
        };
        for _ in 0..INSTANTS {
            let from = random.i64(315_532_800..4_070_908_800);
            let next = theirs.after(&DateTime::from_timestamp(from, 0).unwrap()).next().map(|next| next.timestamp());
            let expected = ours.next_after(Timestamp::from_second(from).unwrap()).map(Timestamp::as_second);
            // Its years end with 2100.
            let expected = expected.filter(|at| *at < 4_133_980_800);
            assert_eq!(expected, next, "{rule} after {from}");
            compared += 1;
            fires += usize::from(next.is_some());
        }
    }
    assert!(fires > RULES * INSTANTS / 2, "{fires}");
}

#[tokio::test]
async fn a_schedule_takes_it_and_refuses_one_that_never_fires() {
    let postgres = TestDb::empty().await;
    let db = Db::from_url(postgres.url()).unwrap();
    let _ = migrate(&db).await.unwrap();
    // Sunday is 1; both days restricted must both match.
    let friday_13: cron::Schedule = "0 0 9 13 * FRI".parse().unwrap();
    schedule(&db, &friday_13, NewJob::raw("report", "")).await.unwrap();
    let client = postgres.connect().await;
    let stored: String =
        client.query_one("SELECT schedule_info::text FROM app_jobs.scheduled_jobs", &[]).await.unwrap().get(0);
    let expected = r#"{"date":[13],"dayOfWeek":[5],"hour":[9],"minute":[0],"second":[0]}"#;
    assert_eq!(stored, expected);
    let never: cron::Schedule = "0 0 0 30 2 *".parse().unwrap();
    let error = schedule(&db, never, NewJob::raw("report", "")).await.unwrap_err();
    assert_eq!(error.field(), Some(Field::Rule), "{error}");
    assert!(error.to_string().contains("0 0 0 30 2 *"), "{error}");
}
