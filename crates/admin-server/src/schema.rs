//! The GraphQL schema: roots, limits, and the parts that every list shares.

mod sites;

use async_graphql::{Context, EmptySubscription, InputObject, Object, Result, Schema};
use job_pg::{AdminDb, Db};

use crate::budget::{Budget, Counting};
use crate::error::database;
use crate::jobs;
use crate::jobs::{AddJobInput, AddJobPayload, Job, JobFilter, ScheduledJob, ScheduledJobFilter};
use crate::list::{Connection, UuidFilter, complexity, limit};
use crate::lookup::{Database, Lookup, User};

/// The deepest query: introspection, as graphql-js asks it, has 15 levels; our own data has 7.
const MAX_DEPTH: usize = 16;
/// The most fields of an answer, those of every row: two whole lists of jobs have 34,000. Introspection, as graphql-js
/// asks it, counts about 230.
const MAX_COMPLEXITY: usize = 50_000;

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
