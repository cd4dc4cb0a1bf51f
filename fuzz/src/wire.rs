//! Every decoder of the wire: no panic on any bytes, and what is taken is taken the same way again
//! after it was written.

use coracle_core::wire::channel::{Channel, Endpoint, Endpoints};
use coracle_core::wire::cluster::Message;
use coracle_core::wire::frame::{self, DataFrame, Frame};
use coracle_core::wire::member::MemberMessage;
use coracle_core::wire::status::{StatusQuery, StatusReport};

/// Longer than anything that a message of this length can become when it is written again.
const ROOM: usize = 2 * 65_536;

/// Feeds one datagram to every decoder; says how often one took it.
pub fn run(bytes: &[u8]) -> usize {
    let mut room = [0; ROOM];
    datagram(bytes, &mut room) + message(bytes, &mut room) + text(bytes)
}

fn datagram(bytes: &[u8], room: &mut [u8]) -> usize {
    let Ok(frame) = frame::parse_datagram(bytes) else {
        return 0;
    };
    let len = match frame {
        Frame::Data(datagram) => {
            let (mut rest, mut taken) = (datagram.bytes().len(), 1);
            for frame in datagram.frames() {
                assert!(frame.payload().len() <= frame.bytes().len());
                rest = rest
                    .checked_sub(frame.bytes().len())
                    .expect("frames lie within");
                taken += message(frame.payload(), room) + of_members(&frame, room);
            }
            return taken;
        }
        Frame::Setup(setup) => setup.emit(room),
        Frame::StatusMessage(status) => status.emit(room),
        Frame::Nak(nak) => nak.emit(room),
        Frame::Rttm(rttm) => rttm.emit(room),
        Frame::Error(error) => error.emit(room),
        _ => return 1,
    };
    let written = &room[..len.expect("there is room")];
    assert_eq!(frame::parse_datagram(written), Ok(frame));
    1
}

fn message(bytes: &[u8], room: &mut [u8]) -> usize {
    let Ok(message) = Message::parse(bytes) else {
        return 0;
    };
    let len = message.emit(room).expect("there is room");
    assert_eq!(Message::parse(&room[..len]), Ok(message));
    1
}

/// What only our own nodes and tools say.
fn of_members(frame: &DataFrame<'_>, room: &mut [u8]) -> usize {
    let mut taken = 0;
    if let Ok(message) = MemberMessage::parse_frame(frame) {
        let len = message.emit(room).expect("there is room");
        let again = DataFrame::parse(&room[..len]).expect("a frame");
        assert_eq!(MemberMessage::parse_frame(&again), Ok(message));
        taken += 1;
    }
    if let Ok(report) = StatusReport::parse_frame(frame) {
        let len = report.emit(room).expect("there is room");
        let again = DataFrame::parse(&room[..len]).expect("a frame");
        assert_eq!(StatusReport::parse_frame(&again), Ok(report));
        taken += 1;
    }
    taken + usize::from(StatusQuery::parse_frame(frame).is_ok())
}

fn text(bytes: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return 0;
    };
    let channel = Channel::parse(text).map(|channel| channel.param("endpoint").is_some());
    let members = Endpoints::parse(text).map(|endpoints| {
        let members = endpoints.iter().map(|(member, _)| member);
        assert!(
            members.eq(endpoints.members().iter()),
            "in order, each once"
        );
    });
    let endpoint = Endpoint::parse(text).map(|endpoint| endpoint.literal());
    usize::from(channel.is_ok()) + usize::from(members.is_ok()) + usize::from(endpoint.is_ok())
}
