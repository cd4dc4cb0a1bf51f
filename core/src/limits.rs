//! Every bound that is a compile-time number, each beside the reason it may not be otherwise.

/// Members of a cluster that this build has room for: 3, and with the features `members-5` and
/// `members-7` so many (Raft: "five is a typical number"; 7 tolerates three failures). What is
/// stored and sent is the same in every build; what names a member beyond this is refused.
pub const MEMBERS_MAX: usize = if cfg!(feature = "members-7") {
    7
} else if cfg!(feature = "members-5") {
    5
} else {
    3
};
/// Members that node states and snapshots have room for, in every build.
pub const MEMBERS_STORED: usize = 7;
const _: () = assert!(MEMBERS_MAX <= MEMBERS_STORED);
const _: () = assert!(MEMBERS_STORED <= 8, "a MemberSet is a byte");

/// Frames start at multiples of this many bytes (Aeron: `FRAME_ALIGNMENT`).
pub const FRAME_ALIGNMENT: usize = 32;

/// The length of a DATA or PAD frame's header in bytes (Aeron: `DataHeaderFlyweight`).
pub const FRAME_HEADER: usize = 32;
const _: () = assert!(
    FRAME_HEADER == FRAME_ALIGNMENT,
    "a PAD's header always fits before a segment's end"
);

/// The smallest log segment and Aeron term buffer in bytes (Aeron: `TERM_MIN_LENGTH`).
pub const SEGMENT_MIN: u32 = 64 * 1024;
/// The largest (Aeron: `TERM_MAX_LENGTH`).
pub const SEGMENT_MAX: u32 = 1024 * 1024 * 1024;
const _: () = assert!(SEGMENT_MIN.is_power_of_two() && SEGMENT_MAX.is_power_of_two());

/// The smallest datagram payload that a stream may be cut to, in bytes.
pub const MTU_MIN: usize = 256;
/// The largest: a UDP payload, rounded down to whole frames (Aeron: `MAX_UDP_PAYLOAD_LENGTH`).
pub const MTU_MAX: usize = 65_504;
const _: () =
    assert!(MTU_MAX.is_multiple_of(FRAME_ALIGNMENT) && MTU_MIN.is_multiple_of(FRAME_ALIGNMENT));
/// Aeron's default MTU: fits a 1,500-byte Ethernet frame with room for tunnels.
pub const MTU_DEFAULT: usize = 1408;

/// The largest message in bytes, whatever the segment length (Aeron: `MAX_MESSAGE_LENGTH`).
pub const MESSAGE_MAX: usize = 16 * 1024 * 1024;

/// Positions stay far below `i64::MAX`, so that adding any length to one cannot overflow: at 10
/// GB/s this is 29 years of log.
pub const POSITION_MAX: u64 = 1 << 62;

/// The longest response channel of a client, in bytes, e.g. `aeron:udp?endpoint=host:port`.
pub const CHANNEL_MAX: usize = 128;
/// The longest `host:port` that is kept, in bytes.
pub const ENDPOINT_MAX: usize = 64;
/// The longest encoded principal that an authenticator may give a session, in bytes.
pub const PRINCIPAL_MAX: usize = 64;
/// The longest credentials of a connect request or challenge response, in bytes.
pub const CREDENTIALS_MAX: usize = 256;
/// The longest list of ingress endpoints, `0=host:port,1=host:port,...`, in bytes.
pub const ENDPOINTS_MAX: usize = MEMBERS_MAX * (ENDPOINT_MAX + 3);

/// Services on one log: Aeron Cluster's session ids of services leave 7 bits, we promise ten.
pub const SERVICES_MAX: usize = 10;
const _: () = assert!(SERVICES_MAX <= 127, "seven bits of a service message's id");
