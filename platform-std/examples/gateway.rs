//! A gateway with its own poll loop, and a cluster member in it: no further thread of its own, no
//! second loop. Lines that come in over UDP are numbered by the replicated service, the same number
//! on every member.
//!
//! `cargo run --example gateway -- contrib/node.toml 127.0.0.1:7000`

use std::error::Error;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use coracle_core::service::{Cluster, Service};
use coracle_core::units::SessionId;
use coracle_std::config::Settings;
use coracle_std::net::wait;
use coracle_std::node::NodeBuilder;

/// The replicated state: how many orders there were.
#[derive(Default)]
struct Orders {
    count: u64,
}

impl Service for Orders {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, _: &[u8]) {
        self.count += 1;
        // The session may have closed meanwhile; the order counts all the same.
        let _closed = cluster
            .offer(session, &[&self.count.to_le_bytes()])
            .is_err();
    }

    fn digest(&self) -> u64 {
        self.count
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(config), Some(listen)) = (args.next(), args.next()) else {
        return Err("usage: gateway CONFIG HOST:PORT".into());
    };
    let mut member = NodeBuilder::new(Settings::load(config.as_ref())?)
        .init(true)
        .build(Orders::default())?;
    let socket = UdpSocket::bind(listen)?;
    socket.set_nonblocking(true)?;
    let mut datagram = [0; 2048];
    loop {
        let mut busy = member.turn()?;
        // The gateway's own work: whoever asks is told how things stand here.
        if let Ok((_, from)) = socket.recv_from(&mut datagram) {
            let (status, count) = (member.status(), member.service().count);
            let answer = format!("{:?} at {}: {count} orders\n", status.role, status.applied);
            socket.send_to(answer.as_bytes(), from)?;
            busy = true;
        }
        if !busy {
            let sleep = member.about_to_sleep();
            let [waker, members, clients] = member.fds();
            wait(&[waker, members, clients, socket.as_fd()], sleep)?;
            member.awake();
        }
    }
}
