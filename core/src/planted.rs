//! Bugs planted on purpose, to prove that the simulator finds them. In a normal build
//! `Planted::is_active` is the constant `false` and every branch on it is compiled out.

/// One way to break the core, or the storage of a board. Each was found by tracing the design by
/// hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are sentences")]
pub enum Planted {
    ForgetTheVote = 1,
    DropTheOwnTermBarrier,
    AcknowledgeBeforeDurable,
    CommitWithAMinority,
    AcknowledgeAfterVotingForAHigherTerm,
    MarkCarriesTheLastFramesTerm,
    TruncateAgainOnADuplicateNewLeadershipTerm,
    FlushCursorNotPulledBackByTruncation,
    RecoveredTailAcknowledgedWithoutRewriting,
    NakInMidFrameAnswered,
    HoleKeptAcrossAJoin,
    AnEmptyDirectoryVotes,
    TimersOfAServiceThatIsBehind,
    AnEarlierArmingCounts,
    OfferAnswersByTheLeadersQueue,
    ServiceMessageCounterNotRestored,
    SnapshotLaterThanItsAction,
    TheOddOneOutGoesOn,
    HandsOverToNobodyBetter,
    HandsOverWithoutRest,
    ASlotForgetsTheLastJoin,
    AnUnwellLeaderStays,
    WhoIsBehindIsLeftToTheGroup,
    ABoardAcknowledgesBeforeItsFlush,
    ABoardVotesBeforeItsFlush,
    ABoardMakesAUnitAnewInItsPlace,
    AnOldSlotCountsForANewLog,
    TheLogIsWrittenOverItsNewestSlot,
}

impl Planted {
    /// All that the simulator finds. (The last one takes a crash in one flush of very many: the
    /// crash model of the log finds it.)
    pub const ALL: [Self; 27] = [
        Self::ForgetTheVote,
        Self::DropTheOwnTermBarrier,
        Self::AcknowledgeBeforeDurable,
        Self::CommitWithAMinority,
        Self::AcknowledgeAfterVotingForAHigherTerm,
        Self::MarkCarriesTheLastFramesTerm,
        Self::TruncateAgainOnADuplicateNewLeadershipTerm,
        Self::FlushCursorNotPulledBackByTruncation,
        Self::RecoveredTailAcknowledgedWithoutRewriting,
        Self::NakInMidFrameAnswered,
        Self::HoleKeptAcrossAJoin,
        Self::AnEmptyDirectoryVotes,
        Self::TimersOfAServiceThatIsBehind,
        Self::AnEarlierArmingCounts,
        Self::OfferAnswersByTheLeadersQueue,
        Self::ServiceMessageCounterNotRestored,
        Self::SnapshotLaterThanItsAction,
        Self::TheOddOneOutGoesOn,
        Self::HandsOverToNobodyBetter,
        Self::HandsOverWithoutRest,
        Self::ASlotForgetsTheLastJoin,
        Self::AnUnwellLeaderStays,
        Self::WhoIsBehindIsLeftToTheGroup,
        Self::ABoardAcknowledgesBeforeItsFlush,
        Self::ABoardVotesBeforeItsFlush,
        Self::ABoardMakesAUnitAnewInItsPlace,
        Self::AnOldSlotCountsForANewLog,
    ];

    /// Is this bug switched on? Always false in a normal build.
    #[cfg(not(coracle_planted))]
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        false
    }

    /// Is this bug switched on?
    #[cfg(coracle_planted)]
    pub fn is_active(self) -> bool {
        ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == self as u8
    }

    /// Switches one bug on and every other off; `None` switches all off.
    #[cfg(coracle_planted)]
    pub fn activate(bug: Option<Self>) {
        ACTIVE.store(
            bug.map_or(0, |b| b as u8),
            core::sync::atomic::Ordering::Relaxed,
        );
    }
}

#[cfg(coracle_planted)]
static ACTIVE: core::sync::atomic::AtomicU8 = core::sync::atomic::AtomicU8::new(0);
