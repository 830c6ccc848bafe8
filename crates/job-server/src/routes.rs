//! The routes: `POST /callback`, `POST /callback/extend`, and the health checks beside them.

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use job_utils::health;
use job_utils::wire::callback::{EXTEND_PATH, PATH};

use crate::callback::{Callbacks, callback, extend};
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
        .route(EXTEND_PATH, post(extend).fallback(|| async { CallbackError::BadMethod }))
        .with_state(Arc::new(callbacks))
        .merge(health::routes(ready))
        .fallback(|| async { CallbackError::NoRoute })
}
