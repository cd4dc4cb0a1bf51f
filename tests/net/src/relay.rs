//! A UDP relay that loses what it is told to lose: the harness's bad network.
//!
//! It has two doors. What comes in at the left door goes out of the right door to `right`; what
//! comes in at the right door goes out of the left door to `left`. Two members that know each
//! other only by the doors' addresses see each other's datagrams come from the doors, so their
//! checks of the source address hold.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Decides, datagram by datagram, what is lost.
pub type Loss = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// A relay between two addresses, running until it is dropped.
#[derive(Debug)]
pub struct Relay {
    left_door: SocketAddr,
    right_door: SocketAddr,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    passed: AtomicU64,
    lost: AtomicU64,
}

struct Direction {
    from: UdpSocket,
    out: UdpSocket,
    /// Where this direction's datagrams go.
    target: Arc<Mutex<Option<SocketAddr>>>,
    /// Where to note who sends here, for the way back, if that is not known beforehand.
    learn: Option<Arc<Mutex<Option<SocketAddr>>>>,
    loss: Loss,
}

impl Relay {
    /// Joins `left` and `right`; an unknown `left` is whoever last sent to the left door.
    /// `to_right` and `to_left` say what is lost in each direction.
    ///
    /// # Errors
    /// When a door cannot be bound on loopback.
    pub fn between(
        left: Option<SocketAddr>,
        right: SocketAddr,
        to_right: Loss,
        to_left: Loss,
    ) -> io::Result<Self> {
        let left_socket = door()?;
        let right_socket = door()?;
        let left_peer = Arc::new(Mutex::new(left));
        let right_peer = Arc::new(Mutex::new(Some(right)));
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Counts::default());
        let rightwards = Direction {
            from: left_socket.try_clone()?,
            out: right_socket.try_clone()?,
            target: right_peer,
            learn: left.is_none().then(|| left_peer.clone()),
            loss: to_right,
        };
        let leftwards = Direction {
            from: right_socket.try_clone()?,
            out: left_socket.try_clone()?,
            target: left_peer,
            learn: None,
            loss: to_left,
        };
        let left_door = left_socket.local_addr()?;
        let right_door = right_socket.local_addr()?;
        let threads = [rightwards, leftwards]
            .map(|direction| {
                let (stop, counts) = (stop.clone(), counts.clone());
                std::thread::spawn(move || direction.run(&stop, &counts))
            })
            .into();
        Ok(Self {
            left_door,
            right_door,
            stop,
            counts,
            threads,
        })
    }

    /// The address by which the left side knows the right side.
    pub fn left_door(&self) -> SocketAddr {
        self.left_door
    }

    /// The address by which the right side knows the left side.
    pub fn right_door(&self) -> SocketAddr {
        self.right_door
    }

    /// Datagrams handed on, both ways.
    pub fn passed(&self) -> u64 {
        self.counts.passed.load(Ordering::Relaxed)
    }

    /// Datagrams lost on purpose, both ways.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that panicked has already said so.
            drop(thread.join());
        }
    }
}

impl Direction {
    fn run(mut self, stop: &AtomicBool, counts: &Counts) {
        let mut buffer = vec![0; 65_536];
        while !stop.load(Ordering::Relaxed) {
            // An error is the read timeout, or a port that was closed on the other side: both
            // are ordinary while nodes are killed and restarted.
            let Ok((length, from)) = self.from.recv_from(&mut buffer) else {
                continue;
            };
            let datagram = &buffer[..length];
            if let Some(peer) = &self.learn {
                *peer.lock().expect("no holder panics") = Some(from);
            }
            let target = *self.target.lock().expect("no holder panics");
            if (self.loss)(datagram) {
                counts.lost.fetch_add(1, Ordering::Relaxed);
            } else if let Some(target) = target {
                counts.passed.fetch_add(1, Ordering::Relaxed);
                // A closed port on the other side is ordinary here too.
                drop(self.out.send_to(datagram, target));
            }
        }
    }
}

/// Loses nothing.
pub fn nothing() -> Loss {
    Box::new(|_| false)
}

/// Loses every `nth` datagram that carries data bytes; all else passes.
pub fn every_nth_data(nth: u64) -> Loss {
    let mut seen = 0u64;
    Box::new(move |datagram| {
        if crate::frames::data_stream(datagram).is_none() {
            return false;
        }
        seen += 1;
        seen.is_multiple_of(nth)
    })
}

fn door() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(("127.0.0.1", 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames;

    #[test]
    fn relays_both_ways_and_loses_every_third_data_datagram() {
        let client = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
        let server = UdpSocket::bind(("127.0.0.1", 0)).expect("a port is free");
        let patience = Some(Duration::from_secs(10));
        client
            .set_read_timeout(patience)
            .expect("a timeout can be set");
        server
            .set_read_timeout(patience)
            .expect("a timeout can be set");
        let right = server.local_addr().expect("it is bound");
        let relay = Relay::between(None, right, every_nth_data(3), nothing()).expect("doors");
        for offset in 0..9 {
            let datagram = frames::data(offset * 64, 1, 100, 0, b"payload");
            client
                .send_to(&datagram, relay.left_door())
                .expect("loopback takes it");
        }
        let mut buffer = [0; 2048];
        for offset in [0, 1, 3, 4, 6, 7] {
            let (length, from) = server.recv_from(&mut buffer).expect("it passed");
            assert_eq!(from, relay.right_door());
            assert_eq!(
                buffer[..length],
                frames::data(offset * 64, 1, 100, 0, b"payload")
            );
        }
        server
            .send_to(&frames::nak(1, 100), relay.right_door())
            .expect("loopback takes it");
        let (length, from) = client.recv_from(&mut buffer).expect("it passed");
        assert_eq!((length, from), (28, relay.left_door()));
        assert_eq!((relay.passed(), relay.lost()), (7, 3));
    }
}
