//! What each service may do in the database, and nothing else: the worker, the callback server, the administrator. The
//! scheduler's is [`SchedulerDb`](crate::schedules::SchedulerDb).

mod admin;
mod callback;
mod cancel;
mod gates;
mod worker;

pub use admin::{AddJobError, AdminDb, AdminJob, AdminSchedule, ListFilter};
pub use callback::CallbackDb;
pub use cancel::{CancelError, CancelledJobs};
pub use gates::{Gate, GateError, GateSettings, Limit, Rate};
pub use worker::WorkerDb;
