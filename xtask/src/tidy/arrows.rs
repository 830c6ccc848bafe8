//! Who may depend on whom. Arrows point down only, and nobody in a row knows its neighbours; ARCHITECTURE.md draws it.

use super::workspace::Workspace;

/// A crate, the crates of ours that its `[dependencies]` may name, and other crates that they must not name.
struct Rule {
    name: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

const DATABASE: &[&str] = &["tokio-postgres", "postgres-types", "deadpool-postgres", "refinery-core"];
const NEITHER_DATABASE_NOR_SERVER: &[&str] =
    &["tokio-postgres", "postgres-types", "deadpool-postgres", "refinery-core", "axum"];
const NEITHER_DATABASE_NOR_CLIENT: &[&str] =
    &["tokio-postgres", "postgres-types", "deadpool-postgres", "refinery-core", "reqwest"];

const RULES: &[Rule] = &[
    Rule {
        name: "job-utils",
        ours: &[],
        never: &["reqwest", "tokio-postgres", "postgres-types", "deadpool-postgres", "refinery-core"],
    },
    Rule { name: "job-pg", ours: &["job-utils"], never: &["reqwest", "axum", "hyper"] },
    Rule { name: "job-fn", ours: &["job-utils"], never: DATABASE },
    Rule { name: "mailer", ours: &["job-utils"], never: DATABASE },
    Rule { name: "send-email", ours: &["job-utils", "job-fn", "mailer"], never: NEITHER_DATABASE_NOR_SERVER },
    Rule {
        name: "send-verification-link",
        ours: &["job-utils", "job-fn", "mailer"],
        never: NEITHER_DATABASE_NOR_SERVER,
    },
    Rule { name: "job-worker", ours: &["job-utils", "job-pg"], never: NEITHER_DATABASE_NOR_SERVER },
    Rule { name: "job-server", ours: &["job-utils", "job-pg"], never: NEITHER_DATABASE_NOR_CLIENT },
    Rule { name: "job-scheduler", ours: &["job-utils", "job-pg"], never: &["tokio-postgres", "reqwest", "axum"] },
    Rule { name: "admin-server", ours: &["job-utils", "job-pg"], never: &["reqwest"] },
    Rule {
        name: "job-service",
        ours: &["job-utils", "job-pg", "job-worker", "job-server", "job-scheduler"],
        never: &["tokio-postgres", "reqwest", "axum"],
    },
    Rule {
        name: "job-fuzz",
        ours: &[
            "job-utils",
            "job-pg",
            "job-fn",
            "mailer",
            "job-scheduler",
            "admin-server",
            "send-email",
            "send-verification-link",
            "job-service",
        ],
        never: NEITHER_DATABASE_NOR_SERVER,
    },
    // As an application would.
    Rule { name: "examples", ours: &["job-utils", "job-pg", "job-worker", "job-service", "job-fn"], never: &[] },
    Rule { name: "job-testkit", ours: &[], never: &[] },
    // What the demo needs first is small.
    Rule { name: "xtask", ours: &["toolkit"], never: NEITHER_DATABASE_NOR_SERVER },
    Rule { name: "toolkit", ours: &["job-testkit"], never: NEITHER_DATABASE_NOR_SERVER },
    Rule { name: "demo", ours: TOOLS, never: &[] },
    Rule { name: "bench", ours: &["toolkit", "job-testkit", "job-service"], never: &[] },
    Rule { name: "chaos", ours: &["toolkit", "job-testkit", "job-utils", "job-pg", "job-fn"], never: &[] },
    Rule { name: "rules", ours: TOOLS, never: &[] },
    Rule { name: "usage", ours: TOOLS, never: &[] },
    Rule { name: "extension", ours: TOOLS, never: &[] },
    Rule { name: "run-tests", ours: &["toolkit", "job-testkit", "extension"], never: &[] },
    // The names of their tasks are in the manifests.
    Rule {
        name: "deploy-check",
        ours: &[
            "toolkit",
            "job-testkit",
            "job-utils",
            "job-worker",
            "generated",
            "send-email",
            "send-verification-link",
        ],
        never: &[],
    },
    Rule { name: "compose-test", ours: &["toolkit", "job-testkit", "deploy-check"], never: &[] },
    // The lists of every program's settings.
    Rule {
        name: "generated",
        ours: &[
            "toolkit",
            "job-testkit",
            "job-utils",
            "job-pg",
            "job-fn",
            "mailer",
            "admin-server",
            "send-email",
            "send-verification-link",
            "job-service",
        ],
        never: &[],
    },
];

/// What a program in tools/ may depend on. It starts services, and links none.
const TOOLS: &[&str] = &["toolkit", "job-testkit", "job-utils", "job-pg"];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, dependencies) in &workspace.crates {
        let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
            problems.push(format!("{name}: no rule says what it may depend on; add one to xtask/src/tidy/arrows.rs"));
            continue;
        };
        for dependency in &dependencies.normal {
            let is_ours = workspace.crates.contains_key(dependency);
            if is_ours && !rule.ours.contains(&dependency.as_str()) {
                problems.push(format!("{name}: must not depend on {dependency}"));
            }
            if rule.never.contains(&dependency.as_str()) {
                problems.push(format!("{name}: must not know {dependency}"));
            }
        }
        // The testkit is below everybody, so nobody else's crates may come in through its tests.
        if name == "job-testkit" && dependencies.dev.iter().any(|dependency| workspace.crates.contains_key(dependency))
        {
            problems.push("job-testkit: must not depend on a crate of ours, not for its tests either".to_owned());
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::Crate;

    #[test]
    fn an_arrow_that_points_sideways_or_a_forbidden_crate_is_told() {
        let mut workspace = Workspace::default();
        let mut add = |name: &str, normal: &[&str]| {
            let normal = normal.iter().map(ToString::to_string).collect();
            workspace.crates.insert(name.to_owned(), Crate { normal, ..Crate::default() });
        };
        add("job-utils", &["serde"]);
        add("job-server", &["job-utils"]);
        add("job-worker", &["job-utils", "job-server", "reqwest"]);
        add("job-fn", &["tokio-postgres"]);
        add("stranger", &[]);
        let problems = check(&workspace);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert_eq!(problems[0], "job-fn: must not know tokio-postgres");
        assert_eq!(problems[1], "job-worker: must not depend on job-server");
        assert!(problems[2].starts_with("stranger: no rule"));
    }
}
