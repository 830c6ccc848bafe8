//! What hangs below a database: sites, their domains, themes and modules.

use async_graphql::{ComplexObject, Context, InputObject, Result};

use crate::budget::Budget;
use crate::error::database;
use crate::list::{Connection, StringFilter, inner_complexity, limit};
use crate::lookup::{Database, Domain, Lookup, Site, SiteModule, SiteTheme};

/// Which modules.
#[derive(InputObject)]
pub(super) struct SiteModuleFilter {
    /// By name.
    name: Option<StringFilter>,
}

#[ComplexObject]
impl Database {
    /// The database's sites, by id.
    #[graphql(complexity = "inner_complexity(first, child_complexity)")]
    async fn sites(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<Site>> {
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.sites(self.id, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }
}

#[ComplexObject]
impl Site {
    /// The site's domains, by id.
    #[graphql(complexity = "inner_complexity(first, child_complexity)")]
    async fn domains(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<Domain>> {
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.domains(self.id, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }

    /// The site's themes, by id.
    #[graphql(complexity = "inner_complexity(first, child_complexity)")]
    async fn site_themes(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<SiteTheme>> {
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.themes(self.id, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }

    /// The site's modules, by id.
    #[graphql(complexity = "inner_complexity(first, child_complexity)")]
    async fn site_modules(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<SiteModuleFilter>,
        first: Option<i32>,
    ) -> Result<Connection<SiteModule>> {
        let name = StringFilter::wanted(filter.and_then(|filter| filter.name))?;
        let (limit, budget) = (limit(first)?, Budget::of(ctx)?);
        let nodes = budget.rows(ctx.data::<Lookup>()?.modules(self.id, name, limit, budget.bytes()).await, database)?;
        Ok(Connection { nodes })
    }
}
