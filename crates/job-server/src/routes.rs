//! The routes: `POST /callback`, and the health checks beside it.

use std::time::Duration;

use axum::Router;
use axum::routing::post;
use job_utils::db::CallbackDb;
use job_utils::health;
use job_utils::wire::callback::PATH;

use crate::callback::{Callbacks, callback};
use crate::error::CallbackError;

/// The whole application.
pub(crate) fn app(db: CallbackDb, store_timeout: Duration) -> Router {
    let probed = db.clone();
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    Router::new()
        .route(PATH, post(callback).fallback(|| async { CallbackError::BadMethod }))
        .with_state(Callbacks { db, store_timeout })
        .merge(health::routes(ready))
        .fallback(|| async { CallbackError::NoRoute })
}
