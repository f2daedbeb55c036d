//! Who really sent it? SPF (RFC 7208) and DKIM (RFC 6376), told in a header field (RFC 8601), and our own signature.
//!
//! SMTP believes what it is told: anybody can say MAIL FROM anybody. SPF is a domain's list of addresses that its mail comes from, DKIM a
//! signature whose key stands in the domain's DNS. Nothing is refused here for their sake. What they say is written on top of the message, for
//! whoever sorts mail further on, and for whoever wants to see it. The work is mail-auth's; off by default.
//!
//! ```text
//! Authentication-Results: hamburger.edu;
//!     spf=pass smtp.mailfrom=alice@crepes.fr;
//!     dkim=pass header.d=crepes.fr header.s=lab header.b=x1yz2A
//! ```

use crate::{
    address::{Host, ReversePath},
    command::Client,
    mx::Resolver,
};
use mail_auth::{
    AuthenticatedMessage, AuthenticationResults, MessageAuthenticator,
    common::{
        crypto::{Ed25519Key, RsaKey, Sha256},
        headers::HeaderWriter,
    },
    dkim::{DkimSigner, Done},
    spf::verify::SpfParameters,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf, time::Duration};
use tokio::time::timeout;

/// A message is looked at, and signed, as a whole, and so must be in memory. Of a larger one only SPF is told, and it goes unsigned.
pub(crate) const HELD_OCTETS_MAX: usize = 1 << 20;
/// How long a sender's client may wait for what its domain's name servers say.
const LOOK_UP: Duration = Duration::from_secs(20);
/// What is signed: what a reader sees (RFC 6376 §5.4.1), as far as it is there.
const SIGNED: [&str; 8] = ["From", "To", "Cc", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"];

/// A key that our users' messages are signed with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DkimKey {
    /// The domain that signs; its users' messages get the signature.
    pub domain: String,
    /// The key's name: its public half stands in the DNS at `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// The private key, RSA or Ed25519, in PEM (PKCS #8).
    pub key: PathBuf,
}

/// Finds out who sent a message.
pub(crate) struct Authenticator {
    look_up: MessageAuthenticator,
    host: String,
}

impl Authenticator {
    pub(crate) fn new(resolver: &Resolver, host: &str) -> Self {
        Self { look_up: MessageAuthenticator(resolver.library()), host: host.to_owned() }
    }

    /// The header field for a message, with its line end. Without `message` only SPF is looked at.
    pub(crate) async fn results(
        &self,
        peer: IpAddr,
        client: &Client,
        from: &ReversePath,
        message: Option<&[u8]>,
    ) -> String {
        let (host, client) = (self.host.as_str(), client.to_string());
        let look = async {
            let results = AuthenticationResults::new(host);
            let results = match from {
                ReversePath::Mailbox(mailbox) => {
                    let sender = mailbox.to_string();
                    let asked = SpfParameters::verify_mail_from(peer, &client, host, &sender);
                    let spf = self.look_up.verify_spf(asked).await;
                    results.with_spf_mailfrom_result(&spf, peer, &sender, &client)
                }
                // RFC 7208 §2.4: without a sender the client's own name counts.
                ReversePath::Null => {
                    let spf = self.look_up.verify_spf(SpfParameters::verify_ehlo(peer, &client, host)).await;
                    results.with_spf_ehlo_result(&spf, peer, &client)
                }
            };
            let parsed = message.and_then(AuthenticatedMessage::parse);
            let Some(parsed) = parsed else { return results.to_header() };
            let signatures = self.look_up.verify_dkim(&parsed).await;
            results.with_dkim_results(&signatures, parsed.from()).to_header()
        };
        match timeout(LOOK_UP, look).await {
            Ok(header) => header,
            Err(_) => format!("Authentication-Results: {host}; none\r\n"),
        }
    }
}

/// Cuts out what a stranger claims that we have found (RFC 8601 §5): such fields are ours to write.
pub(crate) fn without_forged_results(message: &[u8], host: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(message.len());
    let (mut cutting, mut in_header) = (false, true);
    for line in message.split_inclusive(|octet| *octet == b'\n') {
        if in_header {
            let continues = line.starts_with(b" ") || line.starts_with(b"\t");
            in_header = line != b"\r\n";
            cutting = if continues { cutting } else { is_result_of(line, host) };
        }
        if !in_header || !cutting {
            kept.extend_from_slice(line);
        }
    }
    kept
}

/// Whether a header's line begins a field in which `host` tells results.
fn is_result_of(line: &[u8], host: &str) -> bool {
    const NAME: &[u8] = b"Authentication-Results:";
    let named = line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
    let teller = line.get(NAME.len()..).unwrap_or_default().trim_ascii_start();
    named && teller.get(..host.len()).is_some_and(|teller| teller.eq_ignore_ascii_case(host.as_bytes()))
}

/// Signs our users' messages.
#[derive(Debug)]
pub(crate) struct Signer {
    domain: String,
    key: SigningKey,
}

enum SigningKey {
    Rsa(Box<DkimSigner<RsaKey<Sha256>, Done>>),
    Ed25519(Box<DkimSigner<Ed25519Key, Done>>),
}

impl std::fmt::Debug for SigningKey {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SigningKey::Rsa(_) => "RSA",
            SigningKey::Ed25519(_) => "Ed25519",
        })
    }
}

impl Signer {
    /// Reads a key.
    ///
    /// # Errors
    /// What is wrong with the file, in words.
    pub(crate) fn new(config: &DkimKey) -> Result<Self, String> {
        let file = config.key.display();
        let der = || PrivateKeyDer::from_pem_file(&config.key).map_err(|error| format!("{file}: {error}"));
        let (domain, selector) = (config.domain.clone(), config.selector.clone());
        let key = if let Ok(key) = RsaKey::<Sha256>::from_key_der(der()?) {
            let signer = DkimSigner::from_key(key).domain(domain).selector(selector).headers(SIGNED);
            SigningKey::Rsa(Box::new(signer))
        } else {
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(der()?.secret_der())
                .map_err(|error| format!("{file}: {error}; it must be an RSA or Ed25519 key in PKCS #8"))?;
            SigningKey::Ed25519(Box::new(DkimSigner::from_key(key).domain(domain).selector(selector).headers(SIGNED)))
        };
        Ok(Self { domain: config.domain.clone(), key })
    }

    /// Whether it signs for this sender.
    pub(crate) fn is_for(&self, from: &ReversePath) -> bool {
        let ReversePath::Mailbox(mailbox) = from else { return false };
        matches!(mailbox.host(), Host::Domain(domain) if domain.as_str().eq_ignore_ascii_case(&self.domain))
    }

    /// The header field that signs a message, with its line end.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<String, mail_auth::Error> {
        match &self.key {
            SigningKey::Rsa(signer) => signer.sign(message).map(|signature| signature.to_header()),
            SigningKey::Ed25519(signer) => signer.sign(message).map(|signature| signature.to_header()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_that_a_stranger_tells_in_our_name_are_cut_out() {
        let message = b"A: b\r\nauthentication-results: Hamburger.edu; spf=pass\r\n dkim=pass\r\n\
            Authentication-Results: other.edu; spf=fail\r\n\r\nAuthentication-Results: hamburger.edu\r\n";
        let kept = without_forged_results(message, "hamburger.edu");
        assert_eq!(
            String::from_utf8(kept).unwrap(),
            "A: b\r\nAuthentication-Results: other.edu; spf=fail\r\n\r\nAuthentication-Results: hamburger.edu\r\n"
        );
    }
}
