//! Task: a type of job, which is its payload and the name under which workers know it.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// A type of job: a payload, and the name of the task that it is for.
///
/// ```
/// use job_utils::task::Task;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendReceipt {
///     order: i64,
/// }
///
/// impl Task for SendReceipt {
///     const IDENTIFIER: &'static str = "receipt:send";
/// }
/// ```
///
/// An impl and not a derive macro: it is one line more than an attribute would be, the name is a constant that can be
/// found and used (`SendReceipt::IDENTIFIER`), an error in it is the compiler's own, and no macro crate has to be
/// built.
///
/// The payload is written and read with serde, so it changes like any stored format: a new field needs
/// `#[serde(default)]` while jobs without it wait, or an old worker runs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no type of job",
    note = "with serde's derives on it: `impl Task for {Self} {{ const IDENTIFIER: &'static str = \"…\"; }}`"
)]
pub trait Task: Serialize + DeserializeOwned + Send + 'static {
    /// The task identifier, 1 to 126 characters. With HTTP functions it is also the path of the function.
    const IDENTIFIER: &'static str;
}
