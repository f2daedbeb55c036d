//! `tomte check-config`: all tables of a file, checked by the daemons that they belong to.

use crate::hosts::Lab;
use anyhow::Context;
use shared::config::{ConfigError, DEFAULT_FILE, Settings};
use std::path::{Path, PathBuf};

pub(crate) fn check(files: &[PathBuf]) -> anyhow::Result<()> {
    if files.is_empty() {
        return check_one(Path::new(DEFAULT_FILE));
    }
    files.iter().try_for_each(|file| check_one(file))
}

fn check_one(file: &Path) -> anyhow::Result<()> {
    let place = file.display().to_string();
    // A description of a lab has hosts, a configuration of daemons has none.
    let text =
        std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { path: file.to_owned(), source })?;
    if text.lines().any(|line| line.trim_start().starts_with("[[host]]")) {
        let lab = Lab::parse(&place, &text)?;
        println!("ok: {place} ({} hosts)", lab.host.len());
        return Ok(());
    }
    let settings = Settings::load(Some(file), std::iter::empty(), &[]).context("check-config")?;
    check_tables(&settings)?;
    println!("ok: {place}");
    Ok(())
}

/// Every table that exists so far.
fn check_tables(settings: &Settings) -> Result<(), ConfigError> {
    settings.table::<shared::logging::Config>("log")?;
    settings.table::<shared::admin::Config>("admin")?;
    settings.table::<shared::transcript::Config>("transcript")?;
    settings.table::<shared::accounts::Config>("accounts")?;
    settings.table::<shared::tls::Config>("tls")?;
    settings.table::<wordlength::Config>("wordlength")?;
    settings.table::<dns::Config>("dns")?;
    settings.table::<pop3::Config>("pop3")?;
    settings.table::<smtp::Config>("smtp")?;
    settings.table::<web::Config>("web")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Serialize, de::DeserializeOwned};
    use std::fmt::Debug;

    const MANUAL: &str = include_str!("../../../config/tomte.toml");

    /// Where the struct of each table is, with the comments on its fields.
    const SOURCES: [(&str, &str); 10] = [
        ("log", include_str!("../../../shared/src/logging.rs")),
        ("admin", include_str!("../../../shared/src/admin.rs")),
        ("transcript", include_str!("../../../shared/src/transcript.rs")),
        ("accounts", include_str!("../../../shared/src/accounts.rs")),
        ("tls", include_str!("../../../shared/src/tls.rs")),
        ("wordlength", include_str!("../../wordlength/src/lib.rs")),
        ("web", include_str!("../../web/src/config.rs")),
        ("dns", include_str!("../../dns/src/config.rs")),
        ("pop3", include_str!("../../pop3/src/config.rs")),
        ("smtp", include_str!("../../smtp/src/config.rs")),
    ];

    /// The fields of `pub struct Config`, each with its comment as one line.
    fn fields(source: &str) -> Vec<(String, String)> {
        let (_, rest) = source.split_once("pub struct Config {\n").unwrap();
        let (body, _) = rest.split_once("\n}\n").unwrap();
        let (mut fields, mut comment) = (vec![], vec![]);
        for line in body.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("///") {
                comment.push(text.trim());
            } else if let Some((name, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
                fields.push((name.to_owned(), comment.join(" ")));
                comment.clear();
            }
        }
        fields
    }

    /// The keys of `[table]` in the manual, set or shown behind `#`, each with the remark above it as one line.
    fn keys(table: &str) -> Vec<(String, String)> {
        let (_, rest) = MANUAL.split_once(&format!("\n[{table}]\n")).unwrap();
        let section = rest.split("\n[").next().unwrap();
        let (mut keys, mut remark, mut in_list) = (vec![], vec![], false);
        for line in section.lines() {
            let bare = line.trim_start_matches('#');
            if let Some(text) = line.strip_prefix("# ") {
                remark.push(text);
            } else if let Some(list) = bare.strip_prefix(&format!("[[{table}.")) {
                keys.push((list.trim_end_matches(']').to_owned(), remark.join(" ")));
                in_list = true;
            } else if let Some((key, _)) = bare.split_once(" = ").filter(|_| !in_list) {
                keys.push((key.to_owned(), remark.join(" ")));
            }
            if !line.starts_with("# ") {
                remark.clear();
            }
        }
        keys
    }

    #[test]
    fn the_manual_names_every_key_and_says_what_the_code_says() {
        for (table, source) in SOURCES {
            let keys = keys(table);
            let fields = fields(source);
            assert!(!fields.is_empty(), "[{table}]");
            for (name, comment) in &fields {
                let (_, remark) = keys.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("{table}.{name}"));
                assert!(remark.starts_with(comment), "{table}.{name}\n code:   {comment}\n manual: {remark}");
            }
            for (key, _) in &keys {
                assert!(fields.iter().any(|(name, _)| name == key), "{table}.{key} is no key of the code");
            }
        }
    }

    #[test]
    fn the_manual_changes_nothing_as_it_stands() {
        fn same<T: Debug + PartialEq + Default + DeserializeOwned + Serialize>(settings: &Settings, table: &str) {
            assert_eq!(settings.table::<T>(table).unwrap(), T::default(), "[{table}]");
            for key in toml::Table::try_from(T::default()).unwrap().keys() {
                assert!(keys(table).iter().any(|(known, _)| known == key), "{table}.{key}");
            }
        }
        let settings = Settings::from_text("tomte.toml", MANUAL).unwrap();
        same::<shared::logging::Config>(&settings, "log");
        same::<shared::admin::Config>(&settings, "admin");
        same::<shared::transcript::Config>(&settings, "transcript");
        same::<shared::accounts::Config>(&settings, "accounts");
        same::<shared::tls::Config>(&settings, "tls");
        same::<wordlength::Config>(&settings, "wordlength");
        same::<web::Config>(&settings, "web");
        same::<dns::Config>(&settings, "dns");
        same::<pop3::Config>(&settings, "pop3");
        same::<smtp::Config>(&settings, "smtp");
    }

    #[test]
    fn the_examples_behind_number_signs_are_right_and_complete() {
        let uncovered = |line: &str| match line.strip_prefix('#') {
            Some(example) if !example.starts_with(' ') && !example.is_empty() => example.to_owned(),
            _ => line.to_owned(),
        };
        let text: Vec<String> = MANUAL.lines().map(uncovered).collect();
        let settings = Settings::from_text("tomte.toml", &text.join("\n")).unwrap();
        check_tables(&settings).unwrap();
        let web: web::Config = settings.table("web").unwrap();
        assert_eq!((web.redirect.len(), web.protect.len(), web.site.len()), (1, 1, 1));
        // A site shows every key that it can have.
        let site = &web.site[0];
        assert!(site.docroot.is_some() && site.index.is_some() && site.listing.is_some() && site.charset.is_some());
        let lists = [site.aliases.len(), site.types.len(), site.redirect.len(), site.deny.len(), site.protect.len()];
        assert!(!lists.contains(&0), "{lists:?}");
    }
}
