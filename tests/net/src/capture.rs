//! Captures judged by a dissector that knows nothing of Coracle: `tshark` with its Aeron
//! heuristic, which Debian's 4.0 has switched off by default.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::frames;
use crate::gate::Missing;

/// How long to wait for `tshark` to start capturing, or to see a marker.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running capture of UDP ports on one interface.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    marker: UdpSocket,
}

/// What the dissector made of a capture.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// UDP datagrams.
    pub udp: u64,
    /// UDP datagrams that the dissector took for Aeron.
    pub aeron: u64,
    /// Datagrams with a part that could not be dissected, or with a warning or error of the
    /// dissector's. (It remarks on every NAK, which is no fault.)
    pub malformed: u64,
    /// Datagrams that are not built of whole Aeron frames ([`frames::check_structure`]).
    pub broken: u64,
    /// Frames by kind, over all datagrams.
    pub frames: BTreeMap<&'static str, u64>,
    /// The first few datagrams that are not as they should be, one line each.
    pub complaints: Vec<String>,
}

/// Columns asked of `tshark`: (field, name of the kind of frame it counts).
const KINDS: [(&str, &str); 9] = [
    ("aeron.setup.type", "SETUP"),
    ("aeron.sm.type", "SM"),
    ("aeron.data.type", "DATA"),
    ("aeron.nak.type", "NAK"),
    ("aeron.pad.type", "PAD"),
    ("aeron.heartbeat.type", "heartbeat"),
    ("aeron.rtt.type", "RTTM"),
    ("aeron.err.type", "ERR"),
    ("aeron.data.stream_id", "stream"),
];

/// Datagrams named in a report at most.
const COMPLAINTS_MAX: usize = 8;

impl Capture {
    /// Starts capturing UDP on `interface` for any of `ports` (source or destination), and
    /// returns once a marker datagram has been captured, so that nothing sent from now on is
    /// missed. The marker is an Aeron measurement frame, from and to one port of its own.
    ///
    /// # Errors
    /// In plain words, when `tshark` cannot be started or may not capture.
    pub fn start(interface: &str, ports: &[u16], file: &Path) -> Result<Self, String> {
        let marker = UdpSocket::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
        let own = marker.local_addr().map_err(|error| error.to_string())?;
        let mut filter = format!("udp and (port {}", own.port());
        for port in ports {
            filter += &format!(" or port {port}");
        }
        filter += ")";
        let child = Command::new("tshark")
            .args(["-Q", "-n", "-B", "64", "-i", interface, "-f", &filter, "-w"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tshark does not start: {error}"))?;
        let mut capture = Self {
            child,
            file: file.to_owned(),
            marker,
        };
        match capture.await_marker() {
            Ok(()) => Ok(capture),
            Err(why) => Err(format!("{why}: {}", capture.last_words())),
        }
    }

    /// Stops, and has `tshark` dissect what was captured, the markers left out. What was sent
    /// before the call is in it.
    ///
    /// # Errors
    /// In plain words, when `tshark` ended by itself or cannot read its capture.
    pub fn stop(mut self) -> Result<Report, String> {
        self.await_marker()?;
        interrupt(self.child.id())?;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            return Err(format!("tshark ended with {status}"));
        }
        let own = self
            .marker
            .local_addr()
            .map_err(|error| error.to_string())?;
        Report::of(&self.file, own.port())
    }

    /// Sends markers until the file grows: everything before is then in the file.
    fn await_marker(&mut self) -> Result<(), String> {
        let own = self
            .marker
            .local_addr()
            .map_err(|error| error.to_string())?;
        let deadline = Instant::now() + PATIENCE;
        let mut size = None;
        let mut sent = 0;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("tshark ended with {status}"));
            }
            let now = std::fs::metadata(&self.file).map(|entry| entry.len()).ok();
            // The file exists, then grows by a marker that was sent after it was seen.
            if sent > 0 && size.is_some() && now > size {
                return Ok(());
            }
            if now.is_some() {
                size = now;
                sent += 1;
                let bytes = frames::rttm(0x4D41_524B, 1);
                self.marker
                    .send_to(&bytes, own)
                    .map_err(|error| error.to_string())?;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err("no marker was captured".to_owned())
    }

    fn last_words(&mut self) -> String {
        drop(self.child.kill());
        let mut words = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            drop(pipe.read_to_string(&mut words));
        }
        words
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty())
            .unwrap_or("")
            .to_owned()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // Already gone after `stop`; else this ends it.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Report {
    fn of(file: &Path, marker_port: u16) -> Result<Self, String> {
        let mut command = Command::new("tshark");
        command
            .args(["-n", "--enable-heuristic", "aeron_udp"])
            .args(["-o", "udp.try_heuristic_first:TRUE", "-Y"])
            .arg(format!("udp && !icmp && udp.port != {marker_port}"))
            .args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a"])
            .args([
                "-e",
                "frame.number",
                "-e",
                "frame.protocols",
                "-e",
                "udp.length",
            ])
            .args([
                "-e",
                "udp.srcport",
                "-e",
                "udp.dstport",
                "-e",
                "_ws.malformed",
            ])
            .args(["-e", "_ws.expert.message", "-e", "_ws.expert.severity"])
            .args(["-e", "udp.payload"]);
        for (field, _) in KINDS {
            command.args(["-e", field]);
        }
        let mut child = command
            .arg("-r")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("tshark does not start: {error}"))?;
        let stdout = child.stdout.take().ok_or("no standard output")?;
        let stderr = child.stderr.take().ok_or("no standard error")?;
        let words = drain(stderr);
        let mut report = Self::default();
        for line in BufReader::new(stdout).lines() {
            report.count(&line.map_err(|error| error.to_string())?);
        }
        let status = child.wait().map_err(|error| error.to_string())?;
        if !status.success() {
            let words = words.recv().unwrap_or_default();
            return Err(format!("tshark ended with {status}: {words}"));
        }
        Ok(report)
    }

    /// Frames of one kind.
    pub fn seen(&self, kind: &str) -> u64 {
        self.frames.get(kind).copied().unwrap_or(0)
    }

    /// The rule of the test: at least `least` datagrams, every one of them Aeron, none malformed,
    /// and each of `kinds` seen.
    ///
    /// # Errors
    /// One line that says which part does not hold.
    pub fn verdict(&self, least: u64, kinds: &[&str]) -> Result<(), String> {
        let examples = self.complaints.join("; ");
        if self.udp < least {
            return Err(format!("{} UDP datagrams, fewer than {least}", self.udp));
        }
        if self.aeron != self.udp {
            return Err(format!(
                "{} of {} are Aeron: {examples}",
                self.aeron, self.udp
            ));
        }
        if self.malformed > 0 {
            return Err(format!(
                "{} of {} are malformed: {examples}",
                self.malformed, self.udp
            ));
        }
        if self.broken > 0 {
            return Err(format!(
                "{} of {} are broken: {examples}",
                self.broken, self.udp
            ));
        }
        match kinds.iter().find(|kind| self.seen(kind) == 0) {
            Some(kind) => Err(format!("no {kind} was seen")),
            None => Ok(()),
        }
    }

    fn count(&mut self, line: &str) {
        let columns: Vec<&str> = line.split('|').collect();
        let column = |index: usize| columns.get(index).copied().unwrap_or("");
        let is_aeron = column(1).split(':').any(|protocol| protocol == "aeron");
        let is_malformed = column(1).contains("malformed")
            || !column(5).is_empty()
            || column(7).split(',').any(is_grave);
        let structure = bytes_of(column(8))
            .ok_or("its bytes are missing")
            .and_then(|payload| frames::check_structure(&payload));
        self.udp += 1;
        self.broken += u64::from(structure.is_err());
        self.aeron += u64::from(is_aeron);
        self.malformed += u64::from(is_malformed);
        if (!is_aeron || is_malformed || structure.is_err())
            && self.complaints.len() < COMPLAINTS_MAX
        {
            self.complaints.push(format!(
                "datagram {} ({} bytes, port {} to {}) is {} {} {}",
                column(0),
                column(2),
                column(3),
                column(4),
                column(1),
                column(6),
                structure.err().unwrap_or(""),
            ));
        }
        for (index, (_, kind)) in KINDS.iter().enumerate() {
            let values = column(9 + index);
            if !values.is_empty() {
                let count = values.split(',').count() as u64;
                *self.frames.entry(kind).or_insert(0) += count;
            }
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} UDP, {} Aeron, {} malformed",
            self.udp, self.aeron, self.malformed
        )?;
        for (kind, count) in self.frames.iter().filter(|(kind, _)| **kind != "stream") {
            write!(f, ", {count} {kind}")?;
        }
        Ok(())
    }
}

/// Whether `tshark` can be started, says its version, and may capture on `interface`.
///
/// # Errors
/// What is missing.
pub fn available(interface: &str) -> Result<String, Missing> {
    let output = Command::new("tshark")
        .arg("--version")
        .stdin(Stdio::null())
        .output();
    let version = match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout)
            .lines()
            .next()
            .unwrap_or("")
            .to_owned(),
        _ => return Err(Missing::new("tshark is not there", "install tshark")),
    };
    let scratch = crate::scratch::Scratch::new("capture");
    let probe = Capture::start(interface, &[], &scratch.join("probe.pcapng"));
    match probe.and_then(Capture::stop) {
        Ok(_) => Ok(version),
        Err(why) => {
            let why = format!("tshark cannot capture on {interface} ({why})");
            Err(Missing::new(
                why,
                "run as root, or dpkg-reconfigure wireshark-common",
            ))
        }
    }
}

/// Whether the dissector's remark is a warning or an error. Wireshark: `PI_WARN`, `PI_ERROR`.
fn is_grave(severity: &str) -> bool {
    const WARNING: u32 = 0x0060_0000;
    severity
        .parse()
        .is_ok_and(|severity: u32| severity >= WARNING)
}

/// The bytes of a column of hexadecimal digits.
fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn interrupt(process: u32) -> Result<(), String> {
    let status = Command::new("kill")
        .args(["-INT", &process.to_string()])
        .status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kill -INT {process} ended with {status}")),
        Err(error) => Err(format!("kill does not start: {error}")),
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut words = String::new();
        drop(pipe.read_to_string(&mut words));
        // Nobody listens when all went well.
        drop(sender.send(words));
    });
    receiver
}
