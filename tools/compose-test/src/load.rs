//! Jobs in numbers: what the containers hold meanwhile, a killed service, and workers beside it.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use job_testkit::wait::try_poll;

use super::confined;
use super::engine::{self, Engine, docker, logs, psql};
use super::specification::done;
use super::stack::{self, LIMIT};
use deploy_check::compose::FILES;

/// Enqueues password resets whose tokens are `<name>-1` to `<name>-<count>`, in one statement.
async fn enqueue(name: &str, count: usize) -> Result<()> {
    let sql = format!(
        "SELECT set_config('jwt.claims.database_id', (SELECT id::text FROM metaschema_public.database LIMIT 1), false);
         SELECT count(app_jobs.add_job('email:send_verification_link', json_build_object('email_type', 'forgot_password',
             'email', 'user@example.com', 'user_id', (SELECT id FROM roles_public.users LIMIT 1),
             'reset_token', '{name}-' || number)))
         FROM generate_series(1, {count}) AS number"
    );
    psql(&sql).await.map(drop)
}

/// How often the function got each of a name's jobs, by their tokens.
async fn sent(name: &str) -> Result<BTreeMap<String, usize>> {
    let mut sent = BTreeMap::new();
    let opening = format!("reset_token={name}-");
    for line in logs("send-verification-link").await?.lines() {
        if let Some((_, rest)) = line.split_once(&opening) {
            let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
            *sent.entry(number).or_default() += 1;
        }
    }
    Ok(sent)
}

/// Waits until every job of a name was sent (a row is gone a moment before its line is in the log); how many more than
/// once.
async fn all_sent(name: &str, count: usize) -> Result<usize> {
    let all = async || {
        let sent = sent(name).await.ok()?;
        (sent.len() >= count).then_some(sent)
    };
    let Ok(sent) = try_poll(LIMIT, all).await else {
        bail!("the function got {} of {count} jobs", sent(name).await?.len());
    };
    Ok(sent.values().filter(|times| **times > 1).count())
}

/// What the containers hold at most while jobs run.
pub(super) async fn measure(count: usize) -> Result<()> {
    let start = Instant::now();
    enqueue("measure", count).await?;
    let enqueued = start.elapsed();
    let mut most = stack::held().await?;
    let mut looks = 1;
    while psql("SELECT count(*) FROM app_jobs.jobs").await?.trim() != "0" {
        if start.elapsed() > LIMIT {
            bail!("{count} jobs take longer than {} s", LIMIT.as_secs());
        }
        for (container, held) in stack::held().await? {
            let most = most.entry(container).or_default();
            *most = most.max(held);
        }
        looks += 1;
    }
    done(LIMIT).await?;
    println!(
        "    {count} jobs: enqueued after {:.1} s, seen to be done after {:.1} s; {looks} looks at memory",
        enqueued.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
    let peaks = stack::peaks().await?;
    for (container, held) in most {
        let peak = peaks.get(&container).copied().unwrap_or(f64::NAN);
        println!(
            "    {container}: {held:.1} MiB when looked at, {peak:.1} MiB at most since its start, cached files included"
        );
    }
    match all_sent("measure", count).await? {
        0 => Ok(()),
        twice => bail!("{twice} of {count} jobs were sent twice"),
    }
}

/// The service is killed in the midst of jobs, and started again.
pub(super) async fn killed(count: usize) -> Result<()> {
    enqueue("killed", count).await?;
    let begun = async || (sent("killed").await.ok()?.len() > count / 20).then_some(());
    try_poll(LIMIT, begun).await.ok().context("no job was sent")?;
    docker(&["kill", "-s", "KILL", "knative-job-service"]).await?;
    let left =
        psql("SELECT count(*) || ' left, ' || count(locked_at) || ' of them running' FROM app_jobs.jobs").await?;
    println!("    docker kill -s KILL knative-job-service: {}", left.trim());
    if left.starts_with("0 ") {
        bail!("every job was done before the service was killed: this shows nothing");
    }
    let start = Instant::now();
    docker(&["start", "knative-job-service"]).await?;
    done(LIMIT).await?;
    let twice = all_sent("killed", count).await?;
    println!(
        "    docker start: all of {count} jobs done {:.1} s later; {twice} were under way at the kill and sent again",
        start.elapsed().as_secs_f64()
    );
    stack::healthy("knative-job-service").await
}

/// The service is told to stop in the midst of jobs: it ends what it has begun, and starts nothing twice later.
pub(super) async fn stopped(count: usize) -> Result<()> {
    enqueue("stopped", count).await?;
    let begun = async || (sent("stopped").await.ok()?.len() > count / 20).then_some(());
    try_poll(LIMIT, begun).await.ok().context("no job was sent")?;
    stack::stop("knative-job-service").await?;
    let left = psql("SELECT count(*) FROM app_jobs.jobs").await?;
    let running = psql("SELECT count(*) FROM app_jobs.jobs WHERE locked_at IS NOT NULL").await?;
    println!("    {} of {count} jobs left, {} of them running", left.trim(), running.trim());
    if left.trim() == "0" {
        bail!("every job was done before the service was stopped: this shows nothing");
    }
    if running.trim() != "0" {
        bail!("a service that stops in order leaves no job behind it");
    }
    docker(&["start", "knative-job-service"]).await?;
    done(LIMIT).await?;
    match all_sent("stopped", count).await? {
        0 => println!("    docker start: all of {count} jobs done, none sent twice"),
        twice => bail!("{twice} of {count} jobs were sent twice"),
    }
    stack::healthy("knative-job-service").await
}

/// Three workers beside the service: each does a part, and nobody what another did.
pub(super) async fn scaled(engine: &Engine, count: usize) -> Result<()> {
    let [_, file] = FILES;
    engine.compose(file, &["up", "-d", "--no-build", "--no-recreate", "--scale", "job-worker=3", "job-worker"]).await?;
    let mut workers = engine::containers("job-worker").await?;
    if workers.len() != 3 {
        bail!("there are {} workers", workers.len());
    }
    let config = engine.config(file).await?;
    for worker in &workers {
        stack::healthy(worker).await?;
        confined::container(worker, "job-worker", file, &config).await?;
    }
    workers.push("knative-job-service".to_owned());
    let mut before = Vec::new();
    for worker in &workers {
        before.push(completions(worker).await?);
    }
    enqueue("scaled", count).await?;
    done(LIMIT).await?;
    let mut shares = Vec::new();
    let all_told = async || {
        shares.clear();
        for (worker, before) in workers.iter().zip(&before) {
            shares.push(completions(worker).await.ok()? - before);
        }
        (shares.iter().sum::<usize>() >= count).then_some(())
    };
    let told = try_poll(LIMIT, all_told).await;
    let all: usize = shares.iter().sum();
    for (worker, share) in workers.iter().zip(&shares) {
        println!("    {worker}: {share} jobs");
        if *share == 0 {
            bail!("{worker} did no job");
        }
    }
    if told.is_err() {
        bail!("the logs tell of {all} completions of {count}");
    }
    let twice = all_sent("scaled", count).await?;
    println!("    {count} jobs, {all} completions, {twice} sent twice");
    if twice != 0 || all != count {
        bail!("jobs were done twice");
    }
    Ok(())
}

/// How many jobs of a worker have ended: by the answer, which it tells itself, or by a callback, which the service
/// tells.
async fn completions(worker: &str) -> Result<usize> {
    let id = match worker {
        "knative-job-service" => "knative-job-service-1".to_owned(),
        _ => docker(&["inspect", "--format", "{{.Config.Hostname}}", worker]).await?.trim().to_owned(),
    };
    let by_answer = logs(worker).await?.lines().filter(|line| line.contains("job completed job.id=")).count();
    let mine = format!("worker.id=\"{id}\"");
    let service = logs("knative-job-service").await?;
    let by_callback =
        service.lines().filter(|line| line.contains("completed by callback") && line.contains(&mine)).count();
    Ok(by_answer + by_callback)
}
