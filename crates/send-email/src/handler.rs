//! One job: check the payload, send.

use job_fn::{Context, FunctionError};
use mailer::{Delivery, Mailer, header_text};
use serde_json::{Value, json};

use crate::payload;

/// The tasks that this function serves, the older name last.
pub const TASKS: [&str; 2] = ["email:send_email", "send-email"];

pub(crate) async fn handle(mailer: &Mailer, context: Context, payload: Value) -> Result<Value, FunctionError> {
    // Without a status, as the original throws: its worker looks at no answer, and a status alone would reach it as
    // `HTTP 400`.
    let message = payload::read(&payload)?;
    let (job_id, task) = (context.job_id.as_deref(), TASKS[0]);
    match mailer.send(&message).await? {
        Delivery::Sent => {
            tracing::info!(job.id = job_id, job.task = task, "e-mail sent");
            Ok(json!({ "complete": true }))
        }
        Delivery::DryRun => {
            let (email, subject) = (message.to.as_str(), header_text(&message.subject));
            let subject = subject.as_str();
            tracing::info!(job.id = job_id, job.task = task, email, subject, "dry run: e-mail not sent");
            Ok(json!({ "complete": true, "dryRun": true }))
        }
    }
}
