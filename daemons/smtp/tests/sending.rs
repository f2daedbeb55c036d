//! What we say to other servers: the transcripts, played against the session alone and over TCP; then what a transcript cannot say.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use shared::{
    metrics::Registers,
    testing::{Cue, Pace, Said, Script, play_all, play_all_async},
    transcript::Hub,
    wire::{Crlf, LineEnd},
};
use smtp::{
    answer::{LINE_OCTETS_MAX, Listener},
    client::{Client, Hello, Login, Loss, Peer, Step, Tls, Transaction},
    courier::{Couriers, Destination, Job, Settings, Timeouts},
    envelope::{Body, Charset, Envelope, Fate, Notify, Occasions, OriginalRecipient, Recipient, Reports, Ret, Xtext},
    session::Plaintext,
};
use std::{
    collections::{HashMap, VecDeque},
    io::Write,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/transcripts/client");

/// The message of all transcripts, CLAIMS C90.
const MESSAGE: &str = "Do you like ketchup?\r\nHow about pickles?\r\n";

/// `FROM:<a@b> RET=HDRS TO:<c@d> NOTIFY=NEVER TO:<e@f>`: an envelope as MAIL and RCPT would say it. `OCTETS=9` is how long the message is
/// said to be, `CONTENT=text` is what it is, with `\n` for CR LF.
struct Mail {
    envelope: Envelope,
    octets: Option<u64>,
    content: String,
}

impl Mail {
    fn parse(text: &str) -> Result<Self, String> {
        let from = smtp::address::ReversePath::Null;
        let (body, charset, ret) = (Body::SevenBit, Charset::Ascii, Ret::Unsaid);
        let envelope = Envelope { from, body, charset, ret, envid: None, recipients: vec![] };
        let mut mail = Self { envelope, octets: None, content: MESSAGE.to_owned() };
        for word in text.split_whitespace() {
            let (key, value) = word.split_once([':', '=']).unwrap_or((word, ""));
            let envelope = &mut mail.envelope;
            match (key, value) {
                ("FROM", path) => envelope.from = path.parse().map_err(|error| format!("{path}: {error}"))?,
                ("BODY", "8BITMIME") => envelope.body = Body::EightBitMime,
                ("SMTPUTF8", "") => envelope.charset = Charset::Utf8,
                ("RET", "HDRS") => envelope.ret = Ret::Headers,
                ("RET", "FULL") => envelope.ret = Ret::Full,
                ("ENVID", id) => envelope.envid = Xtext::parse(id),
                ("OCTETS", octets) => mail.octets = octets.parse().ok(),
                ("CONTENT", content) => mail.content = content.replace("\\n", "\r\n").replace('_', " "),
                ("TO", path) => {
                    let to = path.trim_matches(['<', '>']).parse().map_err(|error| format!("{path}: {error}"))?;
                    envelope.recipients.push(Recipient { to, notify: Notify::Unsaid, orcpt: None });
                }
                ("NOTIFY", occasions) => {
                    let has = |occasion| occasions.split(',').any(|word| word == occasion);
                    let (success, failure, delay) = (has("SUCCESS"), has("FAILURE"), has("DELAY"));
                    let of = Occasions { success, failure, delay };
                    let notify = if occasions == "NEVER" { Notify::Never } else { Notify::Of(of) };
                    envelope.recipients.last_mut().ok_or("TO first")?.notify = notify;
                }
                ("ORCPT", original) => {
                    let (kind, address) = original.split_once(';').ok_or("ORCPT=rfc822;a@b")?;
                    let address = Xtext::parse(address).ok_or("xtext")?;
                    let orcpt = Some(OriginalRecipient { kind: kind.to_owned(), address });
                    envelope.recipients.last_mut().ok_or("TO first")?.orcpt = orcpt;
                }
                ("TIMES", count) => {
                    let last = envelope.recipients.last().ok_or("TO first")?.clone();
                    let count = count.parse().map_err(|_| "a number")?;
                    envelope.recipients = vec![last; count];
                }
                _ => return Err(format!("`{word}` is unknown")),
            }
        }
        Ok(mail)
    }

    fn transaction(&self) -> Transaction {
        let Envelope { body, charset, .. } = self.envelope;
        let octets = self.octets.unwrap_or(self.content.len() as u64);
        let recipients = (0..self.envelope.recipients.len()).collect();
        Transaction { envelope: Arc::new(self.envelope.clone()), recipients, octets, body, charset }
    }

    fn job(&self) -> Job {
        let mut file = tempfile::tempfile().unwrap();
        // Something stands before it, as in a queue file.
        write!(file, "head\n{}", self.content).unwrap();
        let Transaction { envelope, recipients, octets, .. } = self.transaction();
        Job { id: "Q1".to_owned(), cause: None, envelope, recipients, message: Arc::new(file), start: 5, octets }
    }
}

/// `failed 5.1.1 HOST does not take the recipient: 550 ...`
fn told(fate: &Fate, label: &str) -> String {
    let kind = match fate {
        Fate::Delivered(_) => "delivered",
        Fate::Relayed { reports: Reports::Itself, .. } => "relayed-and-reports",
        Fate::Relayed { reports: Reports::NotItself, .. } => "relayed",
        Fate::Expanded(_) => "expanded",
        Fate::Deferred(_) => "deferred",
        Fate::Failed(_) => "failed",
    };
    let account = fate.account();
    format!("{kind} {} {account}", account.status).replace(label, "HOST")
}

/// What a transcript wants to be the case, `@ bob@hamburger.edu failed 5.1.1 ...` or `@ all deferred 4.4.2 ...`, beside what is the case.
fn compare(wanted: &str, fates: &mut VecDeque<String>) -> Result<(), String> {
    let (who, wanted) = wanted.split_once(' ').unwrap_or((wanted, ""));
    let count = if who == "all" { fates.len() } else { 1 };
    for _ in 0..count {
        let is = fates.pop_front().ok_or("nobody has a fate left")?;
        if is != wanted {
            return Err(format!("@ {who} {is}"));
        }
    }
    Ok(())
}

/// How we come to the servers of a folder.
fn hello(folder: &str) -> Hello {
    let login = |plaintext| Some(Login { user: "alice".to_owned(), secret: "crepes".to_owned(), plaintext });
    let (tls, login) = match folder {
        "login" => (Tls::IfOffered, login(Plaintext::OverTls)),
        "login-in-clear" => (Tls::IfOffered, login(Plaintext::Allowed)),
        "tls-required" => (Tls::Required, None),
        "tls-first" => (Tls::Begun, login(Plaintext::OverTls)),
        _ => (Tls::IfOffered, None),
    };
    Hello { name: "crepes.fr".to_owned(), tls, login, nonce: Some("ours".to_owned()) }
}

// --- The session alone -----------------------------------------------------------------------------------------------

const LABEL: &str = "mail.hamburger.edu [127.77.2.25]:8025";

/// A session, and a driver that has no socket.
struct Alone {
    client: Client,
    listener: Listener,
    mail: Option<Mail>,
    said: Vec<String>,
    hung_up: bool,
    fates: VecDeque<String>,
}

impl Alone {
    fn new(hello: Hello) -> Self {
        let peer = Peer { name: "mail.hamburger.edu".to_owned(), label: LABEL.to_owned() };
        let (client, step) = Client::new(Arc::new(hello), peer);
        assert!(matches!(step, Step::Hear(_)));
        let (listener, fates) = (Listener::default(), VecDeque::new());
        Self { client, listener, mail: None, said: vec![], hung_up: false, fates }
    }

    fn perform(&mut self, step: Step) {
        match step {
            Step::Say(lines, _) => self.said.extend(lines),
            Step::SaySecret(line, _) => self.said.push(line),
            Step::Hear(_) | Step::StartTls | Step::Ready => {}
            Step::Unready(fate) => {
                self.fates.push_back(told(&fate, LABEL));
                let step = self.client.quit();
                self.perform(step);
            }
            Step::SendMessage => {
                let content = &self.mail.as_ref().unwrap().content;
                self.said.extend(
                    content
                        .lines()
                        .map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() }),
                );
                self.said.push(".".to_owned());
                let step = self.client.message_sent();
                self.perform(step);
            }
            Step::Finished(fates) => {
                self.fates.extend(fates.iter().map(|fate| told(fate, LABEL)));
                if !self.client.is_ready() {
                    let step = self.client.quit();
                    self.perform(step);
                }
            }
            Step::HangUp => self.hung_up = true,
        }
    }

    fn on_cue(&mut self, cue: Cue<'_>) -> Result<Said, String> {
        let step = match cue {
            Cue::Opened => None,
            Cue::Line(line) => match self.listener.hear(&line) {
                Ok(answer) => answer.map(|answer| self.client.on_answer(&answer)),
                Err(malformed) => Some(self.client.lost(&Loss::Malformed(malformed))),
            },
            Cue::Ended => Some(self.client.lost(&Loss::HungUp)),
            Cue::Stage("silence") => Some(self.client.lost(&Loss::Silent)),
            Cue::Stage("tls") => Some(self.client.encrypted()),
            Cue::Stage("quit") => Some(self.client.quit()),
            Cue::Stage(text) => {
                if let Some(text) = text.strip_prefix("send ") {
                    let mail = Mail::parse(text)?;
                    let step = self.client.begin(mail.transaction());
                    self.mail = Some(mail);
                    Some(step)
                } else {
                    compare(text, &mut self.fates)?;
                    None
                }
            }
        };
        if let Some(step) = step {
            self.perform(step);
        }
        let said = Said::lines(std::mem::take(&mut self.said));
        Ok(if self.hung_up { said.and_close() } else { said })
    }
}

fn play_alone(folder: &str) {
    play_all(format!("{TRANSCRIPTS}/{folder}"), |script| {
        let mut alone = Alone::new(hello(folder));
        script.for_a_client().on_session(Crlf::new(LineEnd::CrLf, LINE_OCTETS_MAX), |cue| alone.on_cue(cue))
    });
}

#[test]
fn transcripts_play_against_the_session() {
    for folder in ["", "tls", "tls-required", "tls-first", "login", "login-in-clear"] {
        play_alone(folder);
    }
}

// --- Over TCP ---------------------------------------------------------------------------------------------------------

/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(8);

fn settings(port: u16) -> Settings {
    Settings {
        hello: "crepes.fr".to_owned(),
        // Nobody is there, and nobody is asked.
        resolvers: vec![([127, 0, 0, 1], 9).into()],
        routes: HashMap::new(),
        smart_host: None,
        trust: None,
        port,
        from: None,
        our_names: vec![],
        ipv6: false,
        connect_timeout: PATIENCE,
        timeouts: Timeouts { greeting: PATIENCE, mail: PATIENCE, ..Timeouts::default() },
    }
}

fn couriers(settings: Settings) -> Couriers {
    let transcript = Hub::quiet().transcript("smtp", "mail.crepes.fr");
    Couriers::new(settings, transcript, &Registers::default().of("smtp", "mail.crepes.fr")).unwrap()
}

/// What the stage asks of the courier.
enum Errand {
    Send(Job),
    Quit,
}

/// Connects, then does errands; tells fates.
async fn courier(address: SocketAddr, mut errands: mpsc::Receiver<Errand>, fates: mpsc::Sender<Vec<Fate>>) {
    let couriers = couriers(settings(address.port()));
    let mut connection = match couriers.connect(&Destination::Literal(address.ip()), None).await {
        Ok(connection) => connection,
        Err(fate) => return fates.send(vec![fate]).await.unwrap(),
    };
    while let Some(errand) = errands.recv().await {
        match errand {
            Errand::Send(job) => {
                let sent = connection.send(&job).await;
                let usable = connection.is_usable();
                fates.send(sent).await.unwrap();
                if !usable {
                    return connection.quit().await;
                }
            }
            Errand::Quit => return connection.quit().await,
        }
    }
}

#[tokio::test]
async fn transcripts_play_over_tcp() {
    for pace in [Pace::Lines, Pace::Octets] {
        play_all_async(TRANSCRIPTS, async |script: &Script| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let label = format!("[127.0.0.1]:{}", address.port());
            let ((errand, errands), (tell, mut heard)) = (mpsc::channel(1), mpsc::channel(1));
            let mut fates = VecDeque::new();
            let play = async {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let stage = async |text: &str| {
                    if text == "quit" {
                        return errand.send(Errand::Quit).await.map_err(|_| "it has gone".to_owned());
                    }
                    if let Some(text) = text.strip_prefix("send ") {
                        let job = Mail::parse(text)?.job();
                        return errand.send(Errand::Send(job)).await.map_err(|_| "it has gone".to_owned());
                    }
                    if fates.is_empty() {
                        let new: Option<Vec<Fate>> = timeout(PATIENCE, heard.recv()).await.map_err(|_| "no fate")?;
                        fates.extend(new.unwrap_or_default().iter().map(|fate| told(fate, &label)));
                    }
                    compare(text, &mut fates)
                };
                script.for_a_client().on_stream(stream, pace, stage).await
            };
            let (played, ()) = tokio::join!(play, courier(address, errands, tell));
            played
        })
        .await;
    }
}
