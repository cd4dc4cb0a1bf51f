//! Over the loopback device, by a kernel that cuts and joins, and by one that does not.

use super::*;

fn pair(host: &str) -> (Socket, Socket) {
    let bind = || Socket::bind(host.parse().unwrap()).unwrap();
    (bind(), bind())
}

/// What arrives at `there`, all of it from `here`.
fn arrived(receiver: &mut ReceiveBatch, here: &Socket, there: &Socket) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    while receiver.receive(there).unwrap() {
        for (from, bytes) in receiver.datagrams() {
            assert_eq!(from, here.local());
            got.push(bytes.to_vec());
        }
    }
    got
}

fn payloads(lengths: impl Iterator<Item = usize>) -> Vec<Vec<u8>> {
    let payload = |(n, len)| vec![n as u8; len];
    lengths.enumerate().map(payload).collect()
}

fn exchange(host: &str, payloads: &[Vec<u8>], joins: bool, offload: Offload) {
    let (here, there) = pair(host);
    let mut sender = SendBatch::new();
    sender.offload = offload;
    let mut receiver = ReceiveBatch::new();
    if joins {
        ReceiveBatch::join(&there);
    }
    assert!(!receiver.receive(&there).unwrap());
    let datagrams: Vec<(SocketAddr, &[u8])> =
        payloads.iter().map(|p| (there.local(), &p[..])).collect();
    let mut got = Vec::new();
    // No more at a time than the smallest socket buffer holds.
    for chunk in datagrams.chunks(40) {
        let sent = sender.send(&here, chunk);
        assert_eq!((sent.taken, sent.refused), (chunk.len() as u64, 0));
        got.append(&mut arrived(&mut receiver, &here, &there));
    }
    assert_eq!(got, payloads);
}

#[test]
fn datagrams_cross_whole_and_in_order_however_they_are_joined() {
    let alike = payloads((0..100).map(|_| 1408));
    let last_shorter = payloads((0..100).map(|n| if n % 7 == 6 { 31 } else { 640 }));
    let odd = payloads((0..100).map(|n| [0, 1, 33, 33, 7, 900, 900, 901][n % 8]));
    let ascending = payloads((0..40).map(|n| n * 100));
    let long = payloads((0..12).map(|n| if n % 3 == 2 { 20_000 } else { 30_000 }));
    for payloads in [alike, last_shorter, odd, ascending, long] {
        for joins in [false, true] {
            for offload in [Offload::Unknown, Offload::Off] {
                exchange("127.0.0.1:0", &payloads, joins, offload);
            }
        }
    }
}

#[test]
fn datagrams_cross_over_ipv6() {
    if Socket::bind("[::1]:0".parse().unwrap()).is_err() {
        eprintln!("SKIPPED: this machine has no IPv6 loopback address");
        return;
    }
    let payloads = payloads((0..100).map(|n| 1000 + n % 3));
    exchange("[::1]:0", &payloads, true, Offload::Unknown);
}

#[test]
fn those_of_equal_length_to_one_address_are_one_message_whatever_is_between_them() {
    let mut sender = SendBatch::new();
    sender.offload = Offload::On;
    let [a, b] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    let long = [0; 40_000];
    let (whole, part, none) = (&long[..1000], &long[..400], &long[..CUT_MIN - 1]);
    let datagrams = [
        (a, whole),
        (b, whole),
        (a, whole),
        (b, part),
        // A longer one, and what comes after one that was shorter, begins another message.
        (b, whole),
        (a, part),
        (a, part),
        (a, none),
        (a, &long),
        (a, &long),
    ];
    let count = sender.gather(&datagrams);
    assert_eq!(sender.counts[..count], [3, 2, 1, 1, 1, 1, 1]);
    let many = [(a, whole); SEGMENTS + 2];
    let count = sender.gather(&many);
    assert_eq!(sender.counts[..count], [SEGMENTS, 2]);
    sender.offload = Offload::Off;
    assert_eq!(sender.gather(&many), many.len());
}

/// Without checksums the kernel cuts nothing.
fn set_checksums(socket: &Socket, are_on: bool) {
    let value: libc::c_int = (!are_on).into();
    // SAFETY: reads one integer, for the length of the call.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NO_CHECK,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(outcome, 0);
}

#[test]
fn where_the_kernel_refuses_to_cut_it_is_not_asked_again_and_nothing_is_lost() {
    let (here, there) = pair("0.0.0.0:0");
    let port = there.local().port();
    let [one, other] = [1, 2].map(|n| SocketAddr::from(([127, 0, 0, n], port)));
    if offload(&here) == Offload::Off {
        eprintln!("SKIPPED: this kernel knows no UDP segmentation offload");
        return;
    }
    let payloads = payloads([10, 500, 500, 500, 500, 20, 300, 300].into_iter());
    let mut sender = SendBatch::new();
    let mut receiver = ReceiveBatch::new();
    let mut send = |sender: &mut SendBatch, to: SocketAddr| {
        let datagrams: Vec<(SocketAddr, &[u8])> = payloads.iter().map(|p| (to, &p[..])).collect();
        let sent = sender.send(&here, &datagrams);
        assert_eq!((sent.taken, sent.refused), (8, 0));
        let mut got = Vec::new();
        while receiver.receive(&there).unwrap() {
            got.extend(receiver.datagrams().map(|(_, bytes)| bytes.to_vec()));
        }
        assert_eq!(got, payloads);
        sender.gather(&datagrams)
    };
    set_checksums(&here, false);
    for _ in 0..2 {
        assert_eq!(send(&mut sender, one), 8);
        assert_eq!(sender.uncut[..], [one.ip()]);
    }
    // On the way to another host nothing has changed.
    set_checksums(&here, true);
    assert_eq!(send(&mut sender, other), 4);
    assert_eq!(send(&mut sender, one), 8);
    assert_eq!(sender.uncut[..], [one.ip()]);
    assert_eq!(sender.offload, Offload::On);
    // More hosts than are noted: none is asked for.
    set_checksums(&here, false);
    for n in 2..=UNCUT as u8 + 1 {
        assert_eq!(sender.offload, Offload::On);
        send(&mut sender, SocketAddr::from(([127, 0, 0, n], port)));
    }
    assert_eq!(sender.offload, Offload::Off);
}

#[test]
fn a_datagram_that_the_kernel_refuses_does_not_stop_the_others() {
    let (here, there) = pair("127.0.0.1:0");
    let too_long = vec![0u8; 70_000];
    let datagrams: [(SocketAddr, &[u8]); 3] = [
        (there.local(), b"first"),
        (there.local(), &too_long),
        (there.local(), b"last"),
    ];
    let sent = SendBatch::new().send(&here, &datagrams);
    assert_eq!((sent.taken, sent.refused), (2, 1));
    let got = arrived(&mut ReceiveBatch::new(), &here, &there);
    assert_eq!(got, [&b"first"[..], b"last"]);
}

#[test]
fn long_messages_are_taken_one_by_one_and_short_ones_together() {
    let mut most = 1;
    for expected in [2, 4, 8, 16, 32, 32] {
        most = pace(most, most, 100);
        assert_eq!(most, expected);
    }
    assert_eq!(pace(4, 3, 0), 4, "there were no more");
    assert_eq!(pace(32, 32, 8192), 8);
    assert_eq!([pace(32, 3, 57_344), pace(1, 1, SLOT)], [1, 1]);
    let (here, there) = pair("127.0.0.1:0");
    let (mut sender, mut receiver) = (SendBatch::new(), ReceiveBatch::new());
    for (len, calls) in [(40_000, 4), (20, 3)] {
        let bytes = vec![0; len];
        sender.send(&here, &[(there.local(), &bytes[..]); 4]);
        for _ in 1..calls {
            assert!(receiver.receive(&there).unwrap());
            assert!(receiver.is_full(), "{len}");
        }
        assert!(receiver.receive(&there).unwrap());
        assert_eq!(receiver.is_full(), len == 40_000);
        assert!(!receiver.receive(&there).unwrap());
        assert!(!receiver.is_full());
    }
}

#[test]
fn what_was_joined_is_cut_as_the_kernel_says_and_nothing_of_it_is_lost() {
    let (here, there) = pair("127.0.0.1:0");
    let mut receiver = ReceiveBatch::new();
    let sent = SendBatch::new().send(&here, &[(there.local(), b"0123456789")]);
    assert_eq!(sent.taken, 1);
    assert!(receiver.receive(&there).unwrap());
    let mut cut = |len: u32, said: Option<libc::c_int>| {
        receiver.headers[0].msg_len = len;
        receiver.headers[0].msg_hdr.msg_controllen = 0;
        if let Some(value) = said {
            let control = &mut receiver.controls[0];
            control.header.cmsg_level = libc::SOL_UDP;
            control.header.cmsg_type = UDP_GRO;
            control.value = value;
            receiver.headers[0].msg_hdr.msg_controllen = size_of_val(control) as _;
        }
        let datagrams = receiver.datagrams();
        let datagrams = datagrams.inspect(|(from, _)| assert_eq!(*from, here.local()));
        let parts: Vec<_> = datagrams.map(|(_, bytes)| bytes.to_vec()).collect();
        assert_eq!(parts.concat(), b"0123456789"[..len as usize]);
        parts.iter().map(Vec::len).collect::<Vec<_>>()
    };
    assert_eq!(cut(10, None), [10]);
    assert_eq!(cut(10, Some(4)), [4, 4, 2]);
    assert_eq!(cut(8, Some(4)), [4, 4]);
    assert_eq!(cut(10, Some(11)), [10]);
    assert_eq!(cut(0, None), [0]);
    assert_eq!(cut(0, Some(4)), [0]);
    // No kernel says so; if one did, it would not have joined anything.
    assert_eq!(cut(10, Some(0)), [10]);
    assert_eq!(cut(10, Some(-1)), [10]);
}
