//! One function for each role, so that its cost can be told from the others'. They are never
//! inlined, and differ, so that no compiler makes one of them.

use std::hint::black_box;

use coracle_core::time::{Instant, Now};

use super::caller::Caller;
use super::member::Member;

/// A turn of the leader.
#[inline(never)]
pub(super) fn leader(member: &mut Member, now: Now) {
    member.turn(now);
    black_box(1u8);
}

/// A turn of a follower, or of a member that knows no leader yet.
#[inline(never)]
pub(super) fn follower(member: &mut Member, now: Now) {
    member.turn(now);
    black_box(2u16);
}

/// A turn of a client.
#[inline(never)]
pub(super) fn client(caller: &mut Caller, now: Instant) {
    caller.turn(now);
    black_box(3u32);
}
