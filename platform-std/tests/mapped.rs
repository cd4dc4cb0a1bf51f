//! Mapped memory costs what is touched of it. A process of its own: the system counts by process.

use coracle_core::service::kv::Kv;
use coracle_core::service::kv::codec::{Request, encode_request};
use coracle_core::service::{Cluster, OfferError, Outbox, Role, Service};
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Position, SessionId};
use coracle_std::mapped::Mapped;

struct Nobody;

impl Outbox for Nobody {
    fn offer(&mut self, _: SessionId, _: &[&[u8]]) -> Result<(), OfferError> {
        Ok(())
    }

    fn close_session(&mut self, _: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }
}

/// Bytes of this process that are in the machine's memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

#[test]
fn a_large_map_with_few_entries_takes_little_memory_however_often_they_are_written() {
    let before = resident();
    let mut kv = Kv::with_barrier(Mapped::new(3 << 30).unwrap(), Mapped::new(1 << 30).unwrap());
    let value = vec![7; 10_000];
    for n in 0..5_000_u64 {
        let key = format!("key {}", n % 100);
        let request = Request::Put {
            key: key.as_bytes(),
            value: &value[..value.len() - n as usize % 3],
        };
        let bytes = encode_request(n, &request).parts().concat();
        let mut nobody = Nobody;
        let (at, member) = (Position::new(64 * (n + 1)), MemberId::new(0).unwrap());
        let mut cluster = Cluster::new(Timestamp(0), at, member, Role::Leader, &mut nobody);
        kv.on_session_message(&mut cluster, SessionId::new(Position::ZERO), &bytes);
    }
    assert_eq!(kv.len(), 100);
    let grown = resident() - before;
    assert!(grown < 32 << 20, "{grown} bytes for 1 MB of state");
}
