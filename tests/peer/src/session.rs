//! A session with a cluster: connect, be redirected, send, receive, follow a new leader, close.

use std::time::{Duration, Instant};

use crate::codec::{self, AdminCode, Egress, EventCode};
use crate::driver::{Driver, Offered, Publication, Subscription};

/// Aeron's stream for messages to a cluster.
pub const INGRESS_STREAM: i32 = 101;
/// Aeron's stream for messages from a cluster.
pub const EGRESS_STREAM: i32 = 102;

/// A silent client says that it lives this often, as Aeron's does.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A connect request is repeated after this long without an answer.
const REPEAT: Duration = Duration::from_secs(5);
/// Fragments taken in one poll.
const POLL_LIMIT: usize = 64;

/// An open session.
pub struct Session<'d> {
    driver: &'d Driver,
    egress: Subscription,
    ingress: Publication,
    style: IngressStyle,
    state: State,
    last_sent: Instant,
    greeted: bool,
}

/// What the cluster has said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The session's id.
    pub session: i64,
    /// Current leadership term.
    pub term: i64,
    /// Current leader.
    pub leader: i32,
    /// Ingress endpoints by member, newest list.
    pub members: Vec<(i32, String)>,
    /// Redirects followed before the session was open.
    pub redirects: u32,
    /// New leaders announced since then.
    pub new_leaders: u32,
    /// The cluster has ended the session.
    pub closed: bool,
    /// Version of the session protocol that the cluster speaks.
    pub version: i32,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A message of the service.
    Message(Vec<u8>),
    /// A new leader has the session; its messages are the next ones.
    NewLeader(i32),
    /// The answer to an operator's request with this number.
    Admin(i64, AdminCode, String),
    /// The cluster has ended the session.
    Closed,
}

/// Where answers are to go, and where they are listened for: two channels only if something stands
/// between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressChannel {
    /// What the cluster is told.
    pub told: String,
    /// What the driver listens on.
    pub listened: String,
}

impl EgressChannel {
    /// One channel: the port at `endpoint`.
    pub fn direct(endpoint: &str) -> Self {
        let channel = format!("aeron:udp?endpoint={endpoint}");
        Self {
            told: channel.clone(),
            listened: channel,
        }
    }
}

/// How a client publishes its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngressStyle {
    /// Parameters of the channel after its endpoint.
    pub parameters: String,
    /// One stream for all clients of a driver that publish the same, as AeronCluster does when its
    /// ingress is not exclusive.
    pub is_shared: bool,
    /// Version of the session protocol that the client claims.
    pub version: i32,
}

impl Default for IngressStyle {
    fn default() -> Self {
        Self {
            parameters: "term-length=1m|alias=peer-ingress".to_owned(),
            is_shared: false,
            version: codec::PROTOCOL_VERSION,
        }
    }
}

impl IngressStyle {
    fn open(&self, driver: &Driver, state: &State, member: i32) -> Result<Publication, String> {
        let found = state.members.iter().find(|(id, _)| *id == member);
        let (_, endpoint) =
            found.ok_or_else(|| format!("no member {member} in {:?}", state.members))?;
        let channel = format!("aeron:udp?endpoint={endpoint}|{}", self.parameters);
        if self.is_shared {
            driver.publish_shared(&channel, INGRESS_STREAM)
        } else {
            driver.publish(&channel, INGRESS_STREAM)
        }
    }
}

impl<'d> Session<'d> {
    /// Opens a session, asking member `first` first and following redirects.
    ///
    /// # Errors
    /// The cluster's refusal, or what was being waited for when `patience` ran out.
    pub fn connect(
        driver: &'d Driver,
        egress: &EgressChannel,
        style: &IngressStyle,
        members: &[(i32, String)],
        first: i32,
        patience: Duration,
    ) -> Result<Self, String> {
        let deadline = Instant::now() + patience;
        let mut subscription = driver.subscribe(&egress.listened, EGRESS_STREAM)?;
        let mut state = State {
            members: members.to_vec(),
            ..State::default()
        };
        let mut target = first;
        let mut correlation = 0x1000;
        loop {
            let ingress = style.open(driver, &state, target)?;
            await_connected(&ingress, target, deadline)?;
            correlation += 1;
            let request = codec::connect_request(
                correlation,
                EGRESS_STREAM,
                &egress.told,
                style.version,
                b"",
                "name=coracle-peer version=0",
            );
            let answer = ask(&ingress, &mut subscription, &request, correlation, deadline)?;
            state.take_answer(&answer);
            match answer.code {
                EventCode::Ok => {
                    return Ok(Self {
                        driver,
                        egress: subscription,
                        ingress,
                        style: style.clone(),
                        state,
                        last_sent: Instant::now(),
                        greeted: true,
                    });
                }
                EventCode::Redirect if state.redirects < 10 => {
                    state.members = codec::members(&answer.detail)?;
                    state.redirects += 1;
                    target = answer.leader;
                }
                code => return Err(format!("refused: {code:?}: {}", answer.detail)),
            }
        }
    }

    /// What the cluster has said.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Streams from the cluster that are being received.
    pub fn egress_streams(&self) -> usize {
        self.egress.images()
    }

    /// Offers a message for the service.
    ///
    /// # Errors
    /// When the stream can take none any more.
    pub fn offer(&mut self, payload: &[u8]) -> Result<Offered, String> {
        if !self.greet()? {
            return Ok(Offered::NotConnected);
        }
        let header = codec::message_header(self.state.term, self.state.session, 0);
        let offered = self.ingress.offer(&[&header, payload])?;
        if offered == Offered::Taken {
            self.last_sent = Instant::now();
        }
        Ok(offered)
    }

    /// Asks for a snapshot, and waits for the answer to that.
    ///
    /// # Errors
    /// As [`Session::poll`], or what was being waited for when `patience` ran out.
    pub fn request_snapshot(&mut self, patience: Duration) -> Result<(AdminCode, String), String> {
        const NUMBER: i64 = 0x51AB;
        let deadline = Instant::now() + patience;
        let (term, session) = (self.state.term, self.state.session);
        let request = codec::snapshot_request(term, session, NUMBER);
        offer_until(&self.ingress, &request, deadline)?;
        self.last_sent = Instant::now();
        loop {
            match self.poll()?.into_iter().next() {
                Some(Arrival::Admin(NUMBER, code, message)) => return Ok((code, message)),
                Some(other) => return Err(format!("no answer to the request: {other:?}")),
                None => {}
            }
            pause(deadline, "an answer to the request for a snapshot")?;
        }
    }

    /// Takes what has come, keeps the session alive, follows a new leader.
    ///
    /// # Errors
    /// What the cluster did that it may not do, or the client's words.
    pub fn poll(&mut self) -> Result<Vec<Arrival>, String> {
        let arrivals = self.listen()?;
        if self.last_sent.elapsed() > KEEP_ALIVE {
            self.greeted = false;
            self.greet()?;
        }
        Ok(arrivals)
    }

    /// Takes what has come and follows a new leader, but says nothing.
    ///
    /// # Errors
    /// As [`Session::poll`].
    pub fn listen(&mut self) -> Result<Vec<Arrival>, String> {
        let mut arrivals = Vec::new();
        let mut fault = None;
        let state = &mut self.state;
        self.egress
            .poll(POLL_LIMIT, &mut |bytes| match state.take(bytes) {
                Ok(arrival) => arrivals.extend(arrival),
                Err(why) => fault = Some(why),
            })?;
        if let Some(why) = fault {
            return Err(why);
        }
        let led_anew = arrivals
            .iter()
            .any(|arrival| matches!(arrival, Arrival::NewLeader(_)));
        if led_anew {
            self.ingress = self
                .style
                .open(self.driver, &self.state, self.state.leader)?;
            self.greeted = false;
        }
        Ok(arrivals)
    }

    /// Asks the cluster to end the session and waits until its stream has ended.
    ///
    /// # Errors
    /// What was being waited for when `patience` ran out.
    pub fn close(mut self, patience: Duration) -> Result<State, String> {
        let deadline = Instant::now() + patience;
        let request = codec::close_request(self.state.term, self.state.session);
        offer_until(&self.ingress, &request, deadline)?;
        while self.egress.images() > 0 {
            self.poll()?;
            pause(deadline, "the end of the session's stream")?;
        }
        Ok(self.state)
    }

    /// Sends the keep-alive with which a client greets a new leader; true once it is sent.
    fn greet(&mut self) -> Result<bool, String> {
        if !self.greeted {
            let keep_alive = codec::keep_alive(self.state.term, self.state.session);
            self.greeted = self.ingress.offer(&[&keep_alive])? == Offered::Taken;
            if self.greeted {
                self.last_sent = Instant::now();
            }
        }
        Ok(self.greeted)
    }
}

impl State {
    fn take(&mut self, bytes: &[u8]) -> Result<Option<Arrival>, String> {
        match codec::decode(bytes)? {
            Egress::Message {
                session, payload, ..
            } if session == self.session => Ok(Some(Arrival::Message(payload.to_vec()))),
            Egress::NewLeader {
                term,
                session,
                leader,
                endpoints,
            } if session == self.session => {
                if term <= self.term {
                    return Err(format!("term {term} announced after term {}", self.term));
                }
                self.term = term;
                self.leader = leader;
                self.members = codec::members(endpoints)?;
                self.new_leaders += 1;
                Ok(Some(Arrival::NewLeader(leader)))
            }
            Egress::Event {
                session,
                code: EventCode::Closed,
                ..
            } if session == self.session => {
                self.closed = true;
                Ok(Some(Arrival::Closed))
            }
            Egress::AdminResponse {
                session,
                correlation,
                request: 0,
                code,
                message,
                ..
            } if session == self.session => {
                let message = message.to_owned();
                Ok(Some(Arrival::Admin(correlation, code, message)))
            }
            // Repeated answers to a repeated request.
            Egress::Event {
                session,
                code: EventCode::Ok,
                ..
            } if session == self.session => Ok(None),
            Egress::Other(_) => Ok(None),
            other => Err(format!("unexpected in session {}: {other:?}", self.session)),
        }
    }

    fn take_answer(&mut self, answer: &Answer) {
        self.session = answer.session;
        self.term = answer.term;
        self.leader = answer.leader;
        self.version = answer.version;
    }
}

struct Answer {
    session: i64,
    term: i64,
    leader: i32,
    code: EventCode,
    version: i32,
    detail: String,
}

fn ask(
    ingress: &Publication,
    egress: &mut Subscription,
    request: &[u8],
    number: i64,
    deadline: Instant,
) -> Result<Answer, String> {
    let mut answer = None;
    let mut fault = None;
    let mut asked: Option<Instant> = None;
    while answer.is_none() {
        if asked.is_none_or(|at| at.elapsed() > REPEAT) {
            offer_until(ingress, request, deadline)?;
            asked = Some(Instant::now());
        }
        egress.poll(POLL_LIMIT, &mut |bytes| match codec::decode(bytes) {
            Ok(Egress::Event {
                session,
                correlation,
                term,
                leader,
                code,
                version,
                detail,
                ..
            }) if correlation == number => {
                let detail = detail.to_owned();
                answer = Some(Answer {
                    session,
                    term,
                    leader,
                    code,
                    version,
                    detail,
                });
            }
            Ok(_) => {}
            Err(why) => fault = Some(why),
        })?;
        if let Some(why) = fault {
            return Err(why);
        }
        pause(deadline, "an answer to the connect request")?;
    }
    answer.ok_or_else(|| "no answer".to_owned())
}

fn await_connected(
    publication: &Publication,
    member: i32,
    deadline: Instant,
) -> Result<(), String> {
    while !publication.is_connected() {
        pause(
            deadline,
            &format!("member {member} to answer the SETUP of the ingress stream"),
        )?;
    }
    Ok(())
}

fn offer_until(publication: &Publication, bytes: &[u8], deadline: Instant) -> Result<(), String> {
    while publication.offer(&[bytes])? != Offered::Taken {
        pause(deadline, "the ingress stream to take a message")?;
    }
    Ok(())
}

fn pause(deadline: Instant, awaited: &str) -> Result<(), String> {
    if Instant::now() > deadline {
        return Err(format!("waited in vain for {awaited}"));
    }
    std::thread::sleep(Duration::from_millis(1));
    Ok(())
}
