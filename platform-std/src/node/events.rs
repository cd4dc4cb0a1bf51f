//! What a member tells its operator.

use coracle_core::node::Event;
use coracle_core::service::Role;

/// What a log says of a service that panicked.
pub const FAILED: &str = "it executes nothing more. The member and its other services go on, and \
    it does not lead for long; mend the service and start the member again: it comes on from its \
    snapshot and the log";

/// Whether this member has won an election.
pub fn is_won(event: &Event) -> bool {
    matches!(event, Event::RoleChanged { role, .. } if *role == Role::Leader)
}

/// Writes an event into the log of this process.
pub fn tell(event: Event) {
    match event {
        Event::RoleChanged { role, term } => {
            tracing::info!(?role, term = term.get(), "role changed");
        }
        Event::Joined { term, leader } => {
            tracing::info!(term = term.get(), leader = leader.get(), "joined");
        }
        Event::Truncated { from, to } => {
            let (from, to) = (from.get(), to.get());
            tracing::warn!(from, to, "log cut: no quorum had these bytes");
        }
        Event::SessionOpened(session) => tracing::debug!(%session, "session opened"),
        Event::SessionClosed(session) => tracing::debug!(%session, "session closed"),
        Event::SnapshotStored(position) => {
            tracing::info!(position = position.get(), "snapshot stored");
        }
        Event::SnapshotFailed(position) => {
            tracing::warn!(position = position.get(), "there is no snapshot here");
        }
        Event::InstallBegun { leader } => {
            tracing::warn!(
                leader = leader.get(),
                "receiving a snapshot: the log is too old"
            );
        }
        Event::DeafToGroup(member) => tracing::warn!(
            member = member.get(),
            "this member does not hear log_multicast: it is sent the log alone for a while. Look \
             at its own setting, and at whether the network between passes multicast"
        ),
        Event::LogHealed(to) => {
            let to = to.get();
            tracing::warn!(to, "the damage in the log is healed from the others");
        }
        Event::Halted(halt) => tracing::error!(%halt, "halted"),
        other => tell_health(other),
    }
}

/// What a log says of a member that is quarantined: by itself, and by its leader.
pub const REBUILD: &str = "its state is not the others'. It neither leads nor serves snapshots \
    until it is rebuilt: stop it, check its memory and its disk, move its data directory away, \
    make another with `coracle init --replace`, and start it; it is rebuilt from the others";

fn tell_health(event: Event) {
    match event {
        Event::Quarantined(at) => {
            tracing::error!(position = at.get(), "this member is quarantined: {REBUILD}");
        }
        Event::MemberQuarantined(member) => {
            tracing::error!(member = member.get(), "a member is quarantined: {REBUILD}");
        }
        Event::NoAgreement(at) => tracing::error!(
            position = at.get(),
            "members have different states, and no majority has the same: nothing is done about \
             it, because nobody can tell who is right. Compare what they hold (coracle status \
             shows digests), decide whom to believe, and rebuild the others; a service that is \
             not deterministic looks like this"
        ),
        Event::HandingOver { to, ages } => tracing::warn!(
            to = to.get(),
            flush_age_ms = ages.flush_ms,
            service_age_ms = ages.service_ms,
            "this leader is slow and hands over to one that is not: look at its disk (flush age, \
             or its log is full because snapshots fail) or at its service (service age)"
        ),
        Event::ClockStepped { by_ms } => tracing::warn!(
            by_ms,
            "the wall clock has stepped: the cluster's time never goes back, timers that are due \
             fire late or at once; look at what sets this machine's clock"
        ),
        Event::SettingDiffers { .. } => super::shared::tell(event),
        _ => {}
    }
}
