#![doc = include_str!("../README.md")]

pub mod config;
mod handler;
pub mod payload;

use std::sync::Arc;

use job_fn::{App, Stopped};
use job_utils::shutdown::Shutdown;
use mailer::Mailer;

pub use config::{Config, VARS};
pub use handler::TASKS;

/// Runs the function until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
    let mailer = Arc::new(Mailer::new(config.mail)?);
    let app = App::new(move |context, payload| {
        let mailer = Arc::clone(&mailer);
        async move { handler::handle(&mailer, context, payload).await }
    });
    app.listen(&config.listen, shutdown).await
}
