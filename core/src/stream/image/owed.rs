//! What the sender of a stream must hear, derived from positions when asked for.

use super::{Image, ImageState};
use crate::stream::Control;
use crate::time::Instant;
use crate::wire::frame::{FLAG_SM_END_OF_STREAM, Nak, StatusMessage};

impl Image {
    /// What is owed to the source now: a status, a request for lost data, an echo. Ask until
    /// `None`.
    pub fn poll_control(&mut self, now: Instant) -> Option<Control> {
        if self.state(now) == ImageState::Lost {
            return None;
        }
        if let Some(echo) = self.echo.take() {
            return Some(Control::Rttm(echo));
        }
        if let Some(status) = self.poll_status(now) {
            return Some(Control::StatusMessage(status));
        }
        self.poll_nak(now).map(Control::Nak)
    }

    /// Is a status due: for the time, or for what was consumed?
    #[inline(always)]
    pub fn is_status_due(&self, now: Instant) -> bool {
        let window = u64::from(self.ring.window());
        let moved = self.consumed.since(self.status_position);
        let granted = self.status_position.plus(window);
        // The sender may be waiting: what it was granted and has not sent may be less than a frame.
        let is_short = granted.since(self.received()) < u64::from(self.mtu);
        moved >= window / 4 || (moved > 0 && is_short) || now >= self.status_at
    }

    /// The status alone of what `poll_control` gives, if it is due.
    pub fn poll_status(&mut self, now: Instant) -> Option<StatusMessage> {
        if !self.is_status_due(now) {
            return None;
        }
        self.status_at = now.plus(self.timing.status);
        self.status_position = self.consumed;
        Some(StatusMessage {
            flags: u8::from(self.closing) * FLAG_SM_END_OF_STREAM,
            session_id: self.session_id,
            stream_id: self.stream_id,
            term_id: self.segments.id(self.consumed),
            term_offset: self.segments.offset(self.consumed),
            window: self.ring.window() as i32,
            receiver_id: self.receiver_id,
            group_tag: None,
        })
    }

    fn poll_nak(&mut self, now: Instant) -> Option<Nak> {
        let hole = self.hole()?;
        let loss = self.loss.as_mut().filter(|loss| now >= loss.ask_at)?;
        loss.ask_at = now.plus(loss.repeat);
        loss.repeat = loss
            .repeat
            .saturating_mul(2)
            .min(self.timing.nak_repeat_max);
        // A request names one segment, so what lies beyond its end is asked for next.
        let len = hole
            .end
            .since(hole.start)
            .min(self.segments.remaining(hole.start));
        Some(Nak {
            session_id: self.session_id,
            stream_id: self.stream_id,
            term_id: self.segments.id(hole.start),
            term_offset: self.segments.offset(hole.start),
            length: len as i32,
        })
    }
}
