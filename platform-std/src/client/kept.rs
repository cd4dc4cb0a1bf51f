//! What the cluster has said while nobody took it: copies, for the next `poll`.

use std::collections::VecDeque;

use coracle_core::client::Egress;
use coracle_core::time::Timestamp;
use coracle_core::units::{MemberId, Term};
use coracle_core::wire::cluster::AdminResponseCode;

/// The oldest first.
pub struct Kept {
    all: VecDeque<Said>,
    bytes: usize,
    most: usize,
}

/// An [`Egress`] of its own.
enum Said {
    Message {
        timestamp: Timestamp,
        term: Term,
        payload: Vec<u8>,
    },
    NewLeader {
        term: Term,
        leader: MemberId,
    },
    AdminResponse {
        correlation: i64,
        code: AdminResponseCode,
        message: String,
    },
}

impl Kept {
    /// Nothing, and room for so many bytes, each entry counted as 64 more; the last may go beyond.
    pub fn new(most: usize) -> Self {
        Self {
            all: VecDeque::new(),
            bytes: 0,
            most,
        }
    }

    /// Whether there is room for one more.
    pub fn has_room(&self) -> bool {
        self.bytes + 64 * self.all.len() < self.most
    }

    pub fn push(&mut self, egress: Egress<'_>) {
        let said = match egress {
            Egress::Message {
                timestamp,
                term,
                payload,
            } => {
                self.bytes += payload.len();
                Said::Message {
                    timestamp,
                    term,
                    payload: payload.to_vec(),
                }
            }
            Egress::NewLeader { term, leader } => Said::NewLeader { term, leader },
            Egress::AdminResponse {
                correlation,
                code,
                message,
            } => {
                self.bytes += message.len();
                Said::AdminResponse {
                    correlation,
                    code,
                    message: message.to_owned(),
                }
            }
            // There is no other.
            _ => return,
        };
        self.all.push_back(said);
    }

    /// Hands over all of it; how much that was.
    pub fn hand_over(&mut self, mut handler: impl FnMut(Egress<'_>)) -> usize {
        let count = self.all.len();
        self.bytes = 0;
        for said in self.all.drain(..) {
            handler(match &said {
                Said::Message {
                    timestamp,
                    term,
                    payload,
                } => Egress::Message {
                    timestamp: *timestamp,
                    term: *term,
                    payload,
                },
                Said::NewLeader { term, leader } => Egress::NewLeader {
                    term: *term,
                    leader: *leader,
                },
                Said::AdminResponse {
                    correlation,
                    code,
                    message,
                } => Egress::AdminResponse {
                    correlation: *correlation,
                    code: *code,
                    message,
                },
            });
        }
        count
    }
}
