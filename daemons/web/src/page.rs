//! Pages for people: why something did not work, in the form that the reader can read.
//!
//! A browser gets HTML, telnet and curl get plain text, a program that asks for JSON gets JSON. All of them say the same:
//! what was asked, where it was looked up, why that failed, which rule says so, and what to try next. The HTML frame is
//! shared with [`crate::listing`].
use std::borrow::Cow;
use std::fmt::Write as _;

use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

/// The form of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Html,
    Text,
    Json,
}

impl Form {
    /// Chooses by the `Accept` field (RFC 9110 §12.5.1).
    ///
    /// Without one, or with `*/*` alone, everything is equally good (§12.5.1), and those who send that are telnet and
    /// curl: people who look at the octets. A browser names `text/html` first.
    pub(crate) fn wanted(fields: &HeaderMap) -> Self {
        let mut best = (Self::Text, 0);
        for element in fields.get_all(ACCEPT).iter().flat_map(|line| line.as_bytes().split(|&octet| octet == b',')) {
            let mut parts = element.split(|&octet| octet == b';').map(<[u8]>::trim_ascii);
            let range = parts.next().unwrap_or_default();
            let form =
                if range.eq_ignore_ascii_case(b"text/html") || range.eq_ignore_ascii_case(b"application/xhtml+xml") {
                    Self::Html
                } else if range.eq_ignore_ascii_case(b"application/json") {
                    Self::Json
                } else if range.eq_ignore_ascii_case(b"text/plain") || range.eq_ignore_ascii_case(b"text/*") {
                    Self::Text
                } else {
                    continue;
                };
            let quality = parts.find_map(quality).unwrap_or(1000);
            // Of equals the one named first, which is what their authors mean although §12.5.1 does not say it.
            if quality > best.1 {
                best = (form, quality);
            }
        }
        best.0
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
        })
    }
}

/// RFC 9110 §12.4.2: `weight = OWS ";" OWS "q=" qvalue`, in thousandths.
fn quality(parameter: &[u8]) -> Option<u16> {
    let [b'q' | b'Q', b'=', whole, fraction @ ..] = parameter else { return None };
    let digits = fraction.strip_prefix(b".").unwrap_or(fraction).iter().chain(std::iter::repeat(&b'0')).take(3);
    let digit = |octet: u8| octet.is_ascii_digit().then(|| u16::from(octet - b'0'));
    let sum = digits.map(|&octet| digit(octet)).try_fold(digit(*whole)?, |sum, digit| Some(sum * 10 + digit?))?;
    Some(sum.min(1000))
}

/// RFC 9110 §15.5.14 has given 413 another name than the `http` crate knows.
pub(crate) const CONTENT_TOO_LARGE: &str = "Content Too Large";

/// The words behind a status code.
pub(crate) fn reason_phrase(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => CONTENT_TOO_LARGE,
        other => other.canonical_reason().unwrap_or_default(),
    }
}

/// What there is to say about an answer that is not what was hoped for.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Explanation<'a> {
    #[serde(serialize_with = "status_number")]
    pub status: StatusCode,
    /// A few words: "There is no such page".
    pub title: Cow<'a, str>,
    /// The path that was asked, decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asked: Option<Cow<'a, str>>,
    /// Where it was looked up, if that may be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looked_up: Option<Cow<'a, str>>,
    /// A sentence or two.
    pub reason: Cow<'a, str>,
    /// "RFC 9110 §15.5.5".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Cow<'a, str>>,
    /// What to try next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub try_next: Option<Cow<'a, str>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn status_number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl Explanation<'_> {
    /// The fields that have something to say, with the words before them.
    fn facts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            ("Asked for", self.asked.as_deref()),
            ("Looked up", self.looked_up.as_deref()),
            ("Why", Some(&*self.reason)),
            ("Rule", self.rule.as_deref()),
            ("Try next", self.try_next.as_deref()),
        ]
        .into_iter()
        .filter_map(|(word, fact)| Some((word, fact?)))
    }
}

/// Writes the page as UTF-8.
pub(crate) fn render(form: Form, explanation: &Explanation) -> Vec<u8> {
    let heading = format!("{} {}", explanation.status.as_u16(), explanation.title);
    match form {
        Form::Html => {
            let mut body = String::from("<dl>\n");
            for (word, fact) in explanation.facts() {
                // Writing to a String cannot fail.
                let _ = writeln!(body, "<dt>{word}</dt><dd>{}</dd>", escape(fact));
            }
            body.push_str("</dl>\n");
            document(&heading, &body).into_bytes()
        }
        Form::Text => {
            let mut text = format!("{}\n\n", harmless(&heading));
            for (word, fact) in explanation.facts() {
                let _ = writeln!(text, "{word:<10} {}", harmless(fact));
            }
            text.into_bytes()
        }
        Form::Json => {
            let mut json = serde_json::to_vec(explanation).expect("numbers and strings always serialise");
            json.push(b'\n');
            json
        }
    }
}

/// One HTML page. `title` is text, `body` is HTML.
///
/// It has no script and loads nothing, so it shows the same in lynx, and behind any `Content-Security-Policy` that allows
/// inline style.
pub(crate) fn document(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n\
         </body>\n</html>\n"
    )
}

/// Colours follow the reader's light or dark setting.
const STYLE: &str = "\
:root { color-scheme: light dark }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; padding: 2rem 1rem }
main { max-width: 52rem; margin: auto }
h1 { font-size: 1.4rem; border-bottom: .2rem solid #b3261e; padding-bottom: .4rem; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.2rem }
dt { color: GrayText } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #8884 }
td.size, th:nth-child(2) { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
[aria-sort=ascending] a::after { content: \" \\2191\" } [aria-sort=descending] a::after { content: \" \\2193\" }
td.date { white-space: nowrap; font-variant-numeric: tabular-nums }
";

/// Makes text mean itself in HTML, between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|octet| matches!(octet, b'&' | b'<' | b'>' | b'"' | b'\'') || octet.is_ascii_control()) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // HTML has no way to write these.
            control if control.is_control() => escaped.push(char::REPLACEMENT_CHARACTER),
            other => escaped.push(other),
        }
    }
    Cow::Owned(escaped)
}

/// Takes the power from control characters that a peer could send to a terminal through us.
pub(crate) fn harmless(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        Cow::Owned(text.replace(char::is_control, "\u{FFFD}"))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation() -> Explanation<'static> {
        Explanation {
            status: StatusCode::NOT_FOUND,
            title: "There is no such page".into(),
            asked: Some("/<script>alert('x')</script>\u{1b}[2J".into()),
            looked_up: None,
            reason: "Nothing has that name & nothing will.".into(),
            rule: Some("RFC 9110 §15.5.5".into()),
            try_next: Some("GET /".into()),
        }
    }

    #[test]
    fn the_form_follows_accept() {
        for (accept, expected) in [
            (None, Form::Text),
            (Some("*/*"), Form::Text),
            (Some(""), Form::Text),
            (Some("image/png"), Form::Text),
            (Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), Form::Html),
            (Some("Text/HTML"), Form::Html),
            (Some("text/html;charset=utf-8 ; q=0.5, text/plain;q=0.4"), Form::Html),
            (Some("application/json"), Form::Json),
            (Some("application/json, text/html"), Form::Json),
            (Some("application/json;q=0.5, text/html;q=0.9"), Form::Html),
            (Some("text/html;q=0.800, application/json;Q=1"), Form::Json),
            (Some("text/html;q=0"), Form::Text),
            (Some("text/plain, text/html;q=0.1"), Form::Text),
            (Some("text/html;q=x"), Form::Html),
            (Some(";;,,q=,"), Form::Text),
        ] {
            let fields = accept.map(|value| (ACCEPT, HeaderValue::from_static(value))).into_iter().collect();
            assert_eq!(Form::wanted(&fields), expected, "{accept:?}");
        }
    }

    #[test]
    fn html_pages_escape_what_the_peer_sent() {
        let page = String::from_utf8(render(Form::Html, &explanation())).unwrap();
        assert!(page.contains("<title>404 There is no such page</title>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\u{FFFD}[2J"), "{page}");
        assert!(!page.contains("<script") && !page.contains('\u{1b}') && !page.contains("Looked up"), "{page}");
    }

    #[test]
    fn text_pages_are_lines_and_harmless_to_a_terminal() {
        let page = String::from_utf8(render(Form::Text, &explanation())).unwrap();
        assert_eq!(
            page,
            "404 There is no such page\n\n\
             Asked for  /<script>alert('x')</script>\u{FFFD}[2J\n\
             Why        Nothing has that name & nothing will.\n\
             Rule       RFC 9110 §15.5.5\n\
             Try next   GET /\n"
        );
    }

    #[test]
    fn json_pages_hold_the_same_facts() {
        let page: serde_json::Value = serde_json::from_slice(&render(Form::Json, &explanation())).unwrap();
        assert_eq!(
            page,
            serde_json::json!({
                "status": 404,
                "title": "There is no such page",
                "asked": "/<script>alert('x')</script>\u{1b}[2J",
                "reason": "Nothing has that name & nothing will.",
                "rule": "RFC 9110 §15.5.5",
                "try_next": "GET /"
            })
        );
    }
}
