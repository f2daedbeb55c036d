//! Asking a running daemon: plain HTTP/1.0 over its admin socket.

use crate::state;
use anyhow::{Context, bail};
use std::{
    io::{self, BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

/// Which running daemons are asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Whom {
    /// The lab's state directory, if it is not the usual one
    #[arg(long, value_name = "DIR", default_value_os_t = state::default_dir())]
    state: PathBuf,
    /// An admin socket (several may be named); by default the running lab's and those of the systemd services
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
}

impl Whom {
    /// The sockets that somebody answers on.
    pub(crate) fn sockets(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.socket.is_empty() {
            return Ok(self.socket.clone());
        }
        // Each service has its own runtime directory, /run/tomte/NAME.
        let services = std::fs::read_dir("/run/tomte").into_iter().flatten().flatten();
        let services = services.map(|entry| entry.path().join("admin.sock"));
        let all = std::iter::once(self.state.join("admin.sock")).chain(services);
        let (mut living, mut closed) = (vec![], None);
        for path in all {
            match UnixStream::connect(&path) {
                Ok(_) => living.push(path),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => closed = Some(path),
                Err(_) => {}
            }
        }
        if let (Some(path), true) = (closed, living.is_empty()) {
            bail!("{}: you may not ask there; do it as the user that started it, or one of its group", path.display());
        }
        if living.is_empty() {
            bail!(
                "nothing runs here: no lab in {} and no service in /run/tomte. Start the lab with `tomte up`.",
                self.state.display()
            );
        }
        Ok(living)
    }
}

/// Asks for `path` and returns a reader that stands at the first octet of the answer's body.
pub(crate) fn get(socket: &Path, path: &str) -> anyhow::Result<BufReader<UnixStream>> {
    request(socket, "GET", path)
}

/// Tells it to do what `path` names; returns as [`get`] does.
pub(crate) fn post(socket: &Path, path: &str) -> anyhow::Result<BufReader<UnixStream>> {
    request(socket, "POST", path)
}

fn request(socket: &Path, method: &str, path: &str) -> anyhow::Result<BufReader<UnixStream>> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("{}: nobody answers; is it running? (`tomte up`)", socket.display()))?;
    (&stream).write_all(format!("{method} {path} HTTP/1.0\r\nHost: admin\r\n\r\n").as_bytes())?;
    let mut reader = BufReader::new(stream);
    let mut status = String::new();
    reader.read_line(&mut status)?;
    let mut field = String::new();
    while reader.read_line(&mut field)? > 0 && field.trim() != "" {
        field.clear();
    }
    if status.split(' ').nth(1) != Some("200") {
        bail!("{}: {path} is answered {}", socket.display(), status.trim());
    }
    Ok(reader)
}
