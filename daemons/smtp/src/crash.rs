//! Places where a test kills the process, to see what is left on disk. In a release build there are none.

/// Dies here as by `kill -9`, if the environment variable `TOMTE_CRASH_AT` names this place.
#[cfg(debug_assertions)]
pub(crate) fn here(place: &str) {
    use std::sync::OnceLock;
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("TOMTE_CRASH_AT").ok());
    if wanted.as_deref() == Some(place) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
pub(crate) fn here(_place: &str) {}
