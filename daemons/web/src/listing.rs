//! A directory as a page: its entries as a table that can be sorted, or as JSON.
//!
//! Names are octets, not text: a link holds each octet of a name percent-encoded, so that even a name that is not UTF-8
//! can be followed; what is shown of it is replaced where it cannot be.
use std::cmp::Ordering;
use std::fmt::Write as _;
use std::time::SystemTime;

use serde::Serialize;

use crate::date::Civil;
use crate::page;
use crate::target::encode_path;

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
    /// In octets; of a directory it is not shown.
    pub size: u64,
    pub modified: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Directory,
    File,
}

/// How the entries of each kind are ordered. Directories come first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sort {
    by: By,
    order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Name,
    Size,
    Date,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

impl Sort {
    /// Reads `sort=name|size|date&order=asc|desc`; the last of each counts, and what is not understood is left alone.
    pub(crate) fn from_query(query: Option<&str>) -> Self {
        let mut sort = Self { by: By::Name, order: Order::Ascending };
        for pair in query.unwrap_or_default().split('&') {
            match pair {
                "sort=name" => sort.by = By::Name,
                "sort=size" => sort.by = By::Size,
                "sort=date" => sort.by = By::Date,
                "order=asc" => sort.order = Order::Ascending,
                "order=desc" => sort.order = Order::Descending,
                _ => {}
            }
        }
        sort
    }

    fn compare(self, one: &Entry, other: &Entry) -> Ordering {
        let is_file = |entry: &Entry| entry.kind == Kind::File;
        let by = match self.by {
            By::Name => Ordering::Equal,
            By::Size => one.size.cmp(&other.size),
            By::Date => one.modified.cmp(&other.modified),
        };
        // Names tell equal sizes and dates apart, so that the order is the same each time.
        let by = by.then_with(|| one.name.cmp(&other.name));
        let by = if self.order == Order::Descending { by.reverse() } else { by };
        is_file(one).cmp(&is_file(other)).then(by)
    }
}

/// Writes the listing as HTML. `path` is the decoded path of the directory, without slashes around it.
pub(crate) fn html(path: &[u8], entries: &mut [Entry], sort: Sort) -> Vec<u8> {
    entries.sort_unstable_by(|one, other| sort.compare(one, other));
    let title = match path {
        [] => "Directory /".to_owned(),
        path => format!("Directory /{}/", String::from_utf8_lossy(path)),
    };
    let mut body = String::with_capacity(512 + entries.len() * 160);
    body.push_str("<table>\n<thead><tr>");
    for (by, word, key) in [(By::Name, "Name", "name"), (By::Size, "Size", "size"), (By::Date, "Modified", "date")] {
        body.push_str(&column_head(sort, by, word, key));
    }
    body.push_str("</tr></thead>\n<tbody>\n");
    if !path.is_empty() {
        body.push_str("<tr><td><a href=\"../\">../</a></td><td class=\"size\"></td><td class=\"date\"></td></tr>\n");
    }
    for entry in entries.iter() {
        push_row(&mut body, entry);
    }
    body.push_str("</tbody>\n</table>\n");
    page::document(&title, &body).into_bytes()
}

/// The head of a column is a link that sorts by it, and the other way round if it does so already.
fn column_head(sort: Sort, by: By, word: &str, key: &str) -> String {
    let (aria, next) = match (sort.by == by, sort.order) {
        (true, Order::Ascending) => (" aria-sort=\"ascending\"", "desc"),
        (true, Order::Descending) => (" aria-sort=\"descending\"", "asc"),
        (false, _) => ("", "asc"),
    };
    format!("<th scope=\"col\"{aria}><a href=\"?sort={key}&amp;order={next}\">{word}</a></th>")
}

fn push_row(body: &mut String, entry: &Entry) {
    let (slash, size) = match entry.kind {
        Kind::Directory => ("/", String::new()),
        Kind::File => ("", entry.size.to_string()),
    };
    // Writing to a String cannot fail. Nothing in an encoded path needs escaping in an attribute.
    let _ = writeln!(
        body,
        "<tr><td><a href=\"{link}{slash}\">{name}{slash}</a></td><td class=\"size\">{size}</td>\
         <td class=\"date\">{date}</td></tr>",
        link = encode_path(&entry.name),
        name = page::escape(&String::from_utf8_lossy(&entry.name)),
        date = minute(entry.modified),
    );
}

/// `2007-10-30 17:00`, in UTC: sorts as it reads.
fn minute(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, .. } = time.into();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// Writes the listing as JSON: `{"path": "/a/", "entries": [{"name", "href", "kind", "size", "modified"}]}`.
pub(crate) fn json(path: &[u8], entries: &mut [Entry], sort: Sort) -> Vec<u8> {
    #[derive(Serialize)]
    struct Listing<'a> {
        path: String,
        entries: Vec<Row<'a>>,
    }
    #[derive(Serialize)]
    struct Row<'a> {
        name: std::borrow::Cow<'a, str>,
        /// The exact octets of the name, percent-encoded, relative to the directory.
        href: String,
        kind: Kind,
        #[serde(skip_serializing_if = "Option::is_none")]
        size: Option<u64>,
        /// RFC 3339.
        modified: String,
    }
    entries.sort_unstable_by(|one, other| sort.compare(one, other));
    let rows = entries.iter().map(|entry| {
        let Civil { year, month, day, hour, minute, second } = entry.modified.into();
        let is_file = entry.kind == Kind::File;
        Row {
            name: String::from_utf8_lossy(&entry.name),
            href: format!("{}{}", encode_path(&entry.name), if is_file { "" } else { "/" }),
            kind: entry.kind,
            size: is_file.then_some(entry.size),
            modified: format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"),
        }
    });
    let path = if path.is_empty() { "/".to_owned() } else { format!("/{}/", String::from_utf8_lossy(path)) };
    let mut json =
        serde_json::to_vec(&Listing { path, entries: rows.collect() }).expect("numbers and strings always serialise");
    json.push(b'\n');
    json
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn entries() -> Vec<Entry> {
        let entry = |name: &[u8], kind, size, seconds| Entry {
            name: name.to_vec(),
            kind,
            size,
            modified: UNIX_EPOCH + Duration::from_secs(seconds),
        };
        vec![
            entry(b"b.html", Kind::File, 2652, 1_193_763_602),
            entry(b"a.html", Kind::File, 2652, 5),
            entry(b"z dir", Kind::Directory, 4096, 0),
            entry(b"<i>\"&'", Kind::File, 1, 10),
            entry(b"x:\xff?#", Kind::File, 10, 1),
        ]
    }

    fn order(query: &str) -> Vec<String> {
        let listing: serde_json::Value =
            serde_json::from_slice(&json(b"", &mut entries(), Sort::from_query(Some(query)))).unwrap();
        let href = |entry: &serde_json::Value| entry["href"].as_str().unwrap().to_owned();
        listing["entries"].as_array().unwrap().iter().map(href).collect()
    }

    #[test]
    fn directories_come_first_in_every_order() {
        let (dir, odd, other) = ("z%20dir/", "%3Ci%3E%22%26%27", "x%3A%FF%3F%23");
        for (query, expected) in [
            ("", [dir, odd, "a.html", "b.html", other]),
            ("sort=name&order=desc", [dir, other, "b.html", "a.html", odd]),
            ("sort=size", [dir, odd, other, "a.html", "b.html"]),
            ("order=desc&sort=size", [dir, "b.html", "a.html", other, odd]),
            ("sort=date&order=asc", [dir, other, "a.html", odd, "b.html"]),
            ("sort=colour&order=up&x", [dir, odd, "a.html", "b.html", other]),
        ] {
            assert_eq!(order(query), expected, "{query}");
        }
    }

    #[test]
    fn html_escapes_names_and_encodes_links() {
        let html = html(b"some dir/<b>", &mut entries(), Sort::from_query(Some("sort=size")));
        let html = String::from_utf8(html).unwrap();
        for expected in [
            "<h1>Directory /some dir/&lt;b&gt;/</h1>",
            "<a href=\"../\">../</a>",
            "<th scope=\"col\"><a href=\"?sort=name&amp;order=asc\">Name</a></th>",
            "<th scope=\"col\" aria-sort=\"ascending\"><a href=\"?sort=size&amp;order=desc\">Size</a></th>",
            "<a href=\"%3Ci%3E%22%26%27\">&lt;i&gt;&quot;&amp;&#39;</a>",
            "<a href=\"x%3A%FF%3F%23\">x:\u{FFFD}?#</a>",
            "<a href=\"z%20dir/\">z dir/</a></td><td class=\"size\"></td>",
            "<a href=\"b.html\">b.html</a></td><td class=\"size\">2652</td><td class=\"date\">2007-10-30 17:00</td>",
        ] {
            assert!(html.contains(expected), "{expected} in {html}");
        }
        assert!(!html.contains("<i>") && !html.contains("<b>"));
    }

    #[test]
    fn the_root_has_no_parent() {
        let root = String::from_utf8(html(b"", &mut [], Sort::from_query(None))).unwrap();
        assert!(root.contains("<h1>Directory /</h1>") && !root.contains("../"));
    }

    #[test]
    fn json_tells_what_html_shows() {
        let mut entries = [entries()[0].clone(), entries()[2].clone()];
        let listing: serde_json::Value =
            serde_json::from_slice(&json(b"a/b", &mut entries, Sort::from_query(None))).unwrap();
        assert_eq!(
            listing,
            serde_json::json!({
                "path": "/a/b/",
                "entries": [
                    { "name": "z dir", "href": "z%20dir/", "kind": "directory", "modified": "1970-01-01T00:00:00Z" },
                    {
                        "name": "b.html", "href": "b.html", "kind": "file", "size": 2652,
                        "modified": "2007-10-30T17:00:02Z"
                    }
                ]
            })
        );
    }
}
