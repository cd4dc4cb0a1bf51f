//! QEMU's `microvm`: no firmware, no PCI, no ACPI. What a node needs of it: a serial port, a clock,
//! a timer that ends a sleep, and where the virtio devices are.

mod boot;
mod memory;

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};

pub use boot::PAINT;

/// Where virtio devices may be: the first one's address, how far apart they are, and how many.
pub const VIRTIO: (usize, usize, usize) = (0xfeb0_0000, 0x200, 24);

/// Where the image starts.
pub const IMAGE: usize = 0x10_0000;

const SERIAL: u16 = 0x3f8;
const PIT_HZ: u64 = 1_193_182;
/// The longest sleep that the timer's 16 bits can end.
const SLEEP_NANOS_MAX: u64 = 50_000_000;

/// Nanoseconds per tick of the time stamp counter, times 2^32.
static SCALE: AtomicU64 = AtomicU64::new(0);
/// The counter at the start.
static ZERO: AtomicU64 = AtomicU64::new(0);

#[repr(C, align(16))]
struct Vectors(UnsafeCell<[[u64; 2]; 48]>);
// SAFETY: there is one processor, and only `set_vectors` uses it, once.
unsafe impl Sync for Vectors {}
static VECTORS: Vectors = Vectors(UnsafeCell::new([[0; 2]; 48]));

unsafe extern "C" {
    fn irq_first();
    fn irq_second();
    fn exceptions();
    static stack_bottom: u32;
    static stack_top: u32;
}

fn out(port: u16, value: u8) {
    // SAFETY: a write to a device's port changes no memory; the devices here do no DMA for it.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}

fn read(port: u16) -> u8 {
    let value;
    // SAFETY: a read of a device's port changes no memory.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

fn ticks() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: it only reads the counter.
    unsafe {
        asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Called once by the code in `boot`.
extern "C" fn enter() -> ! {
    ZERO.store(ticks(), Ordering::Relaxed);
    set_serial();
    set_vectors();
    set_controllers();
    calibrate();
    crate::main()
}

/// Called by the code in `boot` for an exception: the vector and what the processor pushed.
extern "C" fn exception(frame: *const [u64; 4]) -> ! {
    // SAFETY: `boot` passes the stack pointer, with at least a vector and three words above it.
    let [vector, first, second, _] = unsafe { *frame };
    panic!("processor exception {vector}: {first:#x} {second:#x}");
}

fn set_serial() {
    // 8 bits, no parity, no interrupts, 115,200 bits a second, FIFOs on.
    for (register, value) in [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 3)] {
        out(SERIAL + register, value);
    }
}

fn set_vectors() {
    let vectors = VECTORS.0.get();
    for vector in 0..48 {
        let handler = match vector {
            0..32 => exceptions as *const () as u64 + 16 * vector as u64,
            32..40 => irq_first as *const () as u64,
            _ => irq_second as *const () as u64,
        };
        // An interrupt gate of ring 0 in the code segment of `boot`.
        let low = (handler & 0xffff) | 8 << 16 | 0x8e00 << 32 | (handler >> 16 & 0xffff) << 48;
        // SAFETY: nothing else uses the table, and the processor not yet.
        unsafe { (*vectors)[vector] = [low, handler >> 32] };
    }
    let limit = (size_of::<Vectors>() - 1) as u64;
    let pointer = [limit << 48, vectors as u64];
    // SAFETY: the limit's two bytes and the address behind them are a pointer to a sound table,
    // which is never moved.
    unsafe {
        let pointer = pointer.as_ptr().cast::<u8>().add(6);
        asm!("lidt [{}]", in(reg) pointer, options(readonly, nostack, preserves_flags));
    }
}

/// Both 8259s at vectors 32 to 47 with everything open, and the local APIC passing them on.
fn set_controllers() {
    let setting = [(0x11, 0x11), (32, 40), (4, 2), (1, 1), (0, 0)];
    for (step, (first, second)) in setting.into_iter().enumerate() {
        let register = u16::from(step > 0);
        out(0x20 + register, first);
        out(0xa0 + register, second);
    }
    // Virtual wire: enabled, and its pin 0 an external controller. Without it no IRQ ever arrives.
    for (register, value) in [(0xfee0_00f0_usize, 0x1ff_u32), (0xfee0_0350, 0x700)] {
        // SAFETY: these are the local APIC's registers, mapped one to one.
        unsafe { (register as *mut u32).write_volatile(value) };
    }
}

fn pit_count() -> u16 {
    out(0x43, 0);
    u16::from(read(0x40)) | u16::from(read(0x40)) << 8
}

/// Measures the time stamp counter against the timer. A machine that is held up makes one window
/// far too long, never too short: so the shortest of several counts.
fn calibrate() {
    const WINDOW: u16 = 5_000;
    let mut hz = u64::MAX;
    for _ in 0..8 {
        out(0x43, 0x34);
        out(0x40, 0xff);
        out(0x40, 0xff);
        let before = ticks();
        let from = pit_count();
        let mut to = from;
        while from.wrapping_sub(to) < WINDOW {
            to = pit_count();
        }
        let passed = ticks() - before;
        hz = hz.min(passed.saturating_mul(PIT_HZ) / u64::from(from.wrapping_sub(to)));
    }
    let scale = (1_000_000_000_u128 << 32) / u128::from(hz.max(1));
    SCALE.store(scale as u64, Ordering::Relaxed);
}

/// Nanoseconds since the start.
pub fn nanos() -> u64 {
    let passed = ticks().saturating_sub(ZERO.load(Ordering::Relaxed));
    let scale = SCALE.load(Ordering::Relaxed);
    ((u128::from(passed) * u128::from(scale)) >> 32) as u64
}

fn cmos(register: u8) -> i64 {
    out(0x70, register);
    let value = read(0x71);
    i64::from(value >> 4) * 10 + i64::from(value & 15)
}

/// Milliseconds since 1970, by the machine's clock; whole seconds.
pub fn wall_millis() -> i64 {
    let read_all = || [0, 2, 4, 7, 8, 9].map(cmos);
    let mut now = read_all();
    // It may be in the middle of a second's turn: then two readings differ.
    for _ in 0..4 {
        let again = read_all();
        if again == now {
            break;
        }
        now = again;
    }
    let [second, minute, hour, day, month, year] = now;
    // Days since 1970 in the Gregorian calendar, years beginning in March.
    let (year, month) = match month {
        1 | 2 => (2000 + year - 1, month + 9),
        _ => (2000 + year, month - 3),
    };
    let leaps = year / 4 - year / 100 + year / 400;
    let days = 365 * year + leaps + (153 * month + 2) / 5 + day - 1 - 719_468;
    (((days * 24 + hour) * 60 + minute) * 60 + second) * 1000
}

/// What no other start has: the processor's random numbers if it has any, and the counter.
pub fn entropy() -> u64 {
    let features = core::arch::x86_64::__cpuid(1);
    let mut random: u64 = 0;
    if features.ecx & 1 << 30 != 0 {
        // SAFETY: the processor has the instruction; if it fails, `random` is zero.
        unsafe { asm!("rdrand {}", inout(reg) random, options(nomem, nostack)) };
    }
    random ^ ticks()
}

/// Writes a byte to the serial port; waits for room.
pub fn put(byte: u8) {
    while read(SERIAL + 5) & 0x20 == 0 {
        core::hint::spin_loop();
    }
    out(SERIAL, byte);
}

/// Sleeps until a device interrupts, or about so many nanoseconds have passed; it may end sooner.
/// What has interrupted since the last call ends it at once.
pub fn sleep(nanos: u64) {
    let count = nanos.min(SLEEP_NANOS_MAX) * PIT_HZ / 1_000_000_000;
    // One shot: it interrupts when it reaches zero.
    out(0x43, 0x30);
    out(0x40, count as u8);
    out(0x40, (count >> 8) as u8);
    // SAFETY: the handlers end the interrupt and touch nothing else. After `sti` nothing interrupts
    // before `hlt` has begun. The red zone is not used, as this may push on the stack.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// After a device's interrupt was acknowledged: the handlers in `boot` have done all there is.
pub fn end_interrupts() {}

/// Ends the machine. QEMU's own exit code is 7 for a panic and 33 for a good end.
pub fn exit(code: u8) -> ! {
    let value = match code {
        0 => 16,
        code => (code - 1) / 2,
    };
    out(0xf4, value);
    loop {
        // SAFETY: nothing is left to do; interrupts are off.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

/// The stack, from its end.
pub fn stack() -> (*const u32, *const u32) {
    (&raw const stack_bottom, &raw const stack_top)
}
