//! Which module of a crate uses which: arrows point one way, so a module can be read without those that use it.
//! `lib.rs` is above all others: what it re-exports counts as its module's, and what it defines itself no module may
//! use.

use std::collections::{BTreeMap, BTreeSet};

use super::source;
use super::workspace::Workspace;

/// Module to the modules that it uses.
type Arrows = BTreeMap<String, BTreeSet<String>>;

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    workspace.crates.keys().flat_map(|name| check_crate(workspace, name)).collect()
}

fn check_crate(workspace: &Workspace, name: &str) -> Vec<String> {
    let prefix = format!("crates/{name}/src/");
    let files: Vec<(&str, &str)> = workspace
        .ending(".rs")
        .filter_map(|(path, content)| Some((path.strip_prefix(&prefix)?, content)))
        .filter(|(path, _)| !source::is_test(&format!("/{path}")))
        .collect();
    let is_root = |path: &str| matches!(path, "lib.rs" | "main.rs");
    let modules: BTreeSet<&str> =
        files.iter().map(|(path, _)| *path).filter(|path| !is_root(path)).map(module).collect();
    let root = files.iter().find(|(path, _)| *path == "lib.rs").map_or("", |(_, content)| *content);
    let exported = re_exports(root, &modules);
    let (mut arrows, mut problems) = (Arrows::new(), Vec::new());
    for (path, content) in files.iter().filter(|(path, _)| !is_root(path)) {
        for used in used(content) {
            let target =
                if modules.contains(used.as_str()) { Some(used.as_str()) } else { exported.get(&used).copied() };
            match target {
                Some(target) if target == module(path) => {}
                Some(target) => {
                    arrows.entry(module(path).to_owned()).or_default().insert(target.to_owned());
                }
                None => problems.push(format!("{prefix}{path}: uses {used} of the crate's root; give it a module")),
            }
        }
    }
    problems.extend(cycles(&arrows).into_iter().map(|cycle| format!("{prefix}: modules use each other: {cycle}")));
    problems
}

fn module(path: &str) -> &str {
    path.split(['/', '.']).next().unwrap_or(path)
}

/// The names that a crate's root re-exports, with the module that each is from.
fn re_exports<'a>(root: &str, modules: &BTreeSet<&'a str>) -> BTreeMap<String, &'a str> {
    let code: String = source::code(root).map(|(_, line)| line).collect::<Vec<_>>().join(" ");
    let mut exported = BTreeMap::new();
    for statement in code.split("pub use ").skip(1).filter_map(|rest| rest.split(';').next()) {
        let path = statement.trim_start_matches("crate::");
        if let Some(module) = modules.get(path.split("::").next().unwrap_or_default()) {
            exported.extend(words(path).map(|name| (name.to_owned(), *module)));
        }
    }
    exported
}

/// What code uses of its own crate: the names that follow `crate::`. Macros are exported at the root, wherever they
/// are.
fn used(content: &str) -> BTreeSet<String> {
    let code: String = source::code(content).map(|(_, line)| line).collect::<Vec<_>>().join(" ");
    let mut used = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split(';').next().unwrap_or_default();
                used.extend(top_level(group).filter_map(|part| words(part).next()).map(str::to_owned));
            }
            None => {
                used.extend(words(rest).next().filter(|name| !rest[name.len()..].starts_with('!')).map(str::to_owned))
            }
        }
    }
    used
}

/// The parts of a group between commas, without those of groups inside it.
fn top_level(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_i32;
    group.split(move |c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    })
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// Each arrow that lies on a circle.
fn cycles(arrows: &Arrows) -> Vec<String> {
    let mut found = Vec::new();
    for (from, targets) in arrows {
        for to in targets.iter().filter(|to| reaches(arrows, to, from)) {
            found.push(format!("{from} uses {to}"));
        }
    }
    found
}

fn reaches(arrows: &Arrows, from: &str, to: &str) -> bool {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(module) = open.pop() {
        if module == to {
            return true;
        }
        if seen.insert(module) {
            open.extend(arrows.get(module).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::workspace::Crate;

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<(String, &str)> =
            files.iter().map(|(path, text)| (format!("crates/c/src/{path}"), *text)).collect();
        let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let mut workspace = Workspace::of(&files);
        workspace.crates.insert("c".to_owned(), Crate::default());
        check(&workspace)
    }

    #[test]
    fn modules_that_use_each_other_are_told_and_those_that_do_not_are_not() {
        let root = ("lib.rs", "mod a;\npub use crate::a::{A, B};\nstruct Own;");
        assert_eq!(problems(&[root, ("a.rs", "use std::fmt;"), ("b/deep.rs", "use crate::A;")]), [""; 0]);
        let circle = problems(&[root, ("a/x.rs", "use crate::{b::{C, D}, a};"), ("b.rs", "fn f(_: crate::B) {}")]);
        assert_eq!(circle.len(), 2, "{circle:?}");
        assert!(circle[0].ends_with("a uses b") && circle[1].ends_with("b uses a"), "{circle:?}");
        let up = problems(&[root, ("a.rs", "use crate::Own;")]);
        assert!(up[0].contains("uses Own of the crate's root"), "{up:?}");
        let tests = "// crate::b\ncrate::a_macro!();\n#[cfg(test)]\nmod tests { use crate::b; }";
        assert_eq!(problems(&[root, ("a.rs", tests), ("b.rs", "use crate::a;")]), [""; 0]);
    }
}
