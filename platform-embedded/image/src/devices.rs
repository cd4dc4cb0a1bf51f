//! Finds the virtio devices, and gives them memory that they may read and write: all of it is
//! mapped one to one, and what their queues are in comes from a pool that is never given back.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceType, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use crate::arch;

const PAGES: usize = 8;

#[repr(C, align(4096))]
struct Pool(UnsafeCell<[[u8; PAGE_SIZE]; PAGES]>);
// SAFETY: there is one processor, and each page is handed out once.
unsafe impl Sync for Pool {}

static POOL: Pool = Pool(UnsafeCell::new([[0; PAGE_SIZE]; PAGES]));
static HANDED_OUT: AtomicUsize = AtomicUsize::new(0);

/// What virtio drivers want to know of the machine.
pub struct Machine;

// SAFETY: pages of the pool are aligned, zero, and handed out once; addresses are the same for the
// devices.
unsafe impl Hal for Machine {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let first = HANDED_OUT.fetch_add(pages, Ordering::Relaxed);
        assert!(first + pages <= PAGES, "two devices' queues fit the pool");
        // SAFETY: the sum is inside the pool.
        let page = unsafe { POOL.0.get().cast::<u8>().add(first * PAGE_SIZE) };
        (
            page as PhysAddr,
            NonNull::new(page).unwrap_or(NonNull::dangling()),
        )
    }

    unsafe fn dma_dealloc(_at: PhysAddr, _page: NonNull<u8>, _pages: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(at: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(at as usize as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as PhysAddr
    }

    unsafe fn unshare(_at: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// How one device is spoken to.
pub type Bus = MmioTransport<'static>;

/// The first device of a kind. To be called once for each kind.
pub fn find(kind: DeviceType) -> Option<Bus> {
    let (base, stride, slots) = arch::VIRTIO;
    (0..slots).find_map(|slot| {
        let header = NonNull::new((base + slot * stride) as *mut VirtIOHeader)?;
        // SAFETY: there is a virtio region in each of the machine's slots, an empty one included,
        // and nothing else uses it.
        let bus = unsafe { MmioTransport::new(header, stride) }.ok()?;
        (bus.device_type() == kind).then_some(bus)
    })
}
