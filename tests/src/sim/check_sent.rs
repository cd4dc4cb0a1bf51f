//! The invariants of what leaves a member: ballots, acknowledgements, log frames, answers.

use coracle_core::units::Mark;
use coracle_core::wire::member::Body;

use super::check::{Checked, Checker, broken};
use super::ghost::parse;
use super::work::Tag;

impl Checker {
    /// The medium of a member now holds this ballot.
    ///
    /// # Errors
    /// A term that went back, or a second vote in a term.
    pub fn persisted(&mut self, member: u8, ballot: (u32, Option<u8>)) -> Checked {
        let ghost = self.ghost(member);
        let was = ghost.ballot;
        if ballot.0 < was.0 || (ballot.0 == was.0 && was.1.is_some() && was.1 != ballot.1) {
            let detail = format!("n{member} had {was:?} on disk and wrote {ballot:?}");
            return broken("Votes Never Forgotten", detail);
        }
        ghost.ballot = ballot;
        Ok(())
    }

    /// The storage of a member has reported a flush.
    pub fn reported(&mut self, member: u8, mark: Mark) {
        let ghost = self.ghost(member);
        ghost.promised = ghost.promised.max(mark.position.get());
    }

    /// A message leaves a member.
    ///
    /// # Errors
    /// A vote that is not on disk, a second vote, a vote of an empty directory, or an
    /// acknowledgement of what is not there.
    pub fn said(&mut self, member: u8, body: &Body) -> Checked {
        match body {
            Body::Vote(vote) if vote.granted => {
                self.voted(member, vote.term.get(), vote.candidate.get())
            }
            Body::RequestVote(ask) => self.voted(member, ask.term.get(), member),
            Body::NewLeadershipTerm(said) => self.spoke(member, said.term.get()),
            Body::AppendPosition(said) => {
                self.spoke(member, said.term.get())?;
                let (term, durable) = (said.term.get(), said.durable.get());
                let ghost = self.ghost(member);
                if durable > ghost.promised {
                    let detail = format!(
                        "n{member} acknowledged {durable}, its storage reported {}",
                        ghost.promised
                    );
                    return broken("Acknowledged Within Durable", detail);
                }
                // Below the first record of a term nothing of what it says is promised in it.
                let rows = ghost.log.rows();
                let last = rows.partition_point(|r| r.end <= durable).checked_sub(1);
                if last.is_some_and(|last| rows[last].term == term) {
                    ghost.spoke_in = ghost.spoke_in.max(term);
                }
                if ghost.acknowledged.0 == term {
                    ghost.acknowledged.1 = ghost.acknowledged.1.max(durable);
                } else {
                    ghost.acknowledged = (term, durable);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn voted(&mut self, member: u8, term: u32, candidate: u8) -> Checked {
        let ghost = self.ghost(member);
        if !ghost.votes {
            let detail = format!("n{member} votes for n{candidate} in t{term}");
            return broken("An Empty Directory Does Not Vote", detail);
        }
        if ghost.ballot != (term, Some(candidate)) {
            let detail = format!(
                "n{member} votes for n{candidate} in t{term} with {:?} on disk",
                ghost.ballot
            );
            return broken("Votes Are Durable First", detail);
        }
        let first = self.vote_of(member, term, candidate);
        if first != candidate {
            let detail = format!("n{member} votes for n{first} and n{candidate} in t{term}");
            return broken("One Vote A Term", detail);
        }
        Ok(())
    }

    /// No join or acknowledgement leaves before the term is on disk.
    fn spoke(&mut self, member: u8, term: u32) -> Checked {
        let ghost = self.ghost(member);
        if ghost.ballot.0 < term {
            let detail = format!(
                "n{member} speaks in t{term} with {:?} on disk",
                ghost.ballot
            );
            return broken("Terms Are Durable First", detail);
        }
        Ok(())
    }

    /// A datagram of log frames leaves a member: whole frames of its own log, and of one term.
    ///
    /// # Errors
    /// Anything else.
    pub fn sent_log(&mut self, member: u8, segment: u64, datagram: &[u8]) -> Checked {
        let word = |at: usize| {
            let four = datagram.get(at..at + 4).and_then(|b| b.try_into().ok());
            u64::from(u32::from_le_bytes(four.unwrap_or_default()))
        };
        let (mut at, mut position) = (0, word(20) * segment + word(8));
        let log = &self.ghost(member).log;
        let known = log.rows();
        let first = known.partition_point(|r| r.start < position);
        for row in &known[first..] {
            if at >= datagram.len() {
                break;
            }
            let rest = &datagram[at..];
            // Only a pad's header is sent.
            let frame = if row.pad { rest.get(..32) } else { Some(rest) };
            let same = frame.is_some_and(|f| {
                f.starts_with(log.bytes(row.start, row.start + row.meaning() as u64))
            });
            if row.start != position || !same {
                break;
            }
            position = row.end;
            at += if row.pad {
                32
            } else {
                (row.end - row.start) as usize
            };
        }
        if at == 0 || at != datagram.len() {
            let detail = format!(
                "n{member} sent {} bytes of which {at} are frames of its log, up to {position}",
                datagram.len()
            );
            return broken("Only Own Whole Frames Are Sent", detail);
        }
        Ok(())
    }

    /// A client has been answered.
    ///
    /// # Errors
    /// The message is not in the committed history, or its bytes are others.
    pub fn answered(&self, tag: Tag, echoed: &[u8]) -> Checked {
        if !tag.matches(echoed) {
            return broken(
                "Answers Echo",
                format!("{tag:?} came back with other bytes"),
            );
        }
        if !self.model.is_done(tag) {
            let detail = format!("{tag:?} was answered and is not in the committed log");
            return broken("Acknowledged Is Committed", detail);
        }
        Ok(())
    }
}

/// Is there a whole log frame at the start of `bytes`?
pub fn is_log_frame(bytes: &[u8]) -> bool {
    bytes.len() >= 32 && {
        let stream = bytes.get(16..20) == Some(&100u32.to_le_bytes());
        let kind = bytes.get(6..8);
        stream && (kind == Some(&[1, 0]) || kind == Some(&[0, 0])) && parse_len(bytes)
    }
}

fn parse_len(bytes: &[u8]) -> bool {
    parse(bytes, 0, 0).is_some() || bytes.get(6..8) == Some(&[0, 0])
}
