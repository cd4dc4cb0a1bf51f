//! An Ethernet switch in this process: QEMU sends each frame of a machine as one datagram, and so
//! frames can be lost, doubled, delayed and kept back on command.

use std::collections::BinaryHeap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use coracle_core::prng::Prng;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// What is done to frames. Rates are out of a thousand.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Lost.
    pub loss: u64,
    /// Sent twice.
    pub duplicates: u64,
    /// Each is held back for a time up to this, so they overtake one another.
    pub delay: Duration,
    /// Ports that nothing comes from or goes to.
    pub cut_off: Vec<usize>,
}

/// What has become of the frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Delivered.
    pub delivered: u64,
    /// Lost on purpose.
    pub lost: u64,
    /// Delivered twice.
    pub doubled: u64,
    /// Delivered late.
    pub delayed: u64,
    /// Kept back at a port that is cut off.
    pub kept_back: u64,
}

/// Who takes the frames for the last port: it is no machine.
pub type Uplink = Box<dyn Fn(&[u8]) + Send>;

/// One switch. Its ports are those of the machines, and one more.
#[derive(Clone)]
pub struct Switch {
    inner: Arc<(Mutex<Inner>, Condvar)>,
    socket: Arc<UdpSocket>,
}

struct Inner {
    machines: Vec<(SocketAddr, Mac)>,
    uplink: Option<Uplink>,
    faults: Faults,
    traffic: Traffic,
    prng: Prng,
    late: BinaryHeap<Late>,
    is_over: bool,
}

/// A frame that is held back; the earliest is the greatest.
struct Late {
    at: Instant,
    number: u64,
    port: usize,
    frame: Vec<u8>,
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Late {}
impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl Switch {
    /// A switch for machines whose frames come from these ports of 127.0.0.1.
    ///
    /// # Errors
    /// The system's own.
    pub fn start(machines: &[(u16, Mac)], seed: u64) -> std::io::Result<Self> {
        let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?);
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let at = |(port, mac): &(u16, Mac)| ((Ipv4Addr::LOCALHOST, *port).into(), *mac);
        let inner = Inner {
            machines: machines.iter().map(at).collect(),
            uplink: None,
            faults: Faults::default(),
            traffic: Traffic::default(),
            prng: Prng::new(seed),
            late: BinaryHeap::new(),
            is_over: false,
        };
        let inner = Arc::new((Mutex::new(inner), Condvar::new()));
        let switch = Self { inner, socket };
        let (receiving, delaying) = (switch.clone(), switch.clone());
        thread::spawn(move || receiving.receive());
        thread::spawn(move || delaying.deliver_late());
        Ok(switch)
    }

    /// Where machines send their frames.
    ///
    /// # Panics
    /// If the socket has no address, which a bound one has.
    pub fn port(&self) -> u16 {
        self.socket.local_addr().expect("it is bound").port()
    }

    /// Who takes what goes to the last port.
    pub fn set_uplink(&self, uplink: Uplink) {
        self.lock().uplink = Some(uplink);
    }

    /// What is done to frames from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// What has become of frames so far.
    pub fn traffic(&self) -> Traffic {
        self.lock().traffic
    }

    /// Ends its threads.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.inner.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self) {
        let mut frame = [0; 4096];
        while !self.lock().is_over {
            // A machine that was killed refuses what is sent to it: the next call reports that.
            let Ok((len, from)) = self.socket.recv_from(&mut frame) else {
                continue;
            };
            let machines = &self.lock().machines.clone();
            if let Some(port) = machines.iter().position(|(at, _)| *at == from) {
                self.pass(port, &frame[..len]);
            }
        }
    }

    /// Passes a frame on that has come in at a port.
    pub fn pass(&self, from: usize, frame: &[u8]) {
        let Some(to) = frame.first_chunk::<6>() else {
            return;
        };
        let mut inner = self.lock();
        let ports = inner.machines.len() + 1;
        let known = inner.machines.iter().position(|(_, mac)| mac == to);
        let outputs = match known {
            Some(port) => port..port + 1,
            // Everybody, or the uplink alone as no machine has the address.
            None if to[0] & 1 != 0 => 0..ports,
            None => ports - 1..ports,
        };
        for port in outputs.filter(|port| *port != from) {
            inner.switch(from, port, frame, &self.socket);
        }
        if !inner.late.is_empty() {
            self.inner.1.notify_one();
        }
    }

    fn deliver_late(&self) {
        let mut inner = self.lock();
        while !inner.is_over {
            let now = Instant::now();
            let wait = match inner.late.peek() {
                Some(late) if late.at <= now => {
                    if let Some(late) = inner.late.pop() {
                        inner.deliver(late.port, &late.frame, &self.socket);
                    }
                    continue;
                }
                Some(late) => late.at - now,
                None => Duration::from_millis(100),
            };
            let waited = self.inner.1.wait_timeout(inner, wait);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Inner {
    /// One frame for one port, and what happens to it on the way.
    fn switch(&mut self, from: usize, port: usize, frame: &[u8], socket: &UdpSocket) {
        let cut_off = &self.faults.cut_off;
        if cut_off.contains(&from) || cut_off.contains(&port) {
            self.traffic.kept_back += 1;
            return;
        }
        if self.prng.below(1000) < self.faults.loss {
            self.traffic.lost += 1;
            return;
        }
        let is_doubled = self.prng.below(1000) < self.faults.duplicates;
        self.traffic.doubled += u64::from(is_doubled);
        for _ in 0..=usize::from(is_doubled) {
            let micros = self.faults.delay.as_micros() as u64;
            if micros == 0 {
                self.deliver(port, frame, socket);
                continue;
            }
            self.traffic.delayed += 1;
            let late = Duration::from_micros(self.prng.below(micros));
            let number = self.traffic.delayed;
            self.late.push(Late {
                at: Instant::now() + late,
                number,
                port,
                frame: frame.to_vec(),
            });
        }
    }

    fn deliver(&mut self, port: usize, frame: &[u8], socket: &UdpSocket) {
        self.traffic.delivered += 1;
        match self.machines.get(port) {
            // A machine that is off takes nothing.
            Some((at, _)) => drop(socket.send_to(frame, at)),
            None => {
                if let Some(uplink) = &self.uplink {
                    uplink(frame);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        machines: Vec<UdpSocket>,
        switch: Switch,
        uplink: Arc<Mutex<Vec<Vec<u8>>>>,
    }

    fn mac(number: usize) -> Mac {
        [2, 0, 0, 0, 0, number as u8]
    }

    impl Rig {
        /// Three machines.
        fn new() -> Self {
            let bound = |_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let machines: Vec<UdpSocket> = (0..3).map(bound).collect();
            let wired = machines.iter().enumerate();
            let wired: Vec<_> = wired
                .map(|(n, socket)| (socket.local_addr().unwrap().port(), mac(n)))
                .collect();
            let switch = Switch::start(&wired, 1).unwrap();
            let uplink = Arc::new(Mutex::new(Vec::new()));
            let kept = uplink.clone();
            switch.set_uplink(Box::new(move |frame| {
                kept.lock().unwrap().push(frame.to_vec())
            }));
            Self {
                machines,
                switch,
                uplink,
            }
        }

        /// A machine sends a frame.
        fn send(&self, from: usize, to: Mac, text: &str) {
            let frame = [&to[..], text.as_bytes()].concat();
            let switch = (Ipv4Addr::LOCALHOST, self.switch.port());
            self.machines[from].send_to(&frame, switch).unwrap();
        }

        /// The next frame that a machine gets.
        fn next(&self, at: usize) -> String {
            let socket = &self.machines[at];
            socket
                .set_read_timeout(Some(Duration::from_secs(60)))
                .unwrap();
            let mut frame = [0; 100];
            let len = socket.recv(&mut frame).expect("a frame within a minute");
            String::from_utf8_lossy(&frame[6..len]).into_owned()
        }
    }

    #[test]
    fn a_frame_goes_to_whom_it_is_for_and_a_broadcast_to_all_others() {
        let rig = Rig::new();
        rig.send(0, mac(1), "one");
        rig.send(0, [0xff; 6], "all");
        assert_eq!(
            [rig.next(1), rig.next(1), rig.next(2)],
            ["one", "all", "all"]
        );
        rig.send(2, [4; 6], "out");
        rig.send(2, mac(0), "last");
        assert_eq!(rig.next(0), "last");
        let uplink = rig.uplink.lock().unwrap();
        let texts: Vec<_> = uplink.iter().map(|frame| &frame[6..]).collect();
        assert_eq!(texts, [&b"all"[..], b"out"]);
        drop(uplink);
        rig.switch.end();
    }

    #[test]
    fn frames_are_lost_doubled_delayed_and_kept_back_on_command() {
        let rig = Rig::new();
        let faults = |change: fn(&mut Faults)| {
            let mut faults = Faults::default();
            change(&mut faults);
            rig.switch.set_faults(faults);
        };
        let passed = |text: &str| rig.switch.pass(0, &[&mac(1)[..], text.as_bytes()].concat());
        faults(|f| f.loss = 1000);
        passed("lost");
        faults(|f| f.cut_off = vec![1]);
        passed("kept back");
        faults(|f| f.cut_off = vec![0]);
        passed("kept back");
        faults(|f| f.duplicates = 1000);
        passed("twice");
        faults(|f| f.delay = Duration::from_millis(5));
        passed("late");
        assert_eq!(
            [rig.next(1), rig.next(1), rig.next(1)],
            ["twice", "twice", "late"]
        );
        let expected = Traffic {
            delivered: 3,
            lost: 1,
            doubled: 1,
            delayed: 1,
            kept_back: 2,
        };
        assert_eq!(rig.switch.traffic(), expected);
        rig.switch.end();
    }
}
