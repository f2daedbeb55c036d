//! Counters that `/metrics` shows in Prometheus text.
//!
//! A daemon asks for its counters once, at bind, and keeps them; counting is one atomic addition.

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, gauge::Gauge},
    registry::Registry,
};
use std::{
    borrow::Cow,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// All metrics of this process. Cheap to clone.
#[derive(Clone, Default)]
pub struct Registers(Arc<Mutex<Registry>>);

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
        encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner))
            .expect("writing into a String does not fail");
        text
    }
}

impl Metrics {
    /// A number that only grows: `tomte_<daemon>_<name>_total`.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.labelled(name, help, &[])
    }

    /// A counter that is one of several of the same name, told apart by `labels`.
    pub fn labelled(&self, name: &str, help: &str, labels: &[(&'static str, &str)]) -> Counter {
        let counter = Counter::default();
        self.register(name, help, labels, counter.clone());
        counter
    }

    /// A number that goes up and down: `tomte_<daemon>_<name>`.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        let gauge = Gauge::default();
        self.register(name, help, &[], gauge.clone());
        gauge
    }

    fn register(
        &self,
        name: &str,
        help: &str,
        labels: &[(&'static str, &str)],
        metric: impl prometheus_client::registry::Metric,
    ) {
        let host = (Cow::Borrowed("host"), Cow::Owned(self.host.to_string()));
        let labels = labels.iter().map(|(key, value)| (Cow::Borrowed(*key), Cow::Owned((*value).to_owned())));
        let mut registry = self.registers.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("tomte_{}_{name}", self.daemon);
        registry.sub_registry_with_labels(std::iter::once(host).chain(labels)).register(name, help, metric);
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
        for line in [
            "tomte_web_requests_total{host=\"www.someschool.edu\"} 3",
            "tomte_web_responses_total{host=\"www.someschool.edu\",class=\"2xx\"} 1",
            "tomte_web_connections{host=\"www.someschool.edu\"} 7",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
