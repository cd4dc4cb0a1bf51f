//! A gateway that runs a member inside its own poll loop: one thread serves the cluster and a local
//! UDP port, on which devices ask for the replicated total without a session.
//!
//! ```text
//! cargo run --example gateway -- node.toml 127.0.0.1:7000 &
//! cargo run --example client -- 0=127.0.0.1:9100 17 4      adds, and prints the total each time
//! echo | nc -u -w1 127.0.0.1 7000                          asks this member
//! ```

use std::net::UdpSocket;
use std::os::fd::AsFd;

use coracle_core::service::{Cluster, Service};
use coracle_core::units::SessionId;
use coracle_std::config::Settings;
use coracle_std::net::wait;
use coracle_std::node::NodeBuilder;
use coracle_std::signals::StopSignal;

/// The replicated state: the sum of all numbers that clients have sent.
#[derive(Default)]
struct Total(u64);

impl Service for Total {
    fn on_session_message(&mut self, cluster: &mut Cluster<'_>, session: SessionId, text: &[u8]) {
        let number = std::str::from_utf8(text)
            .ok()
            .and_then(|t| t.trim().parse().ok());
        self.0 = self.0.wrapping_add(number.unwrap_or(0));
        // A client that has gone needs no answer.
        cluster
            .offer(session, &[self.0.to_string().as_bytes()])
            .ok();
    }

    fn digest(&self) -> u64 {
        self.0
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: gateway node.toml HOST:PORT";
    let settings = Settings::load(args.next().ok_or(usage)?.as_ref())?;
    let devices = UdpSocket::bind(args.next().ok_or(usage)?)?;
    devices.set_nonblocking(true)?;
    let stop = StopSignal::register()?;
    let mut node = NodeBuilder::new(settings)
        .init(true)
        .start(Total::default())?;
    while !stop.is_set() {
        let sleep = node.poll()?;
        while let Ok((_, device)) = devices.recv_from(&mut [0; 64]) {
            let (total, status) = (node.service().0, node.status());
            let answer = format!("{total} at {} as {:?}\n", status.applied.get(), status.role);
            devices.send_to(answer.as_bytes(), device)?;
        }
        let fds: Vec<_> = node.fds().into_iter().chain([devices.as_fd()]).collect();
        wait(&fds, sleep)?;
    }
    Ok(node.close()?)
}
