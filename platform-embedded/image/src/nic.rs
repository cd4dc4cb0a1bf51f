//! The network card: rings of buffers that the device fills and empties.

use core::cell::UnsafeCell;

use coracle_embedded::net::{FRAME_MAX, Mac, Port};
use virtio_drivers::Error;
use virtio_drivers::device::net::VirtIONetRaw;

use crate::devices::{Bus, Machine};

/// How many frames may wait each way.
const RING: usize = 16;
/// A frame and the device's header, rounded up.
const BUFFER: usize = 1536;
/// No buffer.
const NONE: u8 = u8::MAX;

type Buffers = [[u8; BUFFER]; RING];

struct Rings(UnsafeCell<(Buffers, Buffers)>);
// SAFETY: there is one processor, and only the one `Nic` uses them.
unsafe impl Sync for Rings {}
static RINGS: Rings = Rings(UnsafeCell::new(([[0; BUFFER]; RING], [[0; BUFFER]; RING])));

/// The network card.
pub struct Nic {
    device: VirtIONetRaw<Machine, Bus, RING>,
    inbound: &'static mut Buffers,
    outbound: &'static mut Buffers,
    /// Which buffer the device has under each of its tokens.
    receiving: [u8; RING],
    sending: [u8; RING],
    is_sending: [bool; RING],
}

impl Nic {
    /// Takes the card over, once, and gives it all buffers: from then on frames arrive.
    ///
    /// # Errors
    /// The device's own.
    pub fn new(bus: Bus) -> Result<Self, Error> {
        // SAFETY: the machine has one card, so this is called once.
        let (inbound, outbound) = unsafe { &mut *RINGS.0.get() };
        let mut nic = Self {
            device: VirtIONetRaw::new(bus)?,
            inbound,
            outbound,
            receiving: [NONE; RING],
            sending: [NONE; RING],
            is_sending: [false; RING],
        };
        for buffer in 0..RING {
            nic.offer(buffer)?;
        }
        Ok(nic)
    }

    /// The card's address.
    pub fn mac(&self) -> Mac {
        self.device.mac_address()
    }

    /// Tells the device that its interrupt was seen.
    pub fn acknowledge(&mut self) {
        self.device.ack_interrupt();
    }

    /// Whether a frame is there.
    pub fn has_frame(&self) -> bool {
        self.device.poll_receive().is_some()
    }

    /// Gives a buffer to the device to receive into.
    fn offer(&mut self, buffer: usize) -> Result<(), Error> {
        let Some(bytes) = self.inbound.get_mut(buffer) else {
            return Ok(());
        };
        // SAFETY: `receiving` names the buffer under the token, and nothing touches it until
        // `receive_complete` was called with both.
        let token = unsafe { self.device.receive_begin(bytes)? };
        if let Some(under) = self.receiving.get_mut(usize::from(token)) {
            *under = buffer as u8;
        }
        Ok(())
    }

    /// Takes back the buffers of frames that have left.
    fn reclaim(&mut self) {
        while let Some(token) = self.device.poll_transmit() {
            let under = self.sending.get(usize::from(token)).copied();
            let buffer = usize::from(under.unwrap_or(NONE));
            let (Some(bytes), Some(is_sending)) =
                (self.outbound.get(buffer), self.is_sending.get_mut(buffer))
            else {
                return;
            };
            // SAFETY: this buffer was passed to `transmit_begin` when it gave this token.
            if unsafe { self.device.transmit_complete(token, bytes) }.is_err() {
                return;
            }
            *is_sending = false;
        }
    }
}

impl Port for Nic {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        loop {
            let token = self.device.poll_receive()?;
            let buffer = usize::from(*self.receiving.get(usize::from(token))?);
            let bytes = self.inbound.get_mut(buffer)?;
            // SAFETY: this buffer was passed to `receive_begin` when it gave this token.
            let (header, len) = unsafe { self.device.receive_complete(token, bytes) }.ok()?;
            let frame = bytes.get(header..header + len).unwrap_or_default();
            let fits = into
                .get_mut(..frame.len())
                .map(|into| into.copy_from_slice(frame));
            // It has room: this one was just taken out.
            let _is_offered = self.offer(buffer).is_ok();
            if fits.is_some() {
                return Some(len);
            }
        }
    }

    fn send(&mut self, frame: &[u8]) -> bool {
        // Only when there is no other: the device interrupts after each one that was taken back.
        if self.is_sending.iter().all(|is_sending| *is_sending) {
            self.reclaim();
        }
        let free = self.is_sending.iter().position(|is_sending| !is_sending);
        let (Some(buffer), true) = (free, frame.len() <= FRAME_MAX) else {
            return false;
        };
        let Some(bytes) = self.outbound.get_mut(buffer) else {
            return false;
        };
        let Ok(header) = self.device.fill_buffer_header(bytes) else {
            return false;
        };
        let Some(room) = bytes.get_mut(header..header + frame.len()) else {
            return false;
        };
        room.copy_from_slice(frame);
        let whole = bytes.get(..header + frame.len()).unwrap_or_default();
        // SAFETY: `is_sending` keeps the buffer from being touched until `reclaim` has it back. The
        // device wants it back with any length.
        let Ok(token) = (unsafe { self.device.transmit_begin(whole) }) else {
            return false;
        };
        if let Some(under) = self.sending.get_mut(usize::from(token)) {
            *under = buffer as u8;
        }
        if let Some(is_sending) = self.is_sending.get_mut(buffer) {
            *is_sending = true;
        }
        true
    }
}
