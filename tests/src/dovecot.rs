//! Dovecot as Debian ships it, in a folder of its own and at ports of its own.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::process::{Server, find_program, free_address};

/// A running Dovecot. It runs without privileges: as whoever starts it, or as nobody if that is root, because it reads nobody's mail
/// as root. Dropping it ends it.
#[derive(Debug)]
pub struct Dovecot {
    server: Server,
    imap: SocketAddr,
    _folder: TempDir,
}

/// Its program.
pub fn program() -> Result<PathBuf> {
    find_program("dovecot", "dovecot-pop3d")
}

impl Dovecot {
    /// Starts it on the Maildirs in `mail`, one for each user; all have the same password. `settings` are more lines of its
    /// configuration.
    pub fn start(mail: &Path, password: &str, settings: &str) -> Result<Self> {
        let (pop3, imap) = (free_address()?, free_address()?);
        let folder = tempfile::Builder::new().prefix("dovecot-").tempdir()?;
        let (user, group) = (who("-un")?, who("-gn")?);
        let (place, mail) = (folder.path().display(), mail.display());
        let configuration = format!(
            "base_dir = {place}/run\nstate_dir = {place}/state\nlog_path = {place}/log\nssl = no\nlisten = 127.0.0.1\n\
             default_internal_user = {user}\ndefault_login_user = {user}\ndefault_internal_group = {group}\n\
             disable_plaintext_auth = no\nmail_location = maildir:{mail}/%u\nfirst_valid_uid = 1\n\
             passdb {{\n driver = static\n args = password={password}\n}}\n\
             userdb {{\n driver = static\n args = uid={user} gid={group} home={mail}/%u\n}}\n\
             service anvil {{\n chroot =\n}}\n\
             service pop3-login {{\n chroot =\n inet_listener pop3 {{\n  port = {}\n }}\n inet_listener pop3s {{\n  port = 0\n }}\n}}\n\
             service imap-login {{\n chroot =\n inet_listener imap {{\n  port = {}\n }}\n inet_listener imaps {{\n  port = 0\n }}\n}}\n\
             {settings}",
            pop3.port(),
            imap.port()
        );
        let file = folder.path().join("dovecot.conf");
        fs::write(&file, configuration)?;
        give_away(folder.path())?;
        let (setpriv, output) = (find_program("setpriv", "util-linux")?, folder.path().join("output"));
        let mut arguments = vec![];
        if is_root() {
            // The wish to end with us is forgotten where the user changes, and said again.
            arguments
                .extend(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--pdeathsig=TERM"].map(PathBuf::from));
        }
        arguments.extend(["--".into(), program()?, "-F".into(), "-c".into(), file]);
        let server = Server::start(&setpriv, arguments, pop3, &output)
            .with_context(|| fs::read_to_string(folder.path().join("log")).unwrap_or_default())?;
        Ok(Self { server, imap, _folder: folder })
    }

    /// The server, which listens for POP3.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Where it listens for IMAP, if its settings have that among the protocols.
    pub fn imap(&self) -> SocketAddr {
        self.imap
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A name of the user that it runs as, as id(1) prints it.
fn who(flag: &str) -> Result<String> {
    let mut id = Command::new("id");
    id.arg(flag);
    if is_root() {
        id.arg("nobody");
    }
    Ok(String::from_utf8(id.output()?.stdout)?.trim().to_owned())
}

/// Gives a folder and all that is in it to the user that Dovecot runs as.
pub fn give_away(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    if is_root() {
        let status = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(folder).status()?;
        ensure!(status.success(), "cannot give {} away", folder.display());
    }
    Ok(())
}
