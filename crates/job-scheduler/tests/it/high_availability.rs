//! Three schedulers, one of them killed every few seconds, and Postgres restarted twice: every fire of a minute, once.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use job_testkit::process::Signal;
use job_testkit::{Cluster, Process, eventually, postgres, throughout};
use tokio_postgres::Client;

use super::support::{EVERY_SECOND, LIMIT, collect_fires, migrated, number, process};

/// Jobs beyond those that the ledger tells of.
const TWICE: &str =
    "SELECT (SELECT count(*) FROM fired) - count(*) FROM app_jobs.schedule_fires WHERE outcome = 'made'";

const MINUTE: Duration = Duration::from_secs(60);

/// Any numbers, other ones in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct Schedulers {
    url: String,
    running: Vec<Process>,
    named: u64,
}

impl Schedulers {
    fn start(&mut self, id: u64) {
        self.running.push(process(&self.url, &format!("sched-{id}"), &[]));
    }

    /// Kills one of the three and starts another one: under the same name, or under a new one.
    async fn kill_one(&mut self, random: &mut Random) {
        let place = usize::try_from(random.below(3)).unwrap();
        let mut killed = self.running.remove(place);
        killed.signal(Signal::Kill);
        killed.exit(LIMIT).await;
        if random.below(2) == 0 {
            self.named += 1;
        }
        self.start(self.named);
    }
}

/// Now on the database's clock, which is this host's.
async fn now(client: &Client) -> String {
    client.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn fifty_schedules_on_three_schedulers_that_are_killed_fire_each_second_once() {
    let seed = RandomState::new().hash_one("seed");
    let mut random = Random(seed);
    let mut cluster = Cluster::temporary().await.unwrap();
    let url = cluster.url("postgres");
    migrated(url.clone()).await.unwrap();
    let mut client = postgres::connect(&url).await;
    collect_fires(&client).await;
    let add = "INSERT INTO app_jobs.scheduled_jobs (task_identifier, schedule_info)
               SELECT CASE WHEN n % 2 = 0 THEN 'all' ELSE 'skip' END,
                      CASE WHEN n % 2 = 0 THEN json_build_object('rule', '* * * * * *', 'missed', 'all')
                           ELSE ($1::text)::json END
                 FROM generate_series(1, 50) n";
    client.execute(add, &[&EVERY_SECOND]).await.unwrap();

    let mut schedulers = Schedulers { url: url.clone(), running: Vec::new(), named: 2 };
    (0..3).for_each(|id| schedulers.start(id));
    let fired = "SELECT count(DISTINCT schedule_id) FROM app_jobs.schedule_fires WHERE outcome = 'made'";
    eventually(LIMIT, async || number(&client, fired).await == 50).await;

    let mut outages = Vec::new();
    let began = Instant::now();
    let mut restarts = vec![MINUTE / 3, MINUTE * 2 / 3];
    while began.elapsed() < MINUTE {
        let pause = Duration::from_millis(1000 + random.below(3000));
        throughout(pause, async || number(&client, TWICE).await == 0).await;
        schedulers.kill_one(&mut random).await;
        if restarts.first().is_some_and(|at| began.elapsed() >= *at) {
            restarts.remove(0);
            let down = now(&client).await;
            if restarts.is_empty() {
                cluster.kill().await.unwrap()
            } else {
                cluster.stop().await.unwrap()
            }
            cluster.start_again().await.unwrap();
            client = postgres::connect(&url).await;
            outages.push((down, now(&client).await));
        }
    }
    // Whoever is killed last is taken over as well.
    let latest =
        "SELECT count(*) FROM (SELECT max(fire_at) AS last FROM app_jobs.schedule_fires GROUP BY schedule_id) f
                   WHERE f.last >= date_trunc('second', $1::text::timestamptz)";
    let end = now(&client).await;
    eventually(LIMIT * 2, async || client.query_one(latest, &[&end]).await.unwrap().get::<_, i64>(0) == 50).await;
    for scheduler in &mut schedulers.running {
        // One that has just started would be ended by the signal itself.
        scheduler.wait_for_line("scheduler looks for schedules", LIMIT).await;
        scheduler.signal(Signal::Term);
    }
    for scheduler in &mut schedulers.running {
        assert_eq!(scheduler.exit_code(LIMIT).await, 0, "{}", scheduler.output());
    }

    // Every second from a schedule's first fire to its last, and what the ledger has for it.
    let (down, up): (Vec<String>, Vec<String>) = outages.into_iter().unzip();
    let missing = "SELECT count(*) FILTER (WHERE s.task_identifier = 'all'),
                          count(*) FILTER (WHERE s.task_identifier = 'skip' AND NOT EXISTS (
                              SELECT FROM unnest($1::text[], $2::text[]) AS o (down, up)
                               WHERE x.at BETWEEN o.down::timestamptz AND o.up::timestamptz))
                     FROM app_jobs.scheduled_jobs s
                     JOIN (SELECT schedule_id, min(fire_at) AS first, max(fire_at) AS last
                             FROM app_jobs.schedule_fires GROUP BY schedule_id) f ON f.schedule_id = s.id
                    CROSS JOIN LATERAL generate_series(f.first, f.last, interval '1 second') AS x (at)
                    WHERE NOT EXISTS (SELECT FROM app_jobs.schedule_fires l
                                       WHERE l.schedule_id = s.id AND l.fire_at = x.at AND l.outcome <> 'missed')";
    let row = client.query_one(missing, &[&down, &up]).await.unwrap();
    let (all, skip): (i64, i64) = (row.get(0), row.get(1));
    assert_eq!((all, skip), (0, 0), "missing fires; outages {down:?} to {up:?}; seed {seed}");
    assert_eq!(number(&client, TWICE).await, 0, "seed {seed}");
    let fires = number(&client, "SELECT count(*) FROM app_jobs.schedule_fires").await;
    assert!(fires >= 50 * 50, "{fires} fires tell nothing");
}
