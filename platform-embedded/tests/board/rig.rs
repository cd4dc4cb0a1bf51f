//! A store with a log and no node: what it has promised is written down, so that it can be looked
//! for after a power cut.

use std::ops::Range;

use coracle_core::log::{
    Frames, Journal, Log, NodeState, Window, append, segment_base, window_len,
};
use coracle_core::node::SnapshotId;
use coracle_core::prng::Prng;
use coracle_core::snapshot::{
    Begin, End, Section, SnapshotError, SnapshotSink, SnapshotSource, SnapshotWriter, Sums,
};
use coracle_core::time::Timestamp;
use coracle_core::units::{AppVersion, ClusterId, MemberId, Position, ServiceId, Term};
use coracle_embedded::{CHECKED_AT_ONCE, Finish, Layout, Storage, Store, StoreError};
use embedded_io::{ErrorKind, ErrorType, Write};

use super::{Device, Handle, Kind, PowerCut};

pub const SEGMENT: u32 = 64 * 1024;
const MTU: usize = 1408;
const CLUSTER: ClusterId = ClusterId(0x00c0_ac1e);
const SERVICE_BYTES: usize = 6_000;

/// One thing that a member does to its storage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Appends so many records of so many bytes, and makes them durable.
    Append(usize, usize),
    /// The log comes to rest: what is durable is confirmed.
    Rest,
    /// A term and a vote.
    Vote,
    /// A leadership in which the last so many records are not.
    Cut(usize),
    /// A snapshot so many records back.
    Snapshot(usize),
    /// All segments below the newest snapshot are given up.
    Purge,
    /// A snapshot from the leader, so far above the log.
    Receive(u64),
    /// The frames of so many records back are written again, as if they had been damaged.
    Repair(usize),
}

/// What must be there after a power cut.
#[derive(Clone, Debug)]
pub struct Promise {
    pub end: u64,
    pub state: NodeState,
    pub snapshot: u64,
}

/// See the module's text.
pub struct Rig {
    pub device: Handle,
    store: Store<Handle>,
    journal: Journal,
    window: Window<Vec<u8>>,
    /// All bytes of the log from position 0 on, as they should be.
    ghost: Vec<u8>,
    /// Where records end, and the chain there.
    ends: Vec<(u64, u32)>,
    joined: u32,
    filler: u8,
    pub promise: Promise,
    /// A snapshot that is being received and may or may not count already.
    receiving: Option<u64>,
}

type Done = Result<(), StoreError<PowerCut>>;

fn first_state() -> NodeState {
    NodeState {
        term: Term::new(1),
        ..NodeState::first(CLUSTER, MemberId::new(1).unwrap())
    }
}

/// A device, formatted.
pub fn formatted(kind: Kind) -> Handle {
    let layout = Layout {
        segment_length: SEGMENT,
        snapshot_max: 7 * 4096,
        record_units: 2,
    };
    let device = Device::new(kind, 4 * SEGMENT as usize + 20 * 4096);
    Handle::new(Store::format_as(device, &layout, &first_state()).unwrap())
}

fn window() -> Window<Vec<u8>> {
    Window::new(vec![0; window_len(16 * 1024, MTU)], MTU, SEGMENT).unwrap()
}

fn service() -> Section {
    Section::Service(ServiceId::new(0).unwrap())
}

impl Rig {
    /// Starts on a device that was formatted just now.
    pub fn new(device: &Handle) -> Result<Self, StoreError<PowerCut>> {
        let promise = Promise {
            end: 0,
            state: first_state(),
            snapshot: 0,
        };
        Self::start(device, promise, (Vec::new(), Vec::new()), None)
    }

    /// Starts again after a power cut, and looks for all that was promised.
    pub fn again(self, device: &Handle) -> Result<Self, StoreError<PowerCut>> {
        let known = (self.ghost, self.ends);
        Self::start(device, self.promise, known, self.receiving)
    }

    /// What is known, to start from it more than once.
    pub fn known(&self) -> Known {
        Known {
            promise: self.promise.clone(),
            ghost: self.ghost.clone(),
            ends: self.ends.clone(),
            receiving: self.receiving,
        }
    }

    fn start(
        device: &Handle,
        promise: Promise,
        (ghost, ends): (Vec<u8>, Vec<(u64, u32)>),
        receiving: Option<u64>,
    ) -> Result<Self, StoreError<PowerCut>> {
        let (mut store, state) = Store::open(device.clone(), SEGMENT)?;
        assert!(state.term >= promise.state.term, "a term went back");
        if state.term == promise.state.term && promise.state.vote.is_some() {
            assert_eq!(state.vote, promise.state.vote, "a vote was forgotten");
        }
        let mut window = window();
        let mut scratch = vec![0; 4 * MTU];
        let recovered = store.recover(CLUSTER, &mut window, &mut scratch)?;
        assert_eq!(recovered.corrupt, None, "what was durable is damaged");
        let (start, end) = (recovered.start.position.get(), recovered.tail.end.get());
        let newest = newest_of(&mut store);
        let mut rig = Self {
            device: device.clone(),
            store,
            journal: recovered.journal(CLUSTER, &window),
            window,
            ghost,
            ends,
            joined: recovered.joined.get().max(state.term.get()),
            filler: state.term.get() as u8,
            promise,
            receiving: None,
        };
        if let Some(position) = receiving.filter(|position| *position == start) {
            rig.restarted_at(position);
        }
        rig.promise.state = state;
        let promise = &mut rig.promise;
        assert!(newest >= promise.snapshot, "a snapshot is lost");
        assert!(end >= promise.end, "{end} is less than {}", promise.end);
        promise.snapshot = newest;
        let kept = promise.end;
        rig.compare(start, kept)?;
        rig.adopt(kept.max(start), end)?;
        Ok(rig)
    }

    /// The log as it was promised.
    fn compare(&mut self, start: u64, end: u64) -> Done {
        let pads = self.pads(start, end);
        let mut at = start;
        let mut scratch = vec![0; 8 * 1024];
        while at < end {
            let read = self.store.read(Position::new(at), &mut scratch);
            let len = read.map_err(StoreError::Device)?.min((end - at) as usize);
            assert!(len > 0, "nothing is at {at}");
            let ghost = &self.ghost[at as usize..at as usize + len];
            if scratch[..len] != *ghost {
                let is_in_pad = |at: u64| pads.iter().any(|pad| pad.contains(&at));
                let others = (0..len).filter(|n| scratch[*n] != ghost[*n]);
                let other = others.map(|n| at + n as u64).find(|at| !is_in_pad(*at));
                assert_eq!(other, None, "other bytes there");
            }
            at += len as u64;
        }
        Ok(())
    }

    /// The bytes behind the headers of PAD frames, which mean nothing: after a power cut those of a
    /// write that was torn may be there.
    fn pads(&self, start: u64, end: u64) -> Vec<Range<u64>> {
        let mut pads = Vec::new();
        let mut at = start;
        while at < end {
            let header = &self.ghost[at as usize..];
            let len = u32::from_le_bytes(*header.first_chunk().unwrap());
            let next = at + u64::from(len).next_multiple_of(32);
            assert!(next > at, "no frame is at {at}");
            if header[6..8] == [0, 0] {
                pads.push(at + 32..next);
            }
            at = next;
        }
        pads
    }

    /// What was found above what was promised is the log as well, from now on.
    fn adopt(&mut self, from: u64, end: u64) -> Done {
        self.ghost.truncate(from as usize);
        self.ends.retain(|(at, _)| *at <= from);
        let mut scratch = vec![0; 8 * 1024];
        let mut at = from;
        while at < end {
            let read = self.store.read(Position::new(at), &mut scratch);
            let len = read.map_err(StoreError::Device)?.min((end - at) as usize);
            let before = at;
            let frames = Frames::new(&scratch[..len], Position::new(at), SEGMENT);
            for frame in frames.verified() {
                at = frame.end().get();
                self.ends.push((at, frame.chain));
            }
            assert!(at > before, "no frame at {at}");
            self.ghost
                .extend_from_slice(&scratch[..(at - before) as usize]);
        }
        Ok(())
    }

    fn end(&self) -> u64 {
        self.window.end().get()
    }

    pub fn step(&mut self, step: Step) -> Done {
        match step {
            Step::Append(count, len) => self.append(count, len),
            Step::Rest => self.rest(),
            Step::Vote => self.vote(),
            Step::Cut(records) => self.cut(records),
            Step::Snapshot(records) => self.snapshot(records),
            Step::Purge => self.purge(),
            Step::Receive(ahead) => self.receive(ahead),
            Step::Repair(records) => self.repair(records),
        }
    }

    fn append(&mut self, count: usize, len: usize) -> Done {
        for _ in 0..count {
            self.filler = self.filler.wrapping_add(1);
            let term = Term::new(self.joined);
            let payload = vec![self.filler; len];
            if append(&mut self.window, term, &[&payload], MTU).is_err() {
                self.write_all(1)?;
                append(&mut self.window, term, &[&payload], MTU).expect("room was made");
            }
            let mut at = self.ghost.len() as u64;
            while at < self.end() {
                let run = self.window.read(Position::new(at));
                self.ghost.extend_from_slice(run);
                at = self.ghost.len() as u64;
            }
            self.ends.push((at, self.window.chain().unwrap()));
        }
        self.write_all(1)
    }

    fn rest(&mut self) -> Done {
        self.write_all(20)
    }

    /// Until so many polls in a row find nothing to write.
    fn write_all(&mut self, idle: usize) -> Done {
        let mut left = idle;
        while left > 0 {
            if let Some(cut) = self.window.take_cut() {
                self.journal.handle_truncated(cut);
            }
            let end = self.window.end();
            if self.window.chain().is_none() {
                let mut scratch = vec![0; 4 * MTU];
                let chain = self.store.chain_below(end, &mut scratch);
                let chain = chain.map_err(StoreError::Device)?;
                self.window.set_chain(end, chain.expect("it is in storage"));
            }
            let joined = Term::new(self.joined);
            let Some(group) = self.journal.poll_group(joined, &self.window) else {
                left -= 1;
                continue;
            };
            self.store.write_group(&group, &self.window)?;
            self.window.set_written(self.journal.written());
            let mark = self.journal.handle_flushed();
            // What an earlier life has acknowledged stays so.
            self.promise.end = self.promise.end.max(mark.position.get());
            self.window.release(mark.position);
        }
        Ok(())
    }

    fn vote(&mut self) -> Done {
        let term = self.promise.state.term.next();
        let state = NodeState {
            term,
            vote: MemberId::new((term.get() % 3) as u8),
            ..self.promise.state
        };
        self.store.write_state(&state)?;
        self.promise.state = state;
        Ok(())
    }

    /// What is above is nobody's promise any more, from when the leader is joined.
    fn cut(&mut self, records: usize) -> Done {
        self.vote()?;
        self.joined = self.promise.state.term.get();
        let keep = self.ends.len().saturating_sub(records);
        let at = self.ends.get(keep.wrapping_sub(1)).map_or(0, |end| end.0);
        let at = at.max(self.promise.snapshot);
        self.ends.retain(|(end, _)| *end <= at);
        self.ghost.truncate(at as usize);
        self.promise.end = self.promise.end.min(at);
        self.window.truncate(Position::new(at)).expect("a boundary");
        self.write_all(1)
    }

    fn snapshot(&mut self, records: usize) -> Done {
        let (position, chain) = self.ends[self.ends.len() - 1 - records];
        self.store.begin_snapshot(Position::new(position))?;
        let sink = self.store.sink();
        if write_set(&mut sink.expect("it was begun"), position, chain).is_err() {
            return Err(StoreError::Device(PowerCut));
        }
        while self.read_back()? == Finish::More {
            // The member goes on meanwhile, and what it promises holds.
            self.vote()?;
            self.append(1, 200)?;
        }
        self.promise.snapshot = position;
        Ok(())
    }

    /// A piece of what was written; never more than is promised for one turn.
    fn read_back(&mut self) -> Result<Finish, StoreError<PowerCut>> {
        let before = self.device.bytes_read();
        let done = self.store.finish_snapshot(CLUSTER)?;
        let read = self.device.bytes_read() - before;
        assert!(read < u64::from(CHECKED_AT_ONCE) + 128, "{read} bytes");
        assert!(done != Finish::Unsound, "nothing has rotten");
        Ok(done)
    }

    /// A snapshot of which a byte rots while it is read back, after so many pieces: it does not
    /// count, and the one before does. False if it was all read by then, and counts.
    pub fn rots_after(&mut self, pieces: usize, at: usize) -> bool {
        let (position, chain) = self.ends[self.ends.len() - 1];
        let position = Position::new(position);
        self.store.begin_snapshot(position).unwrap();
        let mut sink = self.store.sink().expect("it was begun");
        write_set(&mut sink, position.get(), chain).unwrap();
        for _ in 0..pieces {
            if self.read_back().unwrap() == Finish::Stored {
                self.promise.snapshot = position.get();
                return false;
            }
        }
        self.device.with(|device| device.rot(at, 1));
        let mut done = Finish::More;
        while done == Finish::More {
            done = self.store.finish_snapshot(CLUSTER).unwrap();
        }
        assert_eq!(done, Finish::Unsound);
        assert_eq!(newest_of(&mut self.store), self.promise.snapshot);
        true
    }

    fn purge(&mut self) -> Done {
        let durable = Position::new(self.promise.end.saturating_sub(1));
        let below = Position::new(self.promise.snapshot).min(durable);
        let below = segment_base(below, SEGMENT);
        self.store.purge(below)?;
        self.journal.handle_purged(below);
        Ok(())
    }

    fn receive(&mut self, ahead: u64) -> Done {
        let position = self.end() + ahead;
        let mut sheets = Sheets::default();
        let digest = write_set(&mut sheets, position, 7).unwrap().digest;
        let id = SnapshotId {
            position: Position::new(position),
            digest,
        };
        self.receiving = Some(position);
        for (section, sheet) in [(Section::Consensus, 0), (service(), 1)] {
            let mut offset = 0;
            for piece in sheets.0[sheet].0.chunks(1_100) {
                if !self.store.receive_snapshot(id, section, offset, piece)? {
                    return Err(StoreError::Device(PowerCut));
                }
                offset += piece.len() as u64;
            }
        }
        while self.read_back()? == Finish::More {
            self.vote()?;
        }
        self.promise.snapshot = position;
        let device = self.device.clone();
        let known = self.known();
        *self = known.start(&device)?;
        assert_eq!(self.store.start().get(), position);
        Ok(())
    }

    /// What is below is in a snapshot.
    fn restarted_at(&mut self, position: u64) {
        self.ghost.resize(position as usize, 0);
        self.ends = vec![(position, 7)];
        self.promise.end = self.promise.end.max(position);
    }

    fn repair(&mut self, records: usize) -> Done {
        let count = self.ends.len();
        let (from, to) = (
            self.ends[count - 1 - records].0,
            self.ends[count - records].0,
        );
        let at = Position::new(from);
        let bytes = self.ghost[from as usize..to as usize].to_vec();
        let end = segment_base(at, SEGMENT).get() + u64::from(SEGMENT);
        if to <= end && from >= self.store.start().get() {
            self.store.repair(at, &bytes)?;
            // The log is read anew, as a node does when it is healed.
            let device = self.device.clone();
            let known = self.known();
            *self = known.start(&device)?;
        }
        Ok(())
    }
}

/// What is known of a store's promises.
#[derive(Clone)]
pub struct Known {
    pub promise: Promise,
    ghost: Vec<u8>,
    ends: Vec<(u64, u32)>,
    receiving: Option<u64>,
}

impl Known {
    /// Starts after a power cut, and looks for all that was promised.
    pub fn start(self, device: &Handle) -> Result<Rig, StoreError<PowerCut>> {
        Rig::start(
            device,
            self.promise,
            (self.ghost, self.ends),
            self.receiving,
        )
    }
}

/// A snapshot's bytes, in memory.
#[derive(Default)]
struct Sheets([Sheet; 2]);

#[derive(Default)]
struct Sheet(Vec<u8>);

impl ErrorType for Sheet {
    type Error = ErrorKind;
}

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl SnapshotSink for Sheets {
    fn section(&mut self, section: Section) -> &mut dyn Write<Error = ErrorKind> {
        &mut self.0[usize::from(section.to_wire())]
    }
}

/// A set as a node writes one: in steps, both sections by turns.
fn write_set(sink: &mut dyn SnapshotSink, position: u64, chain: u32) -> Result<End, SnapshotError> {
    let begin = |section| Begin {
        cluster: CLUSTER,
        section,
        app_version: AppVersion::new(0, 0, 1),
        position: Position::new(position),
        term: Term::new(1),
        chain,
        timestamp: Timestamp(0),
        segment_length: SEGMENT,
    };
    let (mut own, mut others) = (Sums::new(), Sums::new());
    let mut out = SnapshotWriter::new(sink.section(Section::Consensus), &mut own);
    out.begin(&begin(Section::Consensus))?;
    out.bytes(&[3; 77])?;
    let mut prng = Prng::new(position);
    let mut out = SnapshotWriter::new(sink.section(service()), &mut others);
    out.begin(&begin(service()))?;
    let mut left = SERVICE_BYTES;
    while left > 0 {
        let len = (1 + prng.below(500) as usize).min(left);
        let mut out = SnapshotWriter::new(sink.section(service()), &mut others);
        out.put(&vec![position as u8; len])?;
        left -= len;
    }
    let mut out = SnapshotWriter::new(sink.section(service()), &mut others);
    let end = out.end()?;
    let mut out = SnapshotWriter::new(sink.section(Section::Consensus), &mut own);
    out.u32(1)?;
    out.u64(end.length)?;
    out.u64(end.digest)?;
    out.end()
}

/// The newest sound set's position, all of which is read; 0 if there is none.
fn newest_of<S: Storage>(store: &mut Store<S>) -> u64 {
    let Some(mut source) = store.source() else {
        return 0;
    };
    let (bytes, length) = source.open(service()).expect("both sections are there");
    let mut all = vec![0; length as usize];
    bytes.read_exact(&mut all).expect("it can be read");
    let begin = Begin::decode(all.first_chunk().unwrap()).unwrap();
    let body = &all[64..all.len() - 32];
    assert!(body.iter().all(|byte| *byte == begin.position.get() as u8));
    begin.position.get()
}
