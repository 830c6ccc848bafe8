//! Look-ups in the tables of databases, users and sites: the SQL and the rows, as the API shows them.
//!
//! Columns are cast to text because other systems declare them with types of their own (domains over text or jsonb).

use async_graphql::SimpleObject;
use job_pg::{Db, DbError, ReadBudget};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use crate::scalars::Json;

const DATABASES: &str = "SELECT id, name::text FROM metaschema_public.database \
                         WHERE $1::uuid IS NULL OR id = $1 ORDER BY created_at, id LIMIT $2";
const USERS: &str = "SELECT id, username::text, display_name::text, profile_picture::text FROM roles_public.users \
                     WHERE $1::uuid IS NULL OR id = $1 ORDER BY created_at, id LIMIT $2";
const SITES: &str = "SELECT id, database_id, title::text, logo::text FROM services_public.sites \
                     WHERE database_id = $1 ORDER BY id LIMIT $2";
const DOMAINS: &str = "SELECT id, subdomain::text, domain::text FROM services_public.domains \
                       WHERE site_id = $1 ORDER BY id LIMIT $2";
const THEMES: &str = "SELECT id, theme::text FROM services_public.site_themes \
                      WHERE site_id = $1 ORDER BY id LIMIT $2";
const MODULES: &str = "SELECT id, name::text, data::text FROM services_public.site_modules \
                       WHERE site_id = $1 AND ($2::text IS NULL OR name = $2) ORDER BY id LIMIT $3";

/// A tenant's database.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub(crate) struct Database {
    /// Its id: the X-Database-Id of jobs and functions.
    pub(crate) id: Uuid,
    /// Its name.
    pub(crate) name: Option<String>,
}

/// A user.
#[derive(Debug, Clone, SimpleObject)]
pub(crate) struct User {
    /// Its id.
    pub(crate) id: Uuid,
    /// The name to sign in with.
    pub(crate) username: Option<String>,
    /// The name to show.
    pub(crate) display_name: Option<String>,
    /// The picture: url and mime.
    pub(crate) profile_picture: Option<Json>,
}

/// A site of a database.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(complex)]
pub(crate) struct Site {
    /// Its id.
    pub(crate) id: Uuid,
    /// The database it belongs to.
    pub(crate) database_id: Option<Uuid>,
    /// Its title.
    pub(crate) title: Option<String>,
    /// Its logo: url and mime.
    pub(crate) logo: Option<Json>,
}

/// A domain of a site.
#[derive(Debug, Clone, SimpleObject)]
pub(crate) struct Domain {
    /// Its id.
    pub(crate) id: Uuid,
    /// What stands before the domain, if anything.
    pub(crate) subdomain: Option<String>,
    /// The domain.
    pub(crate) domain: Option<String>,
}

/// A theme of a site.
#[derive(Debug, Clone, SimpleObject)]
pub(crate) struct SiteTheme {
    /// Its id.
    pub(crate) id: Uuid,
    /// Its colours.
    pub(crate) theme: Option<Json>,
}

/// A module of a site.
#[derive(Debug, Clone, SimpleObject)]
pub(crate) struct SiteModule {
    /// Its id.
    pub(crate) id: Uuid,
    /// Its kind, such as legal_terms_module.
    pub(crate) name: Option<String>,
    /// Its settings.
    pub(crate) data: Option<Json>,
}

/// Rows, or None when they have more bytes than the budget.
type Rows<T> = Result<Option<Vec<T>>, DbError>;

/// Reads the tables that exist; those that do not are empty.
#[derive(Clone)]
pub(crate) struct Lookup {
    db: Db,
}

impl Lookup {
    /// Look-ups in a database.
    pub(crate) fn new(db: Db) -> Self {
        Self { db }
    }

    /// Databases, or the one with this id.
    pub(crate) async fn databases(&self, id: Option<Uuid>, limit: i64, budget: &ReadBudget) -> Rows<Database> {
        let read = |row: &Row| Ok(Database { id: row.try_get(0)?, name: row.try_get(1)? });
        self.rows("look up databases", DATABASES, &[(&id, Type::UUID), (&limit, Type::INT8)], budget, read).await
    }

    /// Users, or the one with this id.
    pub(crate) async fn users(&self, id: Option<Uuid>, limit: i64, budget: &ReadBudget) -> Rows<User> {
        let read = |row: &Row| {
            Ok(User {
                id: row.try_get(0)?,
                username: row.try_get(1)?,
                display_name: row.try_get(2)?,
                profile_picture: json(row, 3)?,
            })
        };
        self.rows("look up users", USERS, &[(&id, Type::UUID), (&limit, Type::INT8)], budget, read).await
    }

    /// Sites of a database.
    pub(crate) async fn sites(&self, database_id: Uuid, limit: i64, budget: &ReadBudget) -> Rows<Site> {
        let read = |row: &Row| {
            Ok(Site { id: row.try_get(0)?, database_id: row.try_get(1)?, title: row.try_get(2)?, logo: json(row, 3)? })
        };
        self.rows("look up sites", SITES, &[(&database_id, Type::UUID), (&limit, Type::INT8)], budget, read).await
    }

    /// Domains of a site.
    pub(crate) async fn domains(&self, site_id: Uuid, limit: i64, budget: &ReadBudget) -> Rows<Domain> {
        let read = |row: &Row| Ok(Domain { id: row.try_get(0)?, subdomain: row.try_get(1)?, domain: row.try_get(2)? });
        self.rows("look up domains", DOMAINS, &[(&site_id, Type::UUID), (&limit, Type::INT8)], budget, read).await
    }

    /// Themes of a site.
    pub(crate) async fn themes(&self, site_id: Uuid, limit: i64, budget: &ReadBudget) -> Rows<SiteTheme> {
        let read = |row: &Row| Ok(SiteTheme { id: row.try_get(0)?, theme: json(row, 1)? });
        self.rows("look up themes", THEMES, &[(&site_id, Type::UUID), (&limit, Type::INT8)], budget, read).await
    }

    /// Modules of a site, or those with this name.
    pub(crate) async fn modules(
        &self,
        site_id: Uuid,
        name: Option<String>,
        limit: i64,
        budget: &ReadBudget,
    ) -> Rows<SiteModule> {
        let read = |row: &Row| Ok(SiteModule { id: row.try_get(0)?, name: row.try_get(1)?, data: json(row, 2)? });
        let parameters: &[(&(dyn ToSql + Sync), Type)] =
            &[(&site_id, Type::UUID), (&name, Type::TEXT), (&limit, Type::INT8)];
        self.rows("look up modules", MODULES, parameters, budget, read).await
    }

    async fn rows<T>(
        &self,
        operation: &'static str,
        sql: &'static str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
        budget: &ReadBudget,
        read: impl Fn(&Row) -> Result<T, Error>,
    ) -> Rows<T> {
        match self.db.rows_within(operation, sql, parameters, budget, read).await {
            Err(error) if error.sql_state().is_some_and(is_missing_table) => Ok(Some(Vec::new())),
            rows => rows,
        }
    }
}

fn json(row: &Row, column: usize) -> Result<Option<Json>, Error> {
    Ok(row.try_get::<_, Option<String>>(column)?.map(Json))
}

fn is_missing_table(state: &SqlState) -> bool {
    *state == SqlState::UNDEFINED_TABLE || *state == SqlState::INVALID_SCHEMA_NAME
}
