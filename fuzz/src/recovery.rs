//! Start after a crash, on a device whose bytes are damaged: no panic, and what was confirmed
//! durable is either there unchanged or reported as corrupt, never silently cut.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use coracle_core::log::{Frames, Log, NodeState, Seed, Window, append};
use coracle_core::units::{ClusterId, MemberId, Position, Term};
use coracle_embedded::{Layout, Storage, Store, StoreError};

const CLUSTER: ClusterId = ClusterId(7);
const SEGMENT: u32 = 64 * 1024;
const MTU: usize = 1408;
/// At the device's end: two units for term and vote, and two for what is said of the log.
const RECORDS: usize = 4 * 4096;

/// Memory as a device; nothing fails.
#[derive(Clone)]
struct Device(Vec<u8>);

impl Storage for Device {
    type Error = std::convert::Infallible;

    fn capacity(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Self::Error> {
        into.copy_from_slice(&self.0[at as usize..][..into.len()]);
        Ok(())
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0[at as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

fn window() -> Window<Vec<u8>> {
    Window::new(vec![0; 16 * 1024 + MTU], MTU, SEGMENT).expect("a good size")
}

/// A device with a log, as it was before the damage.
struct Written {
    device: Vec<u8>,
    /// The chain at every frame boundary.
    chains: BTreeMap<Position, u32>,
}

/// Several groups of three terms, over two segments.
fn write() -> Written {
    let state = NodeState {
        term: Term::new(3),
        ..NodeState::first(CLUSTER, MemberId::new(0).expect("0 is a member"))
    };
    let layout = Layout {
        segment_length: SEGMENT,
        snapshot_max: 0,
        record_units: 2,
    };
    let blank = Device(vec![0xff; 2 * SEGMENT as usize + RECORDS]);
    let device = Store::format_as(blank, &layout, &state).expect("nothing fails");
    let (mut store, _) = Store::open(device, SEGMENT).expect("it was formatted");
    let (mut log, mut scratch) = (window(), vec![0; MTU]);
    let empty = store.recover(CLUSTER, &mut log, &mut scratch);
    let mut journal = empty.expect("nothing is wrong").journal(CLUSTER, &log);
    let genesis = Seed::genesis(CLUSTER).chain.expect("known");
    let mut chains = BTreeMap::from([(Position::ZERO, genesis)]);
    for n in 0..40_u8 {
        let term = Term::new(1 + u32::from(n) / 15);
        let record = vec![n; 97 * usize::from(n)];
        let mut at = append(&mut log, term, &[&record], MTU)
            .expect("there is room")
            .start;
        while at < log.end() {
            let run = log.read(at);
            for frame in Frames::new(run, at, SEGMENT) {
                chains.insert(frame.end(), frame.chain);
                at = frame.end();
            }
        }
        while let Some(group) = journal.poll_group(term, &log) {
            store.write_group(&group, &log).expect("it is large enough");
            log.set_written(journal.written());
            log.release(journal.written());
            journal.handle_flushed();
        }
    }
    assert!(log.end().get() > u64::from(SEGMENT), "two segments");
    Written {
        device: store.into_device().0,
        chains,
    }
}

/// Damages a device, then starts on it. Each five bytes are a place and a new value. Says whether
/// it started.
pub fn run(bytes: &[u8]) -> usize {
    static WRITTEN: OnceLock<Written> = OnceLock::new();
    let written = WRITTEN.get_or_init(write);
    let mut device = Device(written.device.clone());
    for damage in bytes.chunks_exact(5) {
        let place = u32::from_le_bytes([damage[0], damage[1], damage[2], damage[3]]);
        // Half of the damage is done where the smallest matters most: term, vote and slots.
        let range = match place & 1 {
            0 => device.0.len(),
            _ => RECORDS,
        };
        let at = device.0.len() - 1 - (place >> 1) as usize % range;
        device.0[at] = damage[4];
    }
    start(device, &written.chains)
}

fn start(device: Device, chains: &BTreeMap<Position, u32>) -> usize {
    let mut store = match Store::open(device, SEGMENT) {
        Ok((store, _)) => store,
        Err(StoreError::NodeState(_) | StoreError::Layout | StoreError::Slot(_)) => return 0,
        Err(error) => panic!("{error:?}"),
    };
    let (mut log, mut scratch) = (window(), vec![0; MTU]);
    let recovered = match store.recover(CLUSTER, &mut log, &mut scratch) {
        Ok(recovered) => recovered,
        Err(StoreError::Recovery(_) | StoreError::Slot(_)) => return 0,
        Err(error) => panic!("{error:?}"),
    };
    assert_eq!(log.start(), recovered.confirmed);
    assert_eq!(log.end(), recovered.tail.end);
    assert!(recovered.confirmed <= recovered.tail.end);
    // Equal chain at an equal position means equal bytes below: what is believed was written.
    let chain_of = |at| chains.get(&at).copied();
    assert_eq!(recovered.confirmed_chain, chain_of(recovered.confirmed));
    if recovered.corrupt.is_none() {
        assert_eq!(recovered.chain, chain_of(recovered.tail.end));
        assert_eq!(log.chain(), recovered.chain);
    }
    1
}
