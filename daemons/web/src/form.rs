//! What a form has sent, shown to whoever sent it: the same words come in the URL or in the body, and that is all that GET and POST
//! differ in here.
//!
//! ```text
//! GET /animalsearch?monkeys&banana HTTP/1.1          POST /animalsearch HTTP/1.1
//!                                                    Content-Type: application/x-www-form-urlencoded
//!
//!                                                    monkeys&banana
//! ```

use crate::page::{Form as Page, document, escape, harmless};
use http::{HeaderMap, header::CONTENT_TYPE};
use percent_encoding::percent_decode;
use std::{borrow::Cow, fmt::Write as _};

/// The longest body that is shown. Who sends more has more to say than a lesson.
pub(crate) const OCTETS_MAX: usize = 64 << 10;
/// How many fields are told apart.
const FIELDS_MAX: usize = 100;
/// What browsers put into a body unless they send files.
const URLENCODED: &[u8] = b"application/x-www-form-urlencoded";

/// What came, and how.
#[derive(Debug)]
pub(crate) struct Sent<'a> {
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    /// Only of a POST.
    pub(crate) body: Option<&'a [u8]>,
    pub(crate) fields: &'a HeaderMap,
}

/// A name and what was typed there; a lone word has no name.
type Field = (String, Option<String>);

impl Sent<'_> {
    /// The way, for people, and the octets that came on it.
    fn way(&self) -> (&'static str, &[u8]) {
        match self.body {
            None => ("GET: in the URL, behind the question mark", self.query.unwrap_or_default().as_bytes()),
            Some(body) => ("POST: in the body, behind the empty line", body),
        }
    }

    /// The fields, if their form is known.
    fn decoded(&self) -> Option<Vec<Field>> {
        let (_, octets) = self.way();
        let is_known = self.body.is_none() || {
            // Whoever types a POST by hand leaves the type out, and means this one.
            let told = self.fields.get(CONTENT_TYPE).map_or(URLENCODED, |value| value.as_bytes());
            let told = told.split(|octet| *octet == b';').next().unwrap_or_default();
            told.trim_ascii().eq_ignore_ascii_case(URLENCODED)
        };
        is_known.then(|| urlencoded(octets))
    }

    /// The page, and what is remarked in the transcript.
    pub(crate) fn render(&self, page: Page) -> Vec<u8> {
        let (way, octets) = self.way();
        // Whoever types a body by hand ends it with Return.
        let sent = String::from_utf8_lossy(octets.trim_ascii_end());
        let fields = self.decoded();
        let mut facts: Vec<(&str, Cow<'_, str>)> = vec![("Form for", self.path.into()), ("Came by", way.into())];
        facts.push(("Sent", if sent.is_empty() { "nothing".into() } else { sent.clone() }));
        match &fields {
            Some(fields) => {
                let shown = |(name, value): &Field| match value {
                    Some(value) => format!("{name} = {value}"),
                    None => name.clone(),
                };
                facts.extend(fields.iter().map(|field| ("Field", shown(field).into())));
            }
            None => facts.push(("Fields", "not told apart: the body is of another type".into())),
        }
        match page {
            Page::Html => {
                let mut body = String::from("<dl>\n");
                for (word, fact) in facts {
                    // Writing to a String cannot fail.
                    let _ = writeln!(body, "<dt>{word}</dt><dd>{}</dd>", escape(&fact));
                }
                body.push_str("</dl>\n");
                document("What the form has sent", &body).into_bytes()
            }
            Page::Text => {
                let mut text = String::from("What the form has sent\n\n");
                for (word, fact) in facts {
                    let _ = writeln!(text, "{word:<10} {}", harmless(&fact));
                }
                text.into_bytes()
            }
            Page::Json => {
                let way = if self.body.is_some() { "POST" } else { "GET" };
                let json = serde_json::json!({ "path": self.path, "way": way, "sent": sent, "fields": fields });
                format!("{json}\n").into_bytes()
            }
        }
    }
}

/// WHATWG URL §5.1: `name=value`, joined by `&`; a plus is a space, and `%XX` an octet.
fn urlencoded(octets: &[u8]) -> Vec<Field> {
    let decode = |part: &[u8]| {
        let spaced: Vec<u8> = part.iter().map(|octet| if *octet == b'+' { b' ' } else { *octet }).collect();
        String::from_utf8_lossy(&percent_decode(&spaced).collect::<Vec<u8>>()).into_owned()
    };
    let parts = octets.trim_ascii_end().split(|octet| *octet == b'&').filter(|part| !part.is_empty());
    let field = |part: &[u8]| match part.iter().position(|octet| *octet == b'=') {
        Some(at) => (decode(&part[..at]), Some(decode(&part[at + 1..]))),
        None => (decode(part), None),
    };
    parts.take(FIELDS_MAX).map(field).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn text(sent: &Sent<'_>, page: Page) -> String {
        String::from_utf8(sent.render(page)).unwrap()
    }

    /// CLAIMS C36.
    #[test]
    fn both_ways_say_the_same() {
        let fields = HeaderMap::new();
        let get = Sent { path: "/animalsearch", query: Some("monkeys&banana"), body: None, fields: &fields };
        let post = Sent { query: None, body: Some(b"monkeys&banana\r\n"), ..get };
        let told = "Sent       monkeys&banana\nField      monkeys\nField      banana\n";
        assert!(text(&get, Page::Text).ends_with(&format!("GET: in the URL, behind the question mark\n{told}")));
        assert!(text(&post, Page::Text).ends_with(&format!("POST: in the body, behind the empty line\n{told}")));
    }

    #[test]
    fn what_is_encoded_is_decoded_and_what_is_hostile_is_harmless() {
        let mut fields = HeaderMap::new();
        let query = Some("q=a+b%26c&x=%3Cscript%3E&empty=&&bad=%ff%1b");
        let sent = Sent { path: "/f", query, body: None, fields: &fields };
        let html = text(&sent, Page::Html);
        assert!(html.contains("<dd>q = a b&amp;c</dd>") && html.contains("x = &lt;script&gt;"), "{html}");
        assert!(!html.contains("<script") && html.contains("<dd>empty = </dd>"), "{html}");
        assert!(!text(&sent, Page::Text).contains('\x1b'));
        let json: serde_json::Value = serde_json::from_str(&text(&sent, Page::Json)).unwrap();
        assert_eq!((&json["fields"][0][1], &json["way"]), (&"a b&c".into(), &"GET".into()));
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("multipart/form-data; boundary=x"));
        let sent = Sent { path: "/f", query: None, body: Some(b"--x"), fields: &fields };
        assert!(text(&sent, Page::Text).contains("not told apart"));
        let many = "a&".repeat(FIELDS_MAX * 2);
        assert_eq!(urlencoded(many.as_bytes()).len(), FIELDS_MAX);
    }
}
