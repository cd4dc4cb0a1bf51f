//! What members say to one another, in words.

use std::rc::Rc;

use coracle_core::wire::member::Body;

use super::world::World;

impl World {
    /// Notes a message on its way, for the report of a failure or for a scenario.
    pub(super) fn tell(&mut self, from: u8, to: u8, body: &Body, bytes: &Rc<[u8]>) {
        let (what, a, b) = describe(body);
        self.note(from, what, a, b);
        if !self.is_scripted {
            return;
        }
        let word = what.split_whitespace().next().unwrap_or(what);
        self.heard
            .insert((word.to_string(), from, to), bytes.clone());
        if let Some(line) = line(from, to, body)
            && !self.said.contains(&line)
        {
            self.said.push(line);
        }
    }
}

fn describe(body: &Body) -> (&'static str, u64, u64) {
    match body {
        Body::CanvassPosition(m) => ("CanvassPosition", m.term.get().into(), m.position.get()),
        Body::RequestVote(m) => ("RequestVote", m.term.get().into(), m.position.get()),
        Body::Vote(m) if m.granted => ("Vote for", m.term.get().into(), m.candidate.get().into()),
        Body::Vote(m) => (
            "Vote against",
            m.term.get().into(),
            m.candidate.get().into(),
        ),
        Body::NewLeadershipTerm(m) => ("NewLeadershipTerm", m.term.get().into(), m.end.get()),
        Body::AppendPosition(m) => ("AppendPosition", m.received.get(), m.durable.get()),
        Body::CommitPosition(m) => ("CommitPosition", m.commit.get(), m.end.get()),
        Body::HistoryRequest(m) => ("HistoryRequest", m.term.get().into(), m.from.get()),
        Body::Resign(m) => ("Resign", m.term.get().into(), m.end.get()),
        Body::TransferLeadership(m) => (
            "TransferLeadership",
            m.term.get().into(),
            m.target.get().into(),
        ),
        _ => ("a message", 0, 0),
    }
}

/// Only what elections are made of: the rest repeats itself.
fn line(from: u8, to: u8, body: &Body) -> Option<String> {
    let words = match body {
        Body::RequestVote(m) => {
            let transfer = if m.transfer { ", handed over" } else { "" };
            format!(
                "RequestVote t{} (log t{} {}){transfer}",
                m.term, m.log_term, m.position
            )
        }
        Body::Vote(m) if m.granted => format!("Vote t{} granted", m.term),
        Body::Vote(m) => format!("Vote t{} refused", m.term),
        Body::NewLeadershipTerm(m) => format!("NewLeadershipTerm t{}", m.term),
        Body::Resign(m) => format!("Resign t{}", m.term),
        Body::TransferLeadership(m) => format!("TransferLeadership t{}", m.term),
        _ => return None,
    };
    Some(format!("n{from} > n{to}: {words}\n"))
}
