//! What lab.toml says: the hosts, their addresses, what runs on them.

use serde::{Deserialize, Serialize};
use shared::{
    config::{ConfigError, misfit_in, read_document},
    tls,
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// The whole lab.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Lab {
    /// In the order of the file.
    pub(crate) host: Vec<Host>,
}

/// One host. A daemon runs on it when its table is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    /// Its name in the lab's DNS.
    pub(crate) name: String,
    /// `10.77.x.y`, as the containers have it.
    pub(crate) address: Ipv4Addr,
    /// A command to try first. `{http}`, `{https}`, `{tcp}`, `{smtp}`, `{pop3}` and `{dig}` stand for address and port.
    #[serde(default)]
    pub(crate) r#try: String,
    #[serde(default)]
    pub(crate) web: Option<web::Config>,
    #[serde(default)]
    pub(crate) wordlength: Option<wordlength::Config>,
    #[serde(default)]
    pub(crate) dns: Option<dns::Config>,
    #[serde(default)]
    pub(crate) pop3: Option<pop3::Config>,
    #[serde(default)]
    pub(crate) smtp: Option<smtp::Config>,
}

/// Which ports the one-process lab uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// The real ones: 80, 25, 53.
    Privileged,
    /// 8000 more for those below 1024, which need no privilege.
    High,
}

impl Ports {
    pub(crate) fn map(self, port: u16) -> u16 {
        match self {
            Ports::High if port < 1024 => port + 8000,
            _ => port,
        }
    }
}

impl Lab {
    /// Reads lab.toml.
    pub(crate) fn parse(place: &str, text: &str) -> Result<Self, ConfigError> {
        let lab: Self = read_document(place, text)?;
        let mut problems = vec![];
        for (index, host) in lab.host.iter().enumerate() {
            let mut wrong = |key: &str, problem: &str| {
                problems.push(misfit_in(place, text, &format!("host[{index}]{key}"), problem));
            };
            if host.address.octets()[0] != 10 {
                let problem =
                    format!("{}: {} must begin with 10: in one process the 10 becomes 127", host.name, host.address);
                wrong(".address", &problem);
            }
            let names = host.names();
            // The one that is none first, by itself.
            let wrong_name = names.iter().find_map(|name| tls::check_names(std::slice::from_ref(name)).err());
            if let Some(error) = wrong_name.or_else(|| tls::check_names(&names).err()) {
                wrong(".name", &error.to_string());
            }
            let web = host
                .web
                .as_ref()
                .is_some_and(|web| web.listen != web::Config::default().listen || !web.listen_tls.is_empty());
            let wordlength = host.wordlength.as_ref().map(|w| w.listen != wordlength::Config::default().listen);
            let dns =
                host.dns.as_ref().map(|dns| dns.listen != dns::Config::default().listen || !dns.listen_tls.is_empty());
            let pop3 = host
                .pop3
                .as_ref()
                .is_some_and(|pop3| pop3.listen != pop3::Config::default().listen || !pop3.listen_tls.is_empty());
            let smtp = host.smtp.as_ref().is_some_and(|smtp| {
                let usual = smtp::Config::default();
                [&smtp.listen, &smtp.listen_submission, &smtp.listen_tls]
                    != [&usual.listen, &usual.listen_submission, &usual.listen_tls]
            });
            let own = [
                (web, "web"),
                (wordlength == Some(true), "wordlength"),
                (dns == Some(true), "dns"),
                (pop3, "pop3"),
                (smtp, "smtp"),
            ];
            for (_, daemon) in own.into_iter().filter(|(has_addresses, _)| *has_addresses) {
                let problem = format!("{}: `listen` has no place here, a host serves at its address", host.name);
                wrong(&format!(".{daemon}.listen"), &problem);
            }
            if let Some(twin) = lab.host[..index].iter().find(|h| h.name == host.name || h.address == host.address) {
                wrong(".name", &format!("{} and {} have the same name or address", twin.name, host.name));
            }
        }
        ConfigError::all(problems).map(|()| lab)
    }

    /// Gives every host its place on loopback.
    pub(crate) fn settle(&mut self, ports: Ports, state: &Path) {
        self.settle_with(ports, state, &|path| state.join(path));
    }

    /// As [`Lab::settle`]; `find` says where the files are that are read.
    pub(crate) fn settle_with(&mut self, ports: Ports, state: &Path, find: &dyn Fn(&Path) -> PathBuf) {
        self.host.iter_mut().for_each(|host| host.settle(ports, state, find));
        // A browser outside of the lab does not know its names, and would be led out of it.
        let places: Vec<(String, String)> = self
            .host
            .iter()
            .filter_map(|host| {
                Some((format!("http://{}/", host.name), format!("http://{}/", host.web.as_ref()?.listen[0])))
            })
            .collect();
        let redirects = self.host.iter_mut().filter_map(|host| host.web.as_mut()).flat_map(|web| &mut web.redirect);
        for redirect in redirects {
            for (named, placed) in &places {
                if let Some(path) = redirect.to.strip_prefix(named) {
                    redirect.to = format!("{placed}{path}");
                }
            }
        }
    }

    /// Keeps the named hosts; all, when none is named.
    pub(crate) fn select(&mut self, names: &[String]) -> Result<(), String> {
        if let Some(unknown) = names.iter().find(|name| !self.host.iter().any(|host| host.name == **name)) {
            let known: Vec<&str> = self.host.iter().map(|host| host.name.as_str()).collect();
            return Err(format!("there is no host `{unknown}` in the lab; there are {}", known.join(", ")));
        }
        if !names.is_empty() {
            self.host.retain(|host| names.contains(&host.name));
        }
        Ok(())
    }
}

/// Answers of one kind that all clients on loopback together get in a second. A flood is still cut.
const CLASS_RATE: u32 = 2000;

/// `10.77.0.0/16` among containers is everybody on loopback: a client there comes from 127.0.0.1 more often than not.
fn on_loopback(who: &str) -> String {
    if who.starts_with("10.") { "127.0.0.0/8".to_owned() } else { who.to_owned() }
}

/// `10.77.x.y` among containers is `127.77.x.y` in one process.
fn loopback(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 10 => {
            let [_, b, c, d] = v4.octets();
            Ipv4Addr::new(127, b, c, d).into()
        }
        other => other,
    }
}

impl Host {
    /// Its address in the one-process lab: the same with 127 in front.
    pub(crate) fn loopback(&self) -> IpAddr {
        loopback(self.address.into())
    }

    /// Gives the daemons their addresses, and makes relative paths begin in `state`.
    fn settle(&mut self, ports: Ports, state: &Path, find: &dyn Fn(&Path) -> PathBuf) {
        let address = self.loopback();
        let at = |port| SocketAddr::new(address, ports.map(port));
        if let Some(web) = &mut self.web {
            web.listen = vec![at(80)];
            web.listen_tls = vec![at(443)];
            web.docroot = find(&web.docroot);
            for root in web.site.iter_mut().filter_map(|site| site.docroot.as_mut()) {
                *root = find(root);
            }
            if web.access_log == web::Config::default().access_log {
                // The terminal belongs to the table of hosts.
                web.access_log = state.join("log").join(format!("{}.access.log", self.name)).display().to_string();
            }
        }
        if let Some(dns) = &mut self.dns {
            dns.listen = vec![at(53)];
            dns.listen_tls = vec![at(853)];
            // The zones have the addresses of the containers.
            dns.rewrite = dns::Rewrite::Loopback;
            dns.zones.iter_mut().filter_map(|zone| zone.file.as_mut()).for_each(|file| *file = find(file));
            dns.state = state.join("dns").join(&self.name);
            for who in dns.zones.iter_mut().flat_map(|zone| zone.transfer.iter_mut().chain(&mut zone.update)) {
                *who = on_loopback(who);
            }
            dns.hints = dns.hints.take().map(|file| find(&file));
            dns.trust_anchors = dns.trust_anchors.take().map(|file| find(&file));
            // Elsewhere 127.0.0.0/24 would be one victim; here it is the whole class.
            if dns.rate == dns::Config::default().rate {
                dns.rate = CLASS_RATE;
            }
            // Both ends of a question show the same addresses, as they would in a network.
            dns.query_from = address;
            dns.query_ipv6 = false;
            dns.ds_dir = state.join("dns").join("ds");
            dns.peer_port = ports.map(53);
        }
        if let Some(pop3) = &mut self.pop3 {
            pop3.listen = vec![at(110)];
            pop3.listen_tls = vec![at(995)];
            pop3.mailboxes = state.join(&pop3.mailboxes);
        }
        if let Some(smtp) = &mut self.smtp {
            smtp.listen = vec![at(25)];
            smtp.listen_submission = vec![at(587)];
            smtp.listen_tls = vec![at(465)];
            smtp.mailboxes = state.join(&smtp.mailboxes);
            smtp.spool = state.join("smtp").join(&self.name);
            // The same hosts, with 127 in front.
            for resolver in &mut smtp.resolvers {
                *resolver = SocketAddr::new(loopback(resolver.ip()), ports.map(resolver.port()));
            }
            for network in &mut smtp.allow {
                *network = network.map_address(loopback);
            }
            smtp.peer_port = ports.map(25);
            // Both ends of a delivery show the same addresses, as they would in a network.
            smtp.send_from = address;
            smtp.send_ipv6 = false;
        }
        if let Some(wordlength) = &mut self.wordlength {
            wordlength.listen = vec![at(7777)];
        }
    }

    /// All names that its certificate is for.
    pub(crate) fn names(&self) -> Vec<String> {
        let sites =
            self.web.iter().flat_map(|web| &web.site).flat_map(|site| std::iter::once(&site.name).chain(&site.aliases));
        let mut names: Vec<String> = std::iter::once(&self.name).chain(sites).cloned().collect();
        names.push(self.loopback().to_string());
        names.sort();
        names.dedup();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../config/lab.toml");

    #[test]
    fn the_shipped_lab_is_right_and_has_the_addresses_that_people_type() {
        let lab = Lab::parse("lab.toml", SHIPPED).unwrap();
        let address = |name: &str| lab.host.iter().find(|h| h.name == name).map(|h| h.loopback().to_string());
        assert_eq!(address("www.someschool.edu").as_deref(), Some("127.77.3.80"));
        assert_eq!(address("words.someschool.edu").as_deref(), Some("127.77.3.7"));
        assert_eq!(address("www.somesite.com").as_deref(), Some("127.77.4.80"));
    }

    /// CLAIMS C44: the page has moved to a host that answers.
    #[test]
    fn a_redirect_stays_in_the_lab() {
        let mut lab = Lab::parse("lab.toml", SHIPPED).unwrap();
        lab.settle(Ports::High, Path::new("/state"));
        let school = lab.host.iter().find(|host| host.name == "www.someschool.edu").unwrap();
        let targets: Vec<&str> = school.web.iter().flat_map(|web| &web.redirect).map(|it| it.to.as_str()).collect();
        assert_eq!(targets, ["http://127.77.4.80:8080/"]);
    }

    #[test]
    fn low_ports_move_up_unless_the_real_ones_are_wanted() {
        assert_eq!([80, 443, 25, 7777].map(|port| Ports::High.map(port)), [8080, 8443, 8025, 7777]);
        assert_eq!(Ports::Privileged.map(80), 80);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (text, want) in [
            ("[[host]]\nname = \"a\"\naddress = \"192.0.2.1\"\n", "must begin with 10"),
            (
                "[[host]]\nname = \"a\"\naddress = \"10.77.1.1\"\n[host.wed]\n",
                "lab.toml:4:7: unknown key `wed`; did you mean `web`?",
            ),
            (
                "[[host]]\nname = \"a\"\naddress = \"10.77.1.1\"\n[[host]]\nname = \"a\"\naddress = \"10.77.1.2\"\n",
                "the same name",
            ),
            ("[[host]]\nname = \"a\"\n", "missing field `address`"),
            (
                "[[host]]\nname = \"a\"\naddress = \"10.77.1.1\"\n[host.web]\nlisten = [\"127.0.0.1:81\"]\n",
                "a: `listen` has no place here",
            ),
            ("[[host]]\nname = \"a b\"\naddress = \"10.77.1.1\"\n", "lab.toml:2:8: host[0].name: `a b`: a cert"),
            ("[[host]]\nname = \"a\"\naddress = \"192.0.2.1\"\n", "lab.toml:3:11: host[0].address: a: 192.0.2.1 must"),
        ] {
            let message = Lab::parse("lab.toml", text).unwrap_err().to_string();
            assert!(message.contains(want), "{message}");
        }
        let unknown = Lab::parse("lab.toml", SHIPPED).unwrap().select(&["www.nowhere.edu".to_owned()]).unwrap_err();
        assert!(unknown.contains("www.someschool.edu"), "{unknown}");
    }
}
