//! What must stay true of the core's types, checked by the compiler.
//!
//! A node is a value: simulators clone and hash it, drivers move it to the thread that runs it.
//! What must not be duplicated by accident is not `Copy`. Sizes are bounds: tables are arrays, and
//! a board has to find room for them.

use core::hash::Hash;
use core::mem::size_of;

use static_assertions::{
    assert_eq_size, assert_impl_all, assert_not_impl_any, const_assert, const_assert_eq,
};

use crate::client::Client;
use crate::log::{Journal, NodeState, Recovered, Slot, Span};
use crate::node::{Event, Node, Recall, Status, Transmit};
use crate::raft::Raft;
use crate::units::{ClusterId, Mark, MemberId, Position, SessionId, Tail, Term};

// Values that can be sent to another thread, compared and hashed: what simulators and drivers need.
assert_impl_all!(Node<1>: Send, Sync, Clone, Eq, Hash, Unpin);
assert_impl_all!(Client: Send, Sync, Clone, Eq, Hash, Unpin);
assert_impl_all!(Raft: Send, Sync, Clone, Eq, Hash);
assert_impl_all!(Journal: Send, Sync, Clone, Eq, Hash);
assert_impl_all!(Recovered: Send, Clone, Eq, Hash);

// One per process, moved but never duplicated by an assignment.
assert_not_impl_any!(Node<1>: Copy);
assert_not_impl_any!(Client: Copy);
assert_not_impl_any!(Raft: Copy);
assert_not_impl_any!(Journal: Copy);
assert_not_impl_any!(Recovered: Copy);

// Facts and debts are small and carry no reference.
assert_impl_all!(Mark: Send, Copy, Eq, Hash);
assert_impl_all!(NodeState: Send, Copy, Eq, Hash);
assert_impl_all!(Recall: Send, Copy, Eq);
assert_impl_all!(Slot: Send, Copy, Eq, Hash);
assert_impl_all!(Event: Send, Copy, Eq);
assert_impl_all!(Status: Send, Copy);
assert_impl_all!(Transmit<'static>: Send, Copy);

// A unit costs what its number costs, and an absent member id costs nothing more.
assert_eq_size!(Position, u64);
assert_eq_size!(Term, u32);
assert_eq_size!(ClusterId, u64);
assert_eq_size!(SessionId, i64);
assert_eq_size!(MemberId, u8);
const_assert_eq!(size_of::<Span>(), 16);
const_assert!(size_of::<Tail>() <= 16);
const_assert!(size_of::<Mark>() <= 16);
// Units of one size are not interchangeable: no conversion leads from one to another.
assert_not_impl_any!(Position: From<u64>, Into<u64>, From<SessionId>);
assert_not_impl_any!(Term: From<u32>, Into<u32>);

// What a board has to find room for, besides the bulk memory that it lends.
const_assert!(size_of::<Node<1>>() <= 20 << 10);
const_assert!(size_of::<Node<64>>() - size_of::<Node<1>>() <= 63 * (2 << 10));
const_assert!(size_of::<Client>() <= 8 << 10);
// What is handed over by value on every turn.
const_assert!(size_of::<Event>() <= 32);
const_assert!(size_of::<Transmit<'static>>() <= 64);
