//! The media type of a file, by its name (RFC 9110 §8.3).
//!
//! ```text
//! index.html     text/html; charset=utf-8
//! home.index     text/html; charset=utf-8      by a rule of the site
//! photo.jpg      image/jpeg
//! notes          application/octet-stream      nothing is known
//! ```
//!
//! The content is never looked at: a server that guesses from the octets can be made to serve a picture as a script.
use std::collections::HashMap;

use http::HeaderValue;

/// Which types are sent, and in which character encoding text is taken to be.
#[derive(Debug)]
pub(crate) struct MediaTypes {
    /// By suffix, in lower case and without the dot; these win over what is generally known.
    by_suffix: HashMap<Vec<u8>, HeaderValue>,
    charset: Charset,
}

/// The `charset` parameter that text is sent with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Charset {
    /// Leave the reader to guess, or to read the page's own `<meta charset>`.
    Unsaid,
    Named(String),
}

/// A type or charset that cannot stand in a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a media type (for example: text/html; charset=utf-8)")]
pub(crate) struct BadMediaType(pub String);

impl MediaTypes {
    /// `by_suffix` maps a suffix (`index`, or with a dot, `.index`) to a type, which gets the charset like any other unless
    /// it names one.
    pub(crate) fn new<'a>(
        by_suffix: impl IntoIterator<Item = (&'a str, &'a str)>,
        charset: Charset,
    ) -> Result<Self, BadMediaType> {
        if let Charset::Named(name) = &charset {
            let good = !name.is_empty()
                && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"-_.:+".contains(&octet));
            good.then_some(()).ok_or_else(|| BadMediaType(name.clone()))?;
        }
        let mut types = Self { by_suffix: HashMap::new(), charset };
        for (suffix, text) in by_suffix {
            let slash = text.find('/').filter(|&at| at > 0 && at + 1 < text.len());
            let value = slash.and_then(|_| HeaderValue::try_from(types.with_charset(text)).ok());
            let value = value.ok_or_else(|| BadMediaType(text.to_owned()))?;
            let suffix = suffix.strip_prefix('.').unwrap_or(suffix).to_ascii_lowercase();
            types.by_suffix.insert(suffix.into_bytes(), value);
        }
        Ok(types)
    }

    /// The value of `Content-Type` for a file of this name.
    ///
    /// It costs a few hundred nanoseconds and allocates: keep it with what else is kept about the file.
    pub(crate) fn of(&self, name: &[u8]) -> HeaderValue {
        // RFC 9110 §8.3: without knowledge "a recipient MAY assume application/octet-stream"; saying so prevents guesses.
        const UNKNOWN: HeaderValue = HeaderValue::from_static("application/octet-stream");
        let base = name.rsplit(|&octet| octet == b'/').next().unwrap_or_default();
        let Some(suffix) = base.rsplitn(2, |&octet| octet == b'.').next().filter(|suffix| suffix.len() < base.len())
        else {
            return UNKNOWN;
        };
        let suffix = suffix.to_ascii_lowercase();
        if let Some(value) = self.by_suffix.get(&suffix) {
            return value.clone();
        }
        let known = std::str::from_utf8(&suffix).ok().and_then(|suffix| mime_guess::from_ext(suffix).first_raw());
        known.and_then(|text| HeaderValue::try_from(self.with_charset(text)).ok()).unwrap_or(UNKNOWN)
    }

    /// Text says how it is encoded, or the reader falls back to what its country used in 1995. JSON (RFC 8259 §8.1) is
    /// always UTF-8 and has no such parameter.
    fn with_charset(&self, text: &str) -> String {
        let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
        let is_text = essence.trim().to_ascii_lowercase().starts_with("text/");
        match &self.charset {
            Charset::Named(name) if is_text && !parameters.to_ascii_lowercase().contains("charset=") => {
                format!("{text}; charset={name}")
            }
            _ => text.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suffix_tells_the_type() {
        let types = MediaTypes::new(
            [("index", "text/html"), (".log", "text/plain; charset=us-ascii")],
            Charset::Named("utf-8".to_owned()),
        );
        let types = types.unwrap();
        for (name, expected) in [
            ("index.html", "text/html; charset=utf-8"),
            ("a/b.c/INDEX.HTM", "text/html; charset=utf-8"),
            ("someDepartment/home.index", "text/html; charset=utf-8"),
            ("a.log", "text/plain; charset=us-ascii"),
            ("a.txt", "text/plain; charset=utf-8"),
            ("a.css", "text/css; charset=utf-8"),
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.jpg", "image/jpeg"),
            ("a.jpeg", "image/jpeg"),
            ("a.PNG", "image/png"),
            ("a.pdf", "application/pdf"),
            ("a.tar.gz", "application/gzip"),
            ("a.svg", "image/svg+xml"),
            (".html", "text/html; charset=utf-8"),
            ("a.html/notes", "application/octet-stream"),
            ("notes", "application/octet-stream"),
            ("a.", "application/octet-stream"),
            ("a.nobodyknows", "application/octet-stream"),
            ("", "application/octet-stream"),
        ] {
            assert_eq!(types.of(name.as_bytes()), expected, "{name}");
        }
        assert_eq!(types.of(b"a.\xff"), "application/octet-stream");
    }

    #[test]
    fn the_charset_can_be_another_or_none() {
        let latin = MediaTypes::new([], Charset::Named("ISO-8859-1".to_owned())).unwrap();
        assert_eq!(latin.of(b"index.html"), "text/html; charset=ISO-8859-1");
        let unsaid = MediaTypes::new([], Charset::Unsaid).unwrap();
        assert_eq!(unsaid.of(b"index.html"), "text/html");
    }

    #[test]
    fn what_cannot_stand_in_a_field_is_refused() {
        for bad in ["html", "/html", "text/", "text/html\r\nX: y", ""] {
            assert_eq!(
                MediaTypes::new([("a", bad)], Charset::Unsaid).unwrap_err(),
                BadMediaType(bad.to_owned()),
                "{bad:?}"
            );
        }
        for bad in ["", "a b", "a;b", "a\r\n"] {
            assert!(MediaTypes::new([], Charset::Named(bad.to_owned())).is_err(), "{bad:?}");
        }
    }
}
