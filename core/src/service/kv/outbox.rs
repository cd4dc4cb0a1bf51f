//! For tests of services: keeps what they send, and what they save.

extern crate std;
use std::vec::Vec;

use embedded_io::{ErrorKind, ErrorType, Read, Write};

use crate::service::{
    Cluster, OfferError, Outbox, Progress, Role, Service, SnapshotError, SnapshotReader,
    SnapshotWriter,
};
use crate::snapshot::{BEGIN_LENGTH, Begin, END_LENGTH, Section, Sums};
use crate::time::Timestamp;
use crate::units::{AppVersion, ClusterId, MemberId, Position, ServiceId, SessionId, Term};

/// Keeps what is offered.
#[derive(Default)]
pub struct Recorder {
    /// Sessions and bytes.
    pub sent: Vec<(SessionId, Vec<u8>)>,
    /// Whether every session is said to be gone.
    pub refuse: bool,
}

impl Recorder {
    /// Runs one callback as if for the record that ends at `position`.
    pub fn at(&mut self, position: Position, run: impl FnOnce(&mut Cluster<'_>)) {
        let member = MemberId::new(0).expect("0 is a member");
        run(&mut Cluster::new(
            Timestamp(0),
            position,
            member,
            Role::Leader,
            self,
        ));
    }
}

impl Outbox for Recorder {
    fn offer(&mut self, session: SessionId, parts: &[&[u8]]) -> Result<(), OfferError> {
        if self.refuse {
            return Err(OfferError::UnknownSession);
        }
        self.sent.push((session, parts.concat()));
        Ok(())
    }

    fn close_session(&mut self, _session: SessionId) -> Result<(), OfferError> {
        Err(OfferError::UnknownSession)
    }
}

/// Bytes of a section: what is written is added at the end, what is read taken off the front.
#[derive(Clone, Default)]
pub struct Body(pub Vec<u8>, Sums);

impl Body {
    /// Lets a service write its next piece.
    pub fn step(&mut self, service: &mut impl Service) -> Result<Progress, SnapshotError> {
        let mut bytes = Bytes(core::mem::take(&mut self.0), 0);
        let progress = service.write_snapshot(&mut SnapshotWriter::new(&mut bytes, &mut self.1));
        self.0 = bytes.0;
        progress
    }

    /// Everything that a service has to write now, with nothing executed in between.
    pub fn of(service: &mut impl Service) -> Self {
        let mut body = Self::default();
        service.begin_snapshot();
        while body.step(service).expect("written to memory") == Progress::More {}
        service.end_snapshot();
        body
    }

    /// Lets a service take over what these bytes say.
    pub fn restore(&self, service: &mut impl Service) -> Result<(), SnapshotError> {
        let section = Section::Service(ServiceId::default());
        let begin = Begin {
            cluster: ClusterId(1),
            section,
            app_version: AppVersion::default(),
            position: Position::new(4096),
            term: Term::new(1),
            chain: 0,
            timestamp: Timestamp(0),
            segment_length: 65536,
        };
        let mut bytes = Bytes([&begin.encode()[..], &self.0].concat(), 0);
        let length = (BEGIN_LENGTH + self.0.len() + END_LENGTH) as u64;
        let mut reader = SnapshotReader::new(&mut bytes, length, ClusterId(1), section)?;
        service.read_snapshot(&mut reader)
    }
}

/// Bytes, and how many of them are read.
struct Bytes(Vec<u8>, usize);

impl ErrorType for Bytes {
    type Error = ErrorKind;
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, ErrorKind> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), ErrorKind> {
        Ok(())
    }
}

impl Read for Bytes {
    fn read(&mut self, bytes: &mut [u8]) -> Result<usize, ErrorKind> {
        let rest = &self.0[self.1..];
        let len = bytes.len().min(rest.len());
        bytes[..len].copy_from_slice(&rest[..len]);
        self.1 += len;
        Ok(len)
    }
}
