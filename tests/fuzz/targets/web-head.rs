//! Request heads of the web server, cut into pieces in several ways: the verdict must be the same. And what it accepts,
//! hyper's parser must accept and read the same way, because two readings of one head are how requests are smuggled.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(accepted) = web::fuzz::head(data) else { return };
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    let status = request.parse(data);
    assert_eq!(status, Ok(httparse::Status::Complete(accepted.octets)));
    assert_eq!(request.method.map(str::as_bytes), Some(accepted.method));
    assert_eq!(request.path.map(str::as_bytes), Some(accepted.target));
    assert_eq!(request.version, Some(accepted.minor));
});
