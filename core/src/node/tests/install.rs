//! A snapshot that is received.

use super::*;
use crate::units::{Section, ServiceId};
use crate::wire::member::{SnapshotChunk, SnapshotRequest};

/// What is asked for at this moment.
fn asks(bench: &mut Bench, ms: u64) -> Option<SnapshotRequest> {
    let said = bench.said(ms).into_iter();
    let mut asked = said.filter_map(|(_, body)| match body {
        Body::SnapshotRequest(request) => Some(request),
        _ => None,
    });
    asked.next()
}

#[test]
fn what_follows_is_asked_for_as_soon_as_what_came_is_stored() {
    let mut bench = Bench::new(3, &Recovered::fresh(CLUSTER));
    bench.lead(1, 1, &[(1, 0)], 0, 0);
    let instant = now(1).instant;
    bench.node.receive_snapshot(instant, id(1), term(1));
    let asked = asks(&mut bench, 1).expect("the first section");
    assert_eq!((asked.section, asked.offset), (Section::Consensus, 0));
    let chunk = SnapshotChunk {
        sender: Sender {
            cluster: CLUSTER,
            incarnation: Incarnation::FIRST,
            member: id(1),
        },
        term: term(1),
        position: Position::new(4096),
        digest: 5,
        section: Section::Consensus,
        offset: 0,
        is_last: true,
        bytes: &[7; 64],
    };
    let mut sent = [0; CONTROL_MAX];
    let len = chunk.emit(&mut sent).unwrap();
    bench.datagram(2, 1, &sent[..len]).unwrap();
    assert_eq!(asks(&mut bench, 2), None, "all of it is here");
    let lent = lent!(bench);
    let install = bench.node.poll_install(&lent).expect("to be stored");
    bench.node.handle_installed(install, true);
    let asked = asks(&mut bench, 2).expect("the next section");
    let service = ServiceId::new(0).unwrap();
    assert_eq!(
        (asked.section, asked.offset),
        (Section::Service(service), 0)
    );
}
