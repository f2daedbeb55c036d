//! Conditional requests (RFC 9110 §13): answer only if the thing has changed, or only if it has not.
//!
//! ```text
//! C: GET /page.html HTTP/1.1
//! C: If-None-Match: "5f3e9a0c1d2b-a5c"      what I have; send it only if yours is another
//! S: HTTP/1.1 304 Not Modified              so no body
//! ```
//!
//! A precondition compares what the client holds with the validators of the current representation: its entity tag and
//! the date of its last change (§8.8). [`Preconditions::evaluate`] is the list of §13.2.2, step by step.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::header::{IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

/// How the current representation is told from others (RFC 9110 §8.8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validators {
    pub etag: EntityTag,
    /// In whole seconds, as an HTTP date has them; from 1970 on, and never later than the clock.
    pub last_modified: SystemTime,
}

impl Validators {
    /// The validators of a file.
    pub(crate) fn of_file(mtime: SystemTime, size: u64, now: SystemTime) -> Self {
        // RFC 9110 §8.8.2.1: an origin server "MUST NOT generate a Last-Modified date that is later than the server's time
        // of message origination (Date)". Before 1970 HTTP's libraries have no dates.
        let seconds = mtime.min(now).duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { etag: entity_tag(mtime, size, now), last_modified: UNIX_EPOCH + Duration::from_secs(seconds) }
    }
}

/// An entity tag as it stands in a field (RFC 9110 §8.8.3): `"x"` is strong, `W/"x"` is weak.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EntityTag(HeaderValue);

impl EntityTag {
    pub(crate) fn header_value(&self) -> &HeaderValue {
        &self.0
    }

    fn octets(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The entity tag of a file: `"<mtime in nanoseconds>-<size>"`, both hexadecimal.
///
/// RFC 9110 §8.8.1: a strong validator "changes value whenever a change occurs to the representation data that would be
/// observable in the content of a 200". A write changes the mtime, but a file system's clock has ticks (milliseconds,
/// a second on old ones), and two writes of the same size in one tick would go unseen. So while the mtime is less than
/// [`SETTLED`] ago, another write could still fall into its tick and the tag is weak; afterwards it is strong. Weak
/// comparison, which is what `If-None-Match` uses, does not see the difference; ranges wait that second.
pub(crate) fn entity_tag(mtime: SystemTime, size: u64, now: SystemTime) -> EntityTag {
    let nanos = match mtime.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos().cast_signed(),
        Err(before) => -before.duration().as_nanos().cast_signed(),
    };
    // An mtime in the future says nothing about when the file was last written.
    let settled = now.duration_since(mtime).is_ok_and(|age| age >= SETTLED);
    let (prefix, sign) = (if settled { "" } else { "W/" }, if nanos < 0 { "-" } else { "" });
    let text = format!("{prefix}\"{sign}{:x}-{size:x}\"", nanos.unsigned_abs());
    EntityTag(HeaderValue::try_from(text).expect("hexadecimal digits, quotes and dashes are visible ASCII"))
}

/// RFC 9110 §8.8.2.2 takes a date for strong when it is at least one second older than the answer.
const SETTLED: Duration = Duration::from_secs(1);

/// RFC 9110 §8.8.3.2: "two entity tags are equivalent if both are not weak and their opaque-tags match
/// character-by-character".
fn strong_match(one: &[u8], other: &[u8]) -> bool {
    !one.starts_with(b"W/") && one == other
}

/// RFC 9110 §8.8.3.2: "... regardless of either or both being tagged as weak".
fn weak_match(one: &[u8], other: &[u8]) -> bool {
    let opaque = |tag| <[u8]>::strip_prefix(tag, b"W/").unwrap_or(tag);
    opaque(one) == opaque(other)
}

/// The conditions a client attached to its request, read from its fields.
#[derive(Debug, Default)]
#[expect(clippy::struct_field_names, reason = "they are the names of the fields on the wire")]
pub(crate) struct Preconditions<'a> {
    if_match: Option<Tags<'a>>,
    if_none_match: Option<Tags<'a>>,
    if_modified_since: Option<SystemTime>,
    if_unmodified_since: Option<SystemTime>,
    if_range: Option<IfRange<'a>>,
}

/// `"*" / #entity-tag`
#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// Any representation at all.
    Any,
    /// A list that is not in order ends at its fault: what cannot be read matches nothing.
    List(Vec<&'a [u8]>),
}

/// `entity-tag / HTTP-date`
#[derive(Debug, PartialEq, Eq)]
enum IfRange<'a> {
    Tag(&'a [u8]),
    Date(SystemTime),
    Unreadable,
}

/// What the preconditions decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Precondition {
    /// Do what the method says.
    Proceed,
    /// 304: the client has it already.
    NotModified(Because),
    /// 412: the client was mistaken about the current state.
    Failed(Because),
}

/// Whether a `Range` field is to be obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RangeApplies {
    Yes,
    /// Answer as if there were no `Range`.
    No(Because),
}

/// The comparison that decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    IfMatchHasNoneOfIt,
    ModifiedSince,
    IfNoneMatchHasIt,
    NotModifiedSince,
    /// `If-Range` names another representation, or one by a validator that is not strong.
    IfRangeHasAnother,
    /// RFC 9110 §14.2: "A server MUST ignore a Range header field received with a request method that is unrecognized or
    /// for which range handling is not defined"; it is defined for GET only.
    NotGet,
}

impl Because {
    /// For the log and for pages that explain.
    pub(crate) fn explain(self) -> &'static str {
        match self {
            Self::IfMatchHasNoneOfIt => "If-Match does not name the current entity tag (RFC 9110 §13.1.1)",
            Self::ModifiedSince => "it was modified after the date in If-Unmodified-Since (RFC 9110 §13.1.4)",
            Self::IfNoneMatchHasIt => "If-None-Match names the current entity tag (RFC 9110 §13.1.2)",
            Self::NotModifiedSince => "it was not modified after the date in If-Modified-Since (RFC 9110 §13.1.3)",
            Self::IfRangeHasAnother => "If-Range does not name the current representation (RFC 9110 §13.1.5)",
            Self::NotGet => "ranges are for GET only (RFC 9110 §14.2)",
        }
    }
}

impl<'a> Preconditions<'a> {
    pub(crate) fn parse(fields: &'a HeaderMap) -> Self {
        Self {
            if_match: tags(fields, &IF_MATCH),
            if_none_match: tags(fields, &IF_NONE_MATCH),
            if_modified_since: date(fields, &IF_MODIFIED_SINCE),
            if_unmodified_since: date(fields, &IF_UNMODIFIED_SINCE),
            if_range: if_range(fields),
        }
    }

    /// RFC 9110 §13.2.2, for an origin server. `current` is `None` if there is no current representation; call it only for
    /// requests that would otherwise succeed (§13.2.1).
    pub(crate) fn evaluate(&self, method: &Method, current: Option<&Validators>) -> Precondition {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let modified_after = |date: &SystemTime| current.is_none_or(|current| current.last_modified > *date);

        // Step 1: If-Match, if present; strong comparison (§13.1.1).
        if let Some(tags) = &self.if_match {
            if !tags.hold(current, strong_match) {
                return Precondition::Failed(Because::IfMatchHasNoneOfIt);
            }
        }
        // Step 2: If-Unmodified-Since, when If-Match is not present.
        else if self.if_unmodified_since.as_ref().is_some_and(modified_after) {
            return Precondition::Failed(Because::ModifiedSince);
        }
        // Step 3: If-None-Match, if present; weak comparison (§13.1.2).
        if let Some(tags) = &self.if_none_match {
            if tags.hold(current, weak_match) {
                let because = Because::IfNoneMatchHasIt;
                return if reads { Precondition::NotModified(because) } else { Precondition::Failed(because) };
            }
        }
        // Step 4: If-Modified-Since, when the method is GET or HEAD and If-None-Match is not present.
        else if reads && self.if_modified_since.as_ref().is_some_and(|date| !modified_after(date)) {
            return Precondition::NotModified(Because::NotModifiedSince);
        }
        // Step 5 is `range_applies`; step 6: otherwise, perform the method.
        Precondition::Proceed
    }

    /// RFC 9110 §13.2.2 step 5: "When the method is GET and both Range and If-Range are present, evaluate the If-Range
    /// precondition". Ask only if there is a `Range` field: §13.1.5 wants `If-Range` without it ignored.
    pub(crate) fn range_applies(&self, method: &Method, current: &Validators) -> RangeApplies {
        if *method != Method::GET {
            return RangeApplies::No(Because::NotGet);
        }
        let etag = current.etag.octets();
        let same = match &self.if_range {
            None => true,
            // §13.1.5: strong comparison.
            Some(IfRange::Tag(tag)) => strong_match(tag, etag),
            // §13.1.5: exactly the date we would send, and only if it is a strong validator (§8.8.2.2): we know that the
            // file did not change twice in its second under the same condition under which its tag is strong.
            Some(IfRange::Date(date)) => *date == current.last_modified && !etag.starts_with(b"W/"),
            Some(IfRange::Unreadable) => false,
        };
        if same { RangeApplies::Yes } else { RangeApplies::No(Because::IfRangeHasAnother) }
    }
}

impl Tags<'_> {
    /// Whether they name the current representation.
    fn hold(&self, current: Option<&Validators>, matches: impl Fn(&[u8], &[u8]) -> bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::List(tags), Some(current)) => tags.iter().any(|tag| matches(tag, current.etag.octets())),
        }
    }
}

/// Reads a list of entity tags. RFC 9110 §5.3: several lines of a list field are one list.
fn tags<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<Tags<'a>> {
    let mut lines = fields.get_all(name).iter().map(HeaderValue::as_bytes).peekable();
    lines.peek()?;
    let mut list = Vec::new();
    for line in lines {
        if line == b"*" {
            return Some(Tags::Any);
        }
        let mut rest = line;
        loop {
            // RFC 9110 §5.6.1.2: "A recipient MUST parse and ignore a reasonable number of empty list elements".
            let start = rest.iter().take_while(|octet| matches!(octet, b' ' | b'\t' | b',')).count();
            let Some((tag, after)) = entity_tag_at_start(&rest[start..]) else { break };
            list.push(tag);
            // What follows a tag is a comma or the end; the tags may stand so close only behind one.
            match after.trim_ascii_start() {
                [b',', ..] => rest = after.trim_ascii_start(),
                _ => break,
            }
        }
    }
    Some(Tags::List(list))
}

/// RFC 9110 §8.8.3: `entity-tag = [ weak ] opaque-tag`; a comma or backslash between the quotes is an octet like others.
fn entity_tag_at_start(octets: &[u8]) -> Option<(&[u8], &[u8])> {
    let open = if octets.starts_with(b"W/") { 2 } else { 0 };
    if octets.get(open) != Some(&b'"') {
        return None;
    }
    let close = open + 1 + memchr::memchr(b'"', &octets[open + 1..])?;
    // etagc = %x21 / %x23-7E / obs-text
    octets[open + 1..close].iter().all(|octet| octet.is_ascii_graphic() || !octet.is_ascii()).then_some(())?;
    Some(octets.split_at(close + 1))
}

/// RFC 9110 §13.1.3 and §13.1.4: a recipient MUST ignore the field if it "is not a valid HTTP-date" or "has more than one
/// member".
fn date(fields: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    let mut lines = fields.get_all(name).iter();
    let only = lines.next()?;
    if lines.next().is_some() { None } else { http_date(only.as_bytes()) }
}

/// RFC 9110 §5.6.7: a recipient "MUST accept all three HTTP-date formats", which the crate does.
///
/// Deviates: a two-digit year (the RFC 850 format) from 70 on is one of the last century, where the RFC lets the choice
/// depend on today's date.
fn http_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

fn if_range(fields: &HeaderMap) -> Option<IfRange<'_>> {
    let mut lines = fields.get_all(IF_RANGE).iter().map(HeaderValue::as_bytes);
    let only = lines.next()?;
    Some(match (lines.next(), entity_tag_at_start(only)) {
        (None, Some((tag, []))) => IfRange::Tag(tag),
        (None, None) => http_date(only).map_or(IfRange::Unreadable, IfRange::Date),
        _ => IfRange::Unreadable,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tue, 30 Oct 2007 17:00:02 GMT, the date on the slides.
    const MTIME: u64 = 1_193_763_602;
    const ETAG: &str = r#""109119abd3003400-a5c""#;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn settled() -> Validators {
        Validators::of_file(at(MTIME), 2652, at(MTIME + 10))
    }

    /// The same file, just written.
    fn fresh() -> Validators {
        Validators::of_file(at(MTIME), 2652, at(MTIME))
    }

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                let value = value.replace("ETAG", ETAG);
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn evaluate(method: &Method, lines: &[(&'static str, &str)], current: Option<&Validators>) -> Precondition {
        Preconditions::parse(&fields(lines)).evaluate(method, current)
    }

    const BEFORE: &str = "Tue, 30 Oct 2007 17:00:01 GMT";
    const SAME: &str = "Tue, 30 Oct 2007 17:00:02 GMT";
    const AFTER: &str = "Tue, 30 Oct 2007 17:00:03 GMT";

    #[test]
    fn a_tag_is_strong_once_its_second_has_passed() {
        let tag = |age_ms: i64| {
            let now = at(MTIME) + Duration::from_secs(100) - Duration::from_millis((100_000 - age_ms).unsigned_abs());
            entity_tag(at(MTIME), 2652, now).header_value().to_str().unwrap().to_owned()
        };
        assert_eq!(tag(1000), ETAG);
        assert_eq!(tag(999), format!("W/{ETAG}"));
        assert_eq!(tag(-5000), format!("W/{ETAG}"));
        let old = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(entity_tag(old, 1, at(1)).header_value(), "\"-3b9aca00-1\"");
        assert_ne!(entity_tag(at(MTIME), 1, at(MTIME + 9)), entity_tag(at(MTIME), 2, at(MTIME + 9)));
    }

    #[test]
    fn last_modified_is_never_in_the_future_and_in_whole_seconds() {
        let modified = |mtime, now| Validators::of_file(mtime, 1, now).last_modified;
        assert_eq!(modified(at(20), at(10)), at(10));
        assert_eq!(modified(at(10) + Duration::from_millis(900), at(20)), at(10));
        assert_eq!(modified(UNIX_EPOCH - Duration::from_secs(5), at(10)), at(0));
    }

    #[test]
    fn step_1_if_match_compares_strongly() {
        use Precondition::{Failed, Proceed};
        let failed = Failed(Because::IfMatchHasNoneOfIt);
        for (value, expected) in [
            ("*", Proceed),
            ("ETAG", Proceed),
            (r#""a", ETAG"#, Proceed),
            (",, ETAG ,", Proceed),
            ("W/ETAG", failed),
            (r#""a""#, failed),
            ("", failed),
            ("unquoted", failed),
            (r#""a" ETAG"#, failed),
            (r#""unclosed, ETAG"#, failed),
        ] {
            assert_eq!(evaluate(&Method::GET, &[("if-match", value)], Some(&settled())), expected, "{value}");
            assert_eq!(evaluate(&Method::PUT, &[("if-match", value)], Some(&settled())), expected, "{value}");
            assert_eq!(evaluate(&Method::PUT, &[("if-match", value)], None), failed, "{value}, nothing there");
        }
        // A weak tag of ours never matches strongly.
        assert_eq!(evaluate(&Method::GET, &[("if-match", "W/ETAG")], Some(&fresh())), failed);
    }

    #[test]
    fn step_2_if_unmodified_since_counts_without_if_match() {
        use Precondition::{Failed, Proceed};
        let name = "if-unmodified-since";
        for (value, expected) in [
            (BEFORE, Failed(Because::ModifiedSince)),
            (SAME, Proceed),
            (AFTER, Proceed),
            ("yesterday", Proceed),
            ("", Proceed),
        ] {
            assert_eq!(evaluate(&Method::GET, &[(name, value)], Some(&settled())), expected, "{value}");
        }
        assert_eq!(evaluate(&Method::GET, &[("if-match", "ETAG"), (name, BEFORE)], Some(&settled())), Proceed);
        assert_eq!(evaluate(&Method::GET, &[(name, BEFORE), (name, BEFORE)], Some(&settled())), Proceed);
    }

    #[test]
    fn step_3_if_none_match_compares_weakly() {
        use Precondition::{Failed, NotModified, Proceed};
        let because = Because::IfNoneMatchHasIt;
        for (value, matches) in [
            ("*", true),
            ("ETAG", true),
            ("W/ETAG", true),
            (r#"W/"a,b", "c\",ETAG"#, true),
            (r#""a""#, false),
            ("w/ETAG", false),
            ("unquoted", false),
        ] {
            for current in [settled(), fresh()] {
                let verdict = |method| evaluate(&method, &[("if-none-match", value)], Some(&current));
                assert_eq!(verdict(Method::GET), if matches { NotModified(because) } else { Proceed }, "{value}");
                assert_eq!(verdict(Method::HEAD), if matches { NotModified(because) } else { Proceed }, "{value}");
                assert_eq!(verdict(Method::PUT), if matches { Failed(because) } else { Proceed }, "{value}");
            }
            assert_eq!(evaluate(&Method::PUT, &[("if-none-match", value)], None), Proceed, "{value}, nothing there");
        }
        let two_lines = [("if-none-match", r#""a""#), ("if-none-match", "ETAG")];
        assert_eq!(evaluate(&Method::GET, &two_lines, Some(&settled())), NotModified(because));
    }

    #[test]
    fn step_4_if_modified_since_counts_for_get_and_head_without_if_none_match() {
        use Precondition::{NotModified, Proceed};
        let name = "if-modified-since";
        let because = Because::NotModifiedSince;
        for (value, expected) in [
            (BEFORE, Proceed),
            (SAME, NotModified(because)),
            (AFTER, NotModified(because)),
            // RFC 9110 §5.6.7: the two obsolete formats.
            ("Tuesday, 30-Oct-07 17:00:02 GMT", NotModified(because)),
            ("Tue Oct 30 17:00:02 2007", NotModified(because)),
            ("Tue Oct 30 17:00:01 2007", Proceed),
            ("Tue, 30 Oct 2007 17:00:02", Proceed),
            ("0", Proceed),
        ] {
            assert_eq!(evaluate(&Method::GET, &[(name, value)], Some(&settled())), expected, "{value}");
            assert_eq!(evaluate(&Method::HEAD, &[(name, value)], Some(&settled())), expected, "{value}");
            assert_eq!(evaluate(&Method::POST, &[(name, value)], Some(&settled())), Proceed, "{value}");
        }
        let other_tag = [("if-none-match", r#""a""#), (name, AFTER)];
        assert_eq!(evaluate(&Method::GET, &other_tag, Some(&settled())), Proceed);
        assert_eq!(evaluate(&Method::GET, &[(name, AFTER), (name, AFTER)], Some(&settled())), Proceed);
    }

    #[test]
    fn earlier_steps_win_over_later_ones() {
        let both = [("if-match", r#""a""#), ("if-none-match", "ETAG")];
        assert_eq!(evaluate(&Method::GET, &both, Some(&settled())), Precondition::Failed(Because::IfMatchHasNoneOfIt));
        let both = [("if-match", "ETAG"), ("if-none-match", "ETAG")];
        assert_eq!(
            evaluate(&Method::GET, &both, Some(&settled())),
            Precondition::NotModified(Because::IfNoneMatchHasIt)
        );
        assert_eq!(evaluate(&Method::GET, &[], Some(&settled())), Precondition::Proceed);
    }

    #[test]
    fn step_5_if_range_needs_a_strong_validator() {
        let no = RangeApplies::No(Because::IfRangeHasAnother);
        let applies = |value: &str, current: &Validators| {
            Preconditions::parse(&fields(&[("if-range", value)])).range_applies(&Method::GET, current)
        };
        for (value, expected) in [
            ("ETAG", RangeApplies::Yes),
            (SAME, RangeApplies::Yes),
            ("Tue Oct 30 17:00:02 2007", RangeApplies::Yes),
            ("W/ETAG", no),
            (BEFORE, no),
            (AFTER, no),
            ("ETAG, ETAG", no),
            ("*", no),
            ("", no),
        ] {
            assert_eq!(applies(value, &settled()), expected, "{value}");
            assert_eq!(applies(value, &fresh()), no, "{value} of a file just written");
        }
        let twice = fields(&[("if-range", "ETAG"), ("if-range", "ETAG")]);
        assert_eq!(Preconditions::parse(&twice).range_applies(&Method::GET, &settled()), no);
        assert_eq!(Preconditions::default().range_applies(&Method::GET, &fresh()), RangeApplies::Yes);
        assert_eq!(
            Preconditions::default().range_applies(&Method::HEAD, &settled()),
            RangeApplies::No(Because::NotGet)
        );
    }

    proptest! {
        #[test]
        fn noise_never_panics(value in prop::collection::vec(prop_oneof![Just(b'"'), Just(b','), Just(b'W'), any::<u8>()], 0..30)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            for name in [IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE, IF_RANGE] {
                let fields = HeaderMap::from_iter([(name, value.clone())]);
                let preconditions = Preconditions::parse(&fields);
                preconditions.evaluate(&Method::GET, Some(&settled()));
                preconditions.range_applies(&Method::GET, &settled());
            }
        }
    }
}
