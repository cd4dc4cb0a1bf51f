//! Where the members are: their endpoints as text, and the addresses that these stand for.

use core::fmt::Write;
use core::net::SocketAddr;

use heapless::String;

use crate::limits::{ENDPOINT_MAX, MEMBERS_MAX};
use crate::units::MemberId;
use crate::wire::channel::{Endpoint, Endpoints};

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
struct Entry {
    /// `host:port`.
    text: String<ENDPOINT_MAX>,
    #[cfg_attr(feature = "defmt", defmt(Debug2Format))]
    address: Option<SocketAddr>,
    is_name: bool,
    /// A look-up is under way, or has failed and was not asked for again.
    asked: bool,
}

/// The members' ingress endpoints.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Directory {
    entries: [Option<Entry>; MEMBERS_MAX],
}

impl Directory {
    /// The members in the list.
    pub fn new(endpoints: &Endpoints<'_>) -> Self {
        let mut directory = Self {
            entries: [const { None }; MEMBERS_MAX],
        };
        directory.update(endpoints);
        directory
    }

    /// Takes over a list that a member sent. What is known of an unchanged endpoint stays.
    pub fn update(&mut self, endpoints: &Endpoints<'_>) {
        let members = endpoints.members();
        for (index, entry) in self.entries.iter_mut().enumerate() {
            if !members.iter().any(|member| member.slot() == index) {
                *entry = None;
            }
        }
        for (member, endpoint) in endpoints.iter() {
            let Some(place) = self.entries.get_mut(member.slot()) else {
                continue;
            };
            let mut text = String::new();
            if write!(text, "{endpoint}").is_err() {
                // Longer than ENDPOINT_MAX with its brackets: nowhere to send to.
                *place = None;
            } else if place.as_ref().is_none_or(|entry| entry.text != text) {
                *place = Some(Entry::new(text, &endpoint));
            }
        }
    }

    /// The member after `member`, or the first; the same if it is the only one.
    pub fn next(&self, member: Option<MemberId>) -> Option<MemberId> {
        let first = member.map_or(0, |m| m.slot() + 1);
        (first..first + MEMBERS_MAX)
            .map(|index| index % MEMBERS_MAX)
            .find(|index| self.entries.get(*index).is_some_and(Option::is_some))
            .and_then(|index| MemberId::new(index as u8))
    }

    /// Is `member` in the list?
    pub fn contains(&self, member: MemberId) -> bool {
        self.entry(member).is_some()
    }

    /// The address of `member`, if it is known.
    pub fn address(&self, member: MemberId) -> Option<SocketAddr> {
        self.entry(member)?.address
    }

    /// The name to look up for `member`, once for each `forget`.
    pub fn ask(&mut self, member: MemberId) -> Option<&str> {
        let entry = self.entry_mut(member)?;
        if entry.address.is_some() || entry.asked {
            return None;
        }
        entry.asked = true;
        Some(&entry.text)
    }

    /// The answer to a look-up.
    pub fn resolved(&mut self, member: MemberId, address: Option<SocketAddr>) {
        if let Some(entry) = self.entry_mut(member).filter(|entry| entry.is_name) {
            entry.address = address;
        }
    }

    /// What a name stood for was of no use: look it up again next time.
    pub fn forget(&mut self, member: MemberId) {
        if let Some(entry) = self.entry_mut(member).filter(|entry| entry.is_name) {
            entry.address = None;
            entry.asked = false;
        }
    }

    fn entry(&self, member: MemberId) -> Option<&Entry> {
        self.entries.get(member.slot())?.as_ref()
    }

    fn entry_mut(&mut self, member: MemberId) -> Option<&mut Entry> {
        self.entries.get_mut(member.slot())?.as_mut()
    }
}

impl Entry {
    fn new(text: String<ENDPOINT_MAX>, endpoint: &Endpoint<'_>) -> Self {
        let address = endpoint.literal();
        Self {
            text,
            address,
            is_name: address.is_none(),
            asked: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u8) -> MemberId {
        MemberId::new(id).expect("in range")
    }

    #[test]
    fn names_are_looked_up_once_and_forgotten_when_of_no_use() {
        let list = Endpoints::parse("0=192.0.2.1:1,2=two.example:2,1=[::1]:4").expect("a list");
        let mut directory = Directory::new(&list);
        assert_eq!(directory.ask(member(0)), None);
        assert_eq!(directory.address(member(1)), "[::1]:4".parse().ok());
        assert_eq!(directory.ask(member(2)), Some("two.example:2"));
        assert_eq!(directory.ask(member(2)), None);
        let address = "192.0.2.2:2".parse().ok();
        directory.resolved(member(2), address);
        directory.update(&list);
        assert_eq!(directory.address(member(2)), address);
        directory.forget(member(2));
        directory.forget(member(0));
        assert_eq!(directory.address(member(2)), None);
        assert!(directory.address(member(0)).is_some());
        assert_eq!(directory.ask(member(2)), Some("two.example:2"));
    }

    #[test]
    fn members_are_tried_in_a_circle() {
        let list = Endpoints::parse("0=a:1,2=b:1").expect("a list");
        let directory = Directory::new(&list);
        assert_eq!(directory.next(None), Some(member(0)));
        assert_eq!(directory.next(Some(member(0))), Some(member(2)));
        assert_eq!(directory.next(Some(member(2))), Some(member(0)));
        assert_eq!(directory.next(Some(member(1))), Some(member(2)));
    }
}
