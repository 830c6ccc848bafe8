#![doc = include_str!("../README.md")]

pub mod config;
mod handler;
pub mod links;
pub mod lookup;
pub mod payload;
pub mod render;

use std::sync::Arc;

use job_fn::{App, Stopped};
use job_utils::shutdown::Shutdown;

pub use config::{Config, VARS};

use handler::Function;
pub use handler::TASK;

/// Runs the function until `shutdown`.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
    let listen = config.listen.clone();
    let function = Arc::new(Function::new(config)?);
    let app = App::new(move |context, payload| {
        let function = Arc::clone(&function);
        async move { function.handle(context, payload).await }
    });
    app.listen(&listen, shutdown).await
}
