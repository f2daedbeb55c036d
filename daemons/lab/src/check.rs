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
    if text.lines().any(|line| line.trim() == "[[host]]") {
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
    settings.table::<web::Config>("web")?;
    Ok(())
}
