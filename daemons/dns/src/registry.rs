//! Who keeps the zones, and gives them to those who answer.
//!
//! Zones never change; a new one takes the place of the old one in a new [`World`], which the workers look at before each
//! answer. So no query waits for a change, and none sees half of one.

use crate::{
    authority::{Identity, Zones},
    config::{Config, ZoneFile},
    message::{self, Query, Rcode, Received, UDP_OCTETS_PLAIN, Writer},
    name::Name,
    respond::{Carrier, View, World},
    zone::Zone,
    zonefile,
};
use shared::{Shared, daemon::StartError, transcript::Conversation};
use std::{net::SocketAddr, sync::Arc};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// All zones, as they are served now.
#[derive(Debug)]
pub struct Registry {
    world: watch::Sender<Arc<World>>,
}

/// A message that the zones alone do not answer.
#[derive(Debug)]
pub struct Errand {
    /// Its octets.
    pub message: Vec<u8>,
    /// Who sent it.
    pub peer: SocketAddr,
    /// What carries it.
    pub carrier: Carrier,
}

/// Lets a running server take a new configuration.
#[derive(Clone, Debug)]
pub struct Reloader(pub(crate) Arc<Registry>);

impl Reloader {
    /// Reads all zones anew. Addresses, limits and times stay as they were at the start. No query is lost: whoever is being
    /// answered is answered from the old zones.
    ///
    /// # Errors
    /// A zone is wrong. Then its old data stays, if it was served before; the others are taken.
    pub fn reload(&self, config: &Config) -> Result<(), StartError> {
        self.0.reload(config)
    }
}

pub(crate) fn unfit(problem: String) -> StartError {
    StartError::Unfit { key: "dns.zones".to_owned(), problem }
}

impl Registry {
    /// Reads all zones.
    ///
    /// # Errors
    /// A zone is wrong.
    pub fn open(config: &Config, shared: &Shared) -> Result<Arc<Self>, StartError> {
        let mut zones = vec![];
        for (wanted, _, loaded) in load(config)? {
            zones.push((wanted.view.clone(), Arc::new(loaded.map_err(unfit)?)));
        }
        let identity = if config.identity.is_empty() { &*shared.host } else { &config.identity };
        let world = World {
            everybody: Zones::default(),
            views: vec![],
            identity: Arc::new(Identity::new(&config.version, identity)),
            // RFC 6891 §6.2.3: a datagram of 512 octets is taken by everybody.
            udp_octets_max: config.udp_octets_max.max(UDP_OCTETS_PLAIN as u16),
        };
        let world = with_zones(&world, config, &zones);
        Ok(Arc::new(Self { world: watch::Sender::new(Arc::new(world)) }))
    }

    /// The zones as they are served, now and after each change.
    pub fn world(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// Answers UPDATE, NOTIFY, transfers and whatever is signed. Every message of the answer goes into `answers`, which may be
    /// full for a while: a zone is larger than what a client takes at once.
    pub async fn serve(&self, errand: &Errand, talk: &Conversation, answers: &mpsc::Sender<Vec<u8>>) {
        let (Received::Errand(header) | Received::Query(Query { header, .. })) = message::receive(&errand.message)
        else {
            return;
        };
        let mut answer = vec![0; UDP_OCTETS_PLAIN];
        let mut writer = Writer::new(&mut answer, UDP_OCTETS_PLAIN, header);
        writer.rcode(Rcode::REFUSED);
        let octets = writer.finish();
        answer.truncate(octets);
        talk.note("transfers and changes are not for everybody");
        // Whoever asked may be gone.
        let _ = answers.send(answer).await;
    }

    /// What is to be done without being asked.
    pub async fn run(&self, shutdown: CancellationToken) {
        shutdown.cancelled().await;
    }

    fn reload(&self, config: &Config) -> Result<(), StartError> {
        let old = Arc::clone(&self.world.borrow());
        let (mut zones, mut problems) = (vec![], vec![]);
        for (wanted, name, loaded) in load(config)? {
            match loaded {
                Ok(zone) => zones.push((wanted.view.clone(), Arc::new(zone))),
                Err(problem) => {
                    let kept = old.own_zones(&wanted.view).find(|zone| zone.name() == name.borrow()).cloned();
                    let fate = if kept.is_some() { "the old zone stays" } else { "the zone is not served" };
                    problems.push(format!("{problem} ({fate})"));
                    zones.extend(kept.map(|zone| (wanted.view.clone(), zone)));
                }
            }
        }
        self.world.send_replace(Arc::new(with_zones(&old, config, &zones)));
        if problems.is_empty() { Ok(()) } else { Err(unfit(problems.join("\n"))) }
    }
}

/// A world like `old` with these zones, each with the name of its view.
fn with_zones(old: &World, config: &Config, zones: &[(String, Arc<Zone>)]) -> World {
    let of = |view: &str| zones.iter().filter(|(name, _)| name == view).map(|(_, zone)| Arc::clone(zone)).collect();
    let everybody: Vec<Arc<Zone>> = of("");
    let views = config.views.iter().map(|view| {
        // A zone of the view stands before that of everybody, and of two zones with one name the first is served.
        let mut all: Vec<Arc<Zone>> = of(&view.name);
        let own = all.len();
        all.extend(everybody.iter().cloned());
        View { name: view.name.clone(), clients: view.clients.clone(), own, zones: Zones::new(all) }
    });
    World {
        views: views.collect(),
        everybody: Zones::new(everybody.clone()),
        identity: Arc::clone(&old.identity),
        udp_octets_max: old.udp_octets_max,
    }
}

/// What the configuration says of a zone, its name, and the zone or what is wrong with its file.
type Read<'c> = (&'c ZoneFile, Name, Result<Zone, String>);

/// Reads all zones of a configuration; each by itself may be wrong.
fn load(config: &Config) -> Result<Vec<Read<'_>>, StartError> {
    let mut zones: Vec<Read<'_>> = vec![];
    for wanted in &config.zones {
        let name: Name = wanted.name.parse().map_err(|error| unfit(format!("`{}`: {error}", wanted.name)))?;
        if zones.iter().any(|(other, known, _)| *known == name && other.view == wanted.view) {
            return Err(unfit(format!("the zone {name} stands there twice")));
        }
        if !wanted.view.is_empty() && !config.views.iter().any(|view| view.name == wanted.view) {
            return Err(unfit(format!("{name}: there is no view `{}` among the `views`", wanted.view)));
        }
        let Some(file) = &wanted.file else {
            return Err(unfit(format!("{name} has no `file`")));
        };
        let loaded = match zonefile::load(name.borrow(), file, config.rewrite) {
            Ok(loaded) => {
                loaded.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!(zone = %name, records = loaded.zone.len(), "loaded");
                Ok(loaded.zone)
            }
            Err(errors) => Err(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        };
        zones.push((wanted, name, loaded));
    }
    Ok(zones)
}
