//! SPF, DKIM and DMARC between two sites: crepes.fr signs, hamburger.edu looks.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use tests::process::{Server, built_program, free_address};

/// The key of RFC 8463 §A.2, in PKCS #8, and its public half.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
const PUBLIC: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

/// Starts one of our programs with a configuration.
fn start(program: &str, folder: &Path, address: SocketAddr, config: &str) -> Server {
    let file = folder.join(format!("{program}-{}.toml", address.port()));
    fs::write(&file, config).unwrap();
    let arguments = ["-c", file.to_str().unwrap()];
    Server::start(&built_program(program).unwrap(), arguments, address, &file.with_extension("log")).unwrap()
}

/// Says the lines of a transaction; each must be answered with yes, or go on.
fn send(to: SocketAddr, lines: &[&str]) {
    let mut talk = BufReader::new(TcpStream::connect(to).unwrap());
    let hear = |talk: &mut BufReader<TcpStream>| {
        let mut line = String::new();
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            talk.read_line(&mut line).unwrap();
        }
        assert!(matches!(line.as_bytes()[0], b'2' | b'3'), "{line}");
    };
    hear(&mut talk);
    for line in lines {
        talk.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        hear(&mut talk);
    }
}

fn messages(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect()
}

/// Waits until somebody's mailbox has so many messages.
fn wait_for(folder: &Path, count: usize) -> Vec<String> {
    let begin = std::time::Instant::now();
    loop {
        let found = messages(folder);
        if found.len() >= count {
            return found;
        }
        assert!(begin.elapsed() < tests::process::PATIENCE, "{found:?}");
        tests::process::pause();
    }
}

#[test]
fn what_crepes_signs_passes_at_hamburger_and_what_a_stranger_claims_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (dns, crepes, hamburger) = (free_address().unwrap(), free_address().unwrap(), free_address().unwrap());
    fs::write(path.join("dkim.pem"), KEY).unwrap();
    fs::write(
        path.join("crepes.fr.zone"),
        format!(
            "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n\
             @ TXT \"v=spf1 ip4:127.0.0.1 -all\"\n_dmarc TXT \"v=DMARC1; p=reject\"\nlab._domainkey TXT \"v=DKIM1; k=ed25519; p={PUBLIC}\"\n"
        ),
    )
    .unwrap();
    fs::write(
        path.join("far.fr.zone"),
        "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n@ TXT \"v=spf1 ip4:192.0.2.1 -all\"\n",
    )
    .unwrap();
    // Who is looked for goes up to the top (RFC 9989 §4.10).
    fs::write(path.join("fr.zone"), "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n")
        .unwrap();
    let place = path.display();
    let _dns = start(
        "tomte-dns",
        path,
        dns,
        &format!(
            "[dns]\nlisten = [\"{dns}\"]\nzones = [{{ name = \"fr\", file = \"{place}/fr.zone\" }}, {{ name = \"crepes.fr\", file = \"{place}/crepes.fr.zone\" }}, \
             {{ name = \"far.fr\", file = \"{place}/far.fr.zone\" }}]\n"
        ),
    );
    let site = |name: &str, more: &str| {
        format!(
            "[smtp]\nhostname = \"{name}\"\ndomains = [\"{name}\"]\nusers = [\"bob\"]\nmailboxes = \"{place}/{name}\"\n\
             spool = \"{place}/{name}.spool\"\nresolvers = [\"{dns}\"]\n{more}"
        )
    };
    let _hamburger = start(
        "tomte-smtp",
        path,
        hamburger,
        &site("hamburger.edu", &format!("listen = [\"{hamburger}\"]\nallow = []\nauthenticate = true\n")),
    );
    let _crepes = start(
        "tomte-smtp",
        path,
        crepes,
        &site(
            "crepes.fr",
            &format!(
                "listen = [\"{crepes}\"]\nroutes = {{ \"hamburger.edu\" = \"{hamburger}\" }}\n\
                 dkim = [{{ domain = \"crepes.fr\", selector = \"lab\", key = \"{place}/dkim.pem\" }}]\n"
            ),
        ),
    );

    let text = "From: alice@crepes.fr\r\nTo: bob@hamburger.edu\r\nSubject: signed\r\n\r\nDo you like ketchup?\r\n.";
    let mailbox = path.join("hamburger.edu/bob/new");
    send(crepes, &["EHLO laptop", "MAIL FROM:<alice@crepes.fr>", "RCPT TO:<bob@hamburger.edu>", "DATA", text, "QUIT"]);
    let signed = wait_for(&mailbox, 1).remove(0);
    assert!(signed.starts_with("Return-Path: <alice@crepes.fr>\r\nAuthentication-Results: hamburger.edu;"), "{signed}");
    for words in [
        "spf=pass",
        "dkim=pass",
        "header.d=crepes.fr",
        "dmarc=pass header.from=crepes.fr",
        "DKIM-Signature: v=1; a=ed25519-sha256",
    ] {
        assert!(signed.contains(words), "{words}: {signed}");
    }

    // The same text with another word in it, and a claim of our own; and a sender whose domain does not send from here.
    let (_, original) = signed.split_once("DKIM-Signature:").unwrap();
    let forged = format!(
        "Authentication-Results: hamburger.edu; dkim=pass\r\nAuthentication-Results:\r\n hamburger.edu; dkim=pass\r\n\
         Authentication-Results : (we) \"hamburger.edu\" 1; dkim=pass\r\nDKIM-Signature:{}.",
        original.replace("ketchup", "mustard")
    );
    send(hamburger, &["EHLO x", "MAIL FROM:<eve@far.fr>", "RCPT TO:<bob@hamburger.edu>", "DATA", &forged, "QUIT"]);
    let all = wait_for(&mailbox, 2);
    let forged = all.iter().find(|message| message.contains("mustard")).unwrap();
    assert!(forged.contains("spf=fail") && forged.contains("dkim=neutral (body hash did not verify)"), "{forged}");
    // What its reader sees is that it is from crepes.fr, and neither result says so.
    assert!(forged.contains("dmarc=fail (policy not aligned) header.from=crepes.fr policy.dmarc=reject"), "{forged}");
    assert!(!forged.contains("dkim=pass"), "{forged}");

    // A domain that asks for nothing; a text without an author, and a report, whose author's domain counts as any.
    let text = "From: eve@far.fr\r\nSubject: open\r\n\r\nHello\r\n.";
    send(hamburger, &["EHLO x", "MAIL FROM:<eve@far.fr>", "RCPT TO:<bob@hamburger.edu>", "DATA", text, "QUIT"]);
    let text = "From: alice@crepes.fr\r\nSubject: report\r\n\r\nHello\r\n.";
    send(hamburger, &["EHLO crepes.fr", "MAIL FROM:<>", "RCPT TO:<bob@hamburger.edu>", "DATA", text, "QUIT"]);
    let text = "Subject: nobody\r\n\r\nHello\r\n.";
    send(hamburger, &["EHLO x", "MAIL FROM:<eve@far.fr>", "RCPT TO:<bob@hamburger.edu>", "DATA", text, "QUIT"]);
    // Each signature would be a question to whomever its writer has chosen.
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; d=far.fr; s=x; h=from; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b=AAAA\r\n";
    let text = format!("{}From: eve@far.fr\r\nSubject: many\r\n\r\nHello\r\n.", signature.repeat(21));
    send(hamburger, &["EHLO x", "MAIL FROM:<eve@far.fr>", "RCPT TO:<bob@hamburger.edu>", "DATA", &text, "QUIT"]);
    let all = wait_for(&mailbox, 6);
    let many = all.iter().find(|message| message.contains("Subject: many")).unwrap();
    assert!(many.contains("spf=fail") && !many.contains("dkim="), "{many}");
    for (subject, result) in [
        ("Subject: open", Some("dmarc=none header.from=far.fr policy.dmarc=none")),
        ("Subject: report", Some("dmarc=pass header.from=crepes.fr")),
        ("Subject: nobody", None),
    ] {
        let message = all.iter().find(|message| message.contains(subject)).unwrap();
        assert_eq!(message.contains("dmarc="), result.is_some(), "{message}");
        assert!(result.is_none_or(|result| message.contains(result)), "{message}");
    }
}
