//! `tomte`: the whole lab network in one process, and the commands that look into it.
//!
//! ```text
//!   lab.toml --> up: unpack the site, make certificates, bind every host's daemons, run them on one runtime
//!                 |
//!                 +-- admin.sock <-- status, events, zone reload
//! ```
//!
//! Reading order: [`hosts`] (what lab.toml says), [`state`] (what lies on disk), [`up`] (the lab itself), then the
//! commands that ask a running one: [`client`], [`events`], [`status`], [`zone`] ... Of the accounts the file counts, whether the lab runs or
//! not: [`user`].

mod hosts;
mod state;
mod trace;
mod up;

mod client;
mod events;
mod status;
mod zone;

mod cache;
mod check;
mod queue;
mod switch;

mod hidden;
mod terminal;
mod user;

use clap::{Parser, Subcommand};
use shared::{
    admin::Switch,
    daemon::{EXIT_CONFIG, StartError},
};
use std::process::ExitCode;

const EXAMPLES: &str = "Examples:\n  \
    tomte up                            all of the lab, on loopback\n  \
    tomte up www.someschool.edu         one host of it\n  \
    tomte events                        what is said, live (in another terminal)\n  \
    tomte events --daemon web --full    only the web, with all header fields\n  \
    tomte events --past | grep MX       what was said up to now\n  \
    tomte status                        who serves where\n  \
    tomte stop mail.hamburger.edu       one host goes off; start brings it back\n  \
    tomte zone reload ns.crepes.fr      after its zone file was changed\n  \
    tomte dns trace www.someschool.edu  who asks whom for a name\n  \
    tomte cache list                    what the local name servers remember\n  \
    tomte queue list                    the mail that waits, for whom, and why\n  \
    tomte user add carol                one more who can log in\n  \
    tomte check-config FILE             what a start would find wrong\n";

/// A lab network of small, real internet servers
#[derive(Debug, Parser)]
#[command(name = "tomte", version, before_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the lab, or some hosts of it, in this process
    #[command(before_help = up::EXAMPLES)]
    Up(up::Arguments),
    /// Switch hosts of the running lab off
    #[command(before_help = switch::EXAMPLES)]
    Stop(switch::Arguments),
    /// Switch them on again
    #[command(before_help = switch::EXAMPLES)]
    Start(switch::Arguments),
    /// Show who serves where
    #[command(before_help = status::EXAMPLES)]
    Status(status::Arguments),
    /// Follow what is said on the wire, with the time of your clock (--json has UTC)
    #[command(before_help = events::EXAMPLES)]
    Events(events::Arguments),
    /// Check zone files, and tell name servers to read them anew
    #[command(subcommand, before_help = zone::EXAMPLES)]
    Zone(zone::Command),
    /// Show what the local name servers remember, or make them forget
    #[command(subcommand, before_help = cache::EXAMPLES)]
    Cache(cache::Command),
    /// Show the mail that waits, or make it go on
    #[command(subcommand, before_help = queue::EXAMPLES)]
    Queue(queue::Command),
    /// Show who can log in, and change it
    #[command(subcommand, before_help = user::EXAMPLES)]
    User(user::Command),
    /// See how a name is found
    #[command(subcommand, before_help = trace::EXAMPLES)]
    Dns(trace::Command),
    /// Say whether configuration files are right
    #[command(before_help = check::EXAMPLES)]
    CheckConfig(check::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Up(arguments) => up::up(&arguments),
        Command::Stop(arguments) => switch::switch(Switch::Stop, &arguments),
        Command::Start(arguments) => switch::switch(Switch::Start, &arguments),
        Command::Status(arguments) => status::status(&arguments),
        Command::Events(arguments) => events::events(&arguments),
        Command::Zone(command) => zone::zone(&command),
        Command::Cache(command) => cache::cache(&command),
        Command::Queue(command) => queue::queue(&command),
        Command::User(command) => user::user(&command),
        Command::Dns(command) => trace::dns(&command),
        Command::CheckConfig(arguments) => check::check(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let start = error.downcast_ref::<StartError>().map(StartError::exit_code);
            let config = error.downcast_ref::<shared::config::ConfigError>().map(|_| EXIT_CONFIG);
            let code = start.or(config).unwrap_or(1);
            eprintln!("tomte: {}", chain(&error));
            ExitCode::from(code)
        }
    }
}

/// The error and its causes, but those that are told already: many of ours end with what the system said.
fn chain(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |told, cause| match &*told {
        "" => cause,
        told if told.contains(&cause) => told.to_owned(),
        told => format!("{told}: {cause}"),
    })
}

/// `tomte events | head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_help_begins_with_examples() {
        for command in Arguments::command().get_subcommands() {
            let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
            assert!(examples.contains(&format!("  tomte {} ", command.get_name())), "{}", command.get_name());
        }
    }
}
