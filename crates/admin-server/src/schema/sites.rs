//! What hangs below a database: sites, their domains, themes and modules.

use async_graphql::{ComplexObject, Context, InputObject, Result};

use crate::error::database;
use crate::lookup::{Database, Domain, Lookup, Site, SiteModule, SiteTheme};
use crate::schema::{Connection, StringFilter, limit};

/// Which modules.
#[derive(InputObject)]
pub(super) struct SiteModuleFilter {
    /// By name.
    name: Option<StringFilter>,
}

#[ComplexObject]
impl Database {
    /// The database's sites, by id.
    async fn sites(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<Site>> {
        let nodes = ctx.data::<Lookup>()?.sites(self.id, limit(first)?).await.map_err(|error| database(&error))?;
        Ok(Connection { nodes })
    }
}

#[ComplexObject]
impl Site {
    /// The site's domains, by id.
    async fn domains(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<Domain>> {
        let nodes = ctx.data::<Lookup>()?.domains(self.id, limit(first)?).await.map_err(|error| database(&error))?;
        Ok(Connection { nodes })
    }

    /// The site's themes, by id.
    async fn site_themes(&self, ctx: &Context<'_>, first: Option<i32>) -> Result<Connection<SiteTheme>> {
        let nodes = ctx.data::<Lookup>()?.themes(self.id, limit(first)?).await.map_err(|error| database(&error))?;
        Ok(Connection { nodes })
    }

    /// The site's modules, by id.
    async fn site_modules(
        &self,
        ctx: &Context<'_>,
        #[graphql(name = "where")] filter: Option<SiteModuleFilter>,
        first: Option<i32>,
    ) -> Result<Connection<SiteModule>> {
        let name = StringFilter::wanted(filter.and_then(|filter| filter.name))?;
        let lookup = ctx.data::<Lookup>()?;
        let nodes = lookup.modules(self.id, name, limit(first)?).await.map_err(|error| database(&error))?;
        Ok(Connection { nodes })
    }
}
