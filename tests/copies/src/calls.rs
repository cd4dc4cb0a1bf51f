//! The C library's calls that move bytes into and out of the kernel: each makes the system call and
//! counts what went through.

use std::ffi::{c_int, c_long, c_uint, c_void};

use libc::{iovec, mmsghdr, msghdr, off_t, size_t, ssize_t};

use crate::table::{Kind, Table};

/// # Safety
/// `buffer` holds as many bytes as `moved`, if that is no error.
unsafe fn one(kind: Kind, buffer: *const c_void, moved: ssize_t) -> ssize_t {
    let piece = iovec {
        iov_base: buffer.cast_mut(),
        iov_len: usize::try_from(moved).unwrap_or(0),
    };
    // SAFETY: the caller's promise.
    unsafe { many(kind, &[piece], moved) }
}

/// # Safety
/// The first `moved` bytes of the pieces can be read, if that is no error.
unsafe fn many(kind: Kind, pieces: &[iovec], moved: ssize_t) -> ssize_t {
    if let (Some(table), Ok(moved)) = (Table::get(), usize::try_from(moved)) {
        // SAFETY: the caller's promise.
        unsafe { table.moved(kind, pieces, moved) };
    }
    moved
}

/// # Safety
/// As [`many`], of a message's pieces.
unsafe fn message(kind: Kind, header: &msghdr, moved: ssize_t) -> ssize_t {
    // SAFETY: a message that the kernel took has so many pieces there.
    unsafe {
        let pieces = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen);
        many(kind, pieces, moved)
    }
}

/// # Safety
/// The kernel took, or filled, the first `done` headers.
unsafe fn messages(kind: Kind, headers: *const mmsghdr, done: c_long) -> c_int {
    for at in 0..usize::try_from(done).unwrap_or(0) {
        // SAFETY: below `done`.
        unsafe {
            let header = &*headers.add(at);
            message(kind, &header.msg_hdr, header.msg_len as ssize_t);
        }
    }
    done as c_int
}

/// Defines one of them, with its arguments as of the C library, as system call `$number`.
macro_rules! calls {
    ($($name:ident($($arg:ident: $type:ty),*) = $number:ident, |$moved:ident| $count:expr;)*) => {
        $(
            /// The C library's.
            ///
            /// # Safety
            /// As of the C library's.
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $name($($arg: $type),*) -> ssize_t {
                // SAFETY: the caller's promise is the kernel's condition; what is counted is what
                // the kernel says that it took or filled.
                unsafe {
                    let $moved = libc::syscall(libc::$number, $($arg,)* 0usize, 0usize) as ssize_t;
                    $count
                }
            }
        )*
    };
}

calls! {
    pwrite(file: c_int, from: *const c_void, len: size_t, at: off_t) = SYS_pwrite64,
        |moved| one(Kind::Write, from, moved);
    pwrite64(file: c_int, from: *const c_void, len: size_t, at: off_t) = SYS_pwrite64,
        |moved| one(Kind::Write, from, moved);
    pwritev(file: c_int, pieces: *const iovec, count: c_int, at: off_t) = SYS_pwritev,
        |moved| many(Kind::Write, vector(pieces, count), moved);
    pwritev64(file: c_int, pieces: *const iovec, count: c_int, at: off_t) = SYS_pwritev,
        |moved| many(Kind::Write, vector(pieces, count), moved);
    pread(file: c_int, to: *mut c_void, len: size_t, at: off_t) = SYS_pread64,
        |moved| one(Kind::Read, to, moved);
    pread64(file: c_int, to: *mut c_void, len: size_t, at: off_t) = SYS_pread64,
        |moved| one(Kind::Read, to, moved);
    write(file: c_int, from: *const c_void, len: size_t) = SYS_write,
        |moved| one(Kind::Other, from, moved);
    read(file: c_int, to: *mut c_void, len: size_t) = SYS_read,
        |moved| one(Kind::Other, to, moved);
    writev(file: c_int, pieces: *const iovec, count: c_int) = SYS_writev,
        |moved| many(Kind::Other, vector(pieces, count), moved);
    readv(file: c_int, pieces: *const iovec, count: c_int) = SYS_readv,
        |moved| many(Kind::Other, vector(pieces, count), moved);
    sendmsg(socket: c_int, header: *const msghdr, flags: c_int) = SYS_sendmsg,
        |moved| message(Kind::Send, &*header, moved);
    recvmsg(socket: c_int, header: *mut msghdr, flags: c_int) = SYS_recvmsg,
        |moved| message(Kind::Receive, &*header, moved);
    send(socket: c_int, from: *const c_void, len: size_t, flags: c_int) = SYS_sendto,
        |moved| one(Kind::Send, from, moved);
    recv(socket: c_int, to: *mut c_void, len: size_t, flags: c_int) = SYS_recvfrom,
        |moved| one(Kind::Receive, to, moved);
    sendto(socket: c_int, from: *const c_void, len: size_t, flags: c_int,
            name: *const c_void, name_len: c_uint) = SYS_sendto,
        |moved| one(Kind::Send, from, moved);
    recvfrom(socket: c_int, to: *mut c_void, len: size_t, flags: c_int,
            name: *mut c_void, name_len: *mut c_uint) = SYS_recvfrom,
        |moved| one(Kind::Receive, to, moved);
}

/// # Safety
/// So many pieces are there.
unsafe fn vector<'a>(pieces: *const iovec, count: c_int) -> &'a [iovec] {
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(pieces, usize::try_from(count).unwrap_or(0)) }
}

/// The C library's.
///
/// # Safety
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sendmmsg(
    socket: c_int,
    headers: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    // SAFETY: the caller's promise is the kernel's condition.
    unsafe {
        let done = libc::syscall(libc::SYS_sendmmsg, socket, headers, count, flags);
        messages(Kind::Send, headers, done)
    }
}

/// The C library's.
///
/// # Safety
/// As of the C library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn recvmmsg(
    socket: c_int,
    headers: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut c_void,
) -> c_int {
    // SAFETY: the caller's promise is the kernel's condition.
    unsafe {
        let done = libc::syscall(libc::SYS_recvmmsg, socket, headers, count, flags, timeout);
        messages(Kind::Receive, headers, done)
    }
}
