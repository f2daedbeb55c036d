//! However the network cuts what a client sends, the answers are the same.

use crate::stage::Stage;
use proptest::{collection::vec, prelude::*, sample::select};
use std::sync::LazyLock;

static STAGE: LazyLock<Stage> = LazyLock::new(Stage::new);

/// Requests that are answered whatever came before them, with bodies and line ends of all kinds.
fn request() -> impl Strategy<Value = String> {
    let get = (
        select(vec!["GET", "HEAD", "OPTIONS"]),
        select(vec![
            "/",
            "/hello.txt",
            "/lines.txt?x=%41",
            "/list",
            "/list/",
            "/missing",
            "/..",
            "http://x/somedir/",
            "/empty.txt",
        ]),
        select(vec![
            "",
            "Range: bytes=2-9\r\n",
            "If-None-Match: *\r\n",
            "If-Match: \"x\"\r\n",
            "Accept: text/html\r\n",
            "X:\t\u{e9} \n",
        ]),
        select(vec!["", "\r\n", "\n"]),
    );
    let get = get.prop_map(|(method, target, field, before)| {
        format!("{before}{method} {target} HTTP/1.1\r\nHost: www.someschool.edu\r\n{field}\r\n")
    });
    let post = vec(any::<bool>(), 0..6).prop_map(|chunks| {
        let chunks: String =
            chunks.iter().map(|long| if *long { "5;a=b\r\nGET /\r\n" } else { "1\r\n\n\r\n" }).collect();
        format!("POST /form HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n{chunks}0\r\nX-Sum: x\r\n\r\n")
    });
    let sized = "[ -~\r\n]{0,80}"
        .prop_map(|body| format!("PUT /form HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    prop_oneof![6 => get, 1 => post, 1 => sized]
}

/// The octets that come back, without the second they were sent in.
fn answers<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut client = STAGE.connect();
    pieces.into_iter().for_each(|piece| client.send(piece));
    let answers = String::from_utf8(client.rest()).unwrap();
    let date = "\r\nDate: ".len() + "Tue, 30 Oct 2007 17:00:02 GMT".len();
    answers.split("\r\nDate: ").enumerate().map(|(at, text)| if at == 0 { text } else { &text[date - 8..] }).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_same_requests_in_other_pieces_get_the_same_answers(requests in vec(request(), 1..8), mut cuts in vec(any::<prop::sample::Index>(), 0..20)) {
        let all = requests.concat() + "GET /hello.txt HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let all = all.as_bytes();
        let mut ends: Vec<usize> = cuts.drain(..).map(|cut| cut.index(all.len())).collect();
        ends.sort_unstable();
        ends.push(all.len());
        let pieces = ends.iter().scan(0, |start, end| Some(&all[std::mem::replace(start, *end)..*end]));
        let in_pieces = answers(pieces);
        prop_assert_eq!(&in_pieces, &answers([all]));
        prop_assert_eq!(in_pieces.matches("\r\nServer: tomte\r\n").count(), requests.len() + 1);
    }
}
