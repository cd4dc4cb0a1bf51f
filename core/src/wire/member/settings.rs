//! The settings that all members must share, as a leader tells them.

use crate::units::AppVersion;
use crate::wire::{Reader, Reject, Writer};

/// One of the settings that all members must share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
#[non_exhaustive]
pub enum Setting {
    /// The length of a segment: it is in the log's bytes, as pads.
    SegmentLength = 0,
    /// The longest frame.
    Mtu,
    /// The longest message: what a service offers is refused by it.
    MessageMax,
    /// How many sessions are admitted.
    SessionsMax,
    /// How many services there are.
    Services,
    /// The version of the application: its major number.
    AppVersion,
    /// The memory that services' timers and messages are in: what is full is refused.
    ServiceMemory,
    /// After how many bytes members compare their state.
    CheckpointEvery,
    /// The bound of the log: no smaller than the leader's.
    LogMax,
}

impl Setting {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 9] = [
        Self::SegmentLength,
        Self::Mtu,
        Self::MessageMax,
        Self::SessionsMax,
        Self::Services,
        Self::AppVersion,
        Self::ServiceMemory,
        Self::CheckpointEvery,
        Self::LogMax,
    ];

    /// The setting's name, as in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SegmentLength => "segment_length",
            Self::Mtu => "mtu",
            Self::MessageMax => "message_max",
            Self::SessionsMax => "sessions_max",
            Self::Services => "services",
            Self::AppVersion => "app_version",
            Self::ServiceMemory => "service_memory",
            Self::CheckpointEvery => "checkpoint_every",
            Self::LogMax => "log_max",
        }
    }
}

/// Some of the settings.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SettingSet(u32);

impl SettingSet {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Adds one.
    pub const fn insert(&mut self, setting: Setting) {
        self.0 |= 1 << setting as u8;
    }

    /// Whether one is in it.
    pub const fn contains(self, setting: Setting) -> bool {
        self.0 & (1 << setting as u8) != 0
    }

    /// Whether none is.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in it, and that this build knows.
    pub fn iter(self) -> impl Iterator<Item = Setting> {
        Setting::ALL.into_iter().filter(move |s| self.contains(*s))
    }

    /// One bit for each.
    pub const fn to_wire(self) -> u32 {
        self.0
    }

    /// Any bits: a newer build may know more settings.
    pub const fn from_wire(bits: u32) -> Self {
        Self(bits)
    }
}

/// The settings that all members must share.
///
/// A member with others would execute the log otherwise, would have other bytes in it, or could not
/// hold it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SharedSettings {
    /// [`Setting::SegmentLength`], in bytes.
    pub segment_length: u32,
    /// [`Setting::Mtu`], in bytes.
    pub mtu: u32,
    /// [`Setting::MessageMax`], in bytes.
    pub message_max: u32,
    /// [`Setting::SessionsMax`], as it is in effect.
    pub sessions_max: u32,
    /// [`Setting::Services`].
    pub services: u32,
    /// [`Setting::AppVersion`].
    pub app_version: AppVersion,
    /// [`Setting::ServiceMemory`], in bytes, of all services together.
    pub service_memory: u64,
    /// [`Setting::CheckpointEvery`], in bytes.
    pub checkpoint_every: u64,
    /// [`Setting::LogMax`], in bytes; 0: no bound.
    pub log_max: u64,
}

impl SharedSettings {
    pub(super) const LENGTH: usize = 6 * 4 + 3 * 8;

    /// The value of one of them. A version is its number as in Aeron.
    pub const fn get(&self, setting: Setting) -> u64 {
        match setting {
            Setting::SegmentLength => self.segment_length as u64,
            Setting::Mtu => self.mtu as u64,
            Setting::MessageMax => self.message_max as u64,
            Setting::SessionsMax => self.sessions_max as u64,
            Setting::Services => self.services as u64,
            Setting::AppVersion => self.app_version.to_wire() as u32 as u64,
            Setting::ServiceMemory => self.service_memory,
            Setting::CheckpointEvery => self.checkpoint_every,
            Setting::LogMax => self.log_max,
        }
    }

    /// Those by which a member with these must not follow a leader with `leader`'s.
    pub fn differing(&self, leader: &Self) -> SettingSet {
        let mut set = SettingSet::NONE;
        for setting in Setting::ALL {
            let (own, theirs) = (self.get(setting), leader.get(setting));
            let goes = match setting {
                // Members of one major version are upgraded one by one.
                Setting::AppVersion => self.app_version.major() == leader.app_version.major(),
                // A leader lets in what it has room for itself.
                Setting::LogMax => own == 0 || (theirs != 0 && own >= theirs),
                _ => own == theirs,
            };
            if !goes {
                set.insert(setting);
            }
        }
        set
    }

    pub(super) fn write(&self, writer: &mut Writer<'_>) {
        writer
            .u32(self.segment_length)
            .u32(self.mtu)
            .u32(self.message_max)
            .u32(self.sessions_max)
            .u32(self.services)
            .i32(self.app_version.to_wire())
            .u64(self.service_memory)
            .u64(self.checkpoint_every)
            .u64(self.log_max);
    }

    pub(super) fn read(block: &mut Reader<'_>) -> Result<Self, Reject> {
        Ok(Self {
            segment_length: block.u32()?,
            mtu: block.u32()?,
            message_max: block.u32()?,
            sessions_max: block.u32()?,
            services: block.u32()?,
            app_version: AppVersion::from_wire(block.i32()?),
            service_memory: block.u64()?,
            checkpoint_every: block.u64()?,
            log_max: block.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    const SETTINGS: SharedSettings = SharedSettings {
        segment_length: 1 << 24,
        mtu: 1408,
        message_max: 1 << 20,
        sessions_max: 56,
        services: 2,
        app_version: AppVersion::new(1, 2, 3),
        service_memory: 4 << 20,
        checkpoint_every: 1 << 20,
        log_max: 1 << 30,
    };

    /// What stands in the way of following a leader whose settings were changed.
    fn refused(change: impl FnOnce(&mut SharedSettings)) -> Vec<&'static str> {
        let mut leader = SETTINGS;
        change(&mut leader);
        let differing = SETTINGS.differing(&leader);
        differing.iter().map(Setting::name).collect()
    }

    #[test]
    fn every_setting_that_differs_is_named() {
        assert!(refused(|_| {}).is_empty());
        assert_eq!(refused(|s| s.segment_length *= 2), ["segment_length"]);
        assert_eq!(refused(|s| s.mtu += 32), ["mtu"]);
        assert_eq!(refused(|s| s.message_max -= 1), ["message_max"]);
        assert_eq!(refused(|s| s.sessions_max -= 1), ["sessions_max"]);
        assert_eq!(refused(|s| s.services = 3), ["services"]);
        assert_eq!(refused(|s| s.service_memory = 0), ["service_memory"]);
        assert_eq!(refused(|s| s.checkpoint_every = 0), ["checkpoint_every"]);
        let both = refused(|s| (s.mtu, s.services) = (256, 1));
        assert_eq!(both, ["mtu", "services"]);
    }

    #[test]
    fn a_log_may_have_more_room_than_the_leaders_and_a_version_another_minor_number() {
        assert!(refused(|s| s.log_max -= 1).is_empty());
        assert_eq!(refused(|s| s.log_max += 1), ["log_max"]);
        assert_eq!(refused(|s| s.log_max = 0), ["log_max"], "no bound");
        let unbounded = SharedSettings {
            log_max: 0,
            ..SETTINGS
        };
        assert!(unbounded.differing(&SETTINGS).is_empty());
        for (version, expected) in [
            (AppVersion::new(1, 0, 0), &[][..]),
            (AppVersion::new(1, 9, 9), &[]),
            (AppVersion::new(0, 2, 3), &["app_version"]),
            (AppVersion::new(2, 2, 3), &["app_version"]),
        ] {
            assert_eq!(refused(|s| s.app_version = version), expected, "{version}");
        }
    }

    #[test]
    fn bits_that_this_build_does_not_know_are_kept_and_name_nothing() {
        let set = SettingSet::from_wire(1 << 31 | 1 << 2);
        assert_eq!(set.to_wire(), 1 << 31 | 1 << 2);
        assert!(!set.is_empty());
        assert_eq!(set.iter().collect::<Vec<_>>(), [Setting::MessageMax]);
    }
}
