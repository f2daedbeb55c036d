//! Counters that `/metrics` shows in Prometheus text.
//!
//! A daemon asks for its counters once, at bind, and keeps them; counting is one atomic addition.

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// All metrics of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registers(Arc<Mutex<Inner>>);

/// A metric has one name and one description, however many hosts count it; the format demands it.
#[derive(Default)]
struct Inner {
    registry: Registry,
    counters: HashMap<String, Family<Labels, Counter>>,
    gauges: HashMap<String, Family<Labels, Gauge>>,
}

type Labels = Vec<(String, String)>;

/// What one daemon on one host counts.
#[derive(Clone)]
pub struct Metrics {
    registers: Registers,
    daemon: &'static str,
    host: Arc<str>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Metrics({} {})", self.daemon, self.host)
    }
}

impl Registers {
    /// The part for one daemon: its names begin with `tomte_<daemon>_`, its label `host` tells lab hosts apart.
    pub fn of(&self, daemon: &'static str, host: &str) -> Metrics {
        Metrics { registers: self.clone(), daemon, host: host.into() }
    }

    /// Everything, as Prometheus reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.inner().registry).expect("writing into a String does not fail");
        text
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Registering happens at bind; a panic there ends the start anyway.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Metrics {
    /// A number that only grows: `tomte_<daemon>_<name>_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.labelled(name, help, &[])
    }

    /// A counter that is one of several of the same name, told apart by `labels`.
    pub fn labelled(&self, name: &str, help: &str, labels: &[(&str, &str)]) -> Counter {
        let mut inner = self.registers.inner();
        let Inner { registry, counters, .. } = &mut *inner;
        let family = counters.entry(self.full(name)).or_insert_with_key(|name| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&self.labels(labels))
    }

    /// A number that goes up and down: `tomte_<daemon>_<name>`.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let mut inner = self.registers.inner();
        let Inner { registry, gauges, .. } = &mut *inner;
        let family = gauges.entry(self.full(name)).or_insert_with_key(|name| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        family.get_or_create_owned(&self.labels(&[]))
    }

    fn full(&self, name: &str) -> String {
        format!("tomte_{}_{name}", self.daemon)
    }

    fn labels(&self, more: &[(&str, &str)]) -> Labels {
        let host = std::iter::once(("host", &*self.host));
        host.chain(more.iter().copied()).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_can_be_read() {
        let registers = Registers::default();
        let web = registers.of("web", "www.someschool.edu");
        web.counter("requests", "Requests answered").inc_by(3);
        web.labelled("responses", "By class", &[("class", "2xx")]).inc();
        web.gauge("connections", "Open now").set(7);
        let text = registers.text();
        registers.of("web", "gaia.cs.umass.edu").counter("requests", "Requests answered").inc();
        assert_eq!(text.matches("# TYPE tomte_web_requests counter").count(), 1, "{text}");
        assert!(registers.text().contains("{host=\"gaia.cs.umass.edu\"} 1"));
        for line in [
            "tomte_web_requests_total{host=\"www.someschool.edu\"} 3",
            "tomte_web_responses_total{host=\"www.someschool.edu\",class=\"2xx\"} 1",
            "tomte_web_connections{host=\"www.someschool.edu\"} 7",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
