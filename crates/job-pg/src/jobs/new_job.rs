//! A job that is to be enqueued, with its options.

use std::time::{Duration, SystemTime};

use jiff::{Timestamp, Zoned};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::jobs::enqueue::{EnqueueError, Field};
use job_utils::task::Task;

/// The longest task identifier and queue name, in characters.
const LONGEST_NAME: usize = 126;

/// The longest key, in characters.
const LONGEST_KEY: usize = 512;

/// The longest delay: beyond it lies the end of PostgreSQL's time.
const LONGEST_DELAY: Duration = Duration::from_secs(1000 * 366 * 24 * 3600);

/// What becomes of a job that has the key already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyMode {
    /// One that waits becomes the new job, whatever was to be done and when; one that runs goes on without its key, and
    /// is not tried again.
    #[default]
    Replace,
    /// The same, but one that waits for its first attempt keeps its time. Enqueueing again and again then does not put
    /// it off for ever: "at most once a minute, with the newest values".
    PreserveRunAt,
    /// It stays as it is, waiting or running, and nothing is enqueued. Only one that has failed for good is replaced.
    /// One that waits does not start before the caller's transaction ends, so it sees what that has written. **One that
    /// runs may have read before:** this mode is for jobs that need not run once more for what is new. And a handler
    /// that enqueues the key of its own job again finds that job, and enqueues nothing.
    Ignore,
}

impl KeyMode {
    /// As the SQL functions take it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Replace => "replace",
            Self::PreserveRunAt => "preserve_run_at",
            Self::Ignore => "ignore",
        }
    }
}

/// A job to enqueue, with its options. What is not said gets add_job's default.
///
/// ```
/// use std::time::Duration;
/// use job_pg::{KeyMode, NewJob};
/// let job = NewJob::new("report", &serde_json::json!({"page": 1}))
///     .delay(Duration::from_secs(60))
///     .key("report-1")
///     .key_mode(KeyMode::PreserveRunAt)
///     .priority(-1);
/// assert_eq!(job.payload(), r#"{"page":1}"#);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use = "it is not enqueued yet: give it to `enqueue`"]
pub struct NewJob {
    pub(crate) task: String,
    pub(crate) payload: String,
    pub(crate) key: Option<String>,
    pub(crate) key_mode: KeyMode,
    pub(crate) queue: Option<String>,
    pub(crate) run_at: Option<Timestamp>,
    /// Seconds after now(); instead of run_at.
    pub(crate) delay: Option<f64>,
    pub(crate) max_attempts: Option<i32>,
    pub(crate) priority: Option<i32>,
    pub(crate) tenant: Option<Uuid>,
    pub(crate) actor: Option<Uuid>,
    /// Why there is no payload.
    unwritable: Option<String>,
    /// Why there is no run_at.
    out_of_range: Option<String>,
}

impl NewJob {
    /// A job of a type.
    pub fn of<T: Task>(task: &T) -> Self {
        let (payload, unwritable) = match serde_json::to_string(task) {
            Ok(payload) => (payload, None),
            Err(error) => (String::new(), Some(error.to_string())),
        };
        Self { unwritable, ..Self::raw(T::IDENTIFIER, payload) }
    }

    /// A job for a task that has no type here, with a payload.
    pub fn new(task: impl Into<String>, payload: &Value) -> Self {
        Self::raw(task, payload.to_string())
    }

    /// The same with the payload as JSON text, `{}` when empty.
    pub fn raw(task: impl Into<String>, payload: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            payload: payload.into(),
            key: None,
            key_mode: KeyMode::Replace,
            queue: None,
            run_at: None,
            delay: None,
            max_attempts: None,
            priority: None,
            tenant: None,
            actor: None,
            unwritable: None,
            out_of_range: None,
        }
    }

    /// Not before this instant. The last of `run_at` and `delay` counts.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use job_pg::NewJob;
    /// use job_pg::jiff::{Timestamp, ToSpan, Zoned};
    ///
    /// # fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let report = || NewJob::raw("report", "{}");
    /// let by_clock = report().run_at(SystemTime::now() + Duration::from_secs(60));
    /// let by_instant = report().run_at(Timestamp::now() + 1.hour());
    /// // Tomorrow at nine, where the shop is.
    /// let by_zone = report().run_at(Zoned::now().in_tz("Europe/Berlin")?.tomorrow()?.with().hour(9).build()?);
    /// # Ok(())
    /// # }
    /// # example().unwrap();
    /// ```
    ///
    /// With the feature `chrono` it takes a `chrono::DateTime` of any zone as well. An instant that no timestamp can be
    /// is refused when the job is enqueued.
    pub fn run_at(mut self, run_at: impl IntoTimestamp) -> Self {
        (self.run_at, self.out_of_range) = match run_at.into_timestamp() {
            Ok(run_at) => (Some(run_at), None),
            Err(why) => (None, Some(why)),
        };
        self.delay = None;
        self
    }

    /// Not before so much time after now by the database's clock, which in a transaction is its beginning.
    pub fn delay(mut self, delay: Duration) -> Self {
        (self.run_at, self.out_of_range, self.delay) = (None, None, Some(delay.as_secs_f64()));
        self
    }

    /// Smaller runs earlier; 0 unless given.
    pub fn priority(mut self, priority: i32) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Jobs of one named queue run one at a time, in order.
    pub fn queue(mut self, name: impl Into<String>) -> Self {
        self.queue = Some(name.into());
        self
    }

    /// There is one job with a key at most, among all tenants. What becomes of one that has it already says
    /// [`NewJob::key_mode`].
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// What becomes of a job that has the key already; it is replaced unless said. Without a key it is refused.
    pub fn key_mode(mut self, mode: KeyMode) -> Self {
        self.key_mode = mode;
        self
    }

    /// How many attempts there are; 25 unless given.
    pub fn max_attempts(mut self, attempts: i32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// The tenant's database id, instead of the transaction's setting `jwt.claims.database_id`. Another than that needs
    /// a right, which `jobs_producer` does not have.
    pub fn tenant(mut self, database_id: Uuid) -> Self {
        self.tenant = Some(database_id);
        self
    }

    /// Who causes the job, instead of the transaction's setting `jwt.claims.user_id`. Another than that needs the same
    /// right.
    pub fn actor(mut self, actor_id: Uuid) -> Self {
        self.actor = Some(actor_id);
        self
    }

    /// The task identifier.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// The payload, JSON.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// Whether add_job cannot say it.
    pub(crate) fn has_options_of_enqueue(&self) -> bool {
        self.actor.is_some() || (self.key.is_some() && self.key_mode != KeyMode::Replace)
    }

    /// What can be refused without asking the database, which matters in a transaction: one failed statement ends it.
    pub(crate) fn check(&self) -> Result<(), EnqueueError> {
        let refuse = |field, message: String| Err(EnqueueError::refused(field, message));
        let too_long = |text: &str, most: usize| text.chars().nth(most).is_some();
        if let Some(why) = &self.unwritable {
            return refuse(Field::Payload, format!("cannot be written as JSON: {why}"));
        }
        if self.task.is_empty() {
            return refuse(Field::Task, "is empty".to_owned());
        }
        let texts = [
            (Field::Task, Some(self.task.as_str()), LONGEST_NAME),
            (Field::Queue, self.queue.as_deref(), LONGEST_NAME),
            (Field::Key, self.key.as_deref(), LONGEST_KEY),
        ];
        for (field, text, most) in texts.into_iter().filter_map(|(field, text, most)| Some((field, text?, most))) {
            if too_long(text, most) {
                return refuse(field, format!("has more than {most} characters"));
            }
            if text.contains('\0') {
                return refuse(field, "holds a NUL character".to_owned());
            }
        }
        if self.payload.contains('\0') {
            return refuse(Field::Payload, "holds a NUL character".to_owned());
        }
        // Big numbers and all stay as they are written: only the syntax is looked at.
        if !self.payload.is_empty()
            && let Err(error) = serde_json::from_str::<&RawValue>(&self.payload)
        {
            return refuse(Field::Payload, format!("is not JSON: {error}"));
        }
        if self.key.is_none() && self.key_mode != KeyMode::Replace {
            return refuse(Field::Key, format!("there is none, and the key mode {:?} is about one", self.key_mode));
        }
        if let Some(attempts) = self.max_attempts.filter(|attempts| *attempts < 1) {
            return refuse(Field::MaxAttempts, format!("is {attempts}, and must be at least 1"));
        }
        if let Some(why) = &self.out_of_range {
            return refuse(Field::RunAt, format!("is no instant that can be stored: {why}"));
        }
        if self.delay.is_some_and(|delay| delay > LONGEST_DELAY.as_secs_f64()) {
            return refuse(Field::RunAt, "is more than a thousand years away".to_owned());
        }
        Ok(())
    }
}

/// An instant, in the type of whatever library an application has it from.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no instant at which a job can run",
    note = "`run_at` takes a `SystemTime`, a `Timestamp` or a `Zoned` of jiff, and a `chrono::DateTime` with the feature `chrono`",
    note = "a `Duration` from now is `delay(…)`"
)]
pub trait IntoTimestamp {
    /// The instant.
    ///
    /// # Errors
    /// It is beyond the years -9999 to 9999.
    fn into_timestamp(self) -> Result<Timestamp, String>;
}

impl IntoTimestamp for Timestamp {
    fn into_timestamp(self) -> Result<Timestamp, String> {
        Ok(self)
    }
}

impl IntoTimestamp for Zoned {
    fn into_timestamp(self) -> Result<Timestamp, String> {
        Ok(self.timestamp())
    }
}

impl IntoTimestamp for &Zoned {
    fn into_timestamp(self) -> Result<Timestamp, String> {
        Ok(self.timestamp())
    }
}

impl IntoTimestamp for SystemTime {
    fn into_timestamp(self) -> Result<Timestamp, String> {
        Timestamp::try_from(self).map_err(|error| error.to_string())
    }
}

#[cfg(feature = "chrono")]
impl<Z: chrono::TimeZone> IntoTimestamp for chrono::DateTime<Z> {
    fn into_timestamp(self) -> Result<Timestamp, String> {
        // Of a leap second chrono counts more than a second's nanoseconds; it is the end of that second here.
        let nanoseconds = i32::try_from(self.timestamp_subsec_nanos().min(999_999_999)).unwrap_or(999_999_999);
        Timestamp::new(self.timestamp(), nanoseconds).map_err(|error| error.to_string())
    }
}

/// What can be enqueued: a job of a type as it is, or a [`NewJob`] with options.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no job",
    note = "a job of a type of your own: `impl Task for {Self} {{ const IDENTIFIER: &'static str = \"…\"; }}`, with serde's derives",
    note = "a job for a task by name: `NewJob::new(\"task\", &json)`"
)]
pub trait IntoJob {
    /// The job with its options.
    fn into_job(self) -> NewJob;
}

impl IntoJob for NewJob {
    fn into_job(self) -> NewJob {
        self
    }
}

impl<T: Task> IntoJob for T {
    fn into_job(self) -> NewJob {
        NewJob::of(&self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_schema_would_refuse_is_refused_by_name_before_a_statement_is_sent() {
        let job = || NewJob::raw("task", "");
        let at = |job: NewJob| job.check().map_err(|error| error.to_string());
        let long = "ü".repeat(127);
        let key = "k".repeat(513);
        assert_eq!(at(NewJob::raw("", "")), Err("task: is empty".into()));
        assert_eq!(at(NewJob::raw(&long[2..], "")), Ok(()));
        assert_eq!(at(NewJob::raw(&long, "")), Err("task: has more than 126 characters".into()));
        assert_eq!(at(job().queue(&long)), Err("queue: has more than 126 characters".into()));
        assert_eq!(at(job().key(&key)), Err("key: has more than 512 characters".into()));
        assert_eq!(at(job().key("a\0")), Err("key: holds a NUL character".into()));
        assert_eq!(
            at(job().key_mode(KeyMode::Ignore)),
            Err("key: there is none, and the key mode Ignore is about one".into())
        );
        assert_eq!(at(job().key_mode(KeyMode::PreserveRunAt).key("k")), Ok(()));
        assert_eq!(at(job().max_attempts(0)), Err("max_attempts: is 0, and must be at least 1".into()));
        assert_eq!(at(job().delay(Duration::MAX)), Err("run_at: is more than a thousand years away".into()));
        assert_eq!(at(job().delay(Duration::MAX).run_at(Timestamp::UNIX_EPOCH)), Ok(()));
    }

    #[test]
    fn an_instant_is_taken_in_the_types_of_several_libraries_and_one_that_cannot_be_stored_is_refused() {
        let instant: Timestamp = "2030-01-02T03:04:05.678Z".parse().unwrap();
        let at = |job: NewJob| job.run_at;
        let job = || NewJob::raw("task", "");
        assert_eq!(at(job().run_at(instant)), Some(instant));
        assert_eq!(at(job().run_at(SystemTime::from(instant))), Some(instant));
        let zoned = instant.in_tz("Europe/Berlin").unwrap();
        assert_eq!(at(job().run_at(&zoned)), Some(instant));
        assert_eq!(at(job().run_at(zoned)), Some(instant));
        // Some 30,000 years from now, which a clock of the system can be.
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        let refused = job().run_at(far).check().unwrap_err();
        assert_eq!(refused.field(), Some(Field::RunAt));
        assert!(refused.to_string().starts_with("run_at: is no instant that can be stored: "), "{refused}");
        assert_eq!(job().run_at(far).run_at(instant).check().map_err(|error| error.to_string()), Ok(()));
        assert_eq!(job().run_at(far).delay(Duration::ZERO).check().map_err(|error| error.to_string()), Ok(()));
    }

    #[cfg(feature = "chrono")]
    #[test]
    fn an_instant_of_chrono_is_taken_with_its_zone() {
        use chrono::TimeZone as _;
        let at = |time| NewJob::raw("task", "").run_at(time).run_at;
        let time = chrono::FixedOffset::east_opt(3600).unwrap().with_ymd_and_hms(2030, 1, 2, 4, 4, 5).unwrap();
        assert_eq!(at(time), Some("2030-01-02T03:04:05Z".parse().unwrap()));
        let before = chrono::FixedOffset::east_opt(0).unwrap().timestamp_opt(-2, 500_000_000).unwrap();
        assert_eq!(at(before), Some("1969-12-31T23:59:58.5Z".parse().unwrap()));
        let leap = chrono::FixedOffset::east_opt(0).unwrap().timestamp_opt(59, 1_500_000_000).unwrap();
        assert_eq!(at(leap), Some("1970-01-01T00:00:59.999999999Z".parse().unwrap()));
    }

    #[test]
    fn a_payload_that_is_no_json_is_refused_with_the_reason() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Odd(std::collections::BTreeMap<(u8, u8), u8>);
        impl Task for Odd {
            const IDENTIFIER: &'static str = "odd";
        }
        let error = Odd([((1, 2), 3)].into()).into_job().check().unwrap_err().to_string();
        assert_eq!(error, "payload: cannot be written as JSON: key must be a string");
        let raw = |payload: &str| NewJob::raw("x", payload).check().map_err(|error| error.to_string());
        assert_eq!(raw("{\"a\": }"), Err("payload: is not JSON: expected value at line 1 column 7".into()));
        assert_eq!(raw("1 2"), Err("payload: is not JSON: trailing characters at line 1 column 3".into()));
        assert_eq!(raw(&format!(" {}1e999{} ", "[".repeat(1000), "]".repeat(1000))), Ok(()));
        assert_eq!(raw("123456789012345678901234567890"), Ok(()));
    }
}
