//! Who keeps the zones, and gives them to those who answer.
//!
//! Zones never change; a new one takes the place of the old one in a new [`World`], which the workers look at before
//! each answer. So no query waits for a change, and none sees half of one.
//!
//! ```text
//!   master file + journal --+                        +--> World: who answers queries
//!   UPDATE -----------------+--> Slot: one zone -----+--> differences: who is sent IXFR
//!   transfers from primaries+                        +--> NOTIFY: who should come for a copy
//! ```
//!
//! A slot is one zone of one view. What it may be asked for stands in its rules, which a reload replaces; what it has
//! lives on.
//!
//! # What a change passes through
//!
//! UPDATEs of a zone that come while another one is being written wait, and then go together: one new zone, one
//! fdatasync. The order is: the new zone is made, the journal is on disk, the new world is seen by everybody, the
//! client is told NOERROR.

use crate::{
    acl::Acl,
    authority::{Identity, Zones},
    config::{Config, Dnssec, ZoneFile},
    copy,
    draft::{self, Difference, Draft},
    durable,
    journal::{self, Journal},
    message::{Rcode, UDP_OCTETS_PLAIN},
    name::Name,
    record::{Message, is_newer},
    resolver::views::Resolvers,
    respond::{Carrier, Policy, View, World},
    secondary::{Due, Schedule},
    sign::Signer,
    tsig::{Key, Keyring},
    update::{self, Refusal},
    zone::Zone,
    zonefile::{self, Rewrite},
};
use prometheus_client::metrics::counter::Counter;
use shared::{Shared, check, daemon::StartError, metrics::Metrics, transcript::Transcript};
use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// UPDATEs of one zone that may wait for each other; those beyond are told SERVFAIL and come again.
const WAITING_MAX: usize = 1024;
/// Differences between versions of a zone that are kept for incremental transfers, and how many records they may have.
/// A secondary that is further behind takes the whole zone.
const HISTORY_MAX: usize = 1000;
const HISTORY_RECORDS_MAX: usize = 100_000;

/// Warnings of one zone that are logged: whoever writes a wrong name writes it a thousand times.
const WARNINGS_MAX: usize = 20;
/// How often it is looked whether a zone is to be signed anew: a zone below may have a new key.
const SIGNATURES_CHECK: Duration = Duration::from_secs(30);

/// All zones, as they are served now.
#[derive(Debug)]
pub struct Registry {
    world: watch::Sender<Arc<World>>,
    /// Locked while a world is made, so that of two new ones the newer stays.
    taken: Mutex<Arc<Taken>>,
    pub(crate) transcript: Transcript,
    pub(crate) counters: Counters,
    host: Arc<str>,
    pub(crate) resolvers: Option<Arc<Resolvers>>,
    /// Tells what works in the background that there are other slots.
    pub(crate) reloaded: watch::Sender<()>,
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

/// What a configuration made.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) config: Config,
    pub(crate) keys: Keyring,
    pub(crate) slots: Vec<Arc<Slot>>,
}

/// One zone of one view.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) view: String,
    pub(crate) name: Name,
    pub(crate) rules: Rules,
    /// What signs it, if it is signed here.
    signing: Option<Signing>,
    pub(crate) live: Arc<Live>,
}

/// What a zone is signed with.
#[derive(Debug)]
struct Signing {
    signer: Signer,
    /// The serial that was served last, in digits: with new signatures a zone is another zone, and secondaries must
    /// notice, also after a restart.
    serial: PathBuf,
}

/// What the configuration says of a zone, as far as it is not its data.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) source: Source,
    pub(crate) dnssec: Dnssec,
    pub(crate) transfer: Acl,
    pub(crate) update: Acl,
    pub(crate) notify: Vec<SocketAddr>,
    pub(crate) key: Option<Arc<Key>>,
}

/// Where a zone comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A master file; this server is the primary.
    File(PathBuf),
    /// Other servers; this server is a secondary.
    Primaries(Vec<SocketAddr>),
}

/// What there is of a zone now.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Locked by whoever changes the zone, for as long as that takes.
    kept: Mutex<Kept>,
    /// What is served. Locked for a moment only.
    shown: Mutex<Shown>,
    waiting: Mutex<Vec<Waiting>>,
    /// Held by whoever does what waits.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The zone is another one: tell the secondaries.
    pub(crate) changed: Notify,
    /// The conversation that has changed it.
    pub(crate) changed_by: Mutex<Option<u64>>,
    /// Somebody says that our copy is old: look now.
    pub(crate) refresh: Notify,
    /// Who said so: the primary to begin with, and the conversation.
    pub(crate) said_by: Mutex<Option<(IpAddr, u64)>>,
    /// When to look, if this is a copy.
    pub(crate) schedule: Mutex<Option<Schedule>>,
}

/// The zone as it is changed.
#[derive(Debug, Default)]
struct Kept {
    /// What file and journal make, or what the primary sent.
    content: Option<Arc<Zone>>,
    journal: Option<Journal>,
}

/// The zone as it is served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shown {
    /// None before the first transfer, and after a copy has expired.
    pub(crate) zone: Option<Arc<Zone>>,
    /// How it came to be so; each begins where the one before ends, and the last one ends at the zone's serial.
    pub(crate) history: Arc<Vec<Arc<Difference>>>,
}

/// An UPDATE that waits for its turn, and for its answer.
#[derive(Debug)]
struct Waiting {
    message: Message,
    answer: oneshot::Sender<Result<Done, Refusal>>,
}

/// What an UPDATE did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// All was as it should be already.
    Nothing,
    /// The zone has this serial now.
    Changed(u32),
}

/// What is counted.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) updates_changed: Counter,
    pub(crate) updates_unchanged: Counter,
    pub(crate) updates_refused: Counter,
    pub(crate) updates_failed: Counter,
    pub(crate) transfers_whole: Counter,
    pub(crate) transfers_incremental: Counter,
    pub(crate) transfers_refused: Counter,
    pub(crate) notifies_accepted: Counter,
    pub(crate) notifies_refused: Counter,
    pub(crate) notifies_acknowledged: Counter,
    pub(crate) notifies_unanswered: Counter,
    pub(crate) refreshes_current: Counter,
    pub(crate) refreshes_transferred: Counter,
    pub(crate) refreshes_failed: Counter,
    pub(crate) signatures_refused: Counter,
}

impl Counters {
    fn new(metrics: &Metrics) -> Self {
        let updates = |outcome| metrics.labelled("updates", "UPDATE messages by outcome", &[("outcome", outcome)]);
        let transfers = |kind| metrics.labelled("transfers", "Zone transfers that were asked of us", &[("kind", kind)]);
        let heard =
            |outcome| metrics.labelled("notifies_received", "NOTIFY messages received", &[("outcome", outcome)]);
        let sent = |outcome| metrics.labelled("notifies_sent", "Servers that were notified", &[("outcome", outcome)]);
        let refreshes =
            |outcome| metrics.labelled("refreshes", "Looks at a primary by outcome", &[("outcome", outcome)]);
        Self {
            updates_changed: updates("changed"),
            updates_unchanged: updates("unchanged"),
            updates_refused: updates("refused"),
            updates_failed: updates("failed"),
            transfers_whole: transfers("whole"),
            transfers_incremental: transfers("incremental"),
            transfers_refused: transfers("refused"),
            notifies_accepted: heard("accepted"),
            notifies_refused: heard("refused"),
            notifies_acknowledged: sent("acknowledged"),
            notifies_unanswered: sent("unanswered"),
            refreshes_current: refreshes("current"),
            refreshes_transferred: refreshes("transferred"),
            refreshes_failed: refreshes("failed"),
            signatures_refused: metrics.counter("signatures_refused", "Signed messages that could not be believed"),
        }
    }
}

/// Makes the keys that are not there yet of all zones that are signed here, and leaves their DS records. A server does
/// so when it starts; where several start together, all keys should be there before the first zone is signed.
///
/// # Errors
/// A key cannot be read or made.
pub fn make_keys(config: &Config) -> Result<(), StartError> {
    for wanted in config.zones.iter().filter(|zone| zone.dnssec == Dnssec::Sign) {
        let name: Name = wanted.name.parse().map_err(|error| unfit(format!("`{}`: {error}", wanted.name)))?;
        signer(&name, config)?;
    }
    Ok(())
}

fn signer(name: &Name, config: &Config) -> Result<Signer, StartError> {
    Signer::open(name.borrow(), &config.state.join("keys"), &config.ds_dir)
        .map_err(|error| unfit(format!("{name} cannot be signed: {error}")))
}

pub(crate) fn unfit(problem: String) -> StartError {
    StartError::Unfit { key: "dns.zones".to_owned(), problem }
}

/// A panic while one of these was locked leaves them whole: they are only replaced.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Reads all zones.
    ///
    /// # Errors
    /// A zone is wrong.
    pub fn open(config: &Config, shared: &Shared) -> Result<Arc<Self>, StartError> {
        config.refuse_unsafe()?;
        let taken = Taken::new(config, &[])?;
        for slot in &taken.slots {
            slot.load(config).map_err(unfit)?;
        }
        let resolvers = Resolvers::open(config, shared)?;
        let world = taken.world(Arc::new(Policy::new(config)?), resolvers.as_deref(), &shared.host);
        Ok(Arc::new(Self {
            resolvers,
            world: watch::Sender::new(Arc::new(world)),
            taken: Mutex::new(Arc::new(taken)),
            transcript: shared.transcript.clone(),
            counters: Counters::new(&shared.metrics),
            host: Arc::clone(&shared.host),
            reloaded: watch::Sender::new(()),
        }))
    }

    /// The zones as they are served, now and after each change.
    pub fn world(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    /// Signs zones anew that are signed here, in time.
    pub async fn keep_signed(self: Arc<Self>, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(SIGNATURES_CHECK)).await.is_some() {
            let registry = Arc::clone(&self);
            // A large zone takes a while.
            let work = tokio::task::spawn_blocking(move || {
                for slot in &registry.taken().slots {
                    match slot.renew_signatures() {
                        Ok(true) => registry.publish(),
                        Ok(false) => {}
                        Err(error) => tracing::error!(zone = %slot.name, %error, "the zone cannot be signed anew"),
                    }
                }
            });
            if let Err(error) = work.await {
                tracing::error!(%error, "signing ended in a panic");
            }
        }
    }

    /// Reads all zones anew, with the configuration as it was; what is doubtful in them.
    pub(crate) fn zones_reload(&self) -> Result<Vec<String>, StartError> {
        self.reload(&self.taken().config.clone())
    }

    /// Takes a configuration and its zones; what is doubtful in them.
    pub(crate) fn reload(&self, config: &Config) -> Result<Vec<String>, StartError> {
        let old = self.taken();
        // What is wrong here is wrong with the configuration as a whole: nothing is taken.
        config.refuse_unsafe()?;
        let mut fresh = Taken::new(config, &old.slots)?;
        let (mut well, mut problems, mut doubts) = (0, vec![], vec![]);
        fresh.slots.retain(|slot| match slot.load(config) {
            Ok(doubtful) => {
                well += 1;
                doubts.extend(doubtful);
                true
            }
            Err(problem) => {
                let is_served = slot.shown().zone.is_some();
                let fate = if is_served { "the old zone stays" } else { "the zone is not served" };
                problems.push(format!("{problem} ({fate})"));
                is_served
            }
        });
        *lock(&self.taken) = Arc::new(fresh);
        self.publish();
        self.reloaded.send_replace(());
        if problems.is_empty() {
            Ok(doubts)
        } else {
            let not_taken = if problems.len() == 1 { "a zone was" } else { "some zones were" };
            let others = match well {
                0 => String::new(),
                1 => ", the other one was".to_owned(),
                _ => format!(", the {well} others were"),
            };
            Err(unfit(format!("{not_taken} not taken{others}:\n{}", problems.join("\n"))))
        }
    }

    /// What the last configuration made.
    pub(crate) fn taken(&self) -> Arc<Taken> {
        Arc::clone(&lock(&self.taken))
    }

    /// Shows everybody what the slots have now.
    pub(crate) fn publish(&self) {
        let taken = lock(&self.taken);
        let policy = Arc::clone(&self.world.borrow().policy);
        let world = taken.world(policy, self.resolvers.as_deref(), &self.host);
        self.world.send_replace(Arc::new(world));
    }

    /// Does what an UPDATE asks for. When this returns [`Done`], it is on disk and served.
    ///
    /// # Errors
    /// It is not done.
    pub(crate) async fn update(self: &Arc<Self>, slot: Arc<Slot>, message: Message) -> Result<Done, Refusal> {
        let failed = |because: &str| Refusal { rcode: Rcode::SERVFAIL, because: because.to_owned() };
        let (answer, done) = oneshot::channel();
        {
            let mut waiting = lock(&slot.live.waiting);
            if waiting.len() >= WAITING_MAX {
                return Err(failed("too many updates of this zone wait already"));
            }
            waiting.push(Waiting { message, answer });
        }
        let turn = Arc::clone(&slot.live.turn).lock_owned().await;
        // Whoever had the turn before us may have done ours with his own.
        let batch = std::mem::take(&mut *lock(&slot.live.waiting));
        if !batch.is_empty() {
            let registry = Arc::clone(self);
            let work = tokio::task::spawn_blocking(move || {
                registry.commit(&slot, batch);
                drop(turn);
            });
            if let Err(error) = work.await {
                tracing::error!(%error, "an update ended in a panic");
            }
        }
        done.await.unwrap_or_else(|_| Err(failed("the update could not be finished")))
    }

    /// Does all that waits.
    fn commit(&self, slot: &Slot, batch: Vec<Waiting>) {
        let mut kept = lock(&slot.live.kept);
        let (mut results, mut differences) = (vec![], vec![]);
        let mut zone = None;
        if let Some(content) = &kept.content {
            let mut draft = Draft::new(Arc::clone(content));
            for Waiting { message, answer } in batch {
                let result = match update::perform(&mut draft, &message) {
                    Ok(Some(difference)) => {
                        let serial = difference.to;
                        differences.push(difference);
                        Ok(Done::Changed(serial))
                    }
                    Ok(None) => Ok(Done::Nothing),
                    Err(refusal) => {
                        draft.roll_back();
                        Err(refusal)
                    }
                };
                results.push((result, answer));
            }
            zone = Some(draft);
        } else {
            let refusal = Refusal { rcode: Rcode::SERVFAIL, because: "the zone has no data".to_owned() };
            results.extend(batch.into_iter().map(|waiting| (Err(refusal.clone()), waiting.answer)));
        }
        if !differences.is_empty()
            && let Some(draft) = zone
            && let Err(error) = self.take(slot, &mut kept, draft, differences)
        {
            tracing::error!(zone = %slot.name, %error, "an update cannot be kept");
            // Whoever was told that all is well already may have been told so because of a change that is not kept.
            for (result, _) in results.iter_mut().filter(|(result, _)| result.is_ok()) {
                *result = Err(Refusal { rcode: Rcode::SERVFAIL, because: "the journal cannot be written".to_owned() });
            }
        }
        for (result, answer) in results {
            // Whoever asked may be gone.
            let _ = answer.send(result);
        }
        if let Some(journal) = kept.journal.as_mut().filter(|journal| journal.is_long())
            && let Err(error) = journal.compact(slot.name.borrow())
        {
            tracing::warn!(zone = %slot.name, %error, "the journal stays long");
        }
    }

    /// Makes changes durable, then seen.
    fn take(&self, slot: &Slot, kept: &mut Kept, draft: Draft, differences: Vec<Difference>) -> Result<(), String> {
        let zone = Arc::new(draft.finish().map_err(|error| error.to_string())?);
        let journal = kept.journal.as_mut().ok_or("there is no journal")?;
        journal.append(&differences).map_err(|error| error.to_string())?;
        kept.content = Some(Arc::clone(&zone));
        if let Err(error) = slot.show(Some(zone), How::Through(differences)) {
            // It is on disk, and will be served with the next change.
            tracing::error!(zone = %slot.name, %error, "a change cannot be served");
        }
        self.publish();
        slot.live.changed.notify_one();
        Ok(())
    }

    /// What a copy has, also if it is not served.
    pub(crate) fn copy_of(slot: &Slot) -> Option<Arc<Zone>> {
        lock(&slot.live.kept).content.clone()
    }

    /// Serves what a primary has sent, or serves again what has been checked.
    pub(crate) fn show_copy(&self, slot: &Slot, zone: &Arc<Zone>, how: How) {
        lock(&slot.live.kept).content = Some(Arc::clone(zone));
        if let Err(error) = slot.show(Some(Arc::clone(zone)), how) {
            tracing::error!(zone = %slot.name, %error, "a new version cannot be served");
        }
        self.publish();
        // RFC 1996 §3.11: a secondary tells those who copy from it.
        slot.live.changed.notify_one();
    }

    /// Serves the copy no longer. It is kept: a primary may say that it is still the newest.
    pub(crate) fn hide_copy(&self, slot: &Slot) {
        if let Err(error) = slot.show(None, How::Whole) {
            tracing::error!(zone = %slot.name, %error, "the copy is still served");
        }
        self.publish();
    }
}

/// How a new version of a zone came to be.
#[derive(Debug)]
pub(crate) enum How {
    /// By these differences.
    Through(Vec<Difference>),
    /// As a whole: how it differs is to be found out.
    Whole,
}

impl Slot {
    /// What is served.
    pub(crate) fn shown(&self) -> Shown {
        lock(&self.live.shown).clone()
    }

    /// A file of this zone below `state`.
    pub(crate) fn path(&self, config: &Config, what: &str) -> PathBuf {
        journal::path(&config.state, &self.view, self.name.borrow(), what)
    }

    /// Serves another version. The world is to be made anew afterwards.
    ///
    /// # Errors
    /// It cannot be signed; what was served stays.
    fn show(&self, zone: Option<Arc<Zone>>, how: How) -> Result<(), String> {
        let before = self.shown();
        let served = zone.map(|content| self.dress(content, before.zone.as_ref())).transpose()?;
        let differences = match (how, self.rules.dnssec) {
            (How::Through(differences), Dnssec::AsIs) => differences,
            _ => match (&before.zone, &served) {
                (Some(old), Some(new)) if is_newer(new.serial(), old.serial()) => {
                    draft::between(old, new).into_iter().collect()
                }
                _ => vec![],
            },
        };
        let mut history = Vec::clone(&before.history);
        history.extend(differences.into_iter().map(Arc::new));
        let serial = served.as_ref().map(|zone| zone.serial());
        *lock(&self.live.shown) = Shown { zone: served, history: Arc::new(trim(history, serial)) };
        Ok(())
    }

    /// The zone as it is served: its content, and signatures if we make them.
    fn dress(&self, content: Arc<Zone>, before: Option<&Arc<Zone>>) -> Result<Arc<Zone>, String> {
        let Some(Signing { signer, serial: path }) = &self.signing else { return Ok(content) };
        let sign = |serial| {
            let before = before.map(Arc::as_ref);
            signer.sign(&content, before, SystemTime::now(), serial).map_err(|error| error.to_string())
        };
        // A zone that is read again is the same more often than not.
        if let Some(before) = before
            && draft::is_same(before, &sign(before.serial())?)
        {
            return Ok(Arc::clone(before));
        }
        let last = fs::read_to_string(path).ok().and_then(|digits| digits.trim().parse::<u32>().ok());
        let serial = match last {
            Some(last) if !is_newer(content.serial(), last) => last.wrapping_add(1),
            _ => content.serial(),
        };
        let signed = sign(serial)?;
        // Before anybody sees it: after a crash the next serial is newer than any that was seen.
        durable::replace(path, format!("{serial}\n").as_bytes(), durable::Readers::All)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        tracing::info!(zone = %self.name, serial, records = signed.len(), "signed");
        Ok(Arc::new(signed))
    }

    /// Signs the zone anew, if it is time. Returns whether it is another zone now.
    ///
    /// # Errors
    /// It cannot be signed; what was served stays.
    pub(crate) fn renew_signatures(&self) -> Result<bool, String> {
        let is_due = |zone: &Zone| self.signing.as_ref().is_some_and(|it| it.signer.is_due(zone, SystemTime::now()));
        if !self.shown().zone.is_some_and(|zone| is_due(&zone)) {
            return Ok(false);
        }
        let kept = lock(&self.live.kept);
        self.show(kept.content.clone(), How::Whole)?;
        self.live.changed.notify_one();
        Ok(true)
    }

    /// Reads the zone from disk: master file and journal, or the copy of a secondary. What is doubtful in it is returned, and logged.
    ///
    /// # Errors
    /// What is wrong, and what would be right. Then all is as it was.
    fn load(&self, config: &Config) -> Result<Vec<String>, String> {
        let mut kept = lock(&self.live.kept);
        match &self.rules.source {
            Source::File(file) => {
                let path = self.path(config, "journal");
                let Loaded { zone, journal, history, mut warnings } = load(&self.name, file, config.rewrite, &path)?;
                // First what was done, then what was written.
                warnings.splice(..0, kept.content.as_ref().and_then(|old| self.unnoticed(old, &zone, file)));
                for warning in warnings.iter().take(WARNINGS_MAX) {
                    tracing::warn!("{warning}");
                }
                if let Some(more) = warnings.len().checked_sub(WARNINGS_MAX).filter(|more| *more > 0) {
                    tracing::warn!(zone = %self.name, more, "has more to be warned of; `tomte zone check` tells all");
                }
                tracing::info!(zone = %self.name, records = zone.len(), serial = zone.serial(), "loaded");
                let before = self.shown();
                let is_changed = before.zone.as_ref().is_none_or(|old| old.serial() != zone.serial());
                *kept = Kept { content: Some(Arc::clone(&zone)), journal: Some(journal) };
                if before.zone.is_none() {
                    self.show(Some(zone), How::Through(history))?;
                } else {
                    self.show(Some(zone), How::Whole)?;
                }
                if is_changed {
                    self.live.changed.notify_one();
                }
                warnings.truncate(WARNINGS_MAX);
                Ok(warnings)
            }
            Source::Primaries(_) => {
                let mut schedule = lock(&self.live.schedule);
                // A copy lives on over a reload.
                if schedule.is_some() {
                    return Ok(vec![]);
                }
                let now = SystemTime::now();
                let copy = copy::load(&self.path(config, "copy"), &self.name);
                *schedule = Some(Schedule::new(now, copy.as_ref().map(|(_, soa, checked)| (*soa, *checked))));
                if let Some((zone, ..)) = copy {
                    tracing::info!(zone = %self.name, records = zone.len(), serial = zone.serial(), "a copy was kept");
                    kept.content = Some(Arc::clone(&zone));
                    // One that has expired meanwhile is not served: it may be that a primary says that it is still the
                    // newest.
                    if schedule.as_ref().is_some_and(|schedule| schedule.due(now) != Due::Expire) {
                        self.show(Some(zone), How::Whole)?;
                    }
                }
                Ok(vec![])
            }
        }
    }

    /// RFC 1034 §4.3.5: secondaries look at the serial alone. A zone that we sign gets a new one from us.
    fn unnoticed(&self, old: &Zone, new: &Zone, file: &Path) -> Option<String> {
        let (name, was, is, file) = (&self.name, old.serial(), new.serial(), file.display());
        let cure = |serial: u32| format!("write {serial} into the SOA record of {file} and reload it again");
        if self.signing.is_some() {
            None
        } else if was == is && !draft::is_same(old, new) {
            let next = cure(was.wrapping_add(1));
            Some(format!(
                "{name}: the zone has changed and its serial is {was} as before, so no secondary will notice: {next}"
            ))
        } else if is_newer(was, is) {
            let next = cure(was.wrapping_add(1));
            Some(format!(
                "{name}: the serial {is} is older than the one before, {was}, so no secondary will take the zone: {next}"
            ))
        } else {
            None
        }
    }
}

/// What of a history leads to the serial that is served, and how much of it is worth keeping.
fn trim(mut history: Vec<Arc<Difference>>, serial: Option<u32>) -> Vec<Arc<Difference>> {
    let (mut wanted, mut records, mut begin) = (serial, 0, history.len());
    while begin > 0 && Some(history[begin - 1].to) == wanted && history.len() - begin < HISTORY_MAX {
        records += history[begin - 1].len();
        if records > HISTORY_RECORDS_MAX {
            break;
        }
        begin -= 1;
        wanted = Some(history[begin].from);
    }
    history.drain(..begin);
    history
}

/// A zone with what UPDATE has made of it.
struct Loaded {
    zone: Arc<Zone>,
    journal: Journal,
    history: Vec<Difference>,
    warnings: Vec<String>,
}

fn load(name: &Name, file: &Path, rewrite: Rewrite, path: &Path) -> Result<Loaded, String> {
    let loaded = zonefile::load(name.borrow(), file, rewrite)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))?;
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut zone = Arc::new(loaded.zone);
    let opened = Journal::open(path, name.borrow(), zone.serial()).map_err(|error| error.to_string())?;
    warnings.extend(opened.warnings);
    if !opened.replay.is_empty() {
        let mut draft = Draft::new(zone);
        for difference in &opened.replay {
            let misfits = draft.apply(difference);
            // The file was edited and its serial was not. What was promised to the clients is kept as far as it goes.
            if let Some(misfit) = misfits.first() {
                let (file, serial, count) = (file.display(), difference.from, misfits.len());
                warnings.push(format!(
                    "{file}: the file was changed but not its serial, so the change by UPDATE from {serial} does not fit \
                     in {count} places: {misfit}"
                ));
            }
        }
        zone = Arc::new(draft.finish().map_err(|error| error.to_string())?);
    }
    let history = opened.history.into_iter().chain(opened.replay).collect();
    Ok(Loaded { zone, journal: opened.journal, history, warnings })
}

/// A zone as the configuration wants it.
type Wanted = (Name, Rules);

/// The keys, and of each zone its name and its rules, as far as they are right; and all that is not.
fn read(config: &Config) -> (Keyring, Vec<Option<Wanted>>, Vec<StartError>) {
    let (mut keys, mut named, mut problems) = (vec![], vec![], vec![]);
    for (at, key) in config.keys.iter().enumerate() {
        match Key::new(&key.name, &key.algorithm, &key.secret) {
            Ok(key) => keys.push(key),
            Err(error) => problems.push(StartError::unfit(format!("dns.keys[{at}]"), error)),
        }
    }
    let keys = Keyring::new(keys);
    let mut seen: Vec<(Name, &str)> = vec![];
    for (at, wanted) in config.zones.iter().enumerate() {
        let mut look = || {
            let name: Name = wanted.name.parse().map_err(|error| format!("`{}`: {error}", wanted.name))?;
            if seen.iter().any(|(other, view)| *other == name && *view == wanted.view) {
                return Err(format!("the zone {name} stands there twice; take one of them out"));
            }
            seen.push((name.clone(), &wanted.view));
            if !wanted.view.is_empty() && !config.views.iter().any(|view| view.name == wanted.view) {
                return Err(format!("{name}: there is no view `{}` among the `views`", wanted.view));
            }
            let rules = Rules::new(wanted, &keys).map_err(|problem| format!("{name}: {problem}"))?;
            Ok((name, rules))
        };
        let found = look().map_err(|problem| problems.push(StartError::unfit(format!("dns.zones[{at}]"), problem)));
        named.push(found.ok());
    }
    (keys, named, problems)
}

/// All that is wrong with keys and zones, found without writing anything. Whether a journal fits its zone is seen only by who opens it.
pub(crate) fn check(config: &Config) -> Vec<StartError> {
    let (_, named, mut problems) = read(config);
    let mut writable = |path: &Path, key: &str| {
        problems.extend(check::directory(path).err().map(|problem| StartError::unfit(format!("dns.{key}"), problem)));
    };
    let is_signed = config.zones.iter().any(|zone| zone.dnssec == Dnssec::Sign);
    if is_signed || config.zones.iter().any(|zone| !zone.update.is_empty() || !zone.primaries.is_empty()) {
        writable(&config.state, "state");
    }
    if is_signed {
        writable(&config.ds_dir, "ds_dir");
    }
    for (at, (name, rules)) in named.iter().enumerate().filter_map(|(at, named)| Some((at, named.as_ref()?))) {
        if let Source::File(file) = &rules.source
            && let Err(errors) = zonefile::load(name.borrow(), file, config.rewrite)
        {
            let told = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            problems.push(StartError::unfit(format!("dns.zones[{at}].file"), told));
        }
    }
    problems
}

impl Taken {
    /// Looks at a configuration; what lives on of the `old` slots is taken over.
    fn new(config: &Config, old: &[Arc<Slot>]) -> Result<Self, StartError> {
        let (keys, named, problems) = read(config);
        StartError::all(problems)?;
        let mut slots: Vec<Arc<Slot>> = vec![];
        for (wanted, (name, rules)) in config.zones.iter().zip(named.into_iter().flatten()) {
            let known = old.iter().find(|slot| slot.name == name && slot.view == wanted.view);
            // A zone that was copied and is a file now is another zone, and so is a copy from elsewhere.
            let known = known.filter(|slot| match (&slot.rules.source, &rules.source) {
                (Source::File(_), Source::File(_)) => true,
                (one, other) => one == other,
            });
            let live = known.map_or_else(Arc::default, |slot| Arc::clone(&slot.live));
            let signing = match rules.dnssec {
                Dnssec::AsIs => None,
                Dnssec::Sign => {
                    let signer = signer(&name, config)?;
                    let serial = journal::path(&config.state, &wanted.view, name.borrow(), "serial");
                    Some(Signing { signer, serial })
                }
            };
            let slot = Slot { view: wanted.view.clone(), name, rules, signing, live };
            if !wanted.update.is_empty() || matches!(slot.rules.source, Source::Primaries(_)) {
                // Better now than when the first change cannot be kept.
                let path = slot.path(config, "journal");
                let directory = path.parent().unwrap_or(&config.state);
                durable::make_directory(directory).map_err(|error| StartError::Unfit {
                    key: "dns.state".to_owned(),
                    problem: format!("cannot make {}: {error}", directory.display()),
                })?;
            }
            slots.push(Arc::new(slot));
        }
        Ok(Self { config: config.clone(), keys, slots })
    }

    /// The view that a client is in; everybody's is empty.
    fn view_of(&self, client: IpAddr) -> &str {
        let is_in = |view: &&crate::config::View| view.clients.iter().any(|network| network.contains(client));
        self.config.views.iter().find(is_in).map_or("", |view| &view.name)
    }

    /// The zone of exactly this name that a client sees.
    pub(crate) fn slot(&self, client: IpAddr, name: &Name) -> Option<&Arc<Slot>> {
        let view = self.view_of(client);
        let of = |view: &str| self.slots.iter().find(|slot| slot.view == view && slot.name == *name);
        of(view).or_else(|| of(""))
    }

    /// A world with what the slots have now.
    fn world(&self, policy: Arc<Policy>, resolvers: Option<&Resolvers>, host: &str) -> World {
        let Self { config, slots, .. } = self;
        let of = |view: &str| -> (Vec<Arc<Zone>>, Vec<Name>) {
            let (mut zones, mut absent) = (vec![], vec![]);
            for slot in slots.iter().filter(|slot| slot.view == view) {
                match slot.shown().zone {
                    Some(zone) => zones.push(zone),
                    None => absent.push(slot.name.clone()),
                }
            }
            (zones, absent)
        };
        let (everybody, everybodys_absent) = of("");
        let views = config.views.iter().map(|view| {
            // A zone of the view stands before that of everybody, and of two zones with one name the first is served.
            let (mut all, mut absent) = of(&view.name);
            let own = all.len();
            let resolver = resolvers.map(|resolvers| match own + absent.len() {
                0 => Arc::clone(resolvers.everybodys()),
                _ => resolvers.of_view(&view.name),
            });
            let is_hidden = |name: &Name| all[..own].iter().any(|zone| zone.name() == name.borrow());
            absent.extend(everybodys_absent.iter().filter(|name| !is_hidden(name)).cloned());
            all.extend(everybody.iter().cloned());
            let zones = Arc::new(Zones::new(all).with_absent(absent));
            View { name: view.name.clone(), clients: view.clients.clone(), own, zones, resolver }
        });
        if let Some(resolvers) = resolvers {
            resolvers.retain(|name| config.views.iter().any(|view| view.name == name));
        }
        let identity = if config.identity.is_empty() { host } else { &config.identity };
        World {
            views: views.collect(),
            everybody: Arc::new(Zones::new(everybody.clone()).with_absent(everybodys_absent.clone())),
            identity: Arc::new(Identity::new(&config.version, identity)),
            policy,
            resolver: resolvers.map(|resolvers| Arc::clone(resolvers.everybodys())),
            // RFC 6891 §6.2.3: a datagram of 512 octets is taken by everybody.
            udp_octets_max: config.udp_octets_max.max(UDP_OCTETS_PLAIN as u16),
        }
    }
}

impl Rules {
    fn new(wanted: &ZoneFile, keys: &Keyring) -> Result<Self, String> {
        let names = keys.names();
        let acl =
            |what: &str, lines: &[String]| Acl::parse(lines, &names).map_err(|error| format!("`{what}`: {error}"));
        let source = match (&wanted.file, &wanted.primaries[..]) {
            (Some(file), []) => Source::File(file.clone()),
            (None, []) => return Err("there is no `file`, and there are no `primaries` to copy it from".to_owned()),
            (None, primaries) if wanted.update.is_empty() => Source::Primaries(primaries.to_vec()),
            (None, _) => return Err("a copy is not changed here: `update` belongs to the primary".to_owned()),
            (Some(_), _) => {
                return Err("there is a `file`, and there are `primaries`: a zone comes from one of them".to_owned());
            }
        };
        let key = match &*wanted.key {
            "" => None,
            name => {
                let known = name.parse().ok().and_then(|name| keys.find(&name).cloned());
                Some(known.ok_or_else(|| format!("there is no key `{name}` among the `keys`"))?)
            }
        };
        Ok(Self {
            source,
            dnssec: wanted.dnssec,
            transfer: acl("transfer", &wanted.transfer)?,
            update: acl("update", &wanted.update)?,
            notify: wanted.notify.clone(),
            key,
        })
    }
}
