//! Documents: links lead somewhere, and the two pages that everybody begins with stay short.

use super::workspace::Workspace;

/// How many lines a page may have.
const MOST_LINES: [(&str, usize); 2] = [("README.md", 150), ("ARCHITECTURE.md", 199)];

pub(crate) fn check(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    for (page, most) in MOST_LINES {
        let lines = workspace.files.get(page).map_or(0, |text| text.lines().count());
        if lines > most {
            problems.push(format!("{page}: {lines} lines, {most} at most: move what not everybody needs to docs/"));
        }
    }
    for (page, text) in workspace.ending(".md") {
        for (number, line) in prose(text) {
            let broken = links(line).filter(|link| !leads_somewhere(workspace, page, link));
            problems.extend(broken.map(|link| format!("{page}:{number}: the link {link} leads nowhere")));
        }
    }
    problems
}

/// The lines that are not in a block of code, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut code = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        (!code && !fence).then_some((index + 1, line))
    })
}

/// Where the links of a line lead, but for those to other sites and those in code.
fn links(line: &str) -> impl Iterator<Item = &str> {
    // Outside of backticks is every second piece; a link's text may have some, so that its end begins the next piece.
    let pieces = line.split('`').step_by(2);
    let targets = pieces.flat_map(|piece| piece.split("](").skip(1)).filter_map(|rest| Some(rest.split_once(')')?.0));
    targets.filter(|target| !target.contains("://"))
}

fn leads_somewhere(workspace: &Workspace, page: &str, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let Some(target) = (if path.is_empty() { Some(page.to_owned()) } else { resolved(page, path) }) else {
        return false;
    };
    let has_heading = || {
        let text = workspace.files.get(&target).map_or("", String::as_str);
        prose(text).any(|(_, line)| line.starts_with('#') && slug(line) == anchor)
    };
    workspace.has(&target) && (anchor.is_empty() || has_heading())
}

/// A path from the directory of a page as one from the top of the repository; None when it leads out of that.
fn resolved(page: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = page.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "." | "" => {}
            name => parts.push(name),
        }
    }
    Some(parts.join("/"))
}

/// What a heading is called in links, as GitHub makes it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_told_with_its_line() {
        let text = "[a](b.md#with-a--heading) [b](../README.md) [c](https://x.y/z) `[d](e)` [`f`](b.md)\n[g](#here)\n# Here\n\
                    [h](b.md#gone)\n[i](gone.md)\n[j](../../k.md)\n```\n[l](m)\n```";
        let files = [("docs/a.md", text), ("docs/b.md", "## With a + *heading*"), ("README.md", "")];
        let told = [
            "docs/a.md:4: the link b.md#gone leads nowhere",
            "docs/a.md:5: the link gone.md leads nowhere",
            "docs/a.md:6: the link ../../k.md leads nowhere",
        ];
        assert_eq!(check(&Workspace::of(&files)), told);
    }

    #[test]
    fn a_page_that_is_too_long_is_told() {
        let told = check(&Workspace::of(&[("README.md", &"a\n".repeat(151)), ("docs/a.md", &"a\n".repeat(900))]));
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("README.md: 151 lines"), "{told:?}");
    }
}
