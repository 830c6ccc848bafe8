//! The e-mail's HTML, from an MJML template, and its plain text.

use mrml::prelude::render::RenderOptions;
use url::Url;

use crate::lookup::Site;

/// When a theme has no colour, or none that can be trusted in a style.
const DEFAULT_PRIMARY: &str = "#1f6feb";

/// The words of an e-mail; none of them is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Words<'a> {
    /// The subject.
    pub subject: &'a str,
    /// What it is about, in a line.
    pub line: &'a str,
    /// The button's label.
    pub button: &'a str,
    /// Where the button leads.
    pub link: &'a Url,
}

/// A template that cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("the e-mail cannot be rendered: {0}")]
pub struct RenderError(String);

/// The e-mail as HTML.
pub fn html(words: &Words<'_>, site: &Site) -> Result<String, RenderError> {
    let parsed = mrml::parse(mjml(words, site)).map_err(|error| RenderError(error.to_string()))?;
    parsed.element.render(&RenderOptions::default()).map_err(|error| RenderError(error.to_string()))
}

/// The e-mail as plain text.
pub fn text(words: &Words<'_>, site: &Site) -> String {
    let Words { line, button, link, .. } = words;
    let footer = [site.name.as_deref(), site.website.as_deref(), site.support.as_deref()];
    let footer: Vec<_> = footer.into_iter().flatten().collect();
    format!("{line}\n\n{button}: {link}\n\n{}\n", footer.join("\n"))
}

fn mjml(words: &Words<'_>, site: &Site) -> String {
    let subject = escape(words.subject);
    let line = escape(words.line);
    let button = escape(words.button);
    let link = escape(words.link.as_str());
    let primary = site.primary.as_deref().filter(|colour| is_colour(colour)).unwrap_or(DEFAULT_PRIMARY);
    let nick = escape(&site.nick);
    let head = match logo(site) {
        Some(url) => format!(r#"<mj-image src="{}" alt="{nick}" width="160px" />"#, escape(url.as_str())),
        None => format!(r#"<mj-text align="center" font-size="24px" font-weight="bold">{nick}</mj-text>"#),
    };
    let footer = [support(site), Some(company(site))].into_iter().flatten().map(|line| {
        format!(r##"<mj-text align="center" font-size="12px" color="#6b7280" padding="4px">{line}</mj-text>"##)
    });
    let footer: String = footer.collect();
    format!(
        r##"<mjml>
  <mj-head>
    <mj-title>{subject}</mj-title>
    <mj-preview>{line}</mj-preview>
    <mj-attributes>
      <mj-all font-family="Helvetica, Arial, sans-serif" />
    </mj-attributes>
  </mj-head>
  <mj-body background-color="#f3f4f6">
    <mj-section padding="24px 0 0"><mj-column>{head}</mj-column></mj-section>
    <mj-section background-color="#ffffff">
      <mj-column>
        <mj-text align="center" font-size="20px" font-weight="bold">{subject}</mj-text>
        <mj-text align="center" font-size="16px">{line}</mj-text>
        <mj-button background-color="{primary}" color="#ffffff" font-size="16px" href="{link}">{button}</mj-button>
      </mj-column>
    </mj-section>
    <mj-section><mj-column>{footer}</mj-column></mj-section>
  </mj-body>
</mjml>"##
    )
}

/// The logo, when it is an image that a mail client can fetch.
fn logo(site: &Site) -> Option<Url> {
    let is_image = site.logo.mime.as_deref().is_none_or(|mime| mime.starts_with("image/"));
    web(site.logo.url.as_deref()).filter(|_| is_image)
}

fn support(site: &Site) -> Option<String> {
    let support = site.support.as_deref()?;
    // Only a plain address becomes a link: a mailto URL can carry a subject, a body and more recipients.
    let plain = |c: char| c.is_ascii_alphanumeric() || "@.-_+".contains(c);
    let shown = escape(support);
    Some(if support.matches('@').count() == 1 && support.chars().all(plain) {
        format!(r#"Need help? <a href="mailto:{shown}">{shown}</a>"#)
    } else {
        format!("Need help? {shown}")
    })
}

fn company(site: &Site) -> String {
    let name = escape(site.name.as_deref().unwrap_or(&site.nick));
    let website = site.website.as_deref().map(escape);
    match (website, web(site.website.as_deref())) {
        (Some(shown), Some(url)) => format!(r#"{name} · <a href="{}">{shown}</a>"#, escape(url.as_str())),
        (Some(shown), None) => format!("{name} · {shown}"),
        (None, _) => name,
    }
}

/// A URL that a browser opens as a page; no `javascript:`, no `data:`.
fn web(url: Option<&str>) -> Option<Url> {
    Url::parse(url?).ok().filter(|url| matches!(url.scheme(), "http" | "https"))
}

/// Whether a text is a colour and nothing else: `#rgb` to `#rrggbbaa`, a name, or `rgb(…)` and the like.
fn is_colour(text: &str) -> bool {
    if let Some(digits) = text.strip_prefix('#') {
        return matches!(digits.len(), 3 | 4 | 6 | 8) && digits.chars().all(|c| c.is_ascii_hexdigit());
    }
    let function = |name: &str| text.strip_prefix(name)?.strip_prefix('(')?.strip_suffix(')');
    match ["rgba", "rgb", "hsla", "hsl"].into_iter().find_map(function) {
        Some(inside) => !inside.is_empty() && inside.chars().all(|c| c.is_ascii_digit() || " ,.%/".contains(c)),
        None => !text.is_empty() && text.len() <= 32 && text.chars().all(|c| c.is_ascii_alphabetic()),
    }
}

/// A text as it may stand between tags and in a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::Logo;

    fn site() -> Site {
        Site {
            domain: "example.com".into(),
            logo: Logo { url: Some("https://cdn.example.com/logo.png".into()), mime: Some("image/png".into()) },
            primary: Some("#ff8800".into()),
            support: Some("help@example.com".into()),
            website: Some("https://example.com/about".into()),
            name: Some("Example Inc.".into()),
            nick: "Example".into(),
            ..Site::default()
        }
    }

    fn render(site: &Site, subject: &str) -> String {
        let link = Url::parse("https://example.com/register?invite_token=a&email=b%40c&type=app").unwrap();
        html(&Words { subject, line: "You've been invited to Example", button: "Join Us", link: &link }, site).unwrap()
    }

    #[test]
    fn everything_is_there() {
        let html = render(&site(), "Ada invited you to Example!");
        for part in [
            "<title>Ada invited you to Example!</title>",
            "You&#39;ve been invited to Example",
            "Join Us",
            r#"href="https://example.com/register?invite_token=a&amp;email=b%40c&amp;type=app""#,
            r#"src="https://cdn.example.com/logo.png""#,
            "#ff8800",
            r#"<a href="mailto:help@example.com">help@example.com</a>"#,
            r#"Example Inc. · <a href="https://example.com/about">https://example.com/about</a>"#,
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!html.contains("fonts.googleapis.com"), "nothing is fetched but the logo");
    }

    #[test]
    fn hostile_values_stay_text() {
        let evil = r#""><script>alert('1')</script><mj-raw>{{x}}</mj-raw><!-- & -->]]>"#;
        let text = Some(evil.to_owned());
        let site = Site {
            logo: Logo { url: Some(format!("https://x/{evil}")), mime: None },
            primary: text.clone(),
            support: text.clone(),
            website: Some(format!("https://x/?{evil}")),
            name: text,
            nick: evil.to_owned(),
            ..site()
        };
        let html = render(&site, evil);
        for part in ["<script", "<mj-raw", "<!-- &", "alert('1')"] {
            assert!(!html.contains(part), "{part}: {html}");
        }
        let escaped = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;mj-raw&gt;{{x}}&lt;/mj-raw&gt;\
                       &lt;!-- &amp; --&gt;]]&gt;";
        assert!(html.contains(&format!("<title>{escaped}</title>")), "{html}");
        // Title, subject, alt text, support, company, website.
        assert!(html.matches("&lt;script&gt;").count() >= 6, "{html}");
        assert!(html.contains(DEFAULT_PRIMARY));
    }

    #[test]
    fn a_link_that_is_no_page_is_shown_as_text() {
        for bad in ["javascript:alert(1)", "data:text/html,x", "example.com", "//evil"] {
            let logo = Logo { url: Some(bad.into()), mime: None };
            let html = render(&Site { website: Some(bad.into()), logo, ..site() }, "s");
            assert!(!html.contains(&format!("href=\"{bad}")) && !html.contains("<img"), "{bad}: {html}");
            assert!(html.contains(&format!("Example Inc. · {bad}")), "{html}");
        }
        let html = render(&Site { support: Some("a@b.co?bcc=x@y.z".into()), ..site() }, "s");
        assert!(!html.contains("mailto:"), "{html}");
    }

    #[test]
    fn a_colour_cannot_leave_its_attribute() {
        for good in ["#fff", "#FF8800", "#ff8800cc", "rebeccapurple", "rgb(1, 2, 3)", "hsla(120, 50%, 50%, 0.5)"] {
            assert!(is_colour(good), "{good}");
        }
        for bad in ["", "#ff", "#gggggg", "red;", "red\"", "url(x)", "rgb()", "rgb(1;2)", "expression(1)", "#fff;x:y"] {
            assert!(!is_colour(bad), "{bad}");
        }
    }
}
