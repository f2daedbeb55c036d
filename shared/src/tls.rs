//! How to keep it private: a certificate from files, and a small certificate authority for the lab.
//!
//! ```text
//!   lab:      LabCa::open_or_create(dir) -- certificate_for(names) --> dir/issued/NAME.pem
//!                    |                                                      |
//!                    +--> dir/ca.crt, which clients are told to trust       v
//!   server:   Config { certificate, key } ------------------------> server_config(.., alpn) --> rustls
//! ```
//!
//! So the lab's daemons read their certificate from a file as any others do.

use crate::{Shared, current::Current, daemon::StartError, transcript::Conversation};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, InconsistentKeys, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use time::{Duration, OffsetDateTime};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client may take for the handshake.
pub const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(30);

/// The `[tls]` table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A PEM file with the server's certificate and those between it and the authority. Without one there is no TLS.
    pub certificate: Option<PathBuf>,
    /// A PEM file with the certificate's private key. It may be the same file.
    pub key: Option<PathBuf>,
}

/// Why there is no TLS, and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the two is missing.
    #[error("{given} is set and {missing} is not; set both, or neither for no TLS")]
    Half {
        /// The key that is there.
        given: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("{}: cannot read it: {source}{}", path.display(), cure(source))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The lab's authority cannot write a file.
    #[error("{}: cannot write it: {source}; the directory must be writable for the user that starts the lab", path.display())]
    Unwritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{}: no {what} in PEM form in this file (a line `-----BEGIN ...-----`); a DER file becomes one with \
        `openssl {convert} -inform der -in FILE -out FILE.pem`", path.display())]
    NotPem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// The openssl command that converts such a thing.
        convert: &'static str,
    },
    /// Two files that have nothing to do with each other.
    #[error("{}: this key does not belong to the certificate in {}; the two must be made together", key.display(), certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// rustls does not take the certificate.
    #[error("{}: {source}", path.display())]
    Refused {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The lab's authority is asked for a certificate for what are no names.
    #[error(
        "`{names}`: a certificate is for 1 to {NAMES_MAX} host names or addresses, in ASCII (a name like håll.se is written xn--hll-ula.se)"
    )]
    Names {
        /// What it was asked for.
        names: String,
    },
    /// The lab's authority cannot issue a certificate.
    #[error("cannot issue a certificate for {names}: {source}")]
    Issue {
        /// For whom.
        names: String,
        /// Why.
        source: rcgen::Error,
    },
}

impl TlsError {
    /// The key of `config` that this is about.
    pub(crate) fn key(&self, config: &Config) -> &'static str {
        let is_key = |path: &PathBuf| config.certificate.as_ref() != Some(path) && config.key.as_ref() == Some(path);
        match self {
            Self::Unreadable { path, .. } if is_key(path) => "tls.key",
            Self::Half { missing: "tls.certificate", .. }
            | Self::Mismatch { .. }
            | Self::NotPem { what: "private key", .. } => "tls.key",
            Self::Half { .. } | Self::Unreadable { .. } | Self::NotPem { .. } | Self::Refused { .. } => {
                "tls.certificate"
            }
            // Of the lab's authority, which has no keys.
            Self::Unwritable { .. } | Self::Names { .. } | Self::Issue { .. } => "tls",
        }
    }
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; name an existing file, or leave tls.certificate and tls.key out for no TLS",
        io::ErrorKind::PermissionDenied => {
            "; let the daemon's user read it (chgrp, chmod g+r), and nobody else if it holds a key"
        }
        _ => "",
    }
}

/// The cryptography of all our TLS. Named at each use rather than installed for the process, so that what the tests use
/// is what the daemons use.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What rustls needs to serve with the certificate of `config`; nothing if it names none. `alpn` are the protocols to
/// agree on (`http/1.1`, RFC 7301), best first; it may be empty. A certificate that is out of date is served all the same,
/// with a warning: the client will complain better than a daemon that does not start.
///
/// # Errors
/// See [`TlsError`].
pub fn server_config(config: &Config, alpn: &[&[u8]]) -> Result<Option<Arc<ServerConfig>>, TlsError> {
    let (certificate, key) = match (&config.certificate, &config.key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return Ok(None),
        (Some(_), None) => return Err(TlsError::Half { given: "tls.certificate", missing: "tls.key" }),
        (None, Some(_)) => return Err(TlsError::Half { given: "tls.key", missing: "tls.certificate" }),
    };
    let chain = read_chain(certificate)?;
    if let Some(problem) = out_of_date(&chain[0], OffsetDateTime::now_utc()) {
        tracing::warn!(certificate = %certificate.display(), "{problem}; clients will refuse it");
    }
    let refused = |source| match source {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() }
        }
        source => TlsError::Refused { path: certificate.clone(), source },
    };
    let mut server = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_no_client_auth()
        .with_single_cert(chain, read_key(key)?)
        .map_err(refused)?;
    server.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Some(Arc::new(server)))
}

/// What rustls needs to connect to servers whose certificate comes from an authority in this PEM file.
///
/// # Errors
/// The file cannot be read, or has no certificates.
pub fn client_config(authorities: &Path) -> Result<Arc<ClientConfig>, TlsError> {
    let refused = |source| TlsError::Refused { path: authorities.to_owned(), source };
    let mut trusted = RootCertStore::empty();
    // The system's file may have some that rustls cannot make use of.
    let (added, _) = trusted.add_parsable_certificates(read_chain(authorities)?);
    if added == 0 {
        return Err(TlsError::NotPem { path: authorities.to_owned(), what: "certificate", convert: "x509" });
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(refused)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a daemon serves over TLS.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// As people call it: "POP3 over TLS".
    pub name: &'static str,
    /// Its names in ALPN (RFC 7301), best first; a client that offers none is served too. It may be empty.
    pub alpn: &'static [&'static [u8]],
    /// The key with the addresses that cannot be served without a certificate: `pop3.listen_tls`.
    pub key: &'static str,
}

impl Service {
    /// What begins TLS as the server; nothing without a certificate. `needed` are the addresses of the key.
    ///
    /// # Errors
    /// The certificate is wrong, or missing and needed.
    pub fn acceptor(&self, shared: &Shared, needed: &[SocketAddr]) -> Result<Option<Acceptor>, StartError> {
        let config =
            server_config(&shared.tls, self.alpn).map_err(|error| StartError::unfit(error.key(&shared.tls), &error))?;
        if config.is_none() && !needed.is_empty() {
            let cure = "set tls.certificate and tls.key to PEM files";
            return Err(StartError::unfit(self.key, format!("{} needs a certificate: {cure}", self.name)));
        }
        let authority = shared.tls.certificate.as_deref().and_then(LabCa::that_issued);
        Ok(config.map(|config| Acceptor { inner: config.into(), service: self.name, authority }))
    }
}

/// The same for a server that keeps its addresses when all else is reloaded: the certificate lives for months, the server for longer.
pub struct Renewed {
    service: Service,
    needed: Vec<SocketAddr>,
    acceptor: Option<Current<Acceptor>>,
}

impl Renewed {
    /// See [`Service::acceptor`].
    ///
    /// # Errors
    /// As there.
    pub fn new(service: Service, shared: &Shared, needed: &[SocketAddr]) -> Result<Arc<Self>, StartError> {
        let acceptor = service.acceptor(shared, needed)?.map(Current::new);
        Ok(Arc::new(Self { service, needed: needed.to_vec(), acceptor }))
    }

    /// Takes the certificate anew. Who began without one goes on without: nobody listens where it would be shown.
    ///
    /// # Errors
    /// It is wrong; then the old one stays.
    pub fn renew(&self, shared: &Shared) -> Result<(), StartError> {
        let fresh = self.service.acceptor(shared, &self.needed)?;
        if let (Some(acceptor), Some(fresh)) = (&self.acceptor, fresh) {
            acceptor.set(fresh);
        }
        Ok(())
    }

    /// What begins TLS now.
    pub fn acceptor(&self) -> Option<Arc<Acceptor>> {
        self.acceptor.as_ref().map(Current::get)
    }
}

/// The first octets of whoever begins TLS: a handshake record of version 3.x, which all are called (RFC 8446 §5.1). No line of text begins so.
const CLIENT_HELLO: [u8; 2] = [22, 3];

/// Whether this, of which there may be one octet only, is how TLS begins.
pub fn begins(octets: &[u8]) -> bool {
    CLIENT_HELLO.starts_with(&octets[..octets.len().min(CLIENT_HELLO.len())])
}

/// What begins TLS as the server, and can say why that failed.
#[derive(Clone)]
pub struct Acceptor {
    inner: TlsAcceptor,
    service: &'static str,
    /// The lab's authority, if it has issued the certificate.
    authority: Option<PathBuf>,
}

impl Acceptor {
    /// The handshake, in which the client may take `patience`.
    ///
    /// # Errors
    /// It cannot do it, or not in time; `connection` tells which it is, in the log.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        patience: std::time::Duration,
        connection: u64,
    ) -> Result<TlsStream<S>, NoTls> {
        let problem = match timeout(patience, self.inner.accept(stream)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => explain(&error, self.service, self.authority.as_deref()),
            Err(_) => format!(
                "the client has said nothing, or not all, for {} s: {} begins with TLS, and who waits for a greeting before \
                 that waits in vain",
                patience.as_secs(),
                self.service
            ),
        };
        tracing::debug!(connection, problem, "no TLS");
        Err(NoTls(problem))
    }
}

/// Why there is no TLS with a client, and what it could do, for whoever watches.
#[derive(Debug, thiserror::Error)]
#[error("no TLS: {0}")]
pub struct NoTls(String);

impl NoTls {
    /// A conversation that ends before it has begun.
    pub fn tell(&self, talk: &Conversation) {
        talk.opened();
        talk.note(&self.to_string());
        talk.closed();
    }
}

/// The usual reasons, in words. `authority` is the file that the client should trust, if we know it.
fn explain(error: &io::Error, service: &str, authority: Option<&Path>) -> String {
    use rustls::{AlertDescription as Alert, Error, InvalidMessage, PeerIncompatible as Peer};
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "the client has hung up in the middle of the handshake".to_owned()
            }
            _ => error.to_string(),
        };
    };
    match tls {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            format!(
                "the client speaks in clear, and {service} begins with TLS: give it the port without, or tell it to use TLS"
            )
        }
        // What rustls and OpenSSL say of a name that is another, some say of an issuer they do not know.
        Error::AlertReceived(alert @ (Alert::UnknownCA | Alert::BadCertificate | Alert::CertificateUnknown)) => {
            let issuer = authority.map_or_else(
                || "whoever has issued it".to_owned(),
                |file| format!("the lab's authority (curl --cacert {})", file.display()),
            );
            let alert = u8::from(*alert);
            format!(
                "the client does not take our certificate (alert {alert}): have it trust {issuer}, and ask for a name that is in it"
            )
        }
        Error::AlertReceived(Alert::CertificateExpired) => {
            "the client says that our certificate has expired".to_owned()
        }
        Error::AlertReceived(Alert::ProtocolVersion)
        | Error::PeerIncompatible(
            Peer::Tls12NotOffered | Peer::Tls12NotOfferedOrEnabled | Peer::SupportedVersionsExtensionRequired
            // RFC 5246 §7.4.1.4.1: what 1.2 brought; rustls looks for it first.
            | Peer::SignatureAlgorithmsExtensionRequired,
        ) => "the client knows no version of TLS that is spoken here: 1.2 or 1.3".to_owned(),
        Error::AlertReceived(Alert::HandshakeFailure | Alert::InsufficientSecurity)
        | Error::PeerIncompatible(
            Peer::NoCipherSuitesInCommon | Peer::NoKxGroupsInCommon | Peer::NoSignatureSchemesInCommon,
        ) => "the client and we have no cipher in common; it may be old, or told to use too few".to_owned(),
        Error::NoApplicationProtocol => format!("the client wants something else than {service} inside of TLS (ALPN)"),
        Error::AlertReceived(alert) => format!("the client has given up: {alert:?} (alert {})", u8::from(*alert)),
        other => other.to_string(),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>().unwrap_or_default();
    if chain.is_empty() {
        return Err(TlsError::NotPem { path: path.to_owned(), what: "certificate", convert: "x509" });
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| TlsError::NotPem {
        path: path.to_owned(),
        what: "private key",
        convert: "pkey",
    })
}

// --- The lab's own authority -----------------------------------------------------------------------------------------

/// How long the authority is good for.
const AUTHORITY_DAYS: i64 = 10 * 365;
/// How long an issued certificate is good for, and how long before its end it is replaced: the figures of Let's Encrypt, to
/// which every client is used.
const ISSUED_DAYS: i64 = 90;
const RENEW_DAYS: i64 = 30;
/// Certificates are good from this long ago, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::DAY;
/// Where an authority has what clients are told to trust, and where what it has issued.
const CERTIFICATE: &str = "ca.crt";
const ISSUED: &str = "issued";
/// Names that one certificate may have; a table that does not end is a mistake.
const NAMES_MAX: usize = 100;

/// A certificate authority for one lab. Whoever trusts it trusts whoever can read its key file: a browser profile for
/// the course is the right place for it, the one for the bank is not.
pub struct LabCa {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for LabCa {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LabCa").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl LabCa {
    /// The authority whose files are in `dir`. If there is none, or it is about to end, a new one is made, and what the
    /// old one issued is removed.
    ///
    /// # Errors
    /// A file cannot be read, understood or written.
    pub fn open_or_create(dir: &Path) -> Result<Self, TlsError> {
        Self::open_or_create_at(dir, OffsetDateTime::now_utc())
    }

    fn open_or_create_at(dir: &Path, now: OffsetDateTime) -> Result<Self, TlsError> {
        let (certificate, key) = (dir.join(CERTIFICATE), dir.join("ca.key"));
        if certificate.exists() {
            let der = read_chain(&certificate)?.swap_remove(0);
            if not_after(&der).is_some_and(|end| end - now > Duration::days(ISSUED_DAYS)) {
                let pem = String::from_utf8(read(&key)?).unwrap_or_default();
                let pair = KeyPair::from_pem(&pem);
                let pair = pair.map_err(|_| TlsError::NotPem { path: key, what: "private key", convert: "pkey" })?;
                return Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority(now), pair) });
            }
        }
        let wrong = |source| TlsError::Issue { names: "the lab's authority".to_owned(), source };
        let pair = KeyPair::generate().map_err(wrong)?;
        let made = authority(now).self_signed(&pair).map_err(wrong)?;
        let issued = dir.join(ISSUED);
        fs::create_dir_all(&issued).map_err(|source| TlsError::Unwritable { path: issued.clone(), source })?;
        fs::remove_dir_all(&issued).map_err(|source| TlsError::Unwritable { path: issued.clone(), source })?;
        // The certificate comes last: where it is, the rest is too.
        write_whole(&key, Secrecy::OwnerOnly, &pair.serialize_pem())?;
        write_whole(&certificate, Secrecy::Public, &made.pem())?;
        Ok(Self { dir: dir.to_owned(), issuer: Issuer::new(authority(now), pair) })
    }

    /// The file that clients are told to trust.
    pub fn certificate_file(&self) -> PathBuf {
        self.dir.join(CERTIFICATE)
    }

    /// The file to trust, for a certificate that is in a directory of ours.
    fn that_issued(certificate: &Path) -> Option<PathBuf> {
        let dir = certificate.parent().filter(|dir| dir.ends_with(ISSUED))?.parent()?;
        Some(dir.join(CERTIFICATE)).filter(|file| file.exists())
    }

    /// A certificate and key for these names and addresses (`www.someschool.edu`, `127.77.3.80`); the first gives the
    /// file its name. It comes from disk while it is good, and is issued anew 30 days before its end or when the names change.
    ///
    /// # Errors
    /// A name is none (RFC 5280 §4.2.1.6 allows ASCII only), or the file cannot be written.
    pub fn certificate_for(&self, names: &[String]) -> Result<Config, TlsError> {
        self.certificate_for_at(names, OffsetDateTime::now_utc())
    }

    fn certificate_for_at(&self, names: &[String], now: OffsetDateTime) -> Result<Config, TlsError> {
        let list = names.join(", ");
        let wrong = |source| TlsError::Issue { names: list.clone(), source };
        check_names(names)?;
        let first = &names[0];
        // Key and certificate share a file, so that they can never be those of two different issues.
        let path = self.dir.join(ISSUED).join(format!("{first}.pem"));
        let file = Config { certificate: Some(path.clone()), key: Some(path.clone()) };
        // PEM allows text around its blocks (RFC 7468 §2): it says for people, and for us, whom the certificate is for.
        let heading = format!("For: {list}\n");
        if is_good(&path, &heading, now) {
            return Ok(file);
        }

        let mut params = CertificateParams::new(names).map_err(wrong)?;
        params.distinguished_name = named(first);
        params.not_before = now - CLOCK_SKEW;
        params.not_after = now + Duration::days(ISSUED_DAYS);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let pair = KeyPair::generate().map_err(wrong)?;
        let made = params.signed_by(&pair, &self.issuer).map_err(wrong)?;
        write_whole(&path, Secrecy::OwnerOnly, &format!("{heading}{}{}", made.pem(), pair.serialize_pem()))?;
        Ok(file)
    }
}

/// Whether a certificate can be for these names and addresses. The first one gives a file its name.
///
/// # Errors
/// One is none, or there are none, or too many.
pub fn check_names(names: &[String]) -> Result<(), TlsError> {
    let is_plain = |name: &String| {
        let plain = name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-' | b':' | b'*' | b'_'));
        plain && !name.is_empty() && !name.starts_with('.')
    };
    let good = (1..=NAMES_MAX).contains(&names.len()) && names.iter().all(is_plain);
    if good { Ok(()) } else { Err(TlsError::Names { names: names.join(", ") }) }
}

/// What the authority says about itself. The same each time, for what it issues names its issuer by this.
fn authority(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("tomte lab authority");
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(AUTHORITY_DAYS);
    // It may sign servers' certificates, but no further authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Whether the file is for these names and for long enough.
fn is_good(path: &Path, heading: &str, now: OffsetDateTime) -> bool {
    let names_are_the_same = fs::read_to_string(path).is_ok_and(|text| text.starts_with(heading));
    let end = read_chain(path).ok().and_then(|chain| not_after(&chain[0]));
    names_are_the_same && read_key(path).is_ok() && end.is_some_and(|end| end - now > Duration::days(RENEW_DAYS))
}

/// Who may read a file.
#[derive(Clone, Copy)]
enum Secrecy {
    OwnerOnly,
    Public,
}

/// Writes beside the file, then renames: a reader, and a crash, see the old text or the new one, whole.
fn write_whole(path: &Path, secrecy: Secrecy, text: &str) -> Result<(), TlsError> {
    let mode = match secrecy {
        Secrecy::OwnerOnly => 0o600,
        Secrecy::Public => 0o644,
    };
    let beside = path.with_extension(format!("tmp-{}", std::process::id()));
    let write = || -> io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        // Left by a crash of a process with our number; its mode may be wrong.
        let _ = fs::remove_file(&beside);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().map_err(|source| TlsError::Unwritable { path: path.to_owned(), source })
}

// --- When a certificate ends -----------------------------------------------------------------------------------------

/// What a person should be told about the certificate's dates, if anything.
fn out_of_date(certificate: &[u8], now: OffsetDateTime) -> Option<String> {
    let end = not_after(certificate)?;
    (end < now).then(|| format!("this certificate ended on {}", end.date()))
}

/// The end of the certificate's validity. rustls leaves dates to the client, and for this one field a whole X.509 parser
/// would be much; so we step through the DER to it (RFC 5280 §4.1): nothing we do not understand is guessed at.
fn not_after(certificate: &[u8]) -> Option<OffsetDateTime> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if fields.first() == Some(&VERSION) {
        fields = element(fields)?.2;
    }
    // Serial number, signature algorithm and issuer stand before the validity.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (tag, validity, _) = element(fields)?;
    let (_, _, end) = element(validity)?;
    let (kind, end, _) = element(end)?;
    (tag == SEQUENCE).then(|| date(kind, end))?
}

/// The first DER element of `input`: its tag, its content, and what follows it.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = input.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // X.690 §8.1.3.5: the length takes this many octets; more than four would be four gigabytes.
        0x81..=0x84 => {
            let (octets, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (octets.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// RFC 5280 §4.1.2.5: `UTCTime` is `YYMMDDHHMMSSZ` and means 1950 to 2049, `GeneralizedTime` is `YYYYMMDDHHMMSSZ`.
fn date(kind: u8, text: &[u8]) -> Option<OffsetDateTime> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |digits: &[u8]| digits.iter().fold(0_i32, |sum, digit| sum * 10 + i32::from(digit - b'0'));
    let (year, rest) = match (kind, digits.len()) {
        (UTC_TIME, 12) => match number(&digits[..2]) {
            year @ 50.. => (1900 + year, &digits[2..]),
            year => (2000 + year, &digits[2..]),
        },
        (GENERALIZED_TIME, 14) => (number(&digits[..4]), &digits[4..]),
        _ => return None,
    };
    let two = |at: usize| (rest[at] - b'0') * 10 + (rest[at + 1] - b'0');
    let date = time::Date::from_calendar_date(year, time::Month::try_from(two(0)).ok()?, two(2)).ok()?;
    Some(date.with_hms(two(4), two(6), two(8)).ok()?.assume_utc())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio_rustls::TlsConnector;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn text(config: &Config) -> String {
        fs::read_to_string(config.certificate.as_ref().unwrap()).unwrap()
    }

    /// A client that trusts the authority in `ca` shakes hands with a server that has `config`, and asks for `name`.
    async fn handshake(ca: &LabCa, config: &Config, name: &'static str) -> io::Result<Option<Vec<u8>>> {
        let mut trusted = RootCertStore::empty();
        trusted.add(read_chain(&ca.certificate_file()).unwrap().swap_remove(0)).unwrap();
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let server = server_config(config, &[b"h2", b"http/1.1"]).unwrap().unwrap();
        let (near, far) = duplex(4096);
        let serve = async {
            let mut stream = TlsAcceptor::from(server).accept(far).await?;
            stream.write_all(b"220 private\r\n").await?;
            stream.shutdown().await
        };
        let ask = async {
            let mut stream =
                TlsConnector::from(Arc::new(client)).connect(ServerName::try_from(name).unwrap(), near).await?;
            let mut said = String::new();
            stream.read_to_string(&mut said).await?;
            assert_eq!(said, "220 private\r\n");
            Ok(stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
        };
        let (_, asked) = tokio::join!(serve, ask);
        asked
    }

    #[tokio::test]
    async fn who_trusts_the_authority_can_talk_to_each_of_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::open_or_create(dir.path()).unwrap();
        let config = ca.certificate_for(&names(&["www.someschool.edu", "127.77.3.80"])).unwrap();
        for name in ["www.someschool.edu", "127.77.3.80"] {
            assert_eq!(handshake(&ca, &config, name).await.unwrap(), Some(b"http/1.1".to_vec()), "{name}");
        }
        let error = handshake(&ca, &config, "www.somesite.com").await.unwrap_err();
        assert!(error.to_string().contains("certificate"), "{error}");
    }

    /// What is said of a client that begins like this.
    async fn failure(client: ClientConfig, said_instead: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::open_or_create(dir.path()).unwrap();
        let mut shared = Shared::for_tests("pop3");
        shared.tls = ca.certificate_for(&names(&["a.edu"])).unwrap();
        let service = Service { name: "POP3 over TLS", alpn: &[b"pop3"], key: "pop3.listen_tls" };
        let acceptor = service.acceptor(&shared, &[]).unwrap().unwrap();
        let (mut near, far) = duplex(4096);
        let ask = async {
            if said_instead.is_empty() {
                let connected =
                    TlsConnector::from(Arc::new(client)).connect(ServerName::try_from("a.edu").unwrap(), near);
                drop(connected.await);
            } else {
                near.write_all(said_instead).await.unwrap();
            }
        };
        let (accepted, ()) = tokio::join!(acceptor.accept(far, HANDSHAKE, 1), ask);
        accepted.err().unwrap().to_string().replace(dir.path().to_str().unwrap(), "CA")
    }

    #[tokio::test]
    async fn why_there_is_no_tls_is_said_with_the_cure() {
        // It trusts nobody.
        let usual = || {
            let client = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
            client.unwrap().with_root_certificates(RootCertStore::empty()).with_no_client_auth()
        };
        for said in [&b"USER bob\r\n"[..], b"GET / HTTP/1.0\r\n\r\n", b"\r\n\r\n\r\n"] {
            let told = failure(usual(), said).await;
            assert!(
                told.starts_with("no TLS: the client speaks in clear, and POP3 over TLS begins with TLS"),
                "{told}"
            );
        }
        let told = failure(usual(), b"").await;
        assert!(told.contains("(alert 48): have it trust the lab's authority (curl --cacert CA/ca.crt)"), "{told}");
        let mut other = usual();
        other.alpn_protocols = vec![b"h2".to_vec()];
        let told = failure(other, b"").await;
        assert!(told.contains("something else than POP3 over TLS inside"), "{told}");
        // A ClientHello of TLS 1.0, as old mail readers send it: nothing in it speaks of later versions.
        let hello = b"\x16\x03\x01\x00\x2d\x01\x00\x00\x29\x03\x01".iter().copied().chain([7; 32]);
        let hello: Vec<u8> = hello.chain(*b"\x00\x00\x02\x00\x2f\x01\x00").collect();
        let told = failure(usual(), &hello).await;
        assert!(told.contains("knows no version of TLS that is spoken here: 1.2 or 1.3"), "{told}");
        // The same with 1.2, curves and signatures that we know, and a cipher that nobody should use any more.
        let hello = b"\x16\x03\x01\x00\x3f\x01\x00\x00\x3b\x03\x03".iter().copied().chain([7; 32]);
        let hello = hello.chain(*b"\x00\x00\x02\x00\x2f\x01\x00\x00\x10");
        let hello: Vec<u8> =
            hello.chain(*b"\x00\x0d\x00\x04\x00\x02\x04\x03\x00\x0a\x00\x04\x00\x02\x00\x17").collect();
        let told = failure(usual(), &hello).await;
        assert!(told.contains("no cipher in common"), "{told}");
        let told = failure(usual(), b"\x16\x03\x01\x02").await;
        assert!(told.contains("hung up in the middle"), "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_greeting_is_explained() {
        let dir = tempfile::tempdir().unwrap();
        let mut shared = Shared::for_tests("pop3");
        shared.tls = LabCa::open_or_create(dir.path()).unwrap().certificate_for(&names(&["a.edu"])).unwrap();
        let service = Service { name: "POP3 over TLS", alpn: &[], key: "pop3.listen_tls" };
        let (_near, far) = duplex(4096);
        let told = service.acceptor(&shared, &[]).unwrap().unwrap().accept(far, HANDSHAKE, 1).await.err().unwrap();
        assert!(told.to_string().contains("for 30 s: POP3 over TLS begins with TLS"), "{told}");
    }

    #[tokio::test]
    async fn a_second_start_opens_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = LabCa::open_or_create(dir.path()).unwrap();
        let old = first.certificate_for(&names(&["a.edu"])).unwrap();
        let second = LabCa::open_or_create(dir.path()).unwrap();
        let new = second.certificate_for(&names(&["b.edu"])).unwrap();
        handshake(&second, &old, "a.edu").await.unwrap();
        handshake(&first, &new, "b.edu").await.unwrap();
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::open_or_create(dir.path()).unwrap();
        let issued = ca.certificate_for(&names(&["a.edu"])).unwrap().key.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path().join("ca.key")), mode(&issued)), (0o600, 0o600));
        assert_eq!(mode(&ca.certificate_file()) & 0o400, 0o400);
    }

    #[test]
    fn a_certificate_is_kept_until_a_month_before_its_end_or_until_its_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let ca = LabCa::open_or_create_at(dir.path(), now).unwrap();
        let issue = |of: &[&str], days| text(&ca.certificate_for_at(&names(of), now + Duration::days(days)).unwrap());
        let first = issue(&["a.edu", "b.edu"], 0);
        assert!(first.starts_with("For: a.edu, b.edu\n"), "{first}");
        assert_eq!(issue(&["a.edu", "b.edu"], 59), first);
        let renewed = issue(&["a.edu", "b.edu"], 60);
        assert_ne!(renewed, first);
        assert_ne!(issue(&["a.edu"], 60), renewed);
    }

    #[test]
    fn an_authority_about_to_end_is_replaced_with_all_it_issued() {
        let dir = tempfile::tempdir().unwrap();
        let long_ago = OffsetDateTime::now_utc() - Duration::days(AUTHORITY_DAYS - ISSUED_DAYS);
        let old = LabCa::open_or_create_at(dir.path(), long_ago).unwrap();
        let issued = old.certificate_for(&names(&["a.edu"])).unwrap().key.unwrap();
        let before = fs::read_to_string(old.certificate_file()).unwrap();
        let new = LabCa::open_or_create(dir.path()).unwrap();
        assert_ne!(fs::read_to_string(new.certificate_file()).unwrap(), before);
        assert!(!issued.exists());
    }

    #[test]
    fn names_that_could_leave_the_directory_or_no_name_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::open_or_create(dir.path()).unwrap();
        for refused in [&["../a"][..], &["/etc/passwd"], &[""], &[], &["a.edu", "håll.se"], &["a\n"], &[".."]] {
            assert!(matches!(ca.certificate_for(&names(refused)), Err(TlsError::Names { .. })), "{refused:?}");
        }
    }

    #[test]
    fn what_is_wrong_with_the_files_is_said_with_its_cure() {
        let dir = tempfile::tempdir().unwrap();
        let ca = LabCa::open_or_create(dir.path()).unwrap();
        let a = ca.certificate_for(&names(&["a.edu"])).unwrap().certificate;
        let b = ca.certificate_for(&names(&["b.edu"])).unwrap().certificate;
        let (empty, missing) = (Some(dir.path().join("empty")), Some(dir.path().join("missing")));
        fs::write(empty.as_ref().unwrap(), "nothing here").unwrap();
        let public_only = Some(ca.certificate_file());
        let table = [
            (a.clone(), None, "tls.certificate is set and tls.key is not"),
            (None, a.clone(), "tls.key is set and tls.certificate is not"),
            (
                missing.clone(),
                a.clone(),
                "missing: cannot read it: No such file or directory (os error 2); name an existing file",
            ),
            (
                a.clone(),
                missing,
                "missing: cannot read it: No such file or directory (os error 2); name an existing file",
            ),
            (empty.clone(), a.clone(), "no certificate in PEM form"),
            (a.clone(), empty, "no private key in PEM form"),
            (a.clone(), public_only, "openssl pkey -inform der"),
            (a, b, "b.edu.pem: this key does not belong to the certificate in"),
        ];
        for (certificate, key, want) in table {
            let message = server_config(&Config { certificate, key }, &[]).unwrap_err().to_string();
            assert!(message.contains(want), "{message}\nwanted {want}");
        }
        assert!(server_config(&Config::default(), &[]).unwrap().is_none());
    }

    #[test]
    fn the_end_of_a_certificate_is_found() {
        let dir = tempfile::tempdir().unwrap();
        // Beyond 2049 a certificate writes its dates in the longer form.
        for year in [2030, 2060] {
            let now = time::Date::from_calendar_date(year, time::Month::May, 17).unwrap().midnight().assume_utc();
            let ca = LabCa::open_or_create_at(&dir.path().join(year.to_string()), now).unwrap();
            let issued = ca.certificate_for_at(&names(&["a.edu"]), now).unwrap().certificate.unwrap();
            let der = read_chain(&issued).unwrap().swap_remove(0);
            let end = now + Duration::days(ISSUED_DAYS);
            assert_eq!(not_after(&der), Some(end));
            assert_eq!(out_of_date(&der, end), None);
            let told = out_of_date(&der, end + Duration::SECOND).unwrap();
            assert_eq!(told, format!("this certificate ended on {year}-08-15"));
            // Cut short anywhere, it has no end, and nothing panics.
            for octets in 0..der.len() {
                assert_eq!(not_after(&der[..octets]), None);
            }
        }
    }
}
