//! One local name server for everybody, and one for each view that has zones of its own (split DNS): what is found below its zones is
//! nothing to others, and a cache that is not shared cannot tell them.

use super::{Resolver, prime};
use crate::config::Config;
use shared::{Shared, admin::CacheQuestion, daemon::StartError};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};
use tokio::{sync::mpsc, task::JoinSet};

/// All of a server's.
#[derive(Debug)]
pub struct Resolvers {
    everybodys: Arc<Resolver>,
    by_view: Mutex<HashMap<String, Arc<Resolver>>>,
    fresh: mpsc::UnboundedSender<Weak<Resolver>>,
    unprimed: tokio::sync::Mutex<mpsc::UnboundedReceiver<Weak<Resolver>>>,
}

impl Resolvers {
    /// Everybody's, if the configuration wants one.
    ///
    /// # Errors
    /// See [`Resolver::open`].
    pub fn open(config: &Config, shared: &Shared) -> Result<Option<Arc<Self>>, StartError> {
        let Some(everybodys) = Resolver::open(config, shared)? else { return Ok(None) };
        let (fresh, unprimed) = mpsc::unbounded_channel();
        let resolvers = Self { everybodys, by_view: Mutex::default(), fresh, unprimed: unprimed.into() };
        resolvers.is_fresh(&resolvers.everybodys);
        Ok(Some(Arc::new(resolvers)))
    }

    /// Everybody's.
    pub fn everybodys(&self) -> &Arc<Resolver> {
        &self.everybodys
    }

    /// That of a view with zones of its own, which is made when it is first wanted.
    pub(crate) fn of_view(&self, view: &str) -> Arc<Resolver> {
        let mut by_view = self.lock();
        let made = by_view.entry(view.to_owned()).or_insert_with(|| {
            let resolver = Arc::new(self.everybodys.apart());
            self.is_fresh(&resolver);
            resolver
        });
        Arc::clone(made)
    }

    /// Forgets what those views have found that are no more.
    pub(crate) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.lock().retain(|view, _| is_there(view));
    }

    /// Answers a question about the caches, in lines. Everybody's comes first.
    pub fn about(&self, question: &CacheQuestion) -> Vec<String> {
        let mut lines = self.everybodys.about(question);
        let by_view = self.lock();
        let mut views: Vec<_> = by_view.iter().collect();
        views.sort_by_key(|(view, _)| *view);
        for (view, resolver) in views {
            lines.push(format!("; the view {view}:"));
            lines.extend(resolver.about(question));
        }
        lines
    }

    /// Keeps all caches in mind of the root's servers, until it is dropped.
    pub(crate) async fn keep_primed(&self) {
        let (mut unprimed, mut tasks) = (self.unprimed.lock().await, JoinSet::new());
        while let Some(resolver) = unprimed.recv().await {
            tasks.spawn(prime::keep(resolver));
        }
    }

    fn is_fresh(&self, resolver: &Arc<Resolver>) {
        // The other end is here too.
        let _ = self.fresh.send(Arc::downgrade(resolver));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Resolver>>> {
        self.by_view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    #[test]
    fn each_view_has_its_own_as_long_as_it_is_there() {
        let forward = vec![SocketAddr::from(([127, 0, 0, 1], 1))];
        let config = Config { recurse: true, forward, ..Config::default() };
        let resolvers = Resolvers::open(&config, &Shared::for_tests("dns")).unwrap().unwrap();
        let inside = resolvers.of_view("inside");
        assert!(Arc::ptr_eq(&inside, &resolvers.of_view("inside")), "a reload loses nothing of its cache");
        assert!(!Arc::ptr_eq(&inside, &resolvers.of_view("lab")) && !Arc::ptr_eq(&inside, resolvers.everybodys()));
        let purge = CacheQuestion::Purge("crepes.fr".to_owned());
        let nothing = "0 entries forgotten";
        assert_eq!(resolvers.about(&purge), [nothing, "; the view inside:", nothing, "; the view lab:", nothing]);
        resolvers.retain(|view| view == "lab");
        assert_eq!(resolvers.about(&CacheQuestion::List), ["; the view lab:"]);
        assert!(!Arc::ptr_eq(&inside, &resolvers.of_view("inside")), "what it had found is gone");
    }
}
