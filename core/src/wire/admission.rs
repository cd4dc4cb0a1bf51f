//! The one record of the log that has no counterpart in Aeron: a member's new disk takes the place
//! of its old one.

use crate::units::{Incarnation, MemberId, Term};
use crate::wire::member::{SCHEMA_ID, SCHEMA_VERSION};
use crate::wire::sbe::{HEADER, Header, Opened};
use crate::wire::{Reject, Writer};

/// From here on a member's votes and marks count if they are of this incarnation, and of no other.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MemberAdmitted {
    /// The leadership that appended it.
    pub term: Term,
    /// The member.
    pub member: MemberId,
    /// The life of its data directory that counts.
    pub incarnation: Incarnation,
}

impl MemberAdmitted {
    /// The template, of the schema of member messages.
    pub const TEMPLATE: u16 = 90;
    /// The block in bytes.
    pub const BLOCK: u16 = 20;
    /// The whole record in bytes.
    pub const LENGTH: usize = HEADER + Self::BLOCK as usize;

    /// Reads a record.
    ///
    /// # Errors
    /// [`Reject::UnknownSchema`] or [`Reject::UnknownTemplate`] if it is another one;
    /// [`Reject::Short`], [`Reject::BlockLength`] and [`Reject::Value`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Reject> {
        let Opened {
            header, mut block, ..
        } = Opened::parse(bytes, SCHEMA_ID)?;
        if header.template != Self::TEMPLATE {
            return Err(Reject::UnknownTemplate);
        }
        Ok(Self {
            term: Term::from_wire(block.i64()?).ok_or(Reject::Value)?,
            member: MemberId::from_wire(block.i32()?).ok_or(Reject::Value)?,
            incarnation: Incarnation(block.u64()?),
        })
    }

    /// The record's bytes.
    pub fn to_bytes(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let mut writer = Writer::new(&mut bytes);
        let header = Header {
            block_length: Self::BLOCK,
            template: Self::TEMPLATE,
            schema: SCHEMA_ID,
            version: SCHEMA_VERSION,
        };
        header.write(&mut writer);
        writer
            .i64(self.term.to_wire())
            .i32(i32::from(self.member.get()))
            .u64(self.incarnation.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::golden::{damage, golden, newer, shorter};

    #[test]
    fn the_golden_record_is_read_and_written() {
        let admitted = MemberAdmitted {
            term: Term::new(5),
            member: MemberId::new(2).expect("in range"),
            incarnation: Incarnation(0x1122_3344_5566_7788),
        };
        let bytes = golden!("member_admitted");
        assert_eq!(MemberAdmitted::parse(&bytes), Ok(admitted));
        assert_eq!(&admitted.to_bytes()[..], &bytes[..]);
        assert_eq!(MemberAdmitted::parse(&newer(&bytes, 0, 8)), Ok(admitted));
        let rejected = MemberAdmitted::parse(&shorter(&bytes, 0));
        assert_eq!(rejected, Err(Reject::BlockLength));
        damage(&bytes, |damaged| {
            if let Ok(read) = MemberAdmitted::parse(damaged) {
                assert_eq!(MemberAdmitted::parse(&read.to_bytes()), Ok(read));
            }
        });
    }
}
