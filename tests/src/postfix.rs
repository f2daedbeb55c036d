//! Postfix as Debian ships it, in a folder of its own and at a port of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::mail::contents;
use crate::process::{Server, find_program};

/// Its services; each is a process of its own. `{port}` is where it listens.
const SERVICES: &str = "127.0.0.1:{port} inet n - n - - smtpd\npickup unix n - n 60 1 pickup\n\
    cleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\n\
    bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nverify unix - - n - 1 verify\n\
    flush unix n - n 1000? 0 flush\nproxymap unix - - n - - proxymap\nproxywrite unix - - n - 1 proxymap\n\
    smtp unix - - n - - smtp\nrelay unix - - n - - smtp\nshowq unix n - n - - showq\nerror unix - - n - - error\n\
    retry unix - - n - - error\ndiscard unix - - n - - discard\nvirtual unix - n n - - virtual\nanvil unix - - n - 1 anvil\n\
    scache unix - - n - 1 scache\npostlog unix-dgram n - n - 1 postlogd\n";

/// A running Postfix with one mailbox. Dropping it ends it.
#[derive(Debug)]
pub struct Postfix {
    server: Server,
    folder: TempDir,
}

impl Postfix {
    /// Starts it as the server of `domain`, with one mailbox for whoever is written to there; all other mail goes to `next`.
    pub fn start(domain: &str, address: SocketAddr, next: SocketAddr) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let server = start_in(folder.path(), domain, address, next, "smtp_tls_security_level = may\n")?;
        Ok(Self { server, folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The messages of its mailbox.
    pub fn mail(&self) -> Vec<String> {
        contents(&self.folder.path().join("mail/user/new"))
    }
}

/// Starts it as [`Postfix::start`] does in this folder: `queue` is there and `mail/user`, the mailbox. `more` are lines of its `main.cf`.
pub fn start_in(folder: &Path, domain: &str, address: SocketAddr, next: SocketAddr, more: &str) -> Result<Server> {
    ensure!(rustix::process::geteuid().is_root(), "Postfix starts for root only: run this as root");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let place = folder.display();
    let [queue, data, mail, config] = ["queue", "data", "mail", "postfix"].map(|name| folder.join(name));
    for dir in [&queue, &data, &mail, &config] {
        fs::create_dir_all(dir)?;
    }
    let output = Command::new("id").args(["-u", "postfix"]).output()?;
    let user = String::from_utf8(output.stdout)?.trim().parse().context("there is no user postfix")?;
    chown(&data, Some(user), None)?;
    // Nobody's, whose mailboxes virtual(8) is told to write to.
    chown(&mail, Some(65534), Some(65534))?;
    let settings = format!(
        "compatibility_level = 3.6\nqueue_directory = {place}/queue\ndata_directory = {place}/data\n\
         maillog_file = {place}/log\nmaillog_file_prefixes = {place}\nmyhostname = {domain}\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nalias_maps =\nbiff = no\n\
         virtual_mailbox_domains = {domain}\nvirtual_mailbox_base = {place}/mail\nvirtual_mailbox_maps = static:user/\n\
         virtual_uid_maps = static:65534\nvirtual_gid_maps = static:65534\nvirtual_minimum_uid = 100\n\
         virtual_mailbox_limit = 0\nsmtpd_client_connection_count_limit = 0\n\
         relayhost = [{}]:{}\n{more}",
        next.ip(),
        next.port()
    );
    fs::write(config.join("main.cf"), settings)?;
    fs::write(config.join("master.cf"), SERVICES.replace("{port}", &address.port().to_string()))?;
    let program = find_program("postfix", "postfix")?;
    let checked = Command::new(&program).arg("-c").arg(&config).arg("check").output()?;
    ensure!(checked.status.success(), "postfix check: {}", String::from_utf8_lossy(&checked.stderr));
    let arguments = [PathBuf::from("-c"), config, PathBuf::from("start-fg")];
    Server::start(&program, arguments, address, &folder.join("output"))
}
