//! Hook: what is done around every handler, such as metrics or the context of an authenticated user.

use futures_util::future::BoxFuture;
use job_utils::outcome::Outcome;

use crate::context::Context;

/// Something to do around every handler of a worker.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use job_worker::{Context, Hook, Next, Outcome};
///
/// /// Counts attempts by how they end.
/// #[derive(Default)]
/// struct Metrics {
///     done: AtomicU64,
///     failed: AtomicU64,
/// }
///
/// impl Hook for Metrics {
///     async fn around(&self, _context: &Context, next: Next<'_>) -> Outcome {
///         let outcome = next.run().await;
///         let counter = if outcome.error().is_some() { &self.failed } else { &self.done };
///         counter.fetch_add(1, Ordering::Relaxed);
///         outcome
///     }
/// }
/// ```
///
/// One trait of ours rather than tower's layers: a hook is one function, where a layer is two types and two impls; the
/// outcome is there to be looked at, and panics and timeouts are in it; and what most layers are for (timeouts, limits,
/// retries) a task has by itself.
pub trait Hook: Send + Sync + 'static {
    /// Runs `next`, or does not, and says how the attempt ends. Time that it takes itself is not limited.
    fn around(&self, context: &Context, next: Next<'_>) -> impl Future<Output = Outcome> + Send;
}

/// The hooks that follow, and the handler.
#[must_use = "the handler runs only when this does"]
pub struct Next<'a> {
    pub(crate) hooks: &'a [Box<dyn DynHook>],
    pub(crate) context: &'a Context,
    pub(crate) run: &'a Run,
}

impl Next<'_> {
    /// Runs them. A handler's error, its panic and its timeout all are outcomes.
    pub async fn run(self) -> Outcome {
        match self.hooks.split_first() {
            None => (self.run)(self.context.clone()).await,
            Some((hook, hooks)) => hook.dyn_around(self.context, Next { hooks, ..self }).await,
        }
    }
}

/// A handler whose payload's type and state are its own business.
pub(crate) type Run = dyn Fn(Context) -> BoxFuture<'static, Outcome> + Send + Sync;

/// A hook as an object.
pub(crate) trait DynHook: Send + Sync {
    fn dyn_around<'a>(&'a self, context: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome>;
}

impl<H: Hook> DynHook for H {
    fn dyn_around<'a>(&'a self, context: &'a Context, next: Next<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(self.around(context, next))
    }
}
