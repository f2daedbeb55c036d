//! Hosts that mail goes to because the configuration says so, and what is to be said to them: `"mail.crepes.fr:25"`, or a table.

use crate::{
    client::Login,
    courier::{Begin, Neighbour, Security},
    mx::Route,
    session::Plaintext,
};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, fs, path::PathBuf};

/// A password file that is longer has something else in it.
const PASSWORD_OCTETS_MAX: usize = 1024;

/// Such a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct Relay {
    /// Where it is: a name or an address, and perhaps a port.
    pub host: Route,
    /// How private it must be. Without a word: `verified` where we log in, for whoever has the password could send as us, and
    /// `opportunistic` elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Security>,
    /// RFC 8314 §3.3: TLS comes before all else, as on port 465.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tls_first: bool,
    /// Who we are there; without a name we do not log in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// A file with the password, which stands nowhere else.
    #[serde(default, skip_serializing_if = "is_default")]
    pub password_file: PathBuf,
    /// Say the password in clear where there is no TLS. For lessons only.
    #[serde(default, skip_serializing_if = "is_default")]
    pub allow_plaintext_auth: bool,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl From<Route> for Relay {
    fn from(host: Route) -> Self {
        let (user, password_file) = (String::new(), PathBuf::new());
        Self { host, tls: None, tls_first: false, user, password_file, allow_plaintext_auth: false }
    }
}

impl Relay {
    /// What a courier must know. Reads the password.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn neighbour(&self) -> Result<Neighbour, String> {
        let login = self.login()?;
        let unsaid = if login.is_some() { Security::Verified } else { Security::Opportunistic };
        let begin = if self.tls_first { Begin::WithTls } else { Begin::InClear };
        Ok(Neighbour { route: self.host.clone(), security: self.tls.unwrap_or(unsaid), begin, login })
    }

    fn login(&self) -> Result<Option<Login>, String> {
        let (user, file) = (&self.user, &self.password_file);
        match (user.is_empty(), file.as_os_str().is_empty()) {
            (true, true) => return Ok(None),
            (false, false) => {}
            (false, true) => return Err("user is set and password_file is not; a login needs both".to_owned()),
            (true, false) => return Err("password_file is set and user is not; a login needs both".to_owned()),
        }
        let told = |problem: &dyn fmt::Display| format!("password_file {}: {problem}", file.display());
        let text = fs::read_to_string(file).map_err(|error| told(&error))?;
        let secret = text.trim_end_matches(['\r', '\n']);
        if secret.is_empty() || secret.len() > PASSWORD_OCTETS_MAX || secret.contains(['\n', '\0']) {
            return Err(told(&"it should have one line, the password"));
        }
        let plaintext = if self.allow_plaintext_auth { Plaintext::Allowed } else { Plaintext::OverTls };
        Ok(Some(Login { user: user.clone(), secret: secret.to_owned(), plaintext }))
    }
}

impl Serialize for Relay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let alone = *self == Self::from(self.host.clone());
        if alone { self.host.serialize(serializer) } else { Self::serialize(self, serializer) }
    }
}

impl<'de> Deserialize<'de> for Relay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Either)
    }
}

/// The two ways to write it.
struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Relay;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host, or a table like { host = \"mail.crepes.fr:587\", tls = \"verified\" }")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Relay, E> {
        text.parse().map(|route: Route| route.into()).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Relay, A::Error> {
        Relay::deserialize(MapAccessDeserializer::new(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one relay.
    #[derive(Debug, Serialize, Deserialize)]
    struct Table {
        relay: Relay,
    }

    fn parse(text: &str) -> Result<Relay, String> {
        toml::from_str(&format!("relay = {text}")).map(|table: Table| table.relay).map_err(|error| error.to_string())
    }

    #[test]
    fn a_relay_is_a_host_or_a_table_and_is_written_as_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        fs::write(&file, "hungry\n").unwrap();
        let login = format!("user = \"bob\", password_file = \"{}\"", file.display());
        for (text, security, user) in [
            ("\"127.0.0.1:8025\"".to_owned(), Security::Opportunistic, None),
            ("{ host = \"mail.crepes.fr\" }".to_owned(), Security::Opportunistic, None),
            ("{ host = \"mail.crepes.fr\", tls = \"required\" }".to_owned(), Security::Required, None),
            (format!("{{ host = \"mail.crepes.fr:587\", {login} }}"), Security::Verified, Some("bob")),
            (
                format!("{{ host = \"a.fr\", tls = \"opportunistic\", tls_first = true, {login} }}"),
                Security::Opportunistic,
                Some("bob"),
            ),
        ] {
            let relay = parse(&text).unwrap();
            let neighbour = relay.neighbour().unwrap();
            assert_eq!((neighbour.security, neighbour.login.as_ref().map(|login| &*login.user)), (security, user));
            assert!(neighbour.login.as_ref().is_none_or(|login| login.secret == "hungry"));
            assert!(!format!("{neighbour:?}").contains("hungry"));
            let written = toml::to_string(&Table { relay: relay.clone() }).unwrap();
            assert_eq!(toml::from_str::<Table>(&written).unwrap().relay, relay, "{written}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (text, problem) in [
            ("\"no host\"", "`no host` is no host"),
            ("7", "expected a host, or a table like"),
            ("{ host = \"a.fr\", tls = \"maybe\" }", "expected one of `opportunistic`, `required`, `verified`"),
            ("{ host = \"a.fr\", password = \"x\" }", "unknown field `password`"),
            ("{ tls = \"required\" }", "missing field `host`"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
        for (text, problem) in [
            ("{ host = \"a.fr\", user = \"bob\" }", "user is set and password_file is not"),
            ("{ host = \"a.fr\", password_file = \"/x\" }", "password_file is set and user is not"),
            (
                "{ host = \"a.fr\", user = \"bob\", password_file = \"/no/such\" }",
                "password_file /no/such: No such file",
            ),
            ("{ host = \"a.fr\", user = \"bob\", password_file = \"/dev/null\" }", "it should have one line"),
        ] {
            let error = parse(text).unwrap().neighbour().unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
