//! The routes: `POST /callback`, and the health checks beside it.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use job_utils::health;
use job_utils::wire::callback::PATH;

use crate::callback::{Callbacks, callback};
use crate::error::CallbackError;

/// The whole application.
pub(crate) fn app(callbacks: Callbacks) -> Router {
    let probed = callbacks.db.clone();
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    Router::new()
        .route(PATH, post(callback).fallback(|| async { CallbackError::BadMethod }))
        .with_state(Arc::new(callbacks))
        .merge(health::routes(ready))
        .fallback(|| async { CallbackError::NoRoute })
}
