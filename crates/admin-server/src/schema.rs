//! The GraphQL schema: roots, limits, and the parts that every list shares.

pub(crate) mod scalars;
mod sites;

use async_graphql::{
    Context, EmptySubscription, InputObject, MaybeUndefined, Object, OutputType, Result, Schema, SimpleObject,
};
use job_utils::db::{AdminDb, Db};
use uuid::Uuid;

use crate::budget::{Budget, Counting};
use crate::error::{bad_input, database};
use crate::jobs::{AddJobInput, AddJobPayload, Job, JobFilter, ScheduledJob, ScheduledJobFilter};
use crate::lookup::{Database, Lookup, Site, SiteModule, SiteTheme, User};
use crate::{jobs, lookup};
use scalars::BigInt;

/// The deepest query: introspection, as graphql-js asks it, has 15 levels; our own data has 7.
const MAX_DEPTH: usize = 16;
/// The most fields of an answer, those of every row: two whole lists of jobs have 34,000. Introspection, as graphql-js asks
/// it, counts about 230.
const MAX_COMPLEXITY: usize = 50_000;
/// The most rows of a list, and what a list without `first` has.
const MAX_ROWS: i32 = 1000;

/// The schema of the API.
pub(crate) type Api = Schema<Query, Mutation, EmptySubscription>;

/// The schema over a database.
pub(crate) fn api(db: Db) -> Api {
    Schema::build(Query, Mutation, EmptySubscription)
        .limit_depth(MAX_DEPTH)
        .limit_complexity(MAX_COMPLEXITY)
        .extension(Counting)
        .data(Lookup::new(db.clone()))
        .data(AdminDb::new(db))
        .finish()
}

/// A list of rows, in PostGraphile's shape.
#[derive(SimpleObject)]
#[graphql(concrete(name = "DatabasesConnection", params(Database)))]
#[graphql(concrete(name = "UsersConnection", params(User)))]
#[graphql(concrete(name = "SitesConnection", params(Site)))]
#[graphql(concrete(name = "DomainsConnection", params(lookup::Domain)))]
#[graphql(concrete(name = "SiteThemesConnection", params(SiteTheme)))]
#[graphql(concrete(name = "SiteModulesConnection", params(SiteModule)))]
#[graphql(concrete(name = "JobsConnection", params(Job)))]
#[graphql(concrete(name = "ScheduledJobsConnection", params(ScheduledJob)))]
pub(crate) struct Connection<T: OutputType> {
    /// The rows, in a fixed order.
    pub(crate) nodes: Vec<T>,
}

/// How many rows a list gets: `first`, at most 1000.
pub(crate) fn limit(first: Option<i32>) -> Result<i64> {
    match first.unwrap_or(MAX_ROWS) {
        rows @ 0..=MAX_ROWS => Ok(rows.into()),
        rows => Err(bad_input(format!("first: {rows} is not between 0 and {MAX_ROWS}"))),
    }
}

/// How many fields a list counts for: those of one row for each row that it can have.
fn complexity(first: Option<i32>, row: usize) -> usize {
    let rows = usize::try_from(first.unwrap_or(MAX_ROWS)).unwrap_or(0);
    rows.saturating_mul(row).saturating_add(1)
}

/// The same for a list below a row. Without `first` it counts for one row, as sites have one domain, theme and module; more
/// are for the budget in bytes to stop.
fn inner_complexity(first: Option<i32>, row: usize) -> usize {
    complexity(Some(first.unwrap_or(1)), row)
}

macro_rules! filter {
    ($(#[$about:meta])* $type:ident, $name:literal, $value:ty) => {
        $(#[$about])*
        #[derive(InputObject)]
        #[graphql(name = $name)]
        pub(crate) struct $type {
            /// Equal to this value; null is refused, for it would not filter.
            equal_to: MaybeUndefined<$value>,
        }

        impl $type {
            /// The wanted value of a filter that may be absent.
            pub(crate) fn wanted(filter: Option<Self>) -> Result<Option<$value>> {
                match filter.map(|filter| filter.equal_to) {
                    None | Some(MaybeUndefined::Undefined) => Ok(None),
                    Some(MaybeUndefined::Value(value)) => Ok(Some(value)),
                    Some(MaybeUndefined::Null) => Err(bad_input("equalTo must not be null")),
                }
            }
        }
    };
}

filter! {
    /// A condition on a UUID.
    UuidFilter, "UUIDFilter", Uuid
}
filter! {
    /// A condition on a text.
    StringFilter, "StringFilter", String
}
filter! {
    /// A condition on a big integer.
    BigIntFilter, "BigIntFilter", BigInt
}

/// Which databases.
#[derive(InputObject)]
struct DatabaseFilter {
    /// By id.
    id: Option<UuidFilter>,
}

/// Which users.
#[derive(InputObject)]
struct UserFilter {
    /// By id.
    id: Option<UuidFilter>,
}

/// What can be asked.
pub(crate) struct Query;

#[Object]
impl Query {
    /// Databases (tenants), oldest first.
    #[graphql(complexity = "complexity(first, child_complexity)")]
    async fn databases(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<DatabaseFilter>,
        first: Option<i32>,
    ) -> Result<Connection<Database>> {
        let id = UuidFilter::wanted(filter.and_then(|filter| filter.id))?;
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.databases(id, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }

    /// Users, oldest first.
    #[graphql(complexity = "complexity(first, child_complexity)")]
    async fn users(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<UserFilter>,
        first: Option<i32>,
    ) -> Result<Connection<User>> {
        let id = UuidFilter::wanted(filter.and_then(|filter| filter.id))?;
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.users(id, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }

    /// Jobs that are not finished, by id.
    #[graphql(complexity = "complexity(first, child_complexity)")]
    async fn jobs(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<JobFilter>,
        first: Option<i32>,
    ) -> Result<Connection<Job>> {
        jobs::jobs(ctx, filter, limit(first)?).await
    }

    /// Schedules, by id.
    #[graphql(complexity = "complexity(first, child_complexity)")]
    async fn scheduled_jobs(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<ScheduledJobFilter>,
        first: Option<i32>,
    ) -> Result<Connection<ScheduledJob>> {
        jobs::scheduled_jobs(ctx, filter, limit(first)?).await
    }
}

/// What can be done.
pub(crate) struct Mutation;

#[Object]
impl Mutation {
    /// Enqueues a job.
    async fn add_job(&self, ctx: &Context<'_>, input: AddJobInput) -> Result<AddJobPayload> {
        jobs::add_job(ctx, input).await
    }
}
