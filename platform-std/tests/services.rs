//! Several services on one log, on the node's thread and on threads of their own.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use coracle_core::node::ConfigError;
use coracle_core::service::{CloseReason, Cluster, Role, Service};
use coracle_core::snapshot::{Progress, SnapshotError, SnapshotReader, SnapshotWriter};
use coracle_core::time::{Now, Timestamp};
use coracle_core::units::{Position, ServiceId, SessionId};
use coracle_std::client::{Client, Egress, State};
use coracle_std::config::{Settings, Size, Span};
use coracle_std::counters::Counter;
use coracle_std::node::{NodeError, NodeHandle, Services};

use common::{
    PATIENCE, Place, Scratch, ask, ask_for, cluster, connect, counter, leader, start, stop, until,
};

const NOTHING: u8 = 0;
const STUCK: u8 = 1;
const PANIC: u8 = 2;

/// What a test sees of a service on one member, and does to it.
#[derive(Default)]
struct Watch {
    trouble: AtomicU8,
    digest: AtomicU64,
    heard: AtomicU64,
    background: AtomicU64,
    roles: AtomicU64,
    ended: AtomicU64,
}

/// Uses all that a cluster has to offer, and takes all that it hears into its digest.
struct Busy {
    digest: u64,
    heard: u64,
    armed: i64,
    answers: bool,
    watch: Arc<Watch>,
}

impl Busy {
    fn new(answers: bool, watch: &Arc<Watch>) -> Self {
        Self {
            digest: 7,
            heard: 0,
            armed: 0,
            answers,
            watch: Arc::clone(watch),
        }
    }

    fn hear(&mut self, cluster: &Cluster<'_>, kind: u64, bytes: &[u8]) {
        let words = [kind, cluster.position().get(), cluster.time().0 as u64];
        let sessions = cluster.sessions().map(|s| s.opened_at().get());
        for word in words.into_iter().chain(sessions) {
            self.digest = (self.digest ^ word).wrapping_mul(0x0100_0000_01b3);
        }
        for byte in bytes {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.heard += 1;
        self.watch.digest.store(self.digest, Ordering::SeqCst);
        self.watch.heard.store(self.heard, Ordering::SeqCst);
    }

    fn suffer(&self) {
        while self.watch.trouble.load(Ordering::SeqCst) == STUCK {
            std::thread::sleep(Duration::from_millis(1));
        }
        let panics = self.watch.trouble.load(Ordering::SeqCst) == PANIC;
        assert!(!panics, "this panic is part of a test");
    }
}

impl Service for Busy {
    fn on_session_open(&mut self, cluster: &mut Cluster<'_>, _: SessionId, _: &[u8]) {
        self.hear(cluster, 1, &[]);
    }

    fn on_session_close(&mut self, cluster: &mut Cluster<'_>, _: SessionId, _: CloseReason) {
        self.hear(cluster, 2, &[]);
    }

    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, m: &[u8]) {
        self.suffer();
        self.hear(cluster, 3, m);
        self.armed += 1;
        let soon = Timestamp(cluster.time().0 + 5);
        cluster.schedule_timer(self.armed % 50, soon).unwrap();
        if self.armed % 3 == 0 {
            let cancelled = cluster.cancel_timer((self.armed - 1) % 50).unwrap();
            self.digest ^= u64::from(cancelled);
        }
        if self.armed % 4 == 0 {
            cluster.offer_to_log(&[b"say ", m]).unwrap();
        }
        if self.answers {
            cluster.offer(session, &[m]).unwrap();
        }
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation: i64, due: Timestamp) {
        self.hear(cluster, 4, &[correlation as u8]);
        assert!(due <= cluster.time());
    }

    fn on_service_message(&mut self, cluster: &mut Cluster<'_>, from: ServiceId, m: &[u8]) {
        self.hear(cluster, 5 + u64::from(from.get()), m);
    }

    fn on_role_change(&mut self, _: &mut Cluster<'_>, role: Role) {
        self.watch.roles.fetch_add(1, Ordering::SeqCst);
        assert!(matches!(
            role,
            Role::Follower | Role::Candidate | Role::Leader
        ));
    }

    fn on_background_work(&mut self, _: Now) {
        self.watch.background.fetch_add(1, Ordering::SeqCst);
    }

    fn on_terminate(&mut self, _: &mut Cluster<'_>) {
        self.watch.ended.fetch_add(1, Ordering::SeqCst);
    }

    fn digest(&self) -> u64 {
        self.digest
    }

    fn write_snapshot(&mut self, out: &mut SnapshotWriter<'_>) -> Result<Progress, SnapshotError> {
        out.u64(self.digest)?;
        out.u64(self.heard)?;
        out.i64(self.armed)?;
        // More than is handed over at once, in one call.
        for n in 0..300_000u64 {
            out.u64(n ^ self.digest)?;
        }
        Ok(Progress::Done)
    }

    fn read_snapshot(&mut self, from: &mut SnapshotReader<'_>) -> Result<(), SnapshotError> {
        self.digest = from.u64()?;
        self.heard = from.u64()?;
        self.armed = from.i64()?;
        for n in 0..300_000u64 {
            if from.u64()? != n ^ self.digest {
                return Err(SnapshotError::Content);
            }
        }
        Ok(())
    }
}

/// One member with two services, of which the second does not answer.
struct Member {
    settings: Settings,
    places: [Place; 2],
    watches: [Arc<Watch>; 2],
    node: Option<NodeHandle>,
}

impl Member {
    fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.clone(),
            places: [Place::Node, Place::Thread],
            watches: Default::default(),
            node: None,
        }
    }

    fn start(&mut self) {
        self.watches = Default::default();
        let [first, second] = &self.watches;
        let [here, there] = self.places;
        let services = here.add(Services::new(), Busy::new(true, first));
        let services = there.add(services, Busy::new(false, second));
        self.node = Some(start(&self.settings, services));
    }

    fn stop(&mut self) {
        self.node.take().into_iter().for_each(stop);
    }

    fn heard(&self) -> [(u64, u64); 2] {
        self.watches.each_ref().map(|watch| {
            let heard = watch.heard.load(Ordering::SeqCst);
            (heard, watch.digest.load(Ordering::SeqCst))
        })
    }
}

fn members(scratch: &Scratch, count: u8) -> Vec<Member> {
    cluster(scratch, count).iter().map(Member::new).collect()
}

/// Sends messages and waits for the answer to each.
fn load(client: &mut Client, messages: usize, len: usize) {
    for n in 0..messages {
        let message = vec![n as u8; len];
        ask_for(client, &message, |answer| answer == message);
    }
}

/// Sends messages until another member leads. Of what is in flight then the outcome is unknown.
fn until_another_leads(client: &mut Client, old: usize) {
    let mut answers = 0;
    until("another leader", || {
        client.offer_until(b"on it goes", PATIENCE).unwrap();
        client
            .poll(Duration::from_millis(50), |egress| {
                answers += usize::from(matches!(egress, Egress::Message { .. }));
            })
            .unwrap();
        matches!(client.state(), State::Open { leader, .. } if leader.slot() != old)
    });
    assert!(answers > 3, "the member answers all the while: {answers}");
}

/// Each service has heard the same on all members, wherever it runs there.
fn until_level(members: &[Member]) {
    until("all services are level", || {
        let first = members[0].heard();
        members.iter().all(|m| m.heard() == first)
    });
}

fn join(members: &[Member]) -> Client {
    connect(&members[0].settings.ingress_endpoints())
}

/// Nobody loses its leadership but for its service: not because the machine is busy.
fn lead_for_long(member: &mut Member) {
    member.settings.timings.leader_timeout = Span::from_millis(1_000);
    member.settings.timings.sick_after = Some(Span::from_millis(3_000));
}

#[test]
fn where_a_service_runs_makes_no_difference_to_it() {
    let scratch = Scratch::new("services-alike");
    let mut members = members(&scratch, 3);
    members[1].places = [Place::Thread, Place::Node];
    members[2].places = [Place::Thread, Place::Thread];
    for member in &mut members {
        member.settings.segment_length = Size(64 << 10);
        member.settings.message_max = Size(8 << 10);
        member.settings.window = Size(256 << 10);
        member.settings.snapshot_every = Some(Size(256 << 10));
        member.start();
    }
    let mut client = join(&members);
    for _ in 0..3 {
        load(&mut client, 150, 1000);
        until_level(&members);
        // A restart goes on from the snapshot, the log behind it, timers and messages on their way.
        let closing = leader(&mut client);
        members[closing].stop();
        client.close().unwrap();
        members[closing].start();
        client = join(&members);
        load(&mut client, 20, 7000);
        until("a snapshot", || {
            let stored = |m: &Member| counter(&m.settings.dir, Counter::Snapshot) > 0;
            members.iter().all(stored)
        });
        until_level(&members);
    }
    client.close().unwrap();
    for member in &mut members {
        let [here, away] = &member.watches;
        until("background work", || {
            let worked = |watch: &Watch| watch.background.load(Ordering::SeqCst) > 0;
            worked(here) && worked(away)
        });
        member.stop();
        for watch in &member.watches {
            assert_eq!(watch.ended.load(Ordering::SeqCst), 1, "on_terminate");
        }
    }
    let roles = |at: usize| {
        members
            .iter()
            .map(move |m| m.watches[at].roles.load(Ordering::SeqCst))
    };
    assert!(roles(0).sum::<u64>() > 0 && roles(1).sum::<u64>() > 0);
}

#[test]
fn a_service_that_is_stuck_holds_up_nobody_and_its_leader_hands_over() {
    let scratch = Scratch::new("services-stuck");
    let mut members = members(&scratch, 3);
    for member in &mut members {
        lead_for_long(member);
        member.start();
    }
    let mut client = join(&members);
    load(&mut client, 20, 100);
    until_level(&members);
    let stuck = leader(&mut client);
    let watch = Arc::clone(&members[stuck].watches[1]);
    watch.trouble.store(STUCK, Ordering::SeqCst);
    until_another_leads(&mut client, stuck);
    load(&mut client, 50, 100);
    let [here, away] = members[stuck].heard();
    assert!(away.0 < here.0, "it is behind on its own");
    until("the counters to say so", || {
        counter(&members[stuck].settings.dir, Counter::ServiceAge) > 0
    });
    watch.trouble.store(NOTHING, Ordering::SeqCst);
    until_level(&members);
    client.close().unwrap();
    members.iter_mut().for_each(Member::stop);
}

#[test]
fn a_service_that_panics_fails_alone_and_comes_back_with_its_member() {
    let scratch = Scratch::new("services-panic");
    let mut members = members(&scratch, 3);
    for member in &mut members {
        member.settings.segment_length = Size(64 << 10);
        member.settings.message_max = Size(8 << 10);
        member.settings.window = Size(256 << 10);
        member.settings.snapshot_every = Some(Size(256 << 10));
        lead_for_long(member);
        member.start();
    }
    let mut client = join(&members);
    load(&mut client, 20, 100);
    let broken = leader(&mut client);
    members[broken].watches[1]
        .trouble
        .store(PANIC, Ordering::SeqCst);
    until_another_leads(&mut client, broken);
    let dir = members[broken].settings.dir.clone();
    until("its end to be counted", || {
        counter(&dir, Counter::ServicesFailed) == 1
    });
    load(&mut client, 50, 7000);
    let [here, away] = members[broken].heard();
    assert!(away.0 < here.0);
    // It never comes to a snapshot's action: that is said, and nothing waits for it for ever.
    until("no snapshot", || {
        counter(&dir, Counter::SnapshotsFailed) > 0
    });
    members[broken].stop();
    members[broken].start();
    until_level(&members);
    client.close().unwrap();
    members.iter_mut().for_each(Member::stop);
}

#[test]
fn as_many_services_as_there_is_room_for_and_no_fewer_than_one() {
    for count in [0, 11] {
        let scratch = Scratch::new("services-count");
        let settings = cluster(&scratch, 1).remove(0);
        let services = (0..count).fold(Services::new(), |services, _| {
            services.on_node(Busy::new(false, &Arc::default()))
        });
        let error = start(&settings, services).join().unwrap_err();
        let is_refused = matches!(error, NodeError::Core(ConfigError::Services));
        assert!(is_refused, "{count}: {error}");
    }
}

#[test]
fn ten_services_on_ten_threads_execute_one_log() {
    let scratch = Scratch::new("services-ten");
    let settings = cluster(&scratch, 1).remove(0);
    let watches: Vec<Arc<Watch>> = (0..10).map(|_| Arc::default()).collect();
    let services = watches.iter().enumerate();
    let services = services.fold(Services::new(), |services, (at, watch)| {
        services.on_thread(Busy::new(at == 0, watch))
    });
    let node = start(&settings, services);
    let mut client = connect(&settings.ingress_endpoints());
    load(&mut client, 40, 50);
    client.close().unwrap();
    // Its own messages and those of the others; and the timers of each are its own.
    until("all have heard", || {
        let heard = |watch: &Arc<Watch>| watch.heard.load(Ordering::SeqCst);
        watches.iter().all(|watch| heard(watch) > 40 + 100)
    });
    stop(node);
}

/// Takes one message, then none until it was given time of its own.
#[derive(Default)]
struct OneAtATime {
    is_full: Arc<AtomicU64>,
    heard: Arc<AtomicU64>,
    too_many: Arc<AtomicU64>,
}

impl Service for OneAtATime {
    fn ready(&self, _: Position) -> bool {
        self.is_full.load(Ordering::SeqCst) == 0
    }

    fn on_session_message(&mut self, _: &mut Cluster<'_>, _: SessionId, _: &[u8]) {
        let was_full = self.is_full.swap(1, Ordering::SeqCst);
        self.too_many.fetch_add(was_full, Ordering::SeqCst);
        self.heard.fetch_add(1, Ordering::SeqCst);
    }

    fn on_background_work(&mut self, _: Now) {
        self.is_full.store(0, Ordering::SeqCst);
    }

    fn digest(&self) -> u64 {
        0
    }
}

#[test]
fn a_service_that_takes_no_more_is_handed_nothing_wherever_it_runs() {
    for place in Place::BOTH {
        let scratch = Scratch::new("services-narrow");
        let settings = cluster(&scratch, 1).remove(0);
        let service = OneAtATime::default();
        let (heard, too_many) = (Arc::clone(&service.heard), Arc::clone(&service.too_many));
        let node = place.start(&settings, service);
        let mut client = connect(&settings.ingress_endpoints());
        for _ in 0..100 {
            client.offer_until(&[7; 16], PATIENCE).unwrap();
        }
        until("all is heard", || heard.load(Ordering::SeqCst) == 100);
        assert_eq!(too_many.load(Ordering::SeqCst), 0, "{place:?}");
        client.close().unwrap();
        stop(node);
    }
}

/// Says each message again.
struct Again(Arc<AtomicU64>);

impl Service for Again {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, m: &[u8]) {
        self.0.fetch_add(1, Ordering::SeqCst);
        cluster.offer(session, &[m]).unwrap();
    }

    fn digest(&self) -> u64 {
        0
    }
}

#[test]
fn a_client_that_never_reads_slows_nobody_wherever_the_service_runs() {
    for place in Place::BOTH {
        let scratch = Scratch::new("services-unread");
        let mut settings = cluster(&scratch, 1).remove(0);
        settings.timings.session_timeout = Span::from_millis(600_000);
        settings.timings.egress_timeout = Span::from_millis(600_000);
        let heard = Arc::new(AtomicU64::new(0));
        let node = place.start(&settings, Again(Arc::clone(&heard)));
        let mut deaf = connect(&settings.ingress_endpoints());
        // Until no more of what it sends is taken, because it has read nothing.
        let patience = Duration::from_secs(1);
        until("it to be refused, after it was heard", || {
            while deaf.offer_until(&[5; 1000], patience).is_ok() {}
            heard.load(Ordering::SeqCst) > 0
        });
        let mut client = connect(&settings.ingress_endpoints());
        for _ in 0..50 {
            assert_eq!(ask(&mut client, b"short").payload, b"short", "{place:?}");
        }
        drop(deaf);
        stop(node);
    }
}

#[test]
fn a_client_that_takes_long_over_each_answer_keeps_its_session() {
    let scratch = Scratch::new("services-slow-reader");
    let mut settings = cluster(&scratch, 1).remove(0);
    settings.timings.session_timeout = Span::from_millis(3_000);
    let node = Place::BOTH[0].start(&settings, Again(Arc::default()));
    let mut client = connect(&settings.ingress_endpoints());
    for _ in 0..200 {
        client.offer_until(&[5; 1000], PATIENCE).unwrap();
    }
    // All of them together take longer than the session lives without a word.
    let mut answers = 0;
    while answers < 200 {
        let each = |_: Egress<'_>| {
            answers += 1;
            std::thread::sleep(Duration::from_millis(20));
        };
        client.poll(PATIENCE, each).unwrap();
    }
    assert_eq!(ask(&mut client, b"short").payload, b"short");
    stop(node);
}
