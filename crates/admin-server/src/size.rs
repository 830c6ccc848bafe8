//! How large a query is once its fragments are put in, found before validation puts them in.
//!
//! Fragments that use each other twice double with each one: forty short lines are a million million fields. The limits
//! of the GraphQL library count by walking over all of them, so they cannot be asked first.

use std::collections::HashMap;

use async_graphql::Name;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};

/// The most selections: fields, inline fragments and uses of fragments.
const MAX_SELECTIONS: usize = 2000;
/// How deep they may nest. Fragments that use themselves have no depth.
const MAX_HEIGHT: usize = 100;

/// Why a query is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    /// Too many selections.
    #[error("the query has more than {MAX_SELECTIONS} selections, its fragments put in")]
    Selections,
    /// Too deep, or without an end.
    #[error("the query is nested more than {MAX_HEIGHT} deep, its fragments put in, or a fragment uses itself")]
    Height,
}

#[derive(Debug, Clone, Copy, Default)]
struct Size {
    selections: usize,
    height: usize,
}

/// Checks all operations and fragments of a query together.
pub(crate) fn check(document: &ExecutableDocument) -> Result<(), SizeError> {
    let mut fragments = Fragments { document, known: HashMap::new() };
    let mut selections = 0_usize;
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let definitions = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    for set in operations.chain(definitions) {
        selections = selections.saturating_add(fragments.measure(set, 1)?.selections);
    }
    if selections > MAX_SELECTIONS { Err(SizeError::Selections) } else { Ok(()) }
}

struct Fragments<'a> {
    document: &'a ExecutableDocument,
    /// Each fragment is measured once.
    known: HashMap<&'a Name, Size>,
}

impl<'a> Fragments<'a> {
    fn measure(&mut self, set: &'a SelectionSet, depth: usize) -> Result<Size, SizeError> {
        if depth > MAX_HEIGHT {
            return Err(SizeError::Height);
        }
        let mut size = Size::default();
        for selection in &set.items {
            let inner = match &selection.node {
                Selection::Field(field) => self.measure(&field.node.selection_set.node, depth + 1)?,
                Selection::InlineFragment(fragment) => self.measure(&fragment.node.selection_set.node, depth + 1)?,
                Selection::FragmentSpread(spread) => self.fragment(&spread.node.fragment_name.node, depth + 1)?,
            };
            size.selections = size.selections.saturating_add(inner.selections).saturating_add(1);
            size.height = size.height.max(inner.height + 1);
        }
        if size.height > MAX_HEIGHT { Err(SizeError::Height) } else { Ok(size) }
    }

    fn fragment(&mut self, name: &'a Name, depth: usize) -> Result<Size, SizeError> {
        if let Some(size) = self.known.get(name) {
            return Ok(*size);
        }
        // Validation says what is wrong with a name that no fragment has.
        let Some(fragment) = self.document.fragments.get(name) else { return Ok(Size::default()) };
        let size = self.measure(&fragment.node.selection_set.node, depth)?;
        self.known.insert(name, size);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::parser::parse_query;

    fn checked(query: &str) -> Result<(), SizeError> {
        check(&parse_query(query).unwrap())
    }

    #[test]
    fn an_ordinary_query_passes() {
        assert_eq!(
            checked("{ a { b c { d } } ...F } fragment F on Query { a { b } ... on Query { e } ...Unknown }"),
            Ok(())
        );
    }

    #[test]
    fn fragments_that_double_are_counted_without_being_walked() {
        let double = |n| format!("fragment F{n} on Query {{ ...F{} ...F{} }} ", n + 1, n + 1);
        let query = format!("{{ ...F0 }} {} fragment F60 on Query {{ a }}", (0..60).map(double).collect::<String>());
        assert_eq!(checked(&query), Err(SizeError::Selections));
    }

    #[test]
    fn a_fragment_that_uses_itself_has_no_depth() {
        assert_eq!(checked("{ ...F } fragment F on Query { ...F ...F }"), Err(SizeError::Height));
        assert_eq!(checked("{ a } fragment F on Query { ...G } fragment G on Query { ...F }"), Err(SizeError::Height));
    }

    #[test]
    fn a_long_chain_of_fragments_is_too_deep_used_or_not() {
        let link = |n| format!("fragment F{n} on Query {{ ...F{} }} ", n + 1);
        let chain: String = (0..150).map(link).collect();
        assert_eq!(checked(&format!("{{ ...F0 }} {chain}")), Err(SizeError::Height));
        assert_eq!(checked(&format!("{{ a }} {chain}")), Err(SizeError::Height));
    }

    #[test]
    fn many_fields_are_too_many() {
        assert_eq!(checked(&format!("{{ {} }}", "a ".repeat(2000))), Ok(()));
        assert_eq!(checked(&format!("{{ {} }}", "a ".repeat(2001))), Err(SizeError::Selections));
    }
}
