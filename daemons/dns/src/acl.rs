//! Who may do what.

use crate::name::Name;
use shared::units::Network;
use std::net::IpAddr;

/// One line of a list: a network, or whoever has a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Network(Network),
    Key(Name),
}

/// Those who may do something. Whom one line lets in is in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads networks, and keys as `key:NAME`, which must be among `keys`.
    ///
    /// # Errors
    /// A line is neither; the text says what would be right.
    pub(crate) fn parse(lines: &[String], keys: &[Name]) -> Result<Self, String> {
        let entry = |line: &String| {
            let Some(name) = line.strip_prefix("key:") else {
                return line.parse().map(Entry::Network).map_err(|error| format!("{error}, or a key: \"key:NAME\""));
            };
            let name: Name = name.parse().map_err(|error| format!("`{line}`: {error}"))?;
            if keys.contains(&name) {
                Ok(Entry::Key(name))
            } else {
                Err(format!("`{line}`: there is no such key among the `keys`"))
            }
        };
        lines.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }

    /// Whether somebody is in: by the address, or by the key that has signed.
    pub(crate) fn admits(&self, address: IpAddr, key: Option<&Name>) -> bool {
        self.0.iter().any(|entry| match entry {
            Entry::Network(network) => network.contains(address),
            Entry::Key(wanted) => key == Some(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_fits_is_enough() {
        let keys = [Name::root(), "admin.fr".parse().unwrap()];
        let acl = Acl::parse(&["10.77.0.0/16".to_owned(), "key:Admin.fr".to_owned()], &keys).unwrap();
        for (address, key, want) in [
            ("10.77.1.1", None, true),
            ("::ffff:10.77.1.1", Some("other"), true),
            ("10.78.1.1", None, false),
            ("10.78.1.1", Some("admin.fr."), true),
            ("10.78.1.1", Some("other"), false),
        ] {
            let key = key.map(|key| key.parse().unwrap());
            assert_eq!(acl.admits(address.parse().unwrap(), key.as_ref()), want, "{address} {key:?}");
        }
        assert!(
            !Acl::default().admits("127.0.0.1".parse().unwrap(), Some(&Name::root())),
            "an empty list admits nobody"
        );
    }

    #[test]
    fn a_wrong_line_is_told_with_what_would_be_right() {
        for (line, want) in [
            ("10.77.0.0/33", "is not a network"),
            ("admin.fr", "or a key: \"key:NAME\""),
            ("key:admin.fr", "no such key"),
            ("key:a..b", "a label is empty"),
        ] {
            let error = Acl::parse(&[line.to_owned()], &[]).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
