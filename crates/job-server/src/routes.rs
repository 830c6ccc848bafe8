//! The routes: callbacks, and the health checks beside them.

use std::sync::Arc;

use axum::Router;
use job_utils::health;

use crate::callback::{Callbacks, receive};

/// The whole application.
pub(crate) fn app(callbacks: Arc<Callbacks>) -> Router {
    let probed = callbacks.db.clone();
    let ready = move || {
        let db = probed.clone();
        async move { db.ready().await }
    };
    // A path of callbacks has several spellings.
    Router::new().fallback(receive).with_state(callbacks).merge(health::routes(ready))
}
