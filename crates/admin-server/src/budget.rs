//! Budget: what one request may cost, in bytes read from the database and in bytes answered.
//!
//! Neither the limit of rows nor that of fields bounds memory: a payload can have any size, and one field can be asked
//! for under any number of names. So every row that is read and every value that is answered is counted, for all lists
//! of a request together. When a request has used up its bytes, nothing more is read or kept, and one error is its
//! answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_graphql::extensions::{Extension, ExtensionContext, ExtensionFactory, NextResolve, ResolveInfo};
use async_graphql::{Context, Error, Pos, Response, Result, ServerError, ServerResult, Value};
use job_pg::{DbError, ReadBudget};

use crate::error::coded;

/// What a request may read and answer, together.
const BYTES: usize = 16 << 20;
/// What a look-up costs beside its rows, so that many that find nothing have an end as well.
const LOOKUP: usize = 1 << 10;
/// What a value costs beside its bytes: its name and its place in memory.
const VALUE: usize = 64;

/// The budget of one request.
pub(crate) struct Budget {
    bytes: ReadBudget,
    exceeded: AtomicBool,
}

impl Budget {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { bytes: ReadBudget::new(BYTES), exceeded: AtomicBool::new(false) })
    }

    /// What the rows of a look-up are taken from.
    ///
    /// # Errors
    /// Nothing is left.
    pub(crate) fn of<'a>(ctx: &Context<'a>) -> Result<&'a Self> {
        let budget = ctx.data::<Arc<Self>>()?;
        if budget.take(LOOKUP) { Ok(budget) } else { Err(exceeded()) }
    }

    /// The bytes that are left for reading.
    pub(crate) fn bytes(&self) -> &ReadBudget {
        &self.bytes
    }

    /// The rows of a look-up, if the budget had bytes for them.
    ///
    /// # Errors
    /// It had not, or what `told` makes of a database error.
    pub(crate) fn rows<T>(
        &self,
        rows: std::result::Result<Option<Vec<T>>, DbError>,
        told: impl FnOnce(&DbError) -> Error,
    ) -> Result<Vec<T>> {
        rows.map_err(|error| told(&error))?.ok_or_else(|| {
            self.exceeded.store(true, Ordering::Relaxed);
            exceeded()
        })
    }

    /// The answer to a request, if it stayed within its budget; else one error. A list of nulls and of errors would be
    /// large itself, and tell no more.
    pub(crate) fn answer(&self, response: Response) -> Response {
        if !self.exceeded.load(Ordering::Relaxed) {
            return response;
        }
        let error = exceeded().into_server_error(Pos::default());
        Response::from_errors(vec![ServerError { locations: Vec::new(), ..error }])
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self.bytes.take(bytes);
        if !taken {
            self.exceeded.store(true, Ordering::Relaxed);
        }
        taken
    }
}

fn exceeded() -> Error {
    coded(
        "ANSWER_TOO_LARGE",
        format!(
            "the request reads and answers more than {} MiB: ask for fewer rows (first), for one (where), or leave out \
             payload and scheduleInfo",
            BYTES >> 20
        ),
    )
}

/// Counts every value of an answer.
pub(crate) struct Counting;

impl ExtensionFactory for Counting {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_graphql::async_trait::async_trait]
impl Extension for Counting {
    async fn resolve(
        &self,
        ctx: &ExtensionContext<'_>,
        info: ResolveInfo<'_>,
        next: NextResolve<'_>,
    ) -> ServerResult<Option<Value>> {
        // The values of objects and lists are counted where they are resolved; a value of JSON is one.
        let json = info.return_type.trim_end_matches('!') == "JSON";
        let value = next.run(ctx, info).await?;
        let size = match &value {
            Some(value) if json => size(value),
            Some(Value::String(text)) => text.len(),
            _ => 0,
        };
        let budget = ctx.data_opt::<Arc<Budget>>();
        if budget.is_none_or(|budget| budget.take(size + VALUE)) {
            return Ok(value);
        }
        Err(exceeded().into_server_error(Pos::default()))
    }
}

/// The bytes of a JSON value's texts. It is one text in a wrapper, so this does not go deep.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Object(entries) => entries.iter().map(|(name, value)| name.len() + size(value)).sum(),
        Value::List(values) => values.iter().map(size).sum(),
        _ => 8,
    }
}
