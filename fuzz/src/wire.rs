//! Every decoder of the wire: no panic on any bytes, and what is taken is taken the same way again
//! after it was written.

use coracle_core::wire::cluster::Message;
use coracle_core::wire::frame::{self, Frame};

/// Longer than anything that a message of this length can become when it is written again.
const ROOM: usize = 2 * 65_536;

/// Feeds one datagram to every decoder; says how often one took it.
pub fn run(bytes: &[u8]) -> usize {
    let mut room = [0; ROOM];
    datagram(bytes, &mut room) + message(bytes, &mut room)
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
                taken += message(frame.payload(), room);
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
