//! The harness's own traffic, for its self tests: a UDP echo and a client that asks it.

use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["echo", address] => echo(address),
        ["ask", address, word] => ask(address, word),
        _ => {
            eprintln!("usage: coracle-net echo ADDRESS | coracle-net ask ADDRESS WORD");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("coracle-net: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Answers every datagram with itself, until killed.
fn echo(address: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        // Its link may be down at the moment.
        drop(socket.send_to(&buffer[..length], from));
    }
}

/// Asks up to ten times, a fifth of a second apart; fails unless the answer is the word.
fn ask(address: &str, word: &str) -> std::io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut buffer = [0; 2048];
    let mut last = std::io::ErrorKind::TimedOut.into();
    for _ in 0..10 {
        let asked = socket
            .send_to(word.as_bytes(), address)
            .and_then(|_| socket.recv(&mut buffer));
        match asked {
            Ok(length) if &buffer[..length] == word.as_bytes() => return Ok(()),
            Ok(_) => {}
            Err(error) => {
                std::thread::sleep(Duration::from_millis(50));
                last = error;
            }
        }
    }
    Err(last)
}
