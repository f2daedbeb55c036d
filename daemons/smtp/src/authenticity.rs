//! Who really sent it? SPF (RFC 7208), DKIM (RFC 6376) and DMARC (RFC 9989), told in a header field (RFC 8601), and our own signature.
//!
//! SMTP believes what it is told: anybody can say MAIL FROM anybody. SPF is a domain's list of addresses that its mail comes from, DKIM a
//! signature whose key stands in the domain's DNS. Neither needs to have to do with the `From:` that a reader sees; DMARC says whether one
//! of them has, and what that domain wants to be done with what only claims to be its mail. Nothing is refused here for their sake. What they
//! say is written on top of the message, for whoever sorts mail further on, and for whoever wants to see it. The work is mail-auth's; off by
//! default.
//!
//! ```text
//! Authentication-Results: hamburger.edu;
//!     spf=pass smtp.mailfrom=alice@crepes.fr;
//!     dkim=pass header.d=crepes.fr header.s=lab header.b=x1yz2A;
//!     dmarc=pass header.from=crepes.fr policy.dmarc=reject
//! ```

use crate::{
    address::{Domain, Host, ReversePath},
    body::{HEADER_OCTETS_MAX, field_name},
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
    dmarc::verify::DmarcParameters,
    spf::verify::SpfParameters,
};
use memchr::{memchr, memchr_iter};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf, time::Duration};
use tokio::time::{Instant, timeout_at};

/// A message is looked at, and signed, as a whole, and so must be in memory. Of a larger one only SPF is told, and it goes unsigned.
pub(crate) const HELD_OCTETS_MAX: usize = 1 << 20;
/// The header is always among what is held, so nothing forged stands behind it.
const _: () = assert!(HEADER_OCTETS_MAX < HELD_OCTETS_MAX);
/// Each signature costs a question to a name server that its writer has chosen, and a line in our field; a header has room for thousands of
/// them. RFC 6376 §6.1 lets a verifier look at fewer. Of a message with more only SPF is told; lists on the way leave four or five.
const SIGNATURES_MAX: usize = 20;
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

    /// The header field for a message, with its line end. Without `message` only SPF is looked at. What is not known in time is not told.
    pub(crate) async fn results(
        &self,
        peer: IpAddr,
        client: &Client,
        from: &ReversePath,
        message: Option<&[u8]>,
    ) -> String {
        let (host, client) = (self.host.as_str(), client.to_string());
        let until = Instant::now() + LOOK_UP;
        let results = AuthenticationResults::new(host);
        let sender = match from {
            ReversePath::Mailbox(mailbox) => Some(mailbox.to_string()),
            ReversePath::Null => None,
        };
        let asked = match &sender {
            Some(sender) => SpfParameters::verify_mail_from(peer, &client, host, sender),
            // RFC 7208 §2.4: without a sender the client's own name counts.
            None => SpfParameters::verify_ehlo(peer, &client, host),
        };
        let Ok(spf) = timeout_at(until, self.look_up.verify_spf(asked)).await else { return results.to_header() };
        let results = match &sender {
            Some(sender) => results.with_spf_mailfrom_result(&spf, peer, sender, &client),
            None => results.with_spf_ehlo_result(&spf, peer, &client),
        };

        let message = message.filter(|message| signatures(message) <= SIGNATURES_MAX);
        let Some(parsed) = message.and_then(AuthenticatedMessage::parse) else { return results.to_header() };
        let Ok(signatures) = timeout_at(until, self.look_up.verify_dkim(&parsed)).await else {
            return results.to_header();
        };
        let results = results.with_dkim_results(&signatures, parsed.from());

        let domain = sender.as_ref().and_then(|sender| sender.rsplit_once('@')).map_or(&*client, |(_, domain)| domain);
        let asked = DmarcParameters {
            message: &parsed,
            dkim_output: &signatures,
            dkim2_output: None,
            rfc5321_mail_from_domain: domain,
            spf_output: &spf,
        };
        match timeout_at(until, self.look_up.verify_dmarc(asked)).await {
            // Without an author, or with several of different domains, there is nobody to ask (RFC 7489 §6.6.1).
            Ok(dmarc) if !dmarc.domain().is_empty() => results.with_dmarc_result(&dmarc).to_header(),
            Ok(_) | Err(_) => results.to_header(),
        }
    }
}

/// Cuts out what a stranger claims that we have found (RFC 8601 §5, a MUST): such fields are ours to write, and whoever sorts mail further on
/// may believe them, also where we look for no results ourselves. The message begins at the octet `from`.
pub(crate) fn cut_forged_results(text: &mut Vec<u8>, from: usize, host: &str) {
    // Up to `kept` stands what has been looked at and stays.
    let (mut kept, mut at) = (from, from);
    while at < text.len() && !text[at..].starts_with(b"\r\n") {
        let end = at + field_octets(&text[at..]);
        if !is_result_of(&text[at..end], host) {
            if kept < at {
                text.copy_within(at..end, kept);
            }
            kept += end - at;
        }
        at = end;
    }
    text.drain(kept..at);
}

/// How many fields of a header are signatures.
fn signatures(message: &[u8]) -> usize {
    let (mut count, mut at) = (0, 0);
    while at < message.len() && !message[at..].starts_with(b"\r\n") {
        let end = at + field_octets(&message[at..]);
        count += usize::from(is_called(&message[at..end], "DKIM-Signature"));
        at = end;
    }
    count
}

fn is_called(field: &[u8], name: &str) -> bool {
    field_name(field).is_some_and(|called| called.eq_ignore_ascii_case(name.as_bytes()))
}

/// How long the field is that a header begins with. RFC 5322 §2.2.3: it goes on in each line that begins with a blank.
fn field_octets(header: &[u8]) -> usize {
    let ends = memchr_iter(b'\n', header).map(|lf| lf + 1);
    let mut ends = ends.filter(|end| !matches!(header.get(*end), Some(b' ' | b'\t')));
    ends.next().unwrap_or(header.len())
}

/// Whether it is a field in which `host` tells results, however it is folded, commented and quoted.
fn is_result_of(field: &[u8], host: &str) -> bool {
    let Some(colon) = memchr(b':', field) else { return false };
    is_called(field, "Authentication-Results") && teller(&field[colon + 1..]).eq_ignore_ascii_case(host.as_bytes())
}

/// RFC 8601 §2.2: who tells the results, `authserv-id`. It is a token or a quoted string (RFC 2045 §5.1); a version may follow it.
fn teller(text: &[u8]) -> Vec<u8> {
    let text = without_comments(text);
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let special = |octet: &u8| octet.is_ascii_whitespace() || b"()<>@,;:\\\"/[]?=".contains(octet);
        return text.iter().copied().take_while(|octet| !special(octet)).collect();
    };
    let (mut teller, mut octets) = (vec![], quoted.iter());
    while let Some(octet) = octets.next() {
        match octet {
            b'"' => break,
            b'\\' => teller.extend(octets.next()),
            octet => teller.push(*octet),
        }
    }
    teller
}

/// What stands behind blanks, line ends and comments, which nest (RFC 5322 §3.2.2, `CFWS`). Behind a comment without an end stands nothing.
fn without_comments(mut text: &[u8]) -> &[u8] {
    loop {
        text = text.trim_ascii_start();
        if !text.starts_with(b"(") {
            return text;
        }
        let (mut depth, mut at) = (0, 0);
        while let Some(octet) = text.get(at) {
            match octet {
                b'(' => depth += 1,
                b')' => depth -= 1,
                // A quoted pair.
                b'\\' => at += 1,
                _ => {}
            }
            at += 1;
            if depth == 0 {
                break;
            }
        }
        text = text.get(at..).unwrap_or_default();
    }
}

/// Signs our users' messages.
#[derive(Debug)]
pub(crate) struct Signer {
    domain: Domain,
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
        let domain: Domain = config.domain.parse().map_err(|error| format!("`{}`: {error}", config.domain))?;
        let file = config.key.display();
        let der = || PrivateKeyDer::from_pem_file(&config.key).map_err(|error| format!("{file}: {error}"));
        // RFC 6376 §3.5: in `d=` a domain stands as the DNS has it.
        let (in_dns, selector) = (domain.in_dns().to_owned(), config.selector.clone());
        let key = if let Ok(key) = RsaKey::<Sha256>::from_key_der(der()?) {
            let signer = DkimSigner::from_key(key).domain(in_dns).selector(selector).headers(SIGNED);
            SigningKey::Rsa(Box::new(signer))
        } else {
            let key = Ed25519Key::from_pkcs8_maybe_unchecked_der(der()?.secret_der())
                .map_err(|error| format!("{file}: {error}; it must be an RSA or Ed25519 key in PKCS #8"))?;
            SigningKey::Ed25519(Box::new(DkimSigner::from_key(key).domain(in_dns).selector(selector).headers(SIGNED)))
        };
        Ok(Self { domain, key })
    }

    /// Whether it signs for this sender.
    pub(crate) fn is_for(&self, from: &ReversePath) -> bool {
        let ReversePath::Mailbox(mailbox) = from else { return false };
        matches!(mailbox.host(), Host::Domain(domain) if *domain == self.domain)
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

    /// What is left of a message in the house of hamburger.edu, behind what stands above it.
    fn without_forged_results(message: &str) -> String {
        let mut text = format!("above{message}").into_bytes();
        cut_forged_results(&mut text, 5, "hamburger.edu");
        String::from_utf8(text).unwrap().strip_prefix("above").unwrap().to_owned()
    }

    #[test]
    fn results_that_a_stranger_tells_in_our_name_are_cut_out_however_they_are_written() {
        for forged in [
            "authentication-results: Hamburger.edu; spf=pass\r\n dkim=pass\r\n",
            "Authentication-Results:hamburger.edu;dkim=pass\r\n",
            // RFC 8601 §2.2: a version.
            "Authentication-Results: hamburger.edu 1; dkim=pass\r\n",
            // RFC 5322 §2.2.3: folded, before what counts and often.
            "Authentication-Results:\r\n hamburger.edu; dkim=pass\r\n",
            "Authentication-Results:\r\n\t\r\n  hamburger.edu\r\n ;dkim=pass\r\n",
            // §4.5: blanks before the colon.
            "Authentication-Results \t: hamburger.edu; dkim=pass\r\n",
            // §3.2.2: comments, which nest, and have quoted pairs.
            "Authentication-Results: (by) hamburger.edu; dkim=pass\r\n",
            "Authentication-Results:(a (nested\r\n one \\)) here)\r\n (b)hamburger.edu(c); dkim=pass\r\n",
            // RFC 2045 §5.1: the identifier may be quoted.
            "Authentication-Results: \"hamburger.edu\"; dkim=pass\r\n",
            "Authentication-Results: \"ham\\burger.edu\" 1; dkim=pass\r\n",
        ] {
            let message = format!("{forged}A: b\r\n{forged}{forged}B: c\r\n{forged}\r\n{forged}");
            assert_eq!(without_forged_results(&message), format!("A: b\r\nB: c\r\n\r\n{forged}"), "{forged}");
            // There may be no body, and nothing else.
            assert_eq!(without_forged_results(&forged.repeat(2)), "");
        }
    }

    #[test]
    fn signatures_are_counted_in_the_header_however_they_are_written() {
        let header = "A: b\r\nDKIM-Signature: v=1;\r\n dkim-signature: x\r\ndkim-signature \t:\r\n v=1\r\nX-DKIM-Signature: v=1\r\n";
        for (message, count) in [
            (format!("{header}\r\nDKIM-Signature: v=1\r\n"), 2),
            (header.repeat(100), 200),
            ("\r\nDKIM-Signature: v=1\r\n".to_owned(), 0),
            (String::new(), 0),
        ] {
            assert_eq!(signatures(message.as_bytes()), count, "{message}");
        }
    }

    #[test]
    fn what_others_tell_is_kept() {
        for field in [
            "Authentication-Results: other.edu; spf=fail\r\n",
            "Authentication-Results: hamburger.edu.evil.org; spf=pass\r\n",
            "Authentication-Results: (hamburger.edu) other.edu; spf=pass\r\n",
            "Authentication-Results: other.edu; spf=pass\r\n hamburger.edu\r\n",
            "Authentication-Results: (hamburger.edu; spf=pass\r\n",
            "Authentication-Results:\r\n",
            "X-Authentication-Results: hamburger.edu; spf=pass\r\n",
            "Authentication-Results-Old: hamburger.edu; spf=pass\r\n",
            "Subject: x\r\n Authentication-Results: hamburger.edu\r\n",
        ] {
            let message = format!("{field}A: b\r\n{field}\r\ntext\r\n");
            assert_eq!(without_forged_results(&message), message);
        }
        for message in ["", "\r\n", " text\r\n", "A: b"] {
            assert_eq!(without_forged_results(message), message);
        }
    }

    #[test]
    fn a_domain_beyond_ascii_signs_for_both_of_its_forms_and_under_the_name_that_the_dns_has() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("dkim.pem");
        // RFC 8410 §10.3.
        let text = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        std::fs::write(&key, text).unwrap();
        let new = |domain: &str| {
            Signer::new(&DkimKey { domain: domain.to_owned(), selector: "lab".to_owned(), key: key.clone() })
        };
        for domain in ["exämple.se", "xn--exmple-cua.se"] {
            let signer = new(domain).unwrap();
            for (from, is_for) in
                [("<å@exämple.se>", true), ("<a@XN--exmple-cua.se>", true), ("<a@example.se>", false), ("<>", false)]
            {
                assert_eq!(signer.is_for(&from.parse().unwrap()), is_for, "{domain} {from}");
            }
            let field = signer.sign(b"From: a@xn--exmple-cua.se\r\n\r\nx\r\n").unwrap();
            assert!(field.contains("d=xn--exmple-cua.se;"), "{field}");
        }
        assert!(new("no domain").unwrap_err().starts_with("`no domain`: "));
    }
}
